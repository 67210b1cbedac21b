"""What is too large for a flatbuffer is refused before the work starts."""

import keras
import pytest

from kdtf.export import ExportError
from kdtf.export import export_tflite
from kdtf.export import tflite


@pytest.fixture
def model(monkeypatch):
    """A model that says it has so many parameters; nothing is allocated."""

    def claim(num_parameters):
        layers = [keras.Input((2,)), keras.layers.Dense(1)]
        model = keras.Sequential(layers)
        monkeypatch.setattr(model, "count_params", lambda: num_parameters)
        return model

    return claim


@pytest.mark.parametrize("quantize", [None, "float16", "dynamic_int8", "int4"])
def test_two_gibibytes_are_refused_at_once(
    tmp_path, monkeypatch, model, quantize
):
    """In any mode: a float file is made on the way."""

    def must_not_start(*arguments, **options):
        raise AssertionError("the work started")

    for step in ("deployed", "read_inputs", "build_file"):
        monkeypatch.setattr(tflite, step, must_not_start)
    path = tmp_path / "large.tflite"
    with pytest.raises(
        ExportError, match="less than 2 GiB.*536870912 param.*2147483648 bytes"
    ):
        export_tflite(model(2**29), path, quantize=quantize)
    assert list(tmp_path.iterdir()) == []


def test_one_parameter_less_is_tried(tmp_path, model):
    result = export_tflite(model(2**29 - 1), tmp_path / "small.tflite")
    assert result.operators == {"FULLY_CONNECTED": 1}
