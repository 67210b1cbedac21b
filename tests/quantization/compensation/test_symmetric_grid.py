"""Steps that clip what is rare, and the nearest values."""

import ml_dtypes
import numpy as np
import pytest

from kdtf.quantization.compensation.symmetric_grid import clipped_steps
from kdtf.quantization.compensation.symmetric_grid import largest_integer
from kdtf.quantization.compensation.symmetric_grid import nearest_rounding


def cost_of(matrix, steps, num_bits, importance=1.0):
    """Gives the weighted squared error for each group, by the definition."""
    limit = 2 ** (num_bits - 1) - 1
    groups = np.asarray(matrix, "float64").reshape(len(steps), -1, len(steps.T))
    wide = np.asarray(steps, "float64")[:, None]
    rounded = np.clip(np.rint(groups / wide), -limit, limit) * wide
    weights = np.broadcast_to(importance, groups.shape[:2])[..., None]
    return (weights * (groups - rounded) ** 2).sum(axis=1)


def test_nearest_values_by_hand():
    # 0.74 and -0.76 of a step of 0.5 are 1.48 and -1.52; 7 is the end.
    matrix = [[0.74, -0.76], [9.0, -0.1]]
    found = nearest_rounding(matrix, [[0.5, 0.5]], num_bits=4)
    assert found.tolist() == [[0.5, -1.0], [3.5, 0.0]]
    assert not np.signbit(found[1, 1])


def test_clips_one_outlier_of_many():
    # In 2 bits, -1, 0 and 1: with a step of 1 the eight 0.5 round to 0 and
    # cost 2; with a step of 0.5 the outlier costs 0.25.
    matrix = [[1.0]] + [[0.5]] * 8
    assert clipped_steps(matrix, num_bits=2, grid=(1.0, 0.5)).tolist() == [
        [0.5]
    ]
    # Unless its input is stronger than all the others.
    strong = [100.0] + [1.0] * 8
    found = clipped_steps(
        matrix, num_bits=2, grid=(1.0, 0.5), second_moments=strong
    )
    assert found.tolist() == [[1.0]]


def test_first_of_equal_factors_wins():
    matrix = [[1.0], [-1.0]]
    assert clipped_steps(matrix, num_bits=2, grid=(1.0, 1.0)).tolist() == [
        [1.0]
    ]
    assert clipped_steps(matrix, num_bits=2, grid=(1.0,)).tolist() == [[1.0]]


@pytest.mark.parametrize("num_bits", [2, 4, 8])
@pytest.mark.parametrize("group_size", [None, 8])
@pytest.mark.parametrize("weighted", [False, True])
def test_no_factor_costs_less(rng, num_bits, group_size, weighted):
    matrix = rng.standard_t(3, size=(32, 5)).astype("float32")
    moments = rng.uniform(0.1, 9.0, size=32) if weighted else None
    grid = np.linspace(1.0, 0.2, 9)
    found = clipped_steps(
        matrix,
        num_bits=num_bits,
        group_size=group_size,
        second_moments=moments,
        grid=grid,
    )
    importance = 1.0 if moments is None else moments.reshape(len(found), -1)
    best = cost_of(matrix, found, num_bits, importance)
    groups = matrix.reshape(len(found), -1, 5)
    largest = np.abs(groups).max(axis=1)
    for factor in grid:
        tried = largest * factor / (2 ** (num_bits - 1) - 1)
        if group_size is not None:
            tried = tried.astype(ml_dtypes.bfloat16).astype("float32")
        # Sums in float32 on our side.
        cost = cost_of(matrix, tried, num_bits, importance)
        assert (best <= cost * (1 + 1e-5)).all()


def test_steps_of_groups_have_the_digits_that_litert_keeps(rng):
    matrix = rng.normal(size=(64, 3)).astype("float32")
    grouped = clipped_steps(matrix, num_bits=4, group_size=16)
    assert grouped.shape == (4, 3) and grouped.dtype == np.float32
    np.testing.assert_array_equal(
        grouped, grouped.astype(ml_dtypes.bfloat16).astype("float32")
    )
    whole = clipped_steps(matrix, num_bits=4)
    assert whole.shape == (1, 3)
    assert (whole != whole.astype(ml_dtypes.bfloat16).astype("float32")).any()


