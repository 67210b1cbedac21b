"""DEQUANTIZE and QUANTIZE in a row, joined to one operator."""

import keras
import numpy as np
import pytest

from kdtf.export import converter
from kdtf.export.interface import interface_of
from kdtf.export.requantize import join_requantization
from kdtf.export.samples import Samples
from kdtf.litert import Runner
from kdtf.litert import describe


class Ranged(keras.layers.Layer):
    def call(self, inputs):
        import tensorflow as tf

        return tf.quantization.fake_quant_with_min_max_args(inputs, -4, 4)


@pytest.fixture
def half_ranged():
    """The range between the dense layers is measured, the others are given."""
    return keras.Sequential(
        [
            keras.Input((6,)),
            Ranged(),
            keras.layers.Dense(8),
            keras.layers.Dense(8),
            Ranged(),
        ]
    )


def int8_file(model, data):
    interface = interface_of(model, None).fixed(None)
    samples = Samples(arrays={"input_0": data}, source="")
    with converter.traced(model, interface) as traced:
        return converter.to_int8(
            traced, samples, integer_io=True, dense_per_tensor=False
        )


def test_joined_files_compute_the_same_in_integers(half_ranged, rng, tmp_path):
    data = rng.normal(size=(40, 6)).astype("float32")
    content = int8_file(half_ranged, data)
    before, after = tmp_path / "before.tflite", tmp_path / "after.tflite"
    before.write_bytes(content)
    joined = join_requantization(content)
    after.write_bytes(joined)
    assert describe(before).operators == {
        "DEQUANTIZE": 1,
        "QUANTIZE": 1,
        "FULLY_CONNECTED": 2,
    }
    assert describe(after).operators == {"QUANTIZE": 1, "FULLY_CONNECTED": 2}
    kinds = {dtype for _, dtype in describe(after).operator_dtypes}
    assert kinds == {"INT8"}
    (expected,) = Runner(before)(data).values()
    (outputs,) = Runner(after)(data).values()
    (signature,) = describe(after).signatures
    # A tie may round the other way, which moves an output by one step.
    step = signature.outputs[0].scale
    assert np.abs(outputs - expected).max() <= 1.01 * step
    # There is nothing left to join.
    assert join_requantization(joined) == joined
