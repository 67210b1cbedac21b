"""Which groups stay: the highest scores, until a target is met."""

import functools
import itertools
from collections.abc import Callable
from collections.abc import Sequence

import numpy as np

from kdtf.pruning.shrinking.families import Family

__all__ = ["choose", "counts_allowed", "keep_best"]

_HALVINGS = 40
# Of the target: as near is near enough.
_NEAR = 0.98
# How far an exchange may go.
_STEPS = 3


def counts_allowed(size: int, kind: str, round_to: int) -> np.ndarray:
    """Returns how many of a family's groups may be kept, ascending.

    Multiples of `round_to`, and all of them; at least one step, or one group
    of a family that is smaller. Heads and blocks are not rounded.

    Example:
        >>> counts_allowed(20, "width", 8).tolist()
        [8, 16, 20]
    """
    step = round_to if kind == "width" and size >= round_to else 1
    return np.unique([*range(step, size + 1, step), size])


def keep_best(
    families: Sequence[Family], scores: np.ndarray, counts: Sequence[int]
) -> np.ndarray:
    """Returns which groups to keep: of each family its best.

    Args:
        families: What is made smaller.
        scores: Of each group by its name: higher stays.
        counts: How many of each family stay.

    Returns:
        bool, for each group's name whether it is kept.
    """
    return _first(_ranked(families, scores), counts, len(scores))


def choose(
    families: Sequence[Family],
    scores: np.ndarray,
    cost: Callable[[np.ndarray], float],
    *,
    target: float,
    uniform: bool,
    round_to: int,
    exchanges: bool = False,
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
        exchanges: Whether some steps more here for less there are tried
            where the cost is more than 2% below the target. It takes many
            costs of each pair of families.

    Returns:
        bool, for each group's name whether it is kept.

    Raises:
        ValueError: Even the smallest widths cost more.
    """
    allowed = [
        counts_allowed(len(f.groups), f.kind, round_to) for f in families
    ]
    ranked = _ranked(families, scores)
    relative = [_relative(scores[groups]) for groups in ranked]

    def kept(counts: Sequence[int]) -> np.ndarray:
        return _first(ranked, counts, len(scores))

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
    counts = _filled(counts, allowed, relative, cost_of, target)
    while exchanges and cost_of(*counts) < _NEAR * target:
        better = _exchanged(counts, allowed, cost_of, target)
        if better is None:
            break
        counts = _filled(better, allowed, relative, cost_of, target)
    return kept(counts)


def _ranked(families: Sequence[Family], scores: np.ndarray) -> list[np.ndarray]:
    return [
        f.groups[np.argsort(-scores[f.groups], kind="stable")] for f in families
    ]


def _first(
    ranked: Sequence[np.ndarray], counts: Sequence[int], number: int
) -> np.ndarray:
    mask = np.ones(number, bool)
    for groups, count in zip(ranked, counts, strict=True):
        mask[groups[count:]] = False
    return mask


def _exchanged(
    counts: list[int],
    allowed: Sequence[np.ndarray],
    cost: Callable[..., float],
    target: float,
) -> list[int] | None:
    """Returns the pair of changes, up and down, that costs most, if any."""
    best, found = cost(*counts), None
    for up, down in itertools.permutations(range(len(counts)), 2):
        larger = allowed[up][allowed[up] > counts[up]][:_STEPS]
        smaller = allowed[down][allowed[down] < counts[down]][-_STEPS:]
        for more, less in itertools.product(larger, smaller):
            trial = [*counts]
            trial[up], trial[down] = int(more), int(less)
            if best < cost(*trial) <= target:
                best, found = cost(*trial), trial
    return found


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
