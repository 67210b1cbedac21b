"""Rows, ids and models are told apart by their content."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kdtf.distillation.cache import fingerprints


def of_rows(x):
    return fingerprints.of_rows(x).numpy().tolist()


def test_equal_rows_share_a_number_and_others_do_not(rng):
    x = {"a": rng.integers(0, 2, (64, 3)), "b": rng.integers(0, 2, 64)}
    found = of_rows(x)
    rows = [(*a, b) for a, b in zip(x["a"].tolist(), x["b"], strict=True)]
    assert len(set(found)) == len(set(rows)) < 64
    assert len(set(zip(found, rows, strict=True))) == len(set(rows))


def test_numbers_stay_the_same_for_good():
    # A cache outlives the program that wrote it.
    assert of_rows(np.int32([[1, 2], [3, 4]])) == [
        1030815508870827674,
        -3707363557726764972,
    ]


@pytest.mark.parametrize(
    "other",
    [
        pytest.param({"a": np.zeros((1, 2), "int32")}, id="dtype"),
        pytest.param({"b": np.zeros((1, 2), "float32")}, id="name"),
        pytest.param({"a": np.zeros((1, 2, 1), "float32")}, id="shape"),
        pytest.param({"a": np.float32([[0, -0.0]])}, id="bytes"),
        pytest.param(np.zeros((1, 2), "float32"), id="structure"),
    ],
)
def test_names_dtypes_and_shapes_count(other):
    assert of_rows(other) != of_rows({"a": np.zeros((1, 2), "float32")})


@pytest.mark.parametrize("dtype", ["bool", "uint8", "float16", "int64", "str"])
def test_every_dtype_has_fingerprints_eager_and_in_a_graph(dtype):
    x = np.array([[0, 1], [1, 1], [0, 1]]).astype(dtype)
    eager = of_rows(x)
    assert eager[0] == eager[2] != eager[1]
    spec = tf.TensorSpec((None, None), tf.as_dtype(x.dtype))
    graph = tf.function(fingerprints.of_rows, input_signature=[spec])
    assert graph(tf.constant(x)).numpy().tolist() == eager


def test_ids_are_numbers_or_strings():
    ids = fingerprints.of_ids(np.uint64([2**64 - 1, 5]))
    assert ids.numpy().tolist() == [-1, 5]
    ids = fingerprints.of_ids(np.int32([3])).numpy()
    assert (ids.dtype, ids.tolist()) == (np.int64, [3])
    a, b, c = fingerprints.of_ids(np.array(["x", "y", "x"])).numpy()
    assert a == c != b
    for wrong in (np.float32([1.0]), np.int64([[1]])):
        with pytest.raises(ValueError, match="`key` must give"):
            fingerprints.of_ids(wrong)


def test_a_model_is_its_weights_in_order():
    def dense(*shape):
        layers = [keras.Input(shape[:1]), keras.layers.Dense(shape[1])]
        return keras.Sequential(layers)

    model, twin = dense(2, 3), dense(2, 3)
    before = fingerprints.of_model(model)
    assert fingerprints.of_model(twin) != before
    twin.set_weights(model.get_weights())
    assert fingerprints.of_model(twin) == before
    model.weights[1].assign([0.0, 0.0, 1e-30])
    assert fingerprints.of_model(model) != before


def test_ragged_and_scalar_inputs_are_refused():
    ragged = tf.RaggedTensorSpec((None, None), tf.int32)
    with pytest.raises(ValueError, match="Pad the rows"):
        fingerprints.describe_inputs({"ids": ragged})
    with pytest.raises(ValueError, match=r"dataset.batch\(batch_size\)"):
        fingerprints.describe_inputs(tf.TensorSpec((), tf.int32))


def test_unknown_dimensions_may_be_anything():
    cached = fingerprints.describe_inputs(np.zeros((4, 3), "int32"))
    for shape, differs in (
        ((None, None), False),
        (None, False),
        ((None, 3), False),
        ((None, 2), True),
        ((None, 3, 1), True),
    ):
        received = fingerprints.describe_inputs(tf.TensorSpec(shape, tf.int32))
        assert fingerprints.differing_inputs(cached, received) == differs
