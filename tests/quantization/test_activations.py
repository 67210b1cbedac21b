"""Ranges of activations: followed in training, fixed by calibration."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kdtf.quantization import activations
from kdtf.quantization.activations import FIXED_RANGES
from kdtf.quantization.activations import RangeQuantizer
from kdtf.quantization.activations import calibrating


def ends(quantizer):
    return float(quantizer.low), float(quantizer.high)


def batch(*values):
    return np.float32([values])


def test_before_any_range_is_known_values_pass():
    x = batch(-3.0, 0.123, 7.0)
    got = RangeQuantizer("a")(x, training=False)
    np.testing.assert_array_equal(got, x)


def test_the_first_batch_sets_the_range_and_others_move_it():
    quantizer = RangeQuantizer("a", decay=0.75)
    quantizer(batch(1.0, 4.0), training=True)
    assert ends(quantizer) == (0.0, 4.0)
    quantizer(batch(-8.0, 8.0), training=True)
    assert ends(quantizer) == (-2.0, 5.0)
    quantizer(batch(-2.0, -1.0), training=True)
    assert ends(quantizer) == (-2.0, 3.75)


def test_inference_moves_nothing():
    quantizer = RangeQuantizer("a")
    quantizer.set_range(-1.0, 1.0)
    quantizer(batch(-8.0, 8.0), training=False)
    quantizer(batch(-8.0, 8.0))
    assert ends(quantizer) == (-1.0, 1.0)


@pytest.mark.parametrize("in_graph", [False, True])
def test_values_go_to_the_levels_of_the_range_of_this_batch_too(in_graph):
    quantizer = RangeQuantizer("a", decay=0.5)
    call = tf.function(quantizer) if in_graph else quantizer
    got = call(tf.constant(batch(0.0, 25.5, 0.14, 0.16)), training=True)
    np.testing.assert_allclose(got, batch(0.0, 25.5, 0.1, 0.2), rtol=1e-6)
    # Now it is [0, 12.75]: a step of 0.05.
    got = call(tf.constant(batch(0.07, 0.08, 0.0, -1.0)), training=False)
    np.testing.assert_allclose(got, batch(0.1, 0.1, 0.0, 0.0), rtol=1e-6)
    assert ends(quantizer) == (0.0, 25.5)


@pytest.mark.parametrize("value", [0.0, 2.0])
def test_a_constant_is_exact(value):
    quantizer = RangeQuantizer("a")
    got = quantizer(np.full((2, 3), value, "float32"), training=True)
    np.testing.assert_allclose(got, value, rtol=1e-6)
    low, high = quantizer.constants()
    assert low <= value <= high and high > low


@pytest.mark.parametrize("name", FIXED_RANGES)
def test_prescribed_ranges_do_not_depend_on_data(name):
    quantizer = RangeQuantizer("a", fixed=FIXED_RANGES[name])
    levels = (np.arange(256) - (128 if name == "tanh" else 0)) / 256
    levels = (2 * levels if name == "tanh" else levels).astype("float32")
    for training in (True, False):
        got = quantizer(levels + np.float32(1e-3), training=training)
        np.testing.assert_array_equal(got, levels)
    with calibrating([quantizer], "min_max"):
        quantizer(batch(-50.0, 50.0))
    assert quantizer.constants() == FIXED_RANGES[name]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_stays_and_ranges_are_single(dtype):
    quantizer = RangeQuantizer("a")
    got = quantizer(tf.cast(batch(0.0, 255.0, 3.25), dtype), training=True)
    assert got.dtype == dtype
    assert tf.cast(got, "float32").numpy().tolist() == [[0.0, 255.0, 3.0]]
    assert quantizer.low.dtype == "float32"


def test_gradients_stop_beyond_the_range():
    quantizer = RangeQuantizer("a")
    quantizer.set_range(-1.0, 1.0)
    x = tf.constant(batch(-2.0, -0.5, 0.5, 2.0))
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = quantizer(x, training=False)
    assert tape.gradient(y, x).numpy().tolist() == [[0.0, 1.0, 1.0, 0.0]]


def test_constants_need_a_range():
    with pytest.raises(ValueError, match="none yet for 'block/relu/output'"):
        RangeQuantizer("block/relu/output").constants()


def test_frozen_ranges_are_constants_of_what_is_traced():
    quantizer = RangeQuantizer("a")
    quantizer.set_range(0.0, 2.55)
    with quantizer.frozen():
        traced = tf.function(quantizer).get_concrete_function(
            tf.TensorSpec((1, 2)), training=False
        )
    assert not traced.variables and quantizer.fixed is None
    quantizer.set_range(0.0, 255.0)
    np.testing.assert_allclose(
        traced(tf.constant(batch(0.014, 9.0))), batch(0.01, 2.55), rtol=1e-5
    )


def test_masks_pass_without_a_warning():
    x = tf.constant(batch(1.0, 2.0))
    keras.src.backend.set_keras_mask(x, tf.constant([[True, False]]))
    # Warnings are errors here.
    RangeQuantizer("a")(x, training=True)


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [
        ("min_max", (-1.0, 10.0)),
        # Of 5 values the 0.01 % quantile is 0.0004 of an interval inside.
        ("percentile", (-1.0 + 0.0004 * 1.123, 9.9968)),
        ("mean_squared_error", (-1.0, 10.0)),
    ],
)
def test_calibration_sets_what_the_estimator_says(estimator, expected):
    quantizer = RangeQuantizer("a")
    with calibrating([quantizer], estimator):
        x = batch(-1.0, 0.123, 1.0)
        np.testing.assert_array_equal(quantizer(x, training=False), x)
        quantizer(batch(2.0, 10.0), training=False)
    np.testing.assert_allclose(ends(quantizer), expected, rtol=1e-6)
    assert float(quantizer.is_known) == 1.0


def test_extremes_count_no_more_than_other_values(rng, monkeypatch):
    """A percentile is one of the values, not of each batch's ends."""
    quantizer = RangeQuantizer("a")
    x = rng.uniform(size=(100, 1000)).astype("float32")
    x[:, 0] = 1000.0
    with calibrating([quantizer], "percentile"):
        for row in x:
            quantizer(row[None], training=False)
    expected = np.quantile(x.astype("float64"), 0.9999)
    np.testing.assert_allclose(ends(quantizer)[1], expected, rtol=1e-6)
    monkeypatch.setattr(activations, "_MAX_KEPT", 100)
    with calibrating([quantizer], "percentile"):
        quantizer(np.arange(1000, dtype="float32"), training=False)
    np.testing.assert_allclose(ends(quantizer)[1], 990 - 0.099, rtol=1e-6)


@pytest.mark.parametrize("estimator", ["min_max", "percentile"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_the_first_place_with_nan_is_named(estimator, value):
    first, second = RangeQuantizer("first"), RangeQuantizer("second")
    with pytest.raises(ValueError, match="finite.*first at 'second'"):
        with calibrating([first, second], estimator):
            second(batch(1.0, value))
            first(batch(1.0, value))
    assert float(second.is_known) == 0.0


def test_an_error_in_between_leaves_quantizers_as_they_were():
    quantizer = RangeQuantizer("a")
    with pytest.raises(KeyError, match="stop"):
        with calibrating([quantizer], "min_max"):
            quantizer(batch(1.0, 2.0))
            raise KeyError("stop")
    assert float(quantizer.is_known) == 0.0
    quantizer(batch(1.0, 2.0), training=True)
    assert ends(quantizer) == (0.0, 2.0)
