"""A progress bar with the best model so far."""

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import keras

from kdtf.search.trial import Trial

__all__ = ["Progress"]

_COUNTED = ("complete", "stopped", "failed")


class Progress:
    """Shows how many trials are done and what the best one gave.

    Args:
        total: How many there shall be.
        verbose: 0 for silence, 1 for the bar.
        best: Gives the best trial so far, or None.
    """

    def __init__(
        self, total: int, *, verbose: int, best: Callable[[], Any]
    ) -> None:
        self._best = best
        self._bar = keras.utils.Progbar(
            total, unit_name="trial", verbose=verbose
        )
        self._shown = 0

    def update(self, trials: Sequence[Trial]) -> None:
        """Shows the state of the trials."""
        ended = sum(trial.status in _COUNTED for trial in trials)
        if not self._bar.verbose or ended == self._shown:
            return
        self._shown = ended
        best = self._best()
        # Whatever the bar has shown once stays: nothing where there is none.
        shown = []
        if best is not None:
            name, value = next(iter(best.values.items()))
            shown = [(f"best {name}", value)]
            self._bar.stateful_metrics.add(f"best {name}")
        # A study may hold more than was asked for.
        self._bar.update(min(ended, self._bar.target), shown)
