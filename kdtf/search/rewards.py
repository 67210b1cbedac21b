"""One number out of a quality and what it costs."""

import math
from collections.abc import Mapping

__all__ = ["EXPONENT", "losses_of", "reward_of"]

# MnasNet's: twice the latency is worth 5% of the accuracy.
EXPONENT = -0.07


def losses_of(
    values: Mapping[str, float], *, minimize: bool
) -> tuple[float, ...]:
    """Returns each quantity so that lower is better.

    Args:
        values: What an objective gave: the quality first, then costs.
        minimize: Whether the quality is a loss; else it is negated.

    Example:
        >>> losses_of({"accuracy": 0.8, "bytes": 100.0}, minimize=False)
        (-0.8, 100.0)
    """
    quality, *costs = values.values()
    return (quality if minimize else -quality, *costs)


def reward_of(
    values: Mapping[str, float],
    *,
    limits: Mapping[str, float],
    minimize: bool = False,
) -> float:
    """Returns what a strategy maximizes: quality * prod (cost / limit)^-0.07.

    Over a limit it falls, under it it rises: softly, so that the way to a
    good model within the limits may lead through one outside. A negative
    quality is divided by the factor, which points the same way.

    Args:
        values: What an objective gave: the quality first, then costs.
        limits: Highest cost by name; costs without one do not count.
        minimize: Whether the quality is a loss: it is negated first.

    Example:
        >>> reward_of({"accuracy": 0.8, "bytes": 100.0}, limits={})
        0.8
        >>> round(reward_of({"accuracy": 0.8, "ms": 2.0}, limits={"ms": 1.0}),
        ...       4)
        0.7621
        >>> round(reward_of({"loss": 0.8, "ms": 2.0}, limits={"ms": 1.0},
        ...                 minimize=True), 4)
        -0.8398

    Reference:
        Tan et al. 2019, https://arxiv.org/abs/1807.11626, equation 2
    """
    quality, *_ = values.values()
    signed = -quality if minimize else quality
    factor = math.prod(
        # A cost of 0 has no logarithm; nothing real costs so little.
        (max(values[name], 1e-12) / limit) ** EXPONENT
        for name, limit in limits.items()
    )
    return signed * factor if signed >= 0 else signed / factor
