import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from kdtf.quantization import power_of_two as grids


def array(tensor):
    return np.asarray(tensor)


def test_power_of_two_levels_by_hand():
    assert grids.power_of_two_levels(2).tolist() == [-1.0, 0.0, 1.0]
    got = grids.power_of_two_levels(4)
    assert (got * 64).tolist() == [
        *(-64, -32, -16, -8, -4, -2, -1, 0),
        *(1, 2, 4, 8, 16, 32, 64),
    ]


@pytest.mark.parametrize("num_bits", [2, 3, 4, 5])
def test_levels_fill_their_codes(num_bits):
    got = grids.power_of_two_levels(num_bits)
    assert got.dtype == np.float32
    octaves = 2.0 ** -np.arange(2 ** (num_bits - 1) - 1)
    expected = np.sort([*octaves, 0.0, *-octaves])
    np.testing.assert_array_equal(got, expected)
    assert len(got) == 2**num_bits - 1


# Magnitudes times the integer grid, by hand from the exponents that the
# authors' code deals to its terms: 3 bits {1, 2, 4} {3}, 4 bits {1, 3, 5}
# {2, 4, 6}, 5 bits {1, 3, 6} {2, 4, 7} {5}.
ADDITIVE = {
    (2, 1): [0, 1],
    (3, 2): [0, 1, 2, 3],
    (4, 2): [0, 1, 2, 3, 4, 6, 8, 10],
    (5, 2): [0, 1, 2, 3, 4, 6, 8, 9, 12, 16, 18, 24, 32, 33, 36, 48],
    (5, 4): list(range(16)),
    (6, 3): [
        *(0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 17, 20, 21),
        *(24, 28, 32, 34, 36, 38, 48, 52, 64, 65, 68, 69, 72, 76, 96, 100),
    ],
}


