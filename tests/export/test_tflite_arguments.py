"""What is refused before a model is converted."""

import os

import keras
import numpy as np
import pytest

from kdtf.export import ExportError
from kdtf.export import export_tflite
from kdtf.export import interface
from kdtf.export import tflite


def test_other_objects_are_no_models(tmp_path):
    with pytest.raises(TypeError, match="must be a `keras.Model`"):
        export_tflite("model.keras", tmp_path / "a.tflite")


def test_unbuilt_models_are_refused(tmp_path):
    model = keras.Sequential([keras.layers.Dense(2)])
    with pytest.raises(ValueError, match="must be built.*Call it once"):
        export_tflite(model, tmp_path / "a.tflite")


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"target": "tv"}, r"\['android', 'iot', 'float'\].*target='tv'"),
        ({"quantize": "int3"}, "'dynamic_int8', 'int8'.*quantize='int3'"),
        ({"quantize": "int8_block32"}, "'int8_block32'.*int4 only"),
        ({"quantize": "int4_block16"}, "'int4_block256'.*'int4_block16'"),
        ({"target": "iot", "quantize": "int4"}, "'iot'.*'int4'"),
        ({"target": "iot", "quantize": "float16"}, "'iot'.*'float16'"),
        ({"target": "float", "quantize": "int8"}, "'float'.*'int8'"),
        ({"quantize": "int8"}, "representative_data=None.*'dynamic_int8'"),
        ({"target": "iot"}, "representative_data=None"),
    ],
)
def test_wrong_choices_are_refused(
    tiny_cnn, older, untouched, arguments, message
):
    with pytest.raises(ValueError, match=message):
        export_tflite(tiny_cnn, older, **arguments)
    untouched()


def test_the_suffix_is_checked(tiny_cnn, tmp_path):
    with pytest.raises(ValueError, match="'.tflite'.*model.lite"):
        export_tflite(tiny_cnn, tmp_path / "model.lite")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "data, message",
    [
        (np.zeros((4, 9, 8, 1)), r"\(None, 8, 8, 1\).*\(4, 9, 8, 1\)"),
        ((np.zeros((4, 8, 8, 1)), np.zeros(4)), "without labels.*2 of them"),
        ({"picture": np.zeros((4, 8, 8, 1))}, r"\['image'\].*\['picture'\]"),
        (np.zeros((0, 8, 8, 1)), "at least one sample"),
        (np.full((4, 8, 8, 1), np.nan), "'image'.*must be finite"),
        (["a", "b"], "arrays of numbers.*dtype=<U1"),
    ],
)
@pytest.mark.parametrize("argument", ["representative_data", "verify_data"])
def test_data_that_does_not_fit_is_refused(
    tiny_cnn, older, untouched, argument, data, message
):
    with pytest.raises(ValueError, match=message) as caught:
        export_tflite(tiny_cnn, older, **{argument: data})
    assert argument in str(caught.value)
    untouched()


def test_a_model_that_gives_nan_is_not_exported(tiny_cnn, older, untouched):
    layer = tiny_cnn.get_layer("logits")
    layer.bias.assign([0.0, np.nan, 0.0, 0.0])
    with pytest.raises(ExportError, match="Keras model itself.*'output_0'"):
        export_tflite(tiny_cnn, older)
    untouched()


def test_outputs_without_a_batch_are_refused(older, untouched):
    inputs = keras.Input((3,))
    model = keras.Model(inputs, keras.ops.sum(inputs))
    with pytest.raises(ExportError, match="batch as its first dimension"):
        export_tflite(model, older)
    untouched()


def test_keras_quantized_models_are_refused(older, untouched):
    dense = keras.layers.Dense(2)
    model = keras.Sequential([keras.Input((16,)), dense])
    dense.quantize("int8")
    with pytest.raises(ExportError, match="model.quantize.*'dynamic_int8'"):
        export_tflite(model, older)
    untouched()


def test_a_model_beyond_two_gigabytes_is_refused_before_any_work(
    tiny_cnn, older, untouched, monkeypatch
):
    monkeypatch.setattr(interface, "MAX_FLOAT_BYTES", 4 * 76)
    monkeypatch.delattr(tflite, "read_inputs")
    with pytest.raises(ExportError, match="less than 2 GiB.*76 parameters"):
        export_tflite(tiny_cnn, older)
    untouched()
