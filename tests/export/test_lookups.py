"""Embeddings for microcontrollers."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kdtf.export import export_microcontroller
from kdtf.export import export_tflite
from kdtf.export.lookups import lookups_without_select


def operators_of(function, *arguments):
    graph = function.get_concrete_function(*arguments).graph
    return {operator.type for operator in graph.get_operations()}


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_lookups_are_the_same_without_select(rng, axis):
    table = rng.normal(size=(5, 5)).astype("float32")
    ids = np.array([[0, 4, -1], [-5, 2, -2]], "int32")
    expected = np.take(table, ids, axis=axis)
    taken = tf.function(lambda i: keras.ops.take(table, i, axis=axis))
    assert "SelectV2" in operators_of(taken, ids)
    with lookups_without_select():
        taken = tf.function(lambda i: keras.ops.take(table, i, axis=axis))
        assert not {"Select", "SelectV2"} & operators_of(taken, ids)
        np.testing.assert_array_equal(taken(ids), expected)
    after = tf.function(lambda i: keras.ops.take(table, i, axis=axis))
    assert "SelectV2" in operators_of(after, ids)


def test_other_lookups_stay(rng):
    table = rng.normal(size=(5, 2)).astype("float32")
    with lookups_without_select():
        flat = keras.ops.take(table, [3, -1])
        np.testing.assert_array_equal(flat, np.take(table, [3, -1]))
        ragged = tf.ragged.constant([[0], [-1, 2]])
        rows = keras.ops.take(table, ragged, axis=0)
        np.testing.assert_array_equal(rows[1], table[[-1, 2]])


@pytest.mark.parametrize("shift", [0, -30])
def test_an_embedding_is_exported_for_microcontrollers(tmp_path, rng, shift):
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((6,), dtype="int32", name="ids"),
            layers.Embedding(30, 8),
            layers.GlobalAveragePooling1D(),
            layers.Dense(3),
        ]
    )
    ids = rng.integers(0, 30, (40, 6)).astype("int32")
    result = export_tflite(
        model,
        tmp_path / "m.tflite",
        target="iot",
        representative_data=ids,
        verify_data=ids + shift,
    )
    assert "SELECT" not in result.operators
    assert result.signatures[0].inputs[0].dtype == "int32"
    assert result.sqnr_db > 25


@pytest.mark.deploy
def test_a_microcontroller_looks_up_what_litert_does(tmp_path, rng):
    model = keras.Sequential(
        [
            keras.Input((6,), dtype="int32", name="ids"),
            keras.layers.Embedding(30, 8),
            keras.layers.Flatten(),
            keras.layers.Dense(3),
        ]
    )
    ids = rng.integers(0, 30, (40, 6)).astype("int32")
    result = export_microcontroller(
        model, tmp_path / "app", representative_data=ids
    )
    assert result.operators["GATHER"] == 1
    assert result.agreement.within_three_steps == 1.0
