"""int8 files hold equal lists of zero points once."""

import keras
import numpy as np
import pytest

from kdtf.export import export_tflite
from kdtf.export.compact import compact
from kdtf.flatbuffer import buffer_size
from kdtf.flatbuffer import read_model
from kdtf.flatbuffer import write_model
from kdtf.litert import Runner

pytestmark = pytest.mark.slow


@pytest.fixture
def exported(tmp_path, rng):
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((8, 8, 4), name="image"),
            layers.Conv2D(64, 3, activation="relu"),
            layers.Conv2D(64, 3, activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(5),
        ]
    )
    images = rng.normal(size=(16, 8, 8, 4)).astype("float32")
    path = tmp_path / "m.tflite"
    result = export_tflite(
        model, path, target="iot", representative_data=images
    )
    return path, result, images


def test_equal_zero_points_are_stored_once(exported, tmp_path):
    path, result, _ = exported
    # Written out again without care, each list is there on its own: kernels
    # and biases of two layers with 64 channels, of which one is left.
    loose = write_model(read_model(path.read_bytes()))
    saved = len(loose) - result.size_bytes
    assert saved == pytest.approx(3 * (64 * 8 + 4), abs=64)
    again = compact(loose, drop_names=False)
    assert len(again) == result.size_bytes


def test_outputs_are_the_same_bit_for_bit(exported, tmp_path, rng):
    path, _, _ = exported
    loose = tmp_path / "loose.tflite"
    loose.write_bytes(write_model(read_model(path.read_bytes())))
    image = rng.integers(-128, 128, (1, 8, 8, 4)).astype("int8")
    shared = Runner(path)({"image": image})["output_0"]
    expected = Runner(loose)({"image": image})["output_0"]
    assert np.unique(expected).size > 1
    np.testing.assert_array_equal(shared, expected)


def test_scales_and_axes_are_kept(exported):
    model = read_model(exported[0].read_bytes())
    again = read_model(compact(write_model(model), drop_names=False))
    for before, after in zip(
        model.subgraphs[0].tensors, again.subgraphs[0].tensors, strict=True
    ):
        assert before.name == after.name
        one, other = before.quantization, after.quantization
        for field in ("scale", "zeroPoint", "quantizedDimension"):
            np.testing.assert_array_equal(
                getattr(one, field), getattr(other, field)
            )


def test_integer_constants_have_no_names_for_microcontrollers(exported):
    model = read_model(exported[0].read_bytes())
    for tensor in model.subgraphs[0].tensors:
        assert (tensor.name == b"") == bool(buffer_size(model, tensor))
