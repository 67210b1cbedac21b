"""Recurrent layers: steps that are collected, gates, state between calls."""

import keras
import numpy as np
import pytest
import tf_keras

from kdtf.export import export_tflite
from kdtf.litert import Runner

pytestmark = pytest.mark.slow


@pytest.fixture
def series(rng):
    return rng.normal(size=(20, 5, 3)).astype("float32")


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_layers_that_give_every_step_export_in_float(tmp_path, series, kind):
    layer = getattr(keras.layers, kind)(4, return_sequences=True)
    model = keras.Sequential([keras.Input((5, 3), name="x"), layer])
    path = tmp_path / "rnn.tflite"
    result = export_tflite(model, path)
    # Written in place: joining the steps would take free lengths.
    assert result.operators["DYNAMIC_UPDATE_SLICE"] == 1
    np.testing.assert_allclose(
        Runner(path)({"x": series})["output_0"], model(series), atol=1e-5
    )


def test_kernels_that_are_split_into_gates_are_found(tmp_path):
    layer = keras.layers.ConvLSTM1D(2, 2)
    model = keras.Sequential([keras.Input((3, 5, 2)), layer])
    result = export_tflite(model, tmp_path / "rnn.tflite")
    # Four gates, each with a kernel and a recurrent one.
    assert result.operators["CONV_2D"] == 8


@pytest.mark.slow
@pytest.mark.tfmot
@pytest.mark.parametrize("mode", [None, "int8"])
def test_legacy_layers_keep_no_state_between_calls(tmp_path, series, mode):
    """An LSTM as one operator does; a GRU loops, which int8 cannot."""
    layers = tf_keras.layers
    lstm, gru = layers.LSTM(4, return_sequences=True), layers.GRU(4)
    model = tf_keras.Sequential([tf_keras.Input((5, 3)), lstm, gru])
    path = tmp_path / "rnn.tflite"
    result = export_tflite(
        model, path, quantize=mode, representative_data=series
    )
    assert "UNIDIRECTIONAL_SEQUENCE_LSTM" not in result.operators
    assert ("WHILE" in result.operators) is (mode is None)
    assert result.sqnr_db > 20
    twice = Runner(path)({"input_0": np.repeat(series[:1], 2, axis=0)})
    first, second = twice["output_0"]
    np.testing.assert_array_equal(first, second)
    for layer in (lstm, gru):
        assert layer._could_use_gpu_kernel and layer.unroll is False
