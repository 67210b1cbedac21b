"""From what a tensor was seen to hold to the range its grid shall cover.

A range always holds 0, so that padding and a silent ReLU are exact. Wide
ranges keep outliers and have coarse steps; `percentile` and
`mean_squared_error` give outliers up for a finer grid.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from kdtf.quantization.linear import integer_bounds

__all__ = [
    "ESTIMATORS",
    "mean_squared_error",
    "min_max",
    "moving_average",
    "percentile",
]

# Fractions of the full range that `mean_squared_error` tries.
_NUM_FRACTIONS = 80


def min_max(values: Any, *, num_bits: int = 8) -> tuple[float, float]:
    """Returns the smallest range that holds all values, and 0.

    Args:
        values: Finite values, not empty.
        num_bits: Ignored: the same for each grid.

    Example:
        >>> min_max(np.array([2.0, 5.0]))
        (0.0, 5.0)
    """
    del num_bits
    values = _checked(values)
    return min(float(values.min()), 0.0), max(float(values.max()), 0.0)


def percentile(
    values: Any, *, num_bits: int = 8, share: float = 0.9999
) -> tuple[float, float]:
    """Returns the range that leaves a small share of values out at each side.

    Args:
        values: Finite values, not empty.
        num_bits: Ignored: the same for each grid.
        share: The quantile of the upper end, in (0.5, 1]; the lower is
            `1 - share`. Values between two data points are interpolated.

    Raises:
        ValueError: `share` is out of range.

    Example:
        >>> low, high = percentile(np.arange(101.0), share=0.9)
        >>> low, round(high, 6)
        (0.0, 90.0)
    """
    del num_bits
    if not 0.5 < share <= 1.0:
        raise ValueError(
            "`share` must be in (0.5, 1]. Received: "
            f"share={share!r}. 0.9999 leaves one value of 10,000 out."
        )
    low, high = np.quantile(_checked(values), [1.0 - share, share])
    return min(float(low), 0.0), max(float(high), 0.0)


def mean_squared_error(
    values: Any, *, num_bits: int = 8
) -> tuple[float, float]:
    """Returns the range whose grid has the least mean squared error.

    Both ends shrink together, from the full range on, as clipping an outlier
    is paid for by a finer step for all others.

    Args:
        values: Finite values, not empty.
        num_bits: Of the grid, in [2, 8].

    Example:
        >>> many = np.concatenate([np.linspace(0.0, 1.0, 10000), [2.0]])
        >>> low, high = mean_squared_error(many, num_bits=4)
        >>> low, round(high, 2)
        (0.0, 0.97)

    Reference:
        Nagel et al. 2021, https://arxiv.org/abs/2106.08295 (section 3.1)
    """
    values = _checked(values)
    low, high = min_max(values)
    if low == high:
        return low, high
    lowest, highest = integer_bounds(num_bits, symmetric=False)
    best, best_error = 1.0, np.inf
    for fraction in np.linspace(1.0, 0.2, _NUM_FRACTIONS):
        scale = fraction * (high - low) / (highest - lowest)
        zero_point = np.round(-fraction * low / scale)
        integers = np.round(values / scale) + zero_point
        clipped = np.clip(integers, 0, highest - lowest)
        error = np.mean(((clipped - zero_point) * scale - values) ** 2)
        if error < best_error:
            best, best_error = float(fraction), error
    return best * low, best * high


def moving_average(
    previous: Any, seen: Any, *, decay: float, is_first: Any
) -> Any:
    """Returns an average over batches in which old ones fade.

    The first batch sets it: tfmot starts at +-6 instead, of which a third is
    left after 1,000 batches.

    Args:
        previous: The average so far, a float or a tensor.
        seen: What the new batch gave.
        decay: The share of `previous` that stays, in [0, 1).
        is_first: 1.0 for the first batch, else 0.0.

    Example:
        >>> moving_average(0.0, 4.0, decay=0.75, is_first=1.0)
        4.0
        >>> moving_average(4.0, 8.0, decay=0.75, is_first=0.0)
        5.0
    """
    kept = decay * (1.0 - is_first)
    return kept * previous + (1.0 - kept) * seen


ESTIMATORS: dict[str, Callable[..., tuple[float, float]]] = {
    "min_max": min_max,
    "percentile": percentile,
    "mean_squared_error": mean_squared_error,
}


def _checked(values: Any) -> np.ndarray:
    values = np.asarray(values, "float64").ravel()
    if not values.size or not np.isfinite(values).all():
        raise ValueError(
            "A range is of finite values, at least one. Received: "
            f"{values.size} values, {int((~np.isfinite(values)).sum())} of "
            "them not finite. Check the calibration data and the weights."
        )
    return values
