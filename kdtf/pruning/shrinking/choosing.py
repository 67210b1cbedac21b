"""Which groups stay: the highest scores, until a target is met."""

import functools
from collections.abc import Callable
from collections.abc import Sequence

import numpy as np

from kdtf.pruning.shrinking.families import Family

__all__ = ["choose", "counts_allowed"]

_HALVINGS = 40


def counts_allowed(family: Family, round_to: int) -> np.ndarray:
    """Returns the numbers of groups a family may keep, ascending.

    Multiples of `round_to`, and all of them; at least one step, or one group
    of a family that is smaller. Heads and blocks are not rounded.

    Example:
        >>> family = Family(settings=(), groups=np.arange(20), kind="width")
        >>> counts_allowed(family, 8).tolist()
        [8, 16, 20]
    """
    size = len(family.groups)
    step = round_to if family.kind == "width" and size >= round_to else 1
    return np.unique([*range(step, size + 1, step), size])


def choose(
    families: Sequence[Family],
    scores: np.ndarray,
    cost: Callable[[np.ndarray], float],
    *,
    target: float,
    uniform: bool,
    round_to: int,
) -> np.ndarray:
    """Returns which groups to keep so that a cost is just met.

    Args:
        families: What may be made smaller.
        scores: Of each group by its name: higher stays. Only their order
            within a family counts if `uniform`; else they are compared over
            all families, divided by the family's mean.
        cost: The cost of keeping some groups.
        target: The cost not to exceed.
        uniform: Whether all families keep the same share.
        round_to: Widths are multiples of it.

    Returns:
        bool, for each group's name whether it is kept.

    Raises:
        ValueError: Even the smallest widths cost more.
    """
    allowed = [counts_allowed(family, round_to) for family in families]
    ranked = [
        f.groups[np.argsort(-scores[f.groups], kind="stable")] for f in families
    ]
    relative = [_relative(scores[groups]) for groups in ranked]

    def kept(counts: Sequence[int]) -> np.ndarray:
        mask = np.ones(len(scores), bool)
        for groups, count in zip(ranked, counts, strict=True):
            mask[groups[count:]] = False
        return mask

    # Neighbouring levels round to the same widths, and a cost may be a
    # measurement of a model.
    @functools.cache
    def cost_of(*counts: int) -> float:
        return cost(kept(counts))

    def counts_at(level: float) -> list[int]:
        """From everything at 0 to the smallest at 1."""
        wanted = [
            (1 - level) * len(values)
            if uniform
            else (values >= _quantile(relative, level)).sum()
            for values in relative
        ]
        return [
            int(options[np.abs(options - number).argmin()])
            for options, number in zip(allowed, wanted, strict=True)
        ]

    smallest = [int(options[0]) for options in allowed]
    least = cost_of(*smallest)
    if least > target:
        raise ValueError(
            f"The target cannot be met: {target:,.0f} is wanted, and the "
            f"smallest widths cost {least:,.0f}. Received: round_to="
            f"{round_to}. Ask for less, or for a smaller `round_to`."
        )
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if cost_of(*counts_at(middle)) > target:
            low = middle
        else:
            high = middle
    counts = counts_at(high)
    if cost_of(*counts) > target:
        counts = smallest
    return kept(_filled(counts, allowed, relative, cost_of, target))


def _filled(
    counts: list[int],
    allowed: Sequence[np.ndarray],
    relative: Sequence[np.ndarray],
    cost: Callable[..., float],
    target: float,
) -> list[int]:
    """Takes steps back in, the best first, while the target allows it."""
    while True:
        steps = []
        for index, options in enumerate(allowed):
            larger = options[options > counts[index]]
            if len(larger):
                back = relative[index][counts[index] : larger[0]]
                steps.append((-back.mean(), index, int(larger[0])))
        for _, index, count in sorted(steps):
            trial = [*counts]
            trial[index] = count
            if cost(*trial) <= target:
                counts = trial
                break
        else:
            return counts


def _relative(scores: np.ndarray) -> np.ndarray:
    mean = scores.mean() if len(scores) else 0.0
    return scores / mean if mean > 0 else np.ones_like(scores)


def _quantile(relative: Sequence[np.ndarray], level: float) -> float:
    values = np.concatenate([*relative, np.zeros(1)])
    # Above the largest at 1, so that all go.
    return float(np.quantile(values, level)) if level < 1 else np.inf
