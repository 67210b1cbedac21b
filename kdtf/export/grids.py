"""Kernels on a grid: found again in a file, as integers and scales.

A grid is known by its values alone. The largest step of which all of them are
multiples gives the integers back; the values do not move, as they do where a
quantizer takes the step from the largest value.
"""

import dataclasses
from collections.abc import Iterable
from collections.abc import Iterator

import numpy as np

from kdtf.export.weights import arrangements
from kdtf.export.weights import rows_of
from kdtf.transforms.deployment import KernelGrid
from kdtf.transforms.deployment import block_scale

# How far a value may be from the grid, as a part of the largest around it:
# some float32 roundings, and a hundredth of a step of int8.
TOLERANCE = 1e-6
_FOLDED = 2e-6
_NUM_PROBES = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class Placed:
    """A grid that was found in a file.

    Args:
        grid: As the model gave it.
        values: Its values, in the order of the file.
        factors: What each output was multiplied by, as folding batch norm
            does; None if by nothing.
    """

    grid: KernelGrid
    values: np.ndarray
    factors: np.ndarray | None

    @property
    def is_folded(self) -> bool:
        """Whether the constant is the grid times factors."""
        return self.factors is not None


def place_grid(
    grids: Iterable[KernelGrid], values: np.ndarray, axis: int
) -> Placed | None:
    """Returns which grid a constant of a float file is, or None.

    Args:
        grids: Candidates; the first that fits is it.
        values: The constant.
        axis: Its dimension of outputs.
    """
    orders = [
        (grid, order)
        for grid in grids
        if grid.values.size == values.size
        for order in arrangements(grid.values, values.shape)
    ]
    for grid, order in orders:
        # A look at the beginning settles most.
        if np.array_equal(order[0], values[0]) and np.array_equal(
            order, values
        ):
            return Placed(grid=grid, values=order, factors=None)
    rows = rows_of(values, axis)
    for grid, order in orders:
        factors = _factors(rows_of(order, axis), rows)
        if factors is not None:
            return Placed(grid=grid, values=order, factors=factors)
    return None


def _factors(before: np.ndarray, after: np.ndarray) -> np.ndarray | None:
    """Gives what times each row is the other's; None if no number is."""
    tops = np.abs(after).max(axis=1)
    # A look at the first rows settles most.
    for rows in (slice(0, 4), slice(None)):
        wide = before[rows].astype("float64")
        power = np.sum(wide**2, axis=1)
        factors = np.sum(wide * after[rows], axis=1) / np.maximum(power, 1e-300)
        errors = np.abs(factors[:, None] * wide - after[rows]).max(axis=1)
        if (errors > _FOLDED * tops[rows]).any():
            return None
    return factors if tops.any() else None


def steps_of(
    rows: np.ndarray, num_bits: int, *, is_block: bool = False
) -> np.ndarray:
    """Returns the step of each row whose multiples all its values are.

    Args:
        rows: Values, one grid a row.
        num_bits: Of the integers; 8 leaves -128 out, as LiteRT does.
        is_block: Whether the steps are kept as float16 with 7 bits of
            mantissa: of blocks' float16 LiteRT's dense kernels drop the rest.

    Returns:
        Of shape `(rows,)`, float32; nan where there is none, 1 where all are
        0. Of several steps the largest.

    Example:
        >>> rows = np.array([[0.5, -1.5, 1.0], [2.0, 4.0, 0.0]], "float32")
        >>> steps_of(rows, 4).tolist()
        [0.5, 2.0]
        >>> steps_of(np.array([[1.0, 0.3]], "float32"), 2).tolist()
        [nan]
    """
    tops = np.abs(rows).max(axis=1)
    steps = np.where(tops == 0, np.float32(1), np.float32(np.nan))
    for count, left in _tries(steps, num_bits):
        candidates = tops[left] / np.float32(count)
        if is_block:
            candidates = np.asarray(block_scale(candidates))
        for width in (_NUM_PROBES, rows.shape[1]):
            fits = _fits(rows[left, :width], candidates, tops[left], num_bits)
            left, candidates = left[fits], candidates[fits]
        steps[left] = candidates
    return steps


def _tries(
    steps: np.ndarray, num_bits: int
) -> Iterator[tuple[int, np.ndarray]]:
    """Gives what the largest integer may be, with the rows still open."""
    for count in range(1, -_lowest(num_bits) + 1):
        left = np.flatnonzero(np.isnan(steps))
        if not len(left):
            return
        yield count, left


def _fits(
    rows: np.ndarray, steps: np.ndarray, tops: np.ndarray, num_bits: int
) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        integers = np.rint(rows / steps[:, None])
    low, high = _lowest(num_bits), 2 ** (num_bits - 1) - 1
    # Written so that nan fits nowhere.
    inside = ((integers >= low) & (integers <= high)).all(axis=1)
    errors = np.abs(integers * steps[:, None] - rows)
    return inside & (errors <= TOLERANCE * tops[:, None]).all(axis=1)


def _lowest(num_bits: int) -> int:
    return -127 if num_bits == 8 else -(2 ** (num_bits - 1))
