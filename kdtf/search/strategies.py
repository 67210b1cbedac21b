"""What every strategy is: from what was measured, where to look next.

A strategy keeps nothing. It is a pure function of the finished trials, so a
search that was killed goes on as if it had not been, and any number of
processes that see the same trials work on one population or one controller.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any
from typing import Protocol

import numpy as np

from kdtf.search.space import Point
from kdtf.search.space import Space

__all__ = ["Measured", "RandomSearch", "Strategy"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """A finished trial, as strategies see it.

    Attributes:
        point: Where in the space.
        reward: One number, higher is better; costs over their limits count
            in it.
        losses: Each quantity alone, lower is better: the negated quality,
            then the costs.
    """

    point: Point
    reward: float
    losses: tuple[float, ...] = ()


class Strategy(Protocol):
    """Proposes points."""

    def propose(
        self,
        space: Space,
        history: Sequence[Measured],
        *,
        rng: np.random.Generator,
        attempt: int = 0,
    ) -> Point:
        """Returns where to look next.

        The caller refuses points that are not valid or were tried, and asks
        again with `attempt` one higher.

        Args:
            space: What is searched.
            history: What was measured, in the order of the trials.
            rng: The only source of randomness.
            attempt: How many proposals for this trial were refused.
        """
        ...


class RandomSearch:
    """The honest baseline: every point as likely as any other."""

    def propose(
        self,
        space: Space,
        history: Sequence[Measured],
        *,
        rng: np.random.Generator,
        attempt: int = 0,
    ) -> Point:
        """Returns a random point."""
        del history, attempt
        return space.random(rng)


def check_positive(name: str, value: Any) -> None:
    """Refuses what is no integer from 1 on.

    Raises:
        ValueError: It is none.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(
            f"`{name}` must be an integer from 1 on. Received: "
            f"{name}={value!r}."
        )
