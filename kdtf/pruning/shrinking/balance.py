"""How many of each kind stay, where a model's kinds are few but coarse.

A block more or less is a large step, a neuron a small one. A level for all
that is then filled up would leave the small ones as they were.
"""

import functools
import itertools
from collections.abc import Callable
from collections.abc import Sequence

import numpy as np

from kdtf.pruning.shrinking.shares import nearest

__all__ = ["balanced"]

# Of the target: as near is near enough to look at the balance.
_NEAR = 0.98
_HALVINGS = 40


def balanced(
    allowed: Sequence[np.ndarray],
    cost: Callable[[Sequence[int]], float],
    *,
    target: float,
) -> list[int]:
    """Returns numbers of about the same share of each kind.

    All keep one share, rounded to what is allowed; then the coarse kinds are
    tried at their neighbouring numbers, and the finest takes what the target
    leaves. Of those that come within 2% of the target (or, if none does, as
    near as they can) that one is taken whose largest and smallest share are
    the closest; of equal ones the costliest.

    Args:
        allowed: For each kind the numbers it may keep, ascending; the last
            is all.
        cost: What a choice of numbers costs.
        target: The cost not to exceed.

    Raises:
        ValueError: Even the smallest numbers cost more.

    Example:
        >>> blocks, neurons = np.arange(1, 5), np.arange(1, 101)
        >>> balanced([blocks, neurons], lambda n: n[0] * n[1], target=100)
        [2, 50]
    """

    @functools.cache
    def cost_of(*counts: int) -> float:
        return cost(counts)

    least = cost_of(*(int(options[0]) for options in allowed))
    if least > target:
        raise ValueError(
            f"The target cannot be met: {target:,.4g} is wanted, and the "
            f"smallest widths cost {least:,.4g}. Ask for less, or for a "
            "smaller `round_to`."
        )
    center = _level(allowed, cost_of, target)
    finest = max(range(len(allowed)), key=lambda kind: len(allowed[kind]))
    near = [
        options.tolist()
        if kind == finest
        else _neighbours(options.tolist(), center[kind])
        for kind, options in enumerate(allowed)
    ]
    best: tuple[tuple[float, float, float], list[int]] | None = None
    coarse = [options if k != finest else [0] for k, options in enumerate(near)]
    for choice in itertools.product(*coarse):
        counts = _filled(list(choice), finest, near[finest], cost_of, target)
        if counts is None:
            continue
        found = cost_of(*counts)
        shares = [
            count / options[-1]
            for count, options in zip(counts, allowed, strict=True)
        ]
        spread = round(max(shares) - min(shares), 9)
        key = (max(0.0, _NEAR - found / target), spread, -found)
        if best is None or key < best[0]:
            best = key, counts
    return best[1] if best else center


def _level(
    allowed: Sequence[np.ndarray], cost: Callable[..., float], target: float
) -> list[int]:
    """Returns the largest numbers at one share that the target allows."""

    def counts_at(share: float) -> list[int]:
        return [nearest(options, share) for options in allowed]

    low, high = 0.0, 1.0
    if cost(*counts_at(high)) <= target:
        return counts_at(high)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if cost(*counts_at(middle)) > target:
            high = middle
        else:
            low = middle
    return counts_at(low)


def _neighbours(options: list[int], count: int) -> list[int]:
    place = options.index(count)
    return options[max(0, place - 1) : place + 2]


def _filled(
    counts: list[int],
    kind: int,
    options: list[int],
    cost: Callable[..., float],
    target: float,
) -> list[int] | None:
    """Gives one kind as much as the target leaves, None if it leaves none."""

    def at(place: int) -> list[int]:
        return [*counts[:kind], options[place], *counts[kind + 1 :]]

    low, high = -1, len(options) - 1
    if cost(*at(high)) <= target:
        return at(high)
    while high - low > 1:
        middle = (low + high) // 2
        if cost(*at(middle)) > target:
            high = middle
        else:
            low = middle
    return at(low) if low >= 0 else None
