"""From values to the range of a grid."""

import numpy as np
import pytest

from kdtf.quantization import ranges

ALL = sorted(ranges.ESTIMATORS)


def grid_error(values, low, high, num_bits):
    """The mean squared error of TensorFlow's own op over a range."""
    import tensorflow as tf

    got = tf.quantization.fake_quant_with_min_max_args(
        values.astype("float32"), low, high, num_bits=num_bits
    )
    return float(np.mean((got.numpy() - values) ** 2))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([2.0, 5.0], (0.0, 5.0)),
        ([-2.0, -5.0], (-5.0, 0.0)),
        ([-1.5, 4.0, 0.0], (-1.5, 4.0)),
        ([7.0], (0.0, 7.0)),
        ([0.0, 0.0], (0.0, 0.0)),
    ],
)
@pytest.mark.parametrize("name", ["min_max", "percentile"])
def test_a_range_holds_zero(name, values, expected):
    options = {"share": 1.0} if name == "percentile" else {}
    got = ranges.ESTIMATORS[name](np.array([values]), **options)
    assert got == expected


def test_percentiles_are_interpolated():
    # 10 % of 4 intervals: 0.4 of the way to the next value.
    got = ranges.percentile([-10.0, 1.0, 2.0, 3.0, 20.0], share=0.9)
    np.testing.assert_allclose(got, (-10 + 0.4 * 11, 3 + 0.6 * 17))


def test_a_percentile_gives_up_one_value_of_many(rng):
    values = np.append(rng.uniform(size=100_000), 1e6)
    low, high = ranges.percentile(values)
    assert low == 0.0
    np.testing.assert_allclose(high, np.quantile(values, 0.9999))
    assert high < 1.0


@pytest.mark.parametrize("share", [0.5, 0.0, 1.1, -1.0, float("nan")])
def test_other_shares_are_refused(share):
    with pytest.raises(ValueError, match="share"):
        ranges.percentile([1.0], share=share)


@pytest.mark.parametrize("num_bits", [2, 4, 8])
def test_least_squares_is_no_worse_than_any_other_fraction(num_bits, rng):
    values = np.abs(rng.standard_t(3, size=4000))
    low, high = ranges.mean_squared_error(values, num_bits=num_bits)
    assert low == 0.0 and high <= values.max()
    found = grid_error(values, low, high, num_bits)
    for fraction in np.linspace(0.2, 1.0, 33):
        other = grid_error(values, 0.0, fraction * values.max(), num_bits)
        # Fractions between those it tries may be a little better.
        assert found <= 1.01 * other, fraction
    if num_bits < 8:
        assert found < 0.9 * grid_error(values, 0.0, values.max(), num_bits)


def test_both_ends_shrink_together(rng):
    values = np.concatenate([rng.normal(size=4000), [-20.0, 10.0]])
    low, high = ranges.mean_squared_error(values, num_bits=4)
    assert -20.0 < low < 0.0
    np.testing.assert_allclose(low / high, -2.0)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("value", [0.0, 3.0, -3.0])
def test_one_value_alone_is_exact(name, value):
    low, high = ranges.ESTIMATORS[name](np.full(5, value), num_bits=8)
    assert (low, high) == (min(value, 0.0), max(value, 0.0))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(
    ("values", "said"),
    [([], "0 values"), ([1.0, np.nan], "1 of"), ([np.inf, -np.inf], "2 of")],
)
def test_nothing_and_nan_are_refused(name, values, said):
    with pytest.raises(ValueError, match=f"finite values.*{said}"):
        ranges.ESTIMATORS[name](np.array(values))


def test_the_first_batch_sets_the_average_and_others_fade():
    average, expected = 123.0, None
    for step, seen in enumerate([4.0, 8.0, 0.0, -4.0]):
        average = ranges.moving_average(
            average, seen, decay=0.9, is_first=float(step == 0)
        )
        expected = seen if step == 0 else 0.9 * expected + 0.1 * seen
        assert average == pytest.approx(expected)


def test_no_decay_keeps_the_last_batch():
    got = ranges.moving_average(5.0, 7.0, decay=0.0, is_first=0.0)
    assert got == 7.0
