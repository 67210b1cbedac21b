"""Grids: their steps from their values, and their place in a file."""

import numpy as np
import pytest

from kdtf.export.grids import place_grid
from kdtf.export.grids import steps_of
from kdtf.transforms.deployment import KernelGrid


def rows(*values):
    return np.asarray(values, "float32")


@pytest.mark.parametrize(
    "num_bits, row, step",
    [
        (8, [0.3, -0.1, 12.7], 0.1),
        # The top levels are unused: no largest value to go by.
        (8, [0.3, 0.5, 0.7], 0.1),
        (4, [0.3, 0.5, -0.5], 0.1),
        (2, [0.1, -0.2, 0.0], 0.1),
        # Powers of two over seven octaves, and over three.
        (8, [0.01, 0.64, -0.02], 0.01),
        (4, [0.01, 0.04, -0.02], 0.01),
        # One value, its opposite, and only zeros.
        (4, [0.25, 0.25, -0.25], 0.25),
        (4, [0.0, 0.0, 0.0], 1.0),
        # -8 is there for 4 bits, with nothing above 7.
        (4, [-0.8, 0.7, 0.1], 0.1),
    ],
)
def test_steps_are_found_from_values(num_bits, row, step):
    np.testing.assert_allclose(steps_of(rows(row), num_bits), [step], rtol=1e-6)


@pytest.mark.parametrize(
    "num_bits, row",
    [
        (4, [0.8, 0.1]),
        (8, [12.8, 0.1]),
        (8, [-12.8, 0.1]),
        (2, [0.2, 0.1]),
        (8, [1.0, 0.3331]),
        (8, [np.nan, 0.1]),
    ],
)
def test_values_on_no_grid_have_no_step(num_bits, row):
    assert np.isnan(steps_of(rows(row), num_bits)).all()


def test_rows_have_steps_of_their_own():
    steps = steps_of(rows([0.1, 0.3], [0.2, 0.4], [0.7, 1.1], [0, 0]), 4)
    np.testing.assert_allclose(steps[[0, 1, 3]], [0.1, 0.2, 1.0], rtol=1e-6)
    assert np.isnan(steps[2])


def test_the_integers_times_the_step_are_the_values(rng):
    integers = rng.integers(-127, 128, size=(50, 200))
    values = (integers * rng.uniform(0.001, 1, size=(50, 1))).astype("float32")
    steps = steps_of(values, 8)[:, None]
    back = np.rint(values / steps) * steps
    error = np.abs(back - values).max(axis=1)
    assert (error <= 1e-6 * np.abs(values).max(axis=1)).all()


def test_block_steps_have_seven_bits_of_mantissa():
    # 129/128 has seven, 257/256 has eight.
    kept = 129 / 128
    assert steps_of(rows([kept, 2 * kept]), 4, is_block=True) == [kept]
    lost = 257 / 256
    assert np.isnan(steps_of(rows([lost, 2 * lost]), 4, is_block=True))
    # Of 3 times a step only the step itself is such a number.
    third = np.float32(131 / 128)
    steps = steps_of(rows([3 * third, 6 * third]), 4, is_block=True)
    assert steps == [third]


def grid(values, path="k"):
    return KernelGrid(path=path, values=values, num_bits=8)


def test_a_grid_is_found_transposed(rng):
    kernel = rng.normal(size=(4, 6)).astype("float32")
    other = rng.normal(size=(4, 6)).astype("float32")
    grids = [grid(other, "other"), grid(kernel)]
    found = place_grid(grids, kernel.T.copy(), 0)
    assert (found.grid.path, found.is_folded) == ("k", False)
    assert place_grid(grids, rng.normal(size=(6, 4)), 0) is None
    assert place_grid(grids, kernel.T[:3].copy(), 0) is None


def test_a_grid_is_found_with_batch_norm_folded_in(rng):
    kernel = rng.normal(size=(3, 3, 2, 5)).astype("float32")
    factors = np.array([0.5, -2.0, 3.0, 0.0, 1.0], "float32")
    folded = (kernel * factors).transpose(3, 0, 1, 2)
    found = place_grid([grid(kernel)], folded, 0)
    assert found.is_folded
    # One factor for each input is no batch norm.
    scaled = (kernel * factors[None, None, :2, None]).transpose(3, 0, 1, 2)
    assert place_grid([grid(kernel)], scaled, 0) is None
    assert place_grid([grid(kernel)], 0 * folded, 0) is None


def test_the_exact_one_of_two_proportional_grids_is_found(rng):
    kernel = rng.normal(size=(4, 6)).astype("float32")
    grids = [grid(2 * kernel, "double"), grid(kernel, "single")]
    assert place_grid(grids, kernel.T.copy(), 0).grid.path == "single"
