import keras
import numpy as np
import pytest

import kdtf
from kdtf.quantization import Codebook


def two_layers(rng):
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((8,)),
            layers.Dense(4, activation="relu", name="first"),
            layers.Dense(2, name="second"),
        ],
        name="two",
    )
    model.set_weights([rng.normal(size=w.shape) for w in model.weights])
    return model


def test_sizes_are_those_of_codes_and_scales(rng):
    model = kdtf.quantize(two_layers(rng), "int4")
    report = kdtf.quantization_report(model)
    first, second = report.kernels
    # 32 weights in 4 bits and 4 scales; 8 weights and 2 scales.
    assert (first.size_bytes, second.size_bytes) == (32, 12)
    assert report.float_size_bytes == 4 * (32 + 4 + 8 + 2)
    assert report.size_bytes == 32 + 12 + 4 * 6
    assert first.size_bytes > first.entropy_bytes > 16


def test_a_codebook_counts_its_table_and_indices(rng):
    model = kdtf.quantize(two_layers(rng), Codebook(num_entries=4))
    first = kdtf.quantization_report(model).kernels[0]
    assert first.num_values == 4
    # Four float32 entries and 32 indices of 2 bits.
    assert first.size_bytes == 16 + 8
    assert first.note == "codebook of 4"


def test_noise_is_that_of_rounding(rng):
    model = kdtf.quantize(two_layers(rng), "int2")
    first = kdtf.quantization_report(model).kernels[0]
    weights = np.asarray(model.layers[0].kernel)
    step = np.abs(weights).max(axis=0)
    rounded = np.floor(weights / step + 0.5) * step
    noise = np.square(weights - rounded).sum()
    expected = 10 * np.log10(np.square(weights).sum() / noise)
    assert first.sqnr_db == pytest.approx(expected, abs=1e-4)


def test_a_plain_model_is_listed_as_it_is(rng):
    report = kdtf.quantization_report(two_layers(rng))
    assert report.size_bytes == report.float_size_bytes == 4 * 46
    assert [k.note for k in report.kernels] == ["", ""]
    assert str(report).count("float32") == 1


def test_reasons_and_ranges_are_printed(rng):
    model = kdtf.quantize(
        two_layers(rng), "int8", rng.normal(size=(16, 8)), select=["first"]
    )
    report = kdtf.quantization_report(model)
    assert report.kernels[1].note == "not selected"
    # The input and both outputs.
    assert len(report.ranges) == 3
    low, high = report.ranges["first/output"]
    assert low == 0.0 < high
    text = str(report)
    assert "3 activations in int8, 0 of them without a range yet" in text
    assert "not selected" in text
    assert "<pre " in report._repr_html_()


def test_tf_keras_models_are_refused():
    import tf_keras

    model = tf_keras.Sequential([tf_keras.layers.Dense(2, input_shape=(3,))])
    with pytest.raises(ValueError, match="Keras 3 models"):
        kdtf.quantization_report(model)