def test_zero_and_tiny_groups_have_a_step(rng):
    matrix = np.zeros((8, 2), "float32")
    matrix[4:, 1] = 1e-9
    steps = clipped_steps(matrix, num_bits=4, group_size=4)
    assert steps[:, 0].tolist() == [1.0, 1.0]
    # The smallest float16 with all its digits.
    assert steps[:, 1].tolist() == [1.0, 2.0**-14]
    assert not nearest_rounding(matrix, steps, num_bits=4).any()


def test_weights_of_inputs_that_are_never_on_count_alike(rng):
    matrix = rng.normal(size=(32, 3)).astype("float32")
    silent = clipped_steps(matrix, num_bits=4, second_moments=np.zeros(32))
    plain = clipped_steps(matrix, num_bits=4)
    np.testing.assert_array_equal(silent, plain)


def test_largest_integers():
    assert [largest_integer(num_bits) for num_bits in (2, 3, 8)] == [1, 3, 127]


@pytest.mark.parametrize("group_size", [None, 8])
def test_least_error_of_outputs_with_correlated_inputs(rng, group_size):
    inputs = rng.normal(size=(64, 5)) @ rng.normal(size=(5, 32))
    matrix = rng.standard_t(3, size=(32, 6)).astype("float32")
    grid = np.linspace(1.0, 0.2, 9)
    found = clipped_steps(
        matrix,
        num_bits=4,
        group_size=group_size,
        second_moments=inputs.T @ inputs,
        grid=grid,
    )
    size = 32 // len(found)
    for group, steps in enumerate(found):
        rows = slice(group * size, (group + 1) * size)

        def cost(steps, rows=rows):
            rounded = nearest_rounding(matrix[rows], steps[None], num_bits=4)
            error = inputs[:, rows] @ (matrix[rows] - rounded)
            return np.square(error).sum(axis=0)

        for factor in grid:
            tried = np.abs(matrix[rows]).max(axis=0) * factor / 7
            if group_size is not None:
                tried = tried.astype(ml_dtypes.bfloat16)
            # Ours are float32 sums of terms that nearly cancel.
            assert (cost(steps) <= cost(tried.astype("float32")) * 1.001).all()


def test_diagonal_alone_is_enough_for_uncorrelated_inputs(rng):
    matrix = rng.normal(size=(16, 4)).astype("float32")
    moments = rng.uniform(0.1, 4.0, size=16)
    one = clipped_steps(matrix, num_bits=4, second_moments=moments)
    two = clipped_steps(matrix, num_bits=4, second_moments=np.diag(moments))
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"matrix": [[np.nan]]}, "`matrix` must .* finite.*1 values"),
        ({"matrix": np.zeros((0, 3))}, "not empty"),
        ({"grid": ()}, r"factors in \(0, 1\]"),
        ({"grid": (1.5,)}, r"factors in \(0, 1\].*1\.5"),
        ({"group_size": 3}, "`group_size` must divide.*group_size=3 for 4"),
        ({"group_size": 0}, "`group_size` must divide"),
        ({"second_moments": [1.0]}, r"`second_moments`.*shape=\(1,\)"),
        ({"second_moments": [-1.0] * 4}, "`second_moments`"),
        ({"second_moments": [np.nan] * 4}, "`second_moments`"),
        ({"matrix": np.full((4, 1), 1e6), "group_size": 4}, "float16"),
        ({"num_bits": 17}, "num_bits=17"),
    ],
)
def test_refuses(change, match):
    arguments = {"matrix": np.ones((4, 2)), "num_bits": 4} | change
    matrix = arguments.pop("matrix")
    with pytest.raises(ValueError, match=match):
        clipped_steps(matrix, **arguments)
