"""Values on a grid of equal steps, by hand and by an independent formula."""

import numpy as np
import pytest
import tensorflow as tf

from kdtf.quantization import linear

# Powers of two, so that every product is exact and ties are ties.
STEP = np.float32(0.25)


def gradient_of(function, values):
    values = tf.constant(values, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(values)
        outputs = function(values)
    return tape.gradient(outputs, values).numpy()


@pytest.mark.parametrize("num_bits", range(2, 9))
def test_a_symmetric_grid_has_as_many_levels_on_both_sides(num_bits):
    assert linear.integer_bounds(num_bits, symmetric=True) == (
        1 - 2 ** (num_bits - 1),
        2 ** (num_bits - 1) - 1,
    )
    low, high = linear.integer_bounds(num_bits, symmetric=False)
    assert high - low == 2**num_bits - 1 and low == -high - 1


@pytest.mark.parametrize("num_bits", [1, 9, 0, -4, 4.0, True, "8", None])
def test_other_widths_are_refused(num_bits):
    with pytest.raises(ValueError, match="num_bits.*2 to 8"):
        linear.check_num_bits(num_bits)


@pytest.mark.parametrize("num_bits", range(2, 9))
def test_the_outermost_level_of_a_symmetric_grid_is_max_abs(num_bits):
    scale = linear.symmetric_scale(np.float32(3.0), num_bits=num_bits)
    assert scale.dtype == "float32"
    end = linear.quantize(np.float32([-3.0, 3.0]), scale, num_bits=num_bits)
    high = 2 ** (num_bits - 1) - 1
    assert np.asarray(end).tolist() == [-high, high]


@pytest.mark.parametrize("peak", [0.0, 1e-42])
def test_the_step_of_nothing_is_one(peak):
    assert float(linear.symmetric_scale(np.float32(peak), num_bits=8)) == 1.0
    got = linear.quantize(np.float32([0.0, peak]), 1.0, num_bits=8)
    assert np.asarray(got).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("low", "high", "scale", "zero_point"),
    [
        (0.0, 25.5, 0.1, -128),
        (-12.8, 12.7, 0.1, 0),
        (-25.5, 0.0, 0.1, 127),
        # Ranges that leave 0 out are widened to it.
        (5.0, 25.5, 0.1, -128),
        (-25.5, -5.0, 0.1, 127),
        # Zero width.
        (0.0, 0.0, 1.0, -128),
        # 2.5 steps below 0: half goes away from 0, as std::round does.
        (-2.5, 252.5, 1.0, -125),
        (-2.4, 252.6, 1.0, -126),
    ],
)
def test_zero_is_moved_onto_a_level(low, high, scale, zero_point):
    got = linear.scale_and_zero_point(low, high, num_bits=8)
    np.testing.assert_allclose(got[0], np.float32(scale), rtol=1e-6)
    assert got[1] == zero_point
    assert got[0].dtype == "float32" and got[1].dtype == "int32"
    zero = linear.quantize(np.float32(0.0), *got, num_bits=8)
    assert float(linear.dequantize(zero, *got)) == 0.0


def test_ranges_may_come_as_arrays():
    scale, zero_point = linear.scale_and_zero_point(
        np.array([0.0, -8.0]), np.array([15.0, 7.0]), num_bits=4
    )
    assert scale.tolist() == [1.0, 1.0]
    assert zero_point.tolist() == [-8, 0]


def test_half_a_step_rounds_up_on_both_sides():
    values = STEP * np.float32([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5])
    got = linear.quantize(values, STEP, num_bits=8)
    assert np.asarray(got).tolist() == [-2, -1, 0, 1, 2, 3]
    fake = linear.fake_quantize(tf.constant(values), STEP, num_bits=8)
    assert (fake.numpy() / STEP).tolist() == [-2, -1, 0, 1, 2, 3]


