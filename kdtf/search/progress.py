"""A progress bar with the best model so far."""

from collections.abc import Callable
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import rich.console
import rich.progress

from kdtf.search.trial import Trial

__all__ = ["Progress"]


class Progress:
    """Shows how many trials are done and what the best one gave.

    Args:
        total: How many there shall be.
        verbose: 0 for silence, 1 for the bar.
        result: Gives the result so far, for its best.
    """

    def __init__(
        self, total: int, *, verbose: int, result: Callable[[], Any]
    ) -> None:
        self._result = result
        self._bar = rich.progress.Progress(
            rich.progress.TextColumn("Search"),
            rich.progress.BarColumn(),
            rich.progress.MofNCompleteColumn(),
            rich.progress.TimeElapsedColumn(),
            rich.progress.TextColumn("{task.fields[best]}", markup=False),
            console=rich.console.Console(),
            disable=not verbose,
        )
        self._task = self._bar.add_task("", total=total, best="")

    def __enter__(self) -> "Progress":
        """Shows the bar."""
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leaves the bar as it is."""
        self._bar.stop()

    def update(self, trials: Sequence[Trial]) -> None:
        """Shows the state of the trials."""
        ended = [
            trial
            for trial in trials
            if trial.status in ("complete", "stopped", "failed")
        ]
        if self._bar.disable:
            return
        best = self._result().best_or_none
        text = "none within the limits yet" if ended else ""
        if best is not None:
            quality, *_ = best.values.items()
            text = f"best {quality[0]} {quality[1]:.4g} (trial {best.number})"
        self._bar.update(self._task, completed=len(ended), best=text)
