"""Weights of a file: bytes to integers, integers to values."""

import keras
import numpy as np
import pytest

from kdtf.export import converter
from kdtf.export import weights
from kdtf.export.interface import interface_of
from kdtf.export.quantizer import to_dynamic
from kdtf.flatbuffer import read_model


class Made:
    """A one-tensor model, as much of it as is read."""

    def __init__(self, data, dtype, shape):
        from ai_edge_litert import schema_py_generated as schema

        self.tensor = schema.TensorT()
        self.tensor.shape = list(shape)
        self.tensor.type = getattr(schema.TensorType, dtype)
        self.tensor.quantization = schema.QuantizationParametersT()
        self.tensor.buffer = 0
        buffer = schema.BufferT()
        buffer.data = np.asarray(data, "uint8")
        self.buffers = [buffer]
        self.subgraphs = [schema.SubGraphT()]
        self.subgraphs[0].tensors = [self.tensor]


@pytest.mark.parametrize(
    "num_bits, integers, data",
    [
        # The first number is in the lowest bits.
        (8, [1, -1, -127], [1, 255, 129]),
        (4, [1, -1, -8], [0xF1, 0x08]),
        (2, [1, -1, -2, 0, 1], [0b00_10_11_01, 0b01]),
    ],
)
def test_packing_is_undone_by_reading(num_bits, integers, data):
    packed = weights.packed(np.array(integers), num_bits)
    assert packed.tolist() == data
    made = Made(data, f"INT{num_bits}", [len(integers)])
    assert weights.integers_of(made, made.tensor).tolist() == integers


def test_values_are_integers_times_scales():
    made = Made([1, 2, 3, 255], "INT8", [2, 2])
    made.tensor.quantization.scale = np.array([0.5, 2.0], "float32")
    made.tensor.quantization.quantizedDimension = 0
    values = weights.float_values(made, made.tensor)
    assert values.tolist() == [[0.5, 1.0], [6.0, -2.0]]
    made.tensor.quantization.quantizedDimension = 1
    values = weights.float_values(made, made.tensor)
    assert values.tolist() == [[0.5, 4.0], [1.5, -2.0]]
    made.tensor.quantization.scale = np.array([0.5], "float32")
    values = weights.float_values(made, made.tensor)
    assert values.tolist() == [[0.5, 1.0], [1.5, -0.5]]


def test_other_types_have_no_values():
    made = Made([1, 0, 0, 0], "INT32", [1])
    assert weights.float_values(made, made.tensor) is None
    made = Made([1], "INT8", [1])
    assert weights.float_values(made, made.tensor) is None


def test_rows_are_undone():
    values = np.arange(24).reshape(2, 3, 4)
    rows = weights.rows_of(values, 1)
    assert rows[1].tolist() == [4, 5, 6, 7, 16, 17, 18, 19]
    np.testing.assert_array_equal(weights.from_rows(rows, (2, 3, 4), 1), values)


def test_arrangements_are_those_of_the_layers():
    dense = np.arange(6).reshape(2, 3)
    orders = [order.tolist() for order in weights.arrangements(dense, (3, 2))]
    assert [[0, 3], [1, 4], [2, 5]] in orders
    conv = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    found = list(weights.arrangements(conv, (5, 2, 3, 4)))
    assert any(np.array_equal(o, conv.transpose(3, 0, 1, 2)) for o in found)
    found = list(weights.arrangements(conv, (4, 2, 3, 5)))
    assert any(np.array_equal(o, conv.transpose(2, 0, 1, 3)) for o in found)


@pytest.fixture
def file_of():
    def convert(model):
        interface = interface_of(model, None).fixed(None)
        with converter.traced(model, interface) as traced:
            return converter.to_float32(traced)

    return convert


def test_weights_are_listed_once_with_their_output_axis(file_of):
    inputs = keras.Input((6, 6, 2))
    hidden = keras.layers.Conv2D(3, 3)(inputs)
    hidden = keras.layers.DepthwiseConv2D(2)(hidden)
    hidden = keras.layers.Conv2DTranspose(4, 2)(hidden)
    outputs = keras.layers.Dense(5)(keras.layers.Flatten()(hidden))
    content = file_of(keras.Model(inputs, outputs))
    found = {
        weight.readers[0][0]: (weight.shape, weight.axis)
        for weight in weights.weights_of(read_model(content))
    }
    assert found == {
        "CONV_2D": ((3, 3, 3, 2), 0),
        "DEPTHWISE_CONV_2D": ((1, 2, 2, 3), 3),
        "TRANSPOSE_CONV": ((4, 2, 2, 3), 0),
        "FULLY_CONNECTED": ((5, 64), 0),
    }


def test_block_scales_are_spread_over_their_block(file_of, rng):
    model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(2)])
    kernel = model.layers[0].kernel
    integers = rng.integers(-7, 8, size=(64, 2))
    integers[[0, 32]] = 7
    steps = np.array([[0.5, 1.0], [2.0, 0.25]])
    kernel.assign(integers * np.repeat(steps, 32, axis=0))
    stored = to_dynamic(file_of(model), num_bits=4, block_size=32).content
    file = read_model(stored)
    (weight,) = weights.weights_of(file)
    size, scales = weights.block_scales(file, weight.tensor)
    assert size == 32
    assert weights.float_values(file, scales).tolist() == steps.T.tolist()
    values = weights.float_values(file, weight.tensor)
    np.testing.assert_array_equal(values, kernel.numpy().T)
