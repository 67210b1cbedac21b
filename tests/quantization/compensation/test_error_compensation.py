"""Rounding one input's weights after the other, against slow references."""

import itertools

import numpy as np
import pytest

from kdtf.quantization.compensation.error_compensation import (
    compensated_rounding,
)
from kdtf.quantization.compensation.error_compensation import output_errors
from kdtf.quantization.compensation.error_compensation import second_moment
from kdtf.quantization.compensation.symmetric_grid import clipped_steps
from kdtf.quantization.compensation.symmetric_grid import nearest_rounding


def correlated(rng, num_rows, num_inputs):
    """Gives inputs that share a few causes, as activations do."""
    causes = rng.normal(size=(num_rows, 1 + num_inputs // 4))
    mixing = rng.normal(size=(causes.shape[1], num_inputs))
    return causes @ mixing + 0.3 * rng.normal(size=(num_rows, num_inputs))


def slow_obq(matrix, hessian, steps, *, num_bits, damping, order, zeros=False):
    """Optimal brain quantization as its authors write it, in float64.

    The inverse of the remaining inputs' Hessian, and the weights themselves,
    are updated after each input (Frantar et al. 2022, eq. 2 and 3).
    """
    weights = np.array(matrix, "float64")
    moments = np.array(hessian, "float64")
    pruned = np.asarray(matrix) == 0.0
    dead = np.diagonal(moments) == 0.0
    mean = np.diagonal(moments)[~dead].mean()
    moments[dead, dead] = mean
    inverse = np.linalg.inv(moments + damping * mean * np.eye(len(moments)))
    limit = 2 ** (num_bits - 1) - 1
    steps = np.repeat(steps, len(weights) // len(steps), axis=0)
    rounded = np.zeros(weights.shape, "float32")
    for i in order:
        integers = np.clip(np.rint(weights[i] / steps[i]), -limit, limit)
        rounded[i] = integers.astype("float32") * steps[i]
        if zeros:
            rounded[i][pruned[i]] = 0.0
        error = (weights[i] - rounded[i]) / inverse[i, i]
        weights -= np.outer(inverse[i], error)
        inverse -= np.outer(inverse[i], inverse[i]) / inverse[i, i]
        # What is gone stays gone, whatever float64 makes of it.
        inverse[i, i] = 1.0
    return rounded


def test_second_weight_makes_up_for_the_first():
    # The inputs are nearly alike, so only the sum of the weights matters, 0.8.
    # Rounded to the nearest it is 0. The first rounds to 0; R of H = R R^T is
    # [[0.436, 0.9], [0, 1]], so that the second moves to 0.4 + 0.4 * 0.9.
    matrix, hessian = [[0.4], [0.4]], [[1.0, 0.9], [0.9, 1.0]]
    rounded = compensated_rounding(
        matrix, hessian, [[1.0]], num_bits=4, damping=0.0
    )
    assert rounded.tolist() == [[0.0], [1.0]]
    # e = (0.4, -0.6): 0.16 - 2 * 0.24 * 0.9 + 0.36; of nearest 3.8 * 0.16.
    error = output_errors(matrix - rounded, hessian)
    assert error.tolist() == pytest.approx([0.088], abs=1e-6)


def test_strong_inputs_are_rounded_first():
    # In natural order the weak input 0 is rounded first, to 0, and input 1
    # moves by 0.4 * 0.9 / 4 to 0.49; by activation 1 is first, and 0 moves by
    # 0.4 * 0.9 to 0.76.
    matrix, hessian = [[0.4], [0.4]], [[1.0, 0.9], [0.9, 4.0]]

    def rounded(order):
        values = compensated_rounding(
            matrix, hessian, [[1.0]], num_bits=4, damping=0.0, order=order
        )
        return values.tolist()

    assert rounded("natural") == [[0.0], [0.0]]
    assert rounded("activation") == [[1.0], [0.0]]


@pytest.mark.parametrize("num_bits", [2, 4, 8])
@pytest.mark.parametrize("group_size", [None, 10])
@pytest.mark.parametrize("order", ["natural", "activation"])
@pytest.mark.parametrize("block", [1, 7, 128])
def test_equals_optimal_brain_quantization(
    rng, num_bits, group_size, order, block
):
    inputs = correlated(rng, 80, 30)
    matrix = rng.normal(size=(30, 9)).astype("float32")
    hessian = second_moment(inputs)
    steps = clipped_steps(matrix, num_bits=num_bits, group_size=group_size)
    indices = (
        range(30)
        if order == "natural"
        else np.argsort(-np.diagonal(hessian), kind="stable")
    )
    slow = slow_obq(
        matrix, hessian, steps, num_bits=num_bits, damping=0.01, order=indices
    )
    nearest = nearest_rounding(matrix, steps, num_bits=num_bits)
    worse = output_errors(matrix - slow, hessian) > output_errors(
        matrix - nearest, hessian
    )
    fast = compensated_rounding(
        matrix, hessian, steps, num_bits=num_bits, order=order, block=block
    )
    np.testing.assert_array_equal(fast, np.where(worse, nearest, slow))


def test_errs_less_than_any_single_change():
    # Not the optimum of all roundings, but close: of 3**6 neighbours of the
    # float weights the best errs 0.7 to 1 times as much.
    rng = np.random.default_rng(3)
    inputs = correlated(rng, 40, 6)
    matrix = rng.normal(size=(6, 1)).astype("float32")
    hessian = second_moment(inputs)
    steps = np.full((1, 1), 0.5, "float32")
    found = compensated_rounding(matrix, hessian, steps, num_bits=8)
    base = np.rint(matrix[:, 0] / 0.5)
    best = min(
        float(output_errors(matrix - 0.5 * (base + move)[:, None], hessian)[0])
        for move in itertools.product((-1, 0, 1), repeat=6)
    )
    error = float(output_errors(matrix - found, hessian)[0])
    nearest = nearest_rounding(matrix, steps, num_bits=8)
    assert best <= error <= 1.5 * best
    assert error < 0.5 * float(output_errors(matrix - nearest, hessian)[0])


@pytest.mark.parametrize("order", ["natural", "activation"])
def test_uncorrelated_inputs_are_rounded_to_the_nearest(rng, order):
    matrix = rng.normal(size=(20, 5)).astype("float32")
    steps = clipped_steps(matrix, num_bits=4)
    found = compensated_rounding(
        matrix, np.diag(rng.uniform(size=20)), steps, num_bits=4, order=order
    )
    nearest = nearest_rounding(matrix, steps, num_bits=4)
    np.testing.assert_array_equal(found, nearest)


@pytest.mark.parametrize("num_bits", [2, 3, 4, 8])
@pytest.mark.parametrize("group_size", [None, 8])
def test_values_are_integers_times_steps(rng, num_bits, group_size):
    matrix = rng.normal(size=(32, 6)).astype("float32")
    hessian = second_moment(correlated(rng, 64, 32))
    steps = clipped_steps(matrix, num_bits=num_bits, group_size=group_size)
    found = compensated_rounding(matrix, hessian, steps, num_bits=num_bits)
    each = np.repeat(steps, 32 // len(steps), axis=0)
    integers = np.rint(found / each)
    assert found.dtype == np.float32
    assert np.abs(integers).max() <= 2 ** (num_bits - 1) - 1
    # Bit for bit, as whoever stores integers and steps computes them.
    np.testing.assert_array_equal(integers.astype("float32") * each, found)
    assert not np.signbit(found[found == 0.0]).any()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("num_bits", [2, 4])
def test_no_output_is_worse_than_with_nearest_rounding(seed, num_bits):
    rng = np.random.default_rng(seed)
    inputs = correlated(rng, 200, 48)
    matrix = rng.standard_t(4, size=(48, 12)).astype("float32")
    steps = clipped_steps(matrix, num_bits=num_bits)
    found = compensated_rounding(
        matrix, second_moment(inputs), steps, num_bits=num_bits
    )
    nearest = nearest_rounding(matrix, steps, num_bits=num_bits)
    ours = np.square(inputs @ (matrix - found)).sum(axis=0)
    theirs = np.square(inputs @ (matrix - nearest)).sum(axis=0)
    assert (ours <= theirs * (1 + 1e-9)).all()
    assert ours.sum() < 0.7 * theirs.sum()


def test_zeros_are_kept_and_compensated_for(rng):
    inputs = correlated(rng, 80, 24)
    matrix = rng.normal(size=(24, 7)).astype("float32")
    matrix[rng.uniform(size=matrix.shape) < 0.5] = 0.0
    hessian = second_moment(inputs)
    steps = clipped_steps(matrix, num_bits=4)
    found = compensated_rounding(
        matrix, hessian, steps, num_bits=4, keep_zeros=True, order="natural"
    )
    assert (found[matrix == 0.0] == 0.0).all()
    slow = slow_obq(
        matrix,
        hessian,
        steps,
        num_bits=4,
        damping=0.01,
        order=range(24),
        zeros=True,
    )
    np.testing.assert_array_equal(found, slow)
    free = compensated_rounding(matrix, hessian, steps, num_bits=4)
    assert (free[matrix == 0.0] != 0.0).any()


def test_weights_of_dead_inputs_are_rounded_to_the_nearest(rng):
    inputs = correlated(rng, 40, 10)
    inputs[:, [2, 7]] = 0.0
    matrix = rng.normal(size=(10, 4)).astype("float32")
    steps = clipped_steps(matrix, num_bits=4)
    hessian = second_moment(inputs)
    found = compensated_rounding(matrix, hessian, steps, num_bits=4)
    nearest = nearest_rounding(matrix, steps, num_bits=4)
    np.testing.assert_array_equal(found[[2, 7]], nearest[[2, 7]])
    assert (found != nearest).any()
    all_dead = compensated_rounding(
        matrix, np.zeros((10, 10)), steps, num_bits=4
    )
    np.testing.assert_array_equal(all_dead, nearest)


def test_fewer_rows_than_inputs_are_enough(rng):
    # The Hessian has rank 3 of 24: without damping there is no factor.
    inputs = correlated(rng, 3, 24)
    matrix = rng.normal(size=(24, 16)).astype("float32")
    steps = clipped_steps(matrix, num_bits=4)
    hessian = second_moment(inputs)
    found = compensated_rounding(
        matrix, hessian, steps, num_bits=4, damping=0.0
    )
    nearest = nearest_rounding(matrix, steps, num_bits=4)
    ours = output_errors(matrix - found, hessian).sum()
    assert ours < 0.1 * output_errors(matrix - nearest, hessian).sum()


@pytest.mark.parametrize("shape", [(1, 5), (5, 1), (1, 1)])
def test_one_input_or_one_output(rng, shape):
    matrix = rng.normal(size=shape).astype("float32")
    hessian = second_moment(rng.normal(size=(9, shape[0])))
    steps = clipped_steps(matrix, num_bits=4, grid=(1.0,))
    found = compensated_rounding(matrix, hessian, steps, num_bits=4)
    assert found.shape == shape
    if shape[0] == 1:
        # The largest of a column, and so each here, is 7 steps.
        np.testing.assert_allclose(found, matrix, rtol=1e-6)


def test_values_on_the_grid_stay(rng):
    steps = rng.uniform(0.5, 2.0, size=(1, 6)).astype("float32")
    integers = rng.integers(-7, 8, size=(16, 6)).astype("float32")
    matrix = integers * steps
    hessian = second_moment(correlated(rng, 64, 16))
    found = compensated_rounding(matrix, hessian, steps, num_bits=4)
    np.testing.assert_array_equal(found, matrix)


def test_one_step_for_all_outputs(rng):
    matrix = rng.normal(size=(8, 3)).astype("float32")
    hessian = second_moment(correlated(rng, 32, 8))
    one = compensated_rounding(matrix, hessian, [[0.25]], num_bits=4)
    each = compensated_rounding(matrix, hessian, [[0.25] * 3], num_bits=4)
    np.testing.assert_array_equal(one, each)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"matrix": [[np.nan], [1.0]]}, "`matrix` must .* finite"),
        ({"matrix": [1.0, 2.0]}, r"two axes.*shape=\(2,\)"),
        ({"hessian": [[np.inf, 0.0], [0.0, 1.0]]}, "`hessian` must .* finite"),
        ({"hessian": np.eye(3)}, r"\(num_inputs, num_inputs\).*\(3, 3\)"),
        ({"hessian": -np.eye(2)}, "positive semidefinite"),
        ({"steps": [[0.0]]}, "positive and finite"),
        ({"steps": [[1.0]] * 3}, r"equal groups.*\(3, 1\)"),
        ({"steps": [1.0]}, r"`steps` must be.*\(1,\)"),
        ({"num_bits": 1}, "`num_bits` must be .*num_bits=1"),
        ({"order": "random"}, "`order` must be one of .*'random'"),
        ({"block": 0}, "block=0"),
        ({"damping": -1.0}, "damping=-1.0"),
        ({"damping": np.nan}, "damping=nan"),
    ],
)
def test_refuses(change, match):
    arguments = {
        "matrix": [[0.5], [1.0]],
        "hessian": np.eye(2),
        "steps": [[1.0]],
        "num_bits": 4,
    } | change
    first = [arguments.pop(name) for name in ("matrix", "hessian", "steps")]
    with pytest.raises(ValueError, match=match):
        compensated_rounding(*first, **arguments)