@pytest.mark.parametrize("num_bits", [2, 3, 4, 8])
@pytest.mark.parametrize("zero_point", [None, -1, 1])
def test_integers_follow_the_formula(num_bits, zero_point, rng):
    values = rng.normal(size=(50, 4)).astype("float32") * 4
    low, high = linear.integer_bounds(num_bits, symmetric=zero_point is None)
    shift = zero_point or 0
    expected = np.floor(values / STEP + np.float32(0.5)) + shift
    expected = np.clip(expected, low, high)
    got = linear.quantize(values, STEP, zero_point, num_bits=num_bits)
    assert np.asarray(got).dtype == "int8"
    np.testing.assert_array_equal(got, expected)
    fake = linear.fake_quantize(values, STEP, zero_point, num_bits=num_bits)
    np.testing.assert_array_equal(fake, (expected - shift) * STEP)
    np.testing.assert_array_equal(
        fake, linear.dequantize(got, STEP, zero_point)
    )


@pytest.mark.parametrize("zero_point", [None, -100, 127])
def test_multiples_of_the_step_stay_exactly(zero_point):
    low, high = linear.integer_bounds(8, symmetric=zero_point is None)
    integers = np.arange(low, high + 1) - (zero_point or 0)
    # A scale that is no power of two.
    scale = np.float32(0.0123)
    values = integers.astype("float32") * scale
    got = linear.fake_quantize(values, scale, zero_point, num_bits=8)
    np.testing.assert_array_equal(got, values)


def test_minus_zero_is_zero():
    got = linear.fake_quantize(np.float32([-0.0, -0.1]), STEP, num_bits=8)
    assert np.asarray(got).tolist() == [0.0, 0.0]
    assert np.asarray(linear.quantize(-0.0, STEP, num_bits=8)) == 0


def test_infinity_goes_to_the_end_of_the_grid():
    ends = np.float32([-np.inf, np.inf, -1e30, 1e30])
    got = linear.quantize(ends, STEP, num_bits=4)
    assert np.asarray(got).tolist() == [-7, 7, -7, 7]


def test_half_precision_is_computed_in_single():
    values = tf.constant([1.0 / 3.0, 100.0], tf.float16)
    got = linear.fake_quantize(values, np.float32(0.001), num_bits=8)
    assert got.dtype == "float32"
    np.testing.assert_allclose(got, [0.127, 0.127])


def test_the_gradient_of_weights_is_one_beyond_the_ends_too():
    values = [-9.0, -1.75, -0.1, 0.0, 0.1, 1.75, 9.0]
    got = gradient_of(
        lambda x: linear.fake_quantize(x, STEP, num_bits=4), values
    )
    assert got.tolist() == [1.0] * 7


def test_no_gradient_reaches_the_step():
    step = tf.constant(0.25)
    with tf.GradientTape() as tape:
        tape.watch(step)
        values = linear.fake_quantize(tf.constant([0.3]), step, num_bits=4)
    assert tape.gradient(values, step) is None


def test_the_gradient_of_activations_is_one_inside_and_zero_outside():
    values = [-1.1, -1.0, -0.3, 0.0, 2.0, 2.75, 2.76]
    got = gradient_of(
        lambda x: linear.fake_quantize_range(x, -1.0, 2.75, num_bits=4), values
    )
    assert got.tolist() == [0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0]


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_activations_keep_their_dtype(dtype):
    values = tf.cast([[0.6, 9.0]], dtype)
    got = linear.fake_quantize_range(values, 0.0, 3.75, num_bits=4)
    assert got.dtype == dtype
    assert tf.cast(got, "float32").numpy().tolist() == [[0.5, 3.75]]


def test_a_narrow_range_leaves_out_the_lowest_level():
    values = tf.constant([-4.0, 3.5])
    got = linear.fake_quantize_range(
        values, -3.5, 3.5, num_bits=4, narrow_range=True
    )
    assert got.numpy().tolist() == [-3.5, 3.5]


def test_straight_through_gives_the_bits_of_one_and_the_slope_of_another():
    values = tf.constant([1e8, -3.0, 0.1])
    other = tf.constant([0.1, 7.0, -0.0])
    with tf.GradientTape() as tape:
        tape.watch([values, other])
        got = linear.straight_through(values, other)
    np.testing.assert_array_equal(got, other)
    slopes = tape.gradient(got, [values, other])
    assert slopes[0].numpy().tolist() == [1.0] * 3 and slopes[1] is None
