"""Weights that are powers of two, or sums of a few: products by shifts.

Levels are on a unit grid, symmetric, from -1 to 1 with 0. What a device with
integer kernels stores exactly is told by `integer_grid`:

| levels                              | integer grid | fits        |
|-------------------------------------|--------------|-------------|
| `power_of_two_levels(2)`            | 1            | int4, int8  |
| `power_of_two_levels(3)`            | 4            | int4, int8  |
| `power_of_two_levels(4)`            | 64           | int8        |
| `power_of_two_levels(5)`            | None         | float only  |
| `additive_power_of_two_levels(3, 2)`| 3            | int4, int8  |
| `additive_power_of_two_levels(4, 2)`| 10           | int8        |
| `additive_power_of_two_levels(4, 3)`| 7            | int4, int8  |
| `additive_power_of_two_levels(5, 2)`| 48           | int8        |
| `additive_power_of_two_levels(6, 3)`| 100          | int8        |
| `additive_power_of_two_levels(7, 3)`| None         | float only  |
"""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

from kdtf.quantization.codebook import places

__all__ = [
    "additive_power_of_two_levels",
    "integer_grid",
    "max_abs_scale",
    "power_of_two_levels",
    "round_to_levels",
]

# 15 octaves; 5 bits would be 31, down to 2**-30.
_MOST_BITS_PER_TERM = 4


def power_of_two_levels(num_bits: int) -> np.ndarray:
    """Returns 0 and the powers of two that `num_bits` can number.

    There are `2 ** (num_bits - 1) - 1` octaves, 1, 1/2, 1/4, ..., with either
    sign, and 0: 1 octave in 2 bits, 3 in 3 bits, 7 in 4, 15 in 5. Exactly
    `2 ** num_bits - 1` levels, so that a code fits. (INQ spends a whole bit
    on the 0, so its 5 bits are 8 octaves, about our 4 bits.)

    Args:
        num_bits: 2 to 5. 2 bits are ternary weights.

    Returns:
        `(2 ** num_bits - 1,)`, float32, sorted.

    Raises:
        ValueError: `num_bits` is out of range.

    Example:
        >>> power_of_two_levels(3).tolist()
        [-1.0, -0.5, -0.25, 0.0, 0.25, 0.5, 1.0]

    Reference:
        Li et al. 2020, https://arxiv.org/abs/1909.13144 (equation 3);
        Zhou et al. 2017, https://arxiv.org/abs/1702.03044 (equation 1)
    """
    if num_bits not in range(2, _MOST_BITS_PER_TERM + 2):
        raise ValueError(
            f"`num_bits` must be an integer of 2 to {_MOST_BITS_PER_TERM + 1}. "
            f"Received: num_bits={num_bits!r}. More bits only add octaves "
            "near 0; for finer levels use `additive_power_of_two_levels`."
        )
    return additive_power_of_two_levels(num_bits, 1)


def additive_power_of_two_levels(
    num_bits: int, num_terms: int = 2
) -> np.ndarray:
    """Returns all sums of `num_terms` powers of two, each 0 or one of its own.

    One bit is the sign. The others are dealt evenly, k to each of n terms:
    term i is 0 or one of 2^-i, 2^-(i+n), 2^-(i+2n), ... (2^k - 1 powers), and
    the sums are divided by the greatest. An odd number of bits may be split
    into terms of 2 bits and one of 1 bit. One term gives powers of two; one
    bit a term gives uniform levels.

    Args:
        num_bits: 2 to 8, the sign included.
        num_terms: Additions, at least 1. Defaults to 2.

    Returns:
        `(2 ** num_bits - 1,)`, float32, sorted.

    Raises:
        ValueError: `num_bits` is out of range, or cannot be dealt to so many
            terms.

    Example:
        >>> levels = additive_power_of_two_levels(4, 2) * 10
        >>> [round(float(x)) for x in levels[7:]]
        [0, 1, 2, 3, 4, 6, 8, 10]

    Reference:
        Li et al. 2020, https://arxiv.org/abs/1909.13144 (equations 4, 5)
    """
    if num_bits not in range(2, 9):
        raise ValueError(
            "`num_bits` must be an integer of 2 to 8. Received: "
            f"num_bits={num_bits!r}. 4 is a good start."
        )
    choices = _exponents_by_num_terms(int(num_bits) - 1)
    if num_terms not in choices:
        raise ValueError(
            f"`num_terms` must be one of {sorted(choices)} where num_bits="
            f"{num_bits}: the bits beside the sign are dealt evenly. "
            f"Received: num_terms={num_terms!r}."
        )
    terms = [
        [0.0, *(2.0**-exponent for exponent in exponents)]
        for exponents in choices[num_terms]
    ]
    sums = np.sort([sum(parts) for parts in itertools.product(*terms)])
    magnitudes = sums / sums[-1]
    levels = np.concatenate([-magnitudes[:0:-1], magnitudes])
    return levels.astype("float32")


def integer_grid(levels: Any) -> int | None:
    """Returns the least n that makes all levels * n integers.

    Stored as integers `levels * n` with the scale divided by n, the levels
    are exact. Up to 7 an int4 holds them, up to 127 an int8, without -8 and
    -128.

    Args:
        levels: Levels in [-1, 1], float32 or wider.

    Returns:
        1 to 127, or None if there is none.

    Raises:
        ValueError: A level is outside [-1, 1], or there is none.

    Example:
        >>> integer_grid([-1.0, 0.0, 0.25, 0.5]), integer_grid([1 / 128])
        (4, None)
    """
    flat = np.asarray(levels, "float64").ravel()
    if not flat.size or not (np.abs(flat) <= 1.0).all():
        raise ValueError(
            "`levels` must be at least one level, all in [-1, 1]. Received: "
            f"levels={levels}. Divide them by their scale first."
        )
    for n in range(1, 128):
        # Relative, so that tiny levels do not pass for 0; float32 has 6e-8.
        error = np.abs(flat * n - np.round(flat * n))
        if (error <= 1e-6 * np.abs(flat * n)).all():
            return n
    return None


