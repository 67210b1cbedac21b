"""One trial: as it runs, and as it is recorded."""

import dataclasses
import inspect
import math
from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

import keras

from kdtf.search.space import Point

__all__ = ["Infeasible", "RunningTrial", "StopTrial", "Trial", "takes_trial"]


def takes_trial(function: Callable[..., Any]) -> bool:
    """Tells whether a function of a model wants the trial beside it.

    It does if its second argument has no default, or is called `trial`.

    Example:
        >>> takes_trial(lambda model: 0), takes_trial(lambda model, trial: 0)
        (False, True)
        >>> takes_trial(lambda model, weight=1: 0)
        False
    """
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        # Some functions written in C have none.
        return False
    positional = [
        one
        for one in parameters
        if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)
    ]
    return any(
        one.default is one.empty or one.name == "trial"
        for one in positional[1:2]
    )


class StopTrial(Exception):  # noqa: N818  It is no error.
    """Ends a trial early; raised by `RunningTrial.report`."""


class Infeasible(Exception):  # noqa: N818  It is no error.
    """Says that a model is over a limit before it was trained.

    An objective raises it with what it measured. The trial is recorded, is
    not counted, and the search goes on elsewhere.

    Args:
        costs: What was measured, by name.
    """

    def __init__(self, costs: Mapping[str, float]) -> None:
        super().__init__(", ".join(f"{k}={v:.6g}" for k, v in costs.items()))
        self.costs = dict(costs)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trial:
    """What is recorded of a trial.

    Attributes:
        number: From 0, in the order in which they were proposed.
        choices: What `build` got.
        point: Where in the space: the index of each choice.
        status: "complete"; "stopped" early; "failed"; "infeasible", over a
            limit before training; "running".
        values: What the objective gave, the quality first; of a stopped
            trial what it last reported, of an infeasible one its costs.
        reward: What the strategy maximizes; None if there is no quality.
        seconds: How long it took; None while it runs.
        seed: What Keras's global seed was set to before `build`.
        error: Why it failed.
        worker: Who ran it, as "host:process".
    """

    number: int
    choices: dict[str, Any]
    point: Point = ()
    status: str
    values: dict[str, float] = dataclasses.field(default_factory=dict)
    reward: float | None = None
    seconds: float | None = None
    seed: int = 0
    error: str | None = None
    worker: str = ""


class RunningTrial:
    """What an objective gets beside the model.

    Attributes:
        number: From 0.
        choices: What `build` got.
        seed: Different for each trial, the same when it is repeated.
        limits: As they were given to the search.
    """

    def __init__(
        self,
        *,
        number: int,
        choices: Mapping[str, Any],
        seed: int,
        limits: Mapping[str, float],
        report: Callable[[int, float], bool],
    ) -> None:
        self.number = number
        self.choices = dict(choices)
        self.seed = seed
        self.limits = dict(limits)
        self._report = report

    def report(self, step: int, value: float) -> None:
        """Tells how good the model is so far.

        Args:
            step: How much training it had: epochs, from 1 on.
            value: The quality, as the objective will give it.

        Raises:
            StopTrial: Others were better with as much training, so this one
                shall end; let it pass.
            ValueError: The value is not finite.
        """
        if not math.isfinite(value):
            raise ValueError(
                "What is reported must be finite. Received: "
                f"value={value!r} at step {step}."
            )
        if self._report(int(step), float(value)):
            raise StopTrial(f"stopped at step {step}")

    def callback(self, monitor: str) -> keras.callbacks.Callback:
        """Returns a Keras callback that reports after each epoch.

        Args:
            monitor: Key of `logs`, such as "val_accuracy".
        """
        return _Reporter(self, monitor)


class _Reporter(keras.callbacks.Callback):
    def __init__(self, trial: RunningTrial, monitor: str) -> None:
        super().__init__()
        self._trial = trial
        self._monitor = monitor

    def on_epoch_end(
        self, epoch: int, logs: Mapping[str, float] | None = None
    ) -> None:
        """Reports the quality; ends training if the trial shall stop."""
        found = logs or {}
        if self._monitor not in found:
            raise ValueError(
                f"`monitor` must be one of {sorted(found)}. Received: "
                f"monitor={self._monitor!r}. For a 'val_' name give `fit` "
                "`validation_data`."
            )
        self._trial.report(epoch + 1, float(found[self._monitor]))
