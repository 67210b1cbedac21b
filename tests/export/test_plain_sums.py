"""Sums of outputs that Keras would take for biases."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kdtf.export import export_tflite
from kdtf.export.plain_sums import plain_sums
from kdtf.litert import Runner


def operations_of(*shapes):
    @tf.function
    def total(x, y):
        return keras.ops.add(x, y)

    specs = [tf.TensorSpec(shape, "float32") for shape in shapes]
    graph = total.get_concrete_function(*specs).graph
    return {operation.type for operation in graph.get_operations()}


def test_what_has_a_batch_is_no_bias():
    shape = (1, 3, 1)
    assert "BiasAdd" in operations_of(shape, shape)
    with plain_sums():
        kinds = operations_of(shape, shape)
    assert "AddV2" in kinds and not kinds & {"BiasAdd", "Squeeze"}
    # As before the block.
    assert "BiasAdd" in operations_of(shape, shape)


def test_biases_stay_biases():
    with plain_sums():
        assert "BiasAdd" in operations_of((1, 3, 4), (4,))


def test_sums_are_keras_own():
    x = np.array([[[1], [2], [3]]], "int32")
    y = np.array([[[0.5], [1.0]]], "float32")[:, :1]
    expected = keras.ops.add(x, y)
    with plain_sums():
        found = keras.ops.add(x, y)
        assert float(keras.ops.add(1.0, 2)) == 3.0
    assert found.dtype == expected.dtype == tf.float32
    assert found.numpy().ravel().tolist() == [1.5, 2.5, 3.5]


def test_it_ends_with_an_error():
    with pytest.raises(KeyError), plain_sums():
        raise KeyError
    assert "BiasAdd" in operations_of((1, 3, 1), (1, 3, 1))


def test_a_residual_of_one_channel_exports(tmp_path, rng):
    inputs = keras.Input((6, 1), name="x")
    hidden = keras.layers.Conv1D(1, 3, padding="same")(inputs)
    model = keras.Model(inputs, keras.layers.Add()([inputs, hidden]))
    path = tmp_path / "residual.tflite"
    x = rng.normal(size=(40, 6, 1)).astype("float32")
    result = export_tflite(model, path, target="iot", representative_data=x)
    assert result.float_operators == {}
    np.testing.assert_allclose(
        Runner(path)({"x": x})["output_0"], model(x), atol=0.1
    )
