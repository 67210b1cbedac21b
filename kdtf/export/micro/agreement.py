"""How far TensorFlow Lite Micro's integers are from LiteRT's: arithmetic.

LiteRT itself has two sets of kernels, which round differently: behind a
softmax one step of the logits is up to 64 times their scale in steps of the
output. On MLPerf Tiny's ResNet the two are up to 39 steps apart, and Micro's
share of numbers within three steps is 92% against the default kernels and
99.8% against the reference ones, whose arithmetic it shares. So each number is
compared with the nearer of the two.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from kdtf.flatbuffer import TensorSpec

__all__ = ["MAX_STEPS", "Agreement", "agreement", "disagreement"]

MAX_STEPS = 3
_MIN_WITHIN = 0.99
_MIN_ARGMAX = 0.95


@dataclasses.dataclass(frozen=True, kw_only=True)
class Agreement:
    """Distances between the two runtimes over all outputs.

    Args:
        max_steps: The largest, in steps of the output's integers.
        within_three_steps: Share of the numbers at most three steps off, in
            [0, 1].
        argmax_agreement: Share of rows with the same argmax, in [0, 1], where
            two that LiteRT gives nearly the same score count as the same;
            None unless there is one output of scores.
        spread_steps: The largest distance between LiteRT's two sets of
            kernels.
        num_values: How many numbers were compared.
        num_unexplained: How many are more than three steps off, and more
            than LiteRT's own kernels are there.
    """

    max_steps: int
    within_three_steps: float
    argmax_agreement: float | None
    spread_steps: int
    num_values: int
    num_unexplained: int


def agreement(
    micro: Sequence[np.ndarray],
    default: Sequence[np.ndarray],
    reference: Sequence[np.ndarray],
    specs: Sequence[TensorSpec],
) -> Agreement:
    """Returns how far `micro` is from the nearer of two others.

    Args:
        micro: TensorFlow Lite Micro's outputs, integers `(samples, ...)`.
        default: Those of LiteRT's default kernels.
        reference: Those of LiteRT's reference kernels.
        specs: What the outputs are; those without a scale must be equal.

    Example:
        >>> spec = TensorSpec(name="y", dtype="int8", shape=(1, 2), scale=0.5)
        >>> given = [np.array([[10, 20]])], [np.array([[10, 25]])]
        >>> found = agreement(*given, [np.array([[10, 24]])], [spec])
        >>> found.max_steps, found.within_three_steps, found.num_unexplained
        (4, 0.5, 1)
    """
    distances, spreads, limits = [], [], []
    for ours, one, other, spec in zip(
        micro, default, reference, specs, strict=True
    ):
        a, b = _wide(one), _wide(other)
        distance = np.minimum(np.abs(_wide(ours) - a), np.abs(_wide(ours) - b))
        distances.append(distance.ravel())
        spreads.append(np.abs(a - b).ravel())
        limits.append(np.full(distance.size, MAX_STEPS if spec.scale else 0))
    distance, spread, limit = map(np.concatenate, (distances, spreads, limits))
    unexplained = distance > np.maximum(limit, spread)
    return Agreement(
        max_steps=int(distance.max()),
        within_three_steps=float((distance <= MAX_STEPS).mean()),
        argmax_agreement=_argmax_agreement(micro, (default, reference)),
        spread_steps=int(spread.max()),
        num_values=distance.size,
        num_unexplained=int(unexplained.sum()),
    )


def disagreement(found: Agreement) -> str | None:
    """Returns in words what is too far apart, or None.

    One number in a hundred may be further off (and one in all, where there
    are few), and one row in twenty may have another argmax: a network that
    doubts turns a step into many. A wrong kernel fails both by far.
    """
    problems = []
    allowed = max(1, round((1 - _MIN_WITHIN) * found.num_values))
    if found.num_unexplained > allowed:
        problems.append(
            f"{found.num_unexplained} of {found.num_values} output numbers "
            f"are more than {MAX_STEPS} steps off (largest: {found.max_steps}; "
            f"at most {allowed} may be)"
        )
    share = found.argmax_agreement
    if share is not None and share < _MIN_ARGMAX:
        problems.append(
            f"only {share:.1%} of the rows have the same argmax "
            f"(at least {_MIN_ARGMAX:.0%} must)"
        )
    return " and ".join(problems) or None


def _wide(values: np.ndarray) -> np.ndarray:
    # int8 differences would wrap.
    return np.asarray(values).astype("int64")


def _argmax_agreement(
    micro: Sequence[np.ndarray], others: Sequence[Sequence[np.ndarray]]
) -> float | None:
    if len(micro) != 1 or micro[0].ndim not in (2, 3) or micro[0].shape[-1] < 2:
        return None
    chosen = micro[0].argmax(-1)[..., None]
    same = np.zeros(chosen.shape[:-1], bool)
    for (scores,) in others:
        wide = _wide(scores)
        taken = np.take_along_axis(wide, chosen, -1)[..., 0]
        # Both scores may be three steps off.
        same |= wide.max(-1) - taken <= 2 * MAX_STEPS
    return float(same.mean())