def max_abs_scale(
    values: Any,
    *,
    axes: Sequence[int] | None = None,
    power_of_two: bool = False,
) -> Any:
    """Returns max |value|, which level 1 then stands for.

    As a power of two it is the nearest to max |value|, in the middle the
    greater: 2 ** floor(log2(4/3 max |value|)). Weights of
    `power_of_two_levels` are then powers of two themselves, and those above
    the scale, by half of it at most, are clipped.

    Args:
        values: Any shape.
        axes: What to take the maximum over: for a scale per channel all axes
            but the channels'. Defaults to None, all: one scale.
        power_of_two: Whether the scale itself is one. Defaults to False.

    Returns:
        float32, a scalar or with `axes` a shape that broadcasts to the
        values'; 0 where all values are 0.

    Raises:
        ValueError: `values` is a NumPy array and not finite.

    Example:
        >>> float(max_abs_scale([-3.5, 1.0]))
        3.5
        >>> scale = max_abs_scale([[3.0, 1.0]], axes=[0], power_of_two=True)
        >>> np.asarray(scale).tolist()
        [[4.0, 1.0]]

    Reference:
        Zhou et al. 2017, https://arxiv.org/abs/1702.03044 (equation 2)
    """
    if isinstance(values, np.ndarray) and not np.isfinite(values).all():
        raise ValueError(
            "`values` must be finite to have a scale. Received: "
            f"{np.count_nonzero(~np.isfinite(values))} of {values.size} "
            "values that are nan or infinite. Mend the weights first."
        )
    magnitudes = ops.abs(ops.cast(values, "float32"))
    if axes is None:
        scale = ops.max(magnitudes)
    else:
        scale = ops.max(magnitudes, axis=tuple(axes), keepdims=True)
    return _nearest_power_of_two(scale) if power_of_two else scale


def round_to_levels(values: Any, levels: Any, scale: Any) -> Any:
    """Returns scale * the level nearest to value / scale.

    Nearest by distance, not by ratio; in the middle the greater magnitude, so
    that the rounding is as symmetric as the levels. Beyond the scale values
    are clipped to it, and nan stays nan.

    Args:
        values: Any shape.
        levels: `(n,)`, an array, sorted, symmetric, 0 among them.
        scale: >= 0, a scalar or a shape that broadcasts to the values'.

    Returns:
        float32, the values' shape.

    Raises:
        ValueError: The levels are not as said.

    Example:
        >>> levels = power_of_two_levels(3)
        >>> got = round_to_levels([-9.0, 0.2, 0.25, 1.5], levels, 2.0)
        >>> np.asarray(got).tolist()
        [-2.0, 0.0, 0.5, 2.0]

    Reference:
        Zhou et al. 2017, https://arxiv.org/abs/1702.03044 (equation 4)
    """
    levels = _symmetric(levels)
    zero = len(levels) // 2
    middles = 0.5 * (levels[zero:-1] + levels[zero + 1 :])
    values = ops.cast(values, "float32")
    scale = ops.cast(scale, "float32")
    # Where the scale is 0, everything is.
    unit = ops.abs(values) / ops.where(scale > 0, scale, 1.0)
    steps = places(middles, unit, side="right")
    # Signed indices rather than signed levels: these would give -0.0.
    found = ops.where(values < 0, zero - steps, zero + steps)
    rounded = scale * ops.take(levels, found, axis=0)
    return ops.where(ops.isnan(values), values, rounded)


def _exponents_by_num_terms(num_bits: int) -> dict[int, list[list[int]]]:
    """Returns each term's -log2 of its powers, for each number of terms."""
    choices = {}
    for n in range(1, num_bits + 1):
        bits = num_bits // n
        if num_bits % n == 0 and bits <= _MOST_BITS_PER_TERM:
            powers = range(2**bits - 1)
            choices[n] = [[i + j * n for j in powers] for i in range(n)]
    if num_bits % 2 and num_bits > 1:
        n = num_bits // 2
        # The 1-bit term takes the place before the last round.
        pairs = [[i, i + n, i + 2 * n + 1] for i in range(n)]
        choices[n + 1] = [*pairs, [2 * n]]
    return choices


def _nearest_power_of_two(scale: Any) -> Any:
    # By comparison: TensorFlow's log2 in float32 falls short of 13 for 2**13,
    # among others, and its floor is then a whole octave off.
    powers = 2.0 ** np.arange(-126, 128)
    middles = (1.5 * powers[:-1]).astype("float32")
    found = places(middles, scale, side="right")
    nearest = ops.take(powers.astype("float32"), found, axis=0)
    return ops.where(scale > 0, nearest, scale)


def _symmetric(levels: Any) -> np.ndarray:
    array = np.asarray(levels, "float32")
    is_row = array.ndim == 1 and array.size > 1
    if (
        not is_row
        or not np.array_equal(array, -array[::-1])
        or not (np.diff(array) > 0).all()
        or array.size % 2 == 0
    ):
        raise ValueError(
            "`levels` must rise, be symmetric and have 0 in their middle. "
            f"Received: levels={levels}. For others use `nearest_indices` "
            "and `look_up` of `kdtf.quantization.codebook`."
        )
    return array
