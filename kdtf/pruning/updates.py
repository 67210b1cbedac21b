"""When masks are computed anew: a schedule's due steps."""

import dataclasses
import numbers
from typing import Any

from keras import ops

from kdtf import schedules

__all__ = ["Updates", "updates_of"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Updates:
    """The steps at which masks are updated.

    Args:
        begin_step: The first one.
        end_step: The last that may be one; None if there is no end.
        frequency: Steps from one to the next, at least 1.
        at_end: Whether `end_step` is one in any case, so that the final
            sparsity is reached whatever the frequency.

    Raises:
        ValueError: `frequency` is less than 1.

    Example:
        >>> updates = Updates(begin_step=2, end_step=9, frequency=3)
        >>> [step for step in range(12) if bool(updates.is_due(step))]
        [2, 5, 8, 9]
    """

    begin_step: int = 0
    end_step: int | None = None
    frequency: int = 100
    at_end: bool = True

    def __post_init__(self) -> None:
        """Checks the frequency."""
        is_whole = isinstance(self.frequency, numbers.Integral)
        if not is_whole or self.frequency < 1:
            raise ValueError(
                "`frequency` is the number of optimizer steps between two "
                "updates of the masks, at least 1. Received: "
                f"frequency={self.frequency!r}."
            )

    def is_due(self, step: Any) -> Any:
        """Returns whether masks are updated at `step`, a bool scalar."""
        step = ops.cast(step, "int64")
        since = step - self.begin_step
        due = ops.logical_and(since >= 0, since % self.frequency == 0)
        if self.end_step is None:
            return due
        due = ops.logical_and(due, step <= self.end_step)
        if self.at_end:
            due = ops.logical_or(due, ops.equal(step, self.end_step))
        return due


def updates_of(schedule: Any, frequency: int) -> Updates:
    """Returns when a sparsity schedule asks for new masks.

    A ramp is followed every `frequency` steps and at its end; a jump once; any
    other schedule every `frequency` steps for ever. tfmot's schedules bring
    their own frequency and are due exactly where tfmot says.

    Args:
        schedule: As the user gave it: one of `kdtf.schedules` or of tfmot's.
        frequency: Steps between two updates; not for tfmot's schedules.

    Raises:
        ValueError: `frequency` is less than 1.

    Example:
        >>> updates_of(schedules.OneShotSchedule(final=0.5, step=7), 100)
        Updates(begin_step=7, end_step=7, frequency=100, at_end=True)
    """
    if isinstance(schedule, schedules.OneShotSchedule):
        return Updates(
            begin_step=schedule.step,
            end_step=schedule.step,
            frequency=frequency,
        )
    if hasattr(schedule, "frequency"):
        # tfmot writes -1 for "no end".
        end = int(schedule.end_step)
        return Updates(
            begin_step=int(schedule.begin_step),
            end_step=None if end == -1 else end,
            frequency=int(schedule.frequency),
            at_end=False,
        )
    return Updates(
        begin_step=getattr(schedule, "begin_step", 0),
        end_step=getattr(schedule, "end_step", None),
        frequency=frequency,
    )