@pytest.mark.parametrize("bits_and_terms", ADDITIVE)
def test_additive_levels_by_hand(bits_and_terms):
    integers = ADDITIVE[bits_and_terms]
    levels = grids.additive_power_of_two_levels(*bits_and_terms)
    assert grids.integer_grid(levels) == integers[-1]
    half = levels[len(levels) // 2 :] * integers[-1]
    np.testing.assert_allclose(half, integers, rtol=1e-6)
    np.testing.assert_array_equal(levels, -levels[::-1])


@pytest.mark.parametrize("num_bits, num_terms", [(7, 2), (7, 3), (5, 2)])
def test_additive_levels_equal_the_papers_formula(num_bits, num_terms):
    k = (num_bits - 1) // num_terms
    terms = [
        {0.0} | {2.0 ** -(i + j * num_terms) for j in range(2**k - 1)}
        for i in range(num_terms)
    ]
    sums = np.array(sorted({sum(t) for t in itertools.product(*terms)}))
    half = sums / sums.max()
    expected = np.concatenate([-half[:0:-1], half])
    got = grids.additive_power_of_two_levels(num_bits, num_terms)
    assert len(got) == 2**num_bits - 1
    np.testing.assert_allclose(got, expected, rtol=1e-7)


def test_one_term_is_a_power_of_two_and_one_bit_a_term_uniform():
    got = grids.additive_power_of_two_levels(4, 1)
    np.testing.assert_array_equal(got, grids.power_of_two_levels(4))
    got = grids.additive_power_of_two_levels(8, 7)
    np.testing.assert_allclose(got, np.arange(-127, 128) / 127, rtol=1e-6)


def test_levels_refuse_bits_and_terms_out_of_range():
    for num_bits in (1, 6, 0, 2.5, "4"):
        with pytest.raises(ValueError, match="num_bits="):
            grids.power_of_two_levels(num_bits)
    for num_bits in (1, 9):
        with pytest.raises(ValueError, match=f"num_bits={num_bits}"):
            grids.additive_power_of_two_levels(num_bits)
    with pytest.raises(ValueError, match=r"\[1, 2, 3\].*num_terms=4"):
        grids.additive_power_of_two_levels(4, 4)
    # 5 bits in one term would be 31 octaves; 6 bits are even.
    with pytest.raises(ValueError, match=r"\[3, 5\].*num_terms=1"):
        grids.additive_power_of_two_levels(6, 1)
    with pytest.raises(ValueError, match=r"\[2, 3, 6\].*num_terms=4"):
        grids.additive_power_of_two_levels(7, 4)


def test_integer_grids_are_as_the_module_says():
    table = {}
    for line in grids.__doc__.splitlines():
        if line.startswith("| `"):
            call, grid, fits = (part.strip() for part in line.split("|")[1:4])
            levels = eval(call.strip("`"), vars(grids))
            table[call] = grids.integer_grid(levels)
            assert str(table[call]) == grid
            n = table[call]
            expected = "float only" if n is None else "int8"
            assert fits == ("int4, int8" if n and n <= 7 else expected)
    assert len(table) == 10


def test_integer_grid_by_hand():
    assert grids.integer_grid([0.0]) == 1
    assert grids.integer_grid([1 / 3, -0.5]) == 6
    assert grids.integer_grid(np.float32([3 / 127])) == 127
    assert grids.integer_grid([1.0, 1e-5]) is None
    assert grids.integer_grid([1.0, 0.9999]) is None
    for bad in ([1.5], [], [np.nan]):
        with pytest.raises(ValueError, match="levels="):
            grids.integer_grid(bad)


def test_integer_grid_equals_fractions(rng):
    from fractions import Fraction
    from math import lcm

    for _ in range(50):
        parts = [
            Fraction(int(rng.integers(-12, 13)), 12),
            Fraction(int(rng.integers(-10, 11)), 10),
        ]
        expected = lcm(*(part.denominator for part in parts))
        assert grids.integer_grid([float(p) for p in parts]) == expected


def test_scale_per_tensor_and_per_channel():
    values = np.array([[1.0, -4.0], [-2.5, 0.5], [0.0, 3.0]])
    assert float(grids.max_abs_scale(values)) == 4.0
    got = grids.max_abs_scale(values, axes=[0])
    assert array(got).tolist() == [[2.5, 4.0]]
    got = grids.max_abs_scale(values, axes=(1,), power_of_two=True)
    assert array(got).tolist() == [[4.0], [2.0], [4.0]]
    assert float(grids.max_abs_scale(np.zeros(3), power_of_two=True)) == 0.0


def test_scale_is_the_power_of_two_of_the_paper():
    exponents = np.arange(-120, 121)
    # Powers themselves, the middle of two, and a hair below the middle.
    below = np.nextafter(np.float32(1.5), np.float32(0))
    for factor, expected in ((1.0, 0), (1.5, 1), (below, 0), (1.9, 1)):
        values = (factor * 2.0**exponents).astype("float32")[:, None]
        got = grids.max_abs_scale(values, axes=[1], power_of_two=True)
        np.testing.assert_array_equal(
            array(got)[:, 0], (2.0 ** (exponents + expected)).astype("float32")
        )
        exact = np.floor(np.log2(4 / 3 * values[:, 0].astype(float)) + 1e-12)
        assert (exact == exponents + expected).all()


def test_scale_refuses_nan():
    with pytest.raises(ValueError, match="1 of 2 values"):
        grids.max_abs_scale(np.array([1.0, np.nan]))


def test_rounding_by_hand_takes_the_middle_outwards():
    levels = grids.power_of_two_levels(3)
    values = np.array([0.74, 0.75, -0.75, 0.125, -0.125, 0.12, 5.0, -5.0])
    got = array(grids.round_to_levels(values, levels, 1.0))
    assert got.tolist() == [0.5, 1.0, -1.0, 0.25, -0.25, 0.0, 1.0, -1.0]
    got = grids.round_to_levels(2 * values, levels, 2.0)
    assert array(got).tolist() == [1.0, 2.0, -2.0, 0.5, -0.5, 0.0, 2.0, -2.0]


def test_rounding_equals_the_papers_thresholds(rng):
    # INQ, equation 4: beta where (alpha + beta) / 2 <= |w| < 3 beta / 2.
    levels = grids.power_of_two_levels(4)
    positive = levels[levels >= 0]
    values = rng.normal(size=(20, 30)).astype("float32")
    scale = float(grids.max_abs_scale(values, power_of_two=True))
    expected = np.zeros_like(values)
    for alpha, beta in itertools.pairwise(positive * scale):
        inside = (alpha + beta) / 2 <= np.abs(values)
        expected[inside] = beta * np.sign(values[inside])
    got = array(grids.round_to_levels(values, levels, scale))
    np.testing.assert_array_equal(got, expected)
    # Powers of two, all of them: the mantissa is one half.
    assert set(np.abs(np.frexp(got[got != 0])[0]).tolist()) == {0.5}


@pytest.mark.parametrize("power_of_two", [False, True])
@pytest.mark.parametrize("axes", [None, [0], [0, 1]])
def test_rounding_equals_argmin_in_every_channel(axes, power_of_two, rng):
    levels = grids.additive_power_of_two_levels(5, 2)
    values = rng.normal(size=(6, 5, 4)).astype("float32")
    values[..., 2] = 0.0
    scale = grids.max_abs_scale(values, axes=axes, power_of_two=power_of_two)
    got = array(grids.round_to_levels(values, levels, scale))
    all_levels = array(scale)[..., None] * levels
    distances = np.abs(values[..., None] - all_levels)
    error = np.abs(values - got)
    np.testing.assert_allclose(error, distances.min(axis=-1), atol=1e-6)
    assert (got[..., 2] == 0).all()
    # Once more changes nothing, and the scale is found again.
    again = grids.max_abs_scale(got, axes=axes, power_of_two=power_of_two)
    np.testing.assert_array_equal(array(again), array(scale))
    twice = grids.round_to_levels(got, levels, again)
    np.testing.assert_array_equal(array(twice), got)


def test_rounded_weights_are_exact_integers(rng):
    for levels in (
        grids.power_of_two_levels(4),
        grids.additive_power_of_two_levels(6, 3),
    ):
        n = grids.integer_grid(levels)
        values = rng.normal(size=200).astype("float32")
        got = array(grids.round_to_levels(values, levels, 1.0)) * n
        assert np.abs(got).max() <= 127
        np.testing.assert_allclose(got, np.round(got), rtol=1e-6)


def test_zeros_stay_zeros_without_a_sign():
    levels = grids.power_of_two_levels(3)
    got = array(grids.round_to_levels([-0.01, -0.0, 0.0], levels, 1.0))
    assert got.tolist() == [0.0, 0.0, 0.0]
    assert not np.signbit(got).any()
    got = array(grids.round_to_levels([-1.0, 2.0], levels, 0.0))
    assert got.tolist() == [0.0, 0.0]


def test_nan_is_passed_on_and_infinity_clipped():
    levels = grids.power_of_two_levels(3)
    got = array(grids.round_to_levels([np.nan, np.inf, -np.inf], levels, 2.0))
    assert np.isnan(got[0])
    assert got[1:].tolist() == [2.0, -2.0]


@pytest.mark.parametrize("jit", [False, True])
def test_graph_and_xla_equal_eager(jit, rng):
    levels = grids.power_of_two_levels(4)

    def run(values):
        scale = grids.max_abs_scale(values, axes=[0], power_of_two=True)
        return grids.round_to_levels(values, levels, scale)

    values = tf.constant(rng.normal(size=(8, 3)).astype("float32"))
    got = tf.function(run, jit_compile=jit)(values)
    np.testing.assert_array_equal(array(got), array(run(values)))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_rounded_in_float32(dtype):
    values = keras.ops.cast([0.75, -3.0], dtype)
    got = grids.round_to_levels(values, grids.power_of_two_levels(3), 2.0)
    assert keras.backend.standardize_dtype(got.dtype) == "float32"
    assert array(got).tolist() == [1.0, -2.0]


@pytest.mark.parametrize(
    "levels",
    [[-1.0, 0.0, 0.5], [1.0, 0.0, -1.0], [-1.0, 1.0], [[0.0]], [-1, 0, 0, 1]],
)
def test_rounding_refuses_levels_that_are_not_symmetric(levels):
    with pytest.raises(ValueError, match="`levels` must rise.*levels="):
        grids.round_to_levels([1.0], levels, 1.0)
