"""Symmetric grids for matrices: steps, and the nearest values on a grid.

A matrix is `(num_inputs, num_outputs)`, as `Layout.to_matrix` gives it. A value
of the grid is one of the integers -q ... q, q = 2**(num_bits - 1) - 1, times a
step, which the weights of an output, or of a group of it, share.
"""

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any
from typing import Protocol

import numpy as np

from kdtf.quantization.linear import max_integer
from kdtf.transforms.deployment import block_scale

__all__ = [
    "Grid",
    "checked_matrix",
    "clipped_steps",
    "largest_integer",
    "nearest_rounding",
    "round_to_grid",
    "steps_of_weights",
]

# How far the range may shrink. A normal distribution wants 0.65 of the maximum
# in 4 bits and 0.35 in 2.
_SHRINK_FACTORS = tuple(np.linspace(1.0, 0.2, 17).tolist())


class Grid(Protocol):
    """What must be known of the grid of a kernel."""

    @property
    def num_bits(self) -> int:
        """2 to 16."""

    @property
    def group_size(self) -> int | None:
        """Inputs that share a step; None for all of an output's."""


def largest_integer(num_bits: int) -> int:
    """Returns the largest integer of a symmetric grid.

    Args:
        num_bits: 2 to 16.

    Example:
        >>> [largest_integer(num_bits) for num_bits in (2, 4, 8)]
        [1, 7, 127]
    """
    if not 2 <= num_bits <= 16:
        raise ValueError(
            "`num_bits` must be between 2 and 16. Received: "
            f"num_bits={num_bits}. LiteRT stores weights in 2, 4 or 8."
        )
    return max_integer(num_bits)


def nearest_rounding(matrix: Any, steps: Any, *, num_bits: int) -> np.ndarray:
    """Returns the nearest values on the grid.

    Args:
        matrix: `(num_inputs, num_outputs)`.
        steps: `(1, num_outputs)`, or `(num_groups, num_outputs)` for equal
            groups of inputs that follow each other.
        num_bits: 2 to 16.

    Returns:
        float32, exactly integers times steps.

    Example:
        >>> nearest_rounding([[0.6], [-9.0]], [[0.5]], num_bits=4).tolist()
        [[0.5], [-3.5]]
    """
    weights = checked_matrix("matrix", matrix, "float32")
    limit = largest_integer(num_bits)
    spread = steps_of_weights(steps, weights.shape)
    return round_to_grid(weights, spread, limit)


def clipped_steps(
    matrix: Any,
    *,
    num_bits: int,
    group_size: int | None = None,
    second_moments: Any = None,
    grid: Sequence[float] = _SHRINK_FACTORS,
) -> np.ndarray:
    """Returns steps for which rounding costs least, clipping what is rare.

    For each output, or group of it, the range is the largest |w| times the
    factor with the least sum of (w - q)^2; with `second_moments` the least
    squared error of the output, or what the group adds to it.

    Args:
        matrix: `(num_inputs, num_outputs)`.
        num_bits: 2 to 16.
        group_size: Inputs that share a step; must divide `num_inputs`. None:
            all of an output. Steps of groups have the few digits that
            LiteRT keeps of them.
        second_moments: Sum or mean of x x^T, `(num_inputs, num_inputs)`; or
            its diagonal alone, `(num_inputs,)`, which is fast and right for
            inputs that are uncorrelated.
        grid: Factors to try; of equal ones the first wins. `(1.0,)` gives the
            steps for which nothing is clipped.

    Returns:
        float32, `(1, num_outputs)` or `(num_inputs // group_size,
        num_outputs)`. A group of zeros has step 1.

    Raises:
        ValueError: Something is not finite, of another shape or out of range.

    Example:
        >>> matrix = [[1.4]] + [[0.5]] * 7 + [[0.1]] * 8
        >>> (found,) = clipped_steps(matrix, num_bits=2, grid=(1.0, 0.5))
        >>> round(float(found[0]), 4)
        0.7

    Reference:
        Lin et al. 2023, https://arxiv.org/abs/2306.00978 (section 5,
        searching the clipping range)
    """
    weights = checked_matrix("matrix", matrix, "float32")
    factors = [float(factor) for factor in grid]
    if not factors or not all(0.0 < factor <= 1.0 for factor in factors):
        raise ValueError(
            "`grid` must hold factors in (0, 1]. Received: "
            f"grid={tuple(grid)[:8]}. (1.0,) clips nothing."
        )
    limit = largest_integer(num_bits)
    grouped = _grouped(weights, group_size)
    costs_of = _costs_by(second_moments, grouped.shape)
    largest = np.abs(grouped).max(axis=1, keepdims=True)
    best = np.full_like(largest, np.inf)
    steps = np.ones_like(largest)
    for factor in factors:
        tried = _storable(largest * (factor / limit), group_size)
        costs = costs_of(grouped - round_to_grid(grouped, tried, limit))
        steps = np.where(costs < best, tried, steps)
        best = np.minimum(costs, best)
    return np.where(largest > 0.0, steps, np.float32(1.0))[:, 0]


