"""Data in every form users have it, and what is refused."""

import numpy as np
import pytest

from kdtf.export.samples import bind
from kdtf.export.samples import collect
from kdtf.export.samples import random_samples
from kdtf.flatbuffer import TensorSpec

X = np.arange(12.0).reshape(6, 2)
IDS = np.arange(6)[:, None]


def gather(data, *, limit=4):
    return collect(data, argument="data", limit=limit)


def spec(name, dtype="float32", shape=(None, 2)):
    return TensorSpec(name=name, dtype=dtype, shape=shape)


def test_arrays_are_cut_at_the_limit():
    np.testing.assert_array_equal(gather(X), X[:4])


def test_structures_are_kept():
    assert list(gather({"x": X, "ids": IDS})) == ["x", "ids"]
    first, second = gather([X, IDS])
    np.testing.assert_array_equal(first, X[:4])
    np.testing.assert_array_equal(second, IDS[:4])


def test_nested_lists_of_numbers_are_one_array():
    assert gather([[1, 2], [3, 4]]).shape == (2, 2)


@pytest.mark.parametrize("num_labels", [0, 1, 2])
def test_datasets_give_their_inputs_only(num_labels):
    import tensorflow as tf

    columns = ((X, IDS), IDS, IDS)[: num_labels + 1]
    data = columns if num_labels else X
    dataset = tf.data.Dataset.from_tensor_slices(data).batch(3)
    found = gather(dataset)
    found = found[0] if num_labels else found
    np.testing.assert_array_equal(found, X[:4])


def test_endless_datasets_end_at_the_limit():
    import tensorflow as tf

    dataset = tf.data.Dataset.from_tensor_slices({"x": X}).batch(4).repeat()
    assert gather(dataset, limit=10)["x"].shape == (10, 2)


def test_empty_datasets_are_refused():
    import tensorflow as tf

    dataset = tf.data.Dataset.from_tensor_slices(X).take(0).batch(2)
    with pytest.raises(ValueError, match="`data`.*an empty dataset"):
        gather(dataset)


def test_batches_of_different_length_are_refused():
    import tensorflow as tf

    dataset = tf.data.Dataset.range(1, 3).map(lambda n: tf.ones((1, n)))
    with pytest.raises(ValueError, match="same shape.*Pad the samples"):
        gather(dataset)


@pytest.mark.parametrize(
    "data", [np.array(["a"]), np.float32(1), np.zeros((0, 2)), None]
)
def test_what_is_no_array_of_numbers_is_refused(data):
    with pytest.raises(ValueError, match="`data` must hold arrays of numbers"):
        gather(data)


def test_values_take_the_models_types():
    specs = (spec("x"), spec("ids", "int32", (None, 1)))
    bound = bind((X, IDS.astype("float64")), specs, argument="data")
    assert {name: value.dtype.name for name, value in bound.items()} == {
        "x": "float32",
        "ids": "int32",
    }


def test_fractions_are_no_ids():
    with pytest.raises(ValueError, match="'ids'.*whole numbers"):
        bind(X + 0.5, (spec("ids", "int32"),), argument="data")


def test_lengths_must_agree():
    with pytest.raises(ValueError, match=r"{'a': 6, 'b': 5}"):
        bind((X, X[:5]), (spec("a"), spec("b")), argument="data")


def test_free_dimensions_take_any_length():
    free = spec("a", shape=(None, None))
    assert bind(X, (free,), argument="data")["a"].shape == (6, 2)
    with pytest.raises(ValueError, match=r"\(None, 3\).*\(6, 2\)"):
        bind(X, (spec("a", shape=(None, 3)),), argument="data")


def test_random_samples_are_the_same_each_time():
    specs = (spec("x", shape=(1, 2)), spec("mask", "bool", (1, 3)))
    first, second = random_samples(specs), random_samples(specs)
    for name, value in first.arrays.items():
        np.testing.assert_array_equal(value, second.arrays[name])
    assert first.arrays["x"].shape == (16, 2)
    assert first.arrays["x"].dtype == "float32"
    assert set(first.arrays["mask"].ravel().tolist()) == {False, True}
    assert len(first) == 16
    assert [value.shape for value in first.one(3)] == [(1, 2), (1, 3)]