def round_to_grid(
    values: np.ndarray, steps: np.ndarray, limit: int
) -> np.ndarray:
    """Returns the nearest integers up to `limit` times steps, float32."""
    integers = np.rint(values / steps)
    np.clip(integers, -limit, limit, out=integers)
    # In float32, as whoever multiplies them again; and without -0.0.
    return integers.astype("float32") * steps + np.float32(0.0)


def steps_of_weights(steps: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Returns the step of each weight, float32."""
    steps = np.asarray(steps, "float32")
    fits = steps.ndim == 2 and steps.shape[1] in (1, shape[1])
    if not fits or not steps.shape[0] or shape[0] % steps.shape[0]:
        raise ValueError(
            "`steps` must be (1, num_outputs), or (num_groups, num_outputs) "
            f"with equal groups. Received: {steps.shape} for a matrix of "
            f"shape {shape}. See `clipped_steps`."
        )
    if not (np.isfinite(steps) & (steps > 0.0)).all():
        raise ValueError(
            "`steps` must be positive and finite. Received: values between "
            f"{steps.min()} and {steps.max()}. See `clipped_steps`."
        )
    each = np.repeat(steps, shape[0] // len(steps), axis=0)
    return np.broadcast_to(each, shape)


def checked_matrix(name: str, values: Any, dtype: str) -> np.ndarray:
    """Returns a finite array with two axes.

    Raises:
        ValueError: It is none.
    """
    matrix = np.asarray(values, dtype)
    bad = int(matrix.size - np.isfinite(matrix).sum())
    if matrix.ndim != 2 or not matrix.size or bad:
        raise ValueError(
            f"`{name}` must have two axes, be finite and not empty. Received: "
            f"shape={matrix.shape}, with {bad} values that are nan or "
            "infinite. Check that the model and the data hold none."
        )
    return matrix


def _grouped(weights: np.ndarray, group_size: int | None) -> np.ndarray:
    """Returns `(num_groups, group_size, num_outputs)`."""
    num_inputs, num_outputs = weights.shape
    size = num_inputs if group_size is None else group_size
    if size < 1 or num_inputs % size:
        raise ValueError(
            "`group_size` must divide the number of inputs. Received: "
            f"group_size={group_size} for {num_inputs} inputs. None gives one "
            "step for each output."
        )
    return weights.reshape(num_inputs // size, size, num_outputs)


def _costs_by(
    second_moments: Any, shape: tuple[int, ...]
) -> Callable[[np.ndarray], np.ndarray]:
    """Returns what gives errors `(groups, size, outputs)` their costs."""
    if second_moments is None:
        return lambda error: np.square(error).sum(axis=1, keepdims=True)
    num_groups, size, _ = shape
    given = np.asarray(second_moments, "float64")
    strengths = given if given.ndim == 1 else np.diagonal(given)
    known = [(num_groups * size,) * rank for rank in (1, 2)]
    if given.shape not in known or not (strengths >= 0.0).all():
        raise ValueError(
            "`second_moments` must be a number of at least 0 for each input, "
            f"or the sum of x x^T. Received: shape={given.shape} for "
            f"{num_groups * size} inputs. See `second_moment`."
        )
    # In proportion; and a floor, so that weights of inputs that the data
    # happen to lack are not clipped at will.
    scale = max(float(strengths.mean()), np.finfo("float64").tiny)
    floors = np.maximum(1e-4 * scale - strengths, 0.0) / scale
    if not strengths.any():
        floors = np.ones_like(floors)
    floors = floors.astype("float32").reshape(num_groups, size, 1)
    scaled = (given / scale).astype("float32")
    if given.ndim == 1:
        weighed = scaled.reshape(num_groups, size, 1) + floors
        return lambda error: (np.square(error) * weighed).sum(
            axis=1, keepdims=True
        )
    index = np.arange(num_groups)
    blocks = scaled.reshape(num_groups, size, num_groups, size)
    blocks = blocks[index, :, index]
    return lambda error: (error * (blocks @ error + floors * error)).sum(
        axis=1, keepdims=True
    )


def _storable(steps: np.ndarray, group_size: int | None) -> np.ndarray:
    """Returns positive steps; those of groups as LiteRT computes with them."""
    if group_size is None:
        return np.maximum(steps, np.finfo("float32").tiny)
    most = np.finfo("float16").max
    if steps.max() > most:
        raise ValueError(
            "Steps of groups must fit float16, in which LiteRT stores them. "
            f"Received: {steps.max():.3g}, above {most}. Use "
            "group_size=None."
        )
    return np.asarray(block_scale(steps))
