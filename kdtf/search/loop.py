"""The loop of a search: claim, build, measure, record."""

import gc
import math
import os
import time
import traceback
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from kdtf.search.progress import Progress
from kdtf.search.result import SearchResult
from kdtf.search.rewards import losses_of
from kdtf.search.rewards import reward_of
from kdtf.search.space import Point
from kdtf.search.space import Space
from kdtf.search.store import Claim
from kdtf.search.store import Store
from kdtf.search.strategies import Measured
from kdtf.search.strategies import Strategy
from kdtf.search.trial import Infeasible
from kdtf.search.trial import RunningTrial
from kdtf.search.trial import StopTrial
from kdtf.search.trial import Trial
from kdtf.search.trial import takes_trial

__all__ = ["Loop"]

# Proposals that may be refused before a random point is taken instead.
_NUM_PROPOSALS, _NUM_RANDOM, _MAX_LISTED = 200, 1000, 100_000
# So many failures in a row at the start are a bug in `build`, not bad luck.
_MAX_FAILURES = 3
_MAX_INFEASIBLE = 50
_WAIT_SECONDS = 0.5
_COLLECT_SECONDS = 5.0


class _WrongLimitsError(ValueError):
    """No trial can be right: the search ends at once."""


class Loop:
    """One process's part in a search.

    Args:
        build: As given to `search`.
        objective: As given to `search`.
        strategy: Proposes points.
        store: Keeps the trials.
        limits: The highest cost by name.
        minimize: Whether the quality is a loss.
        pruner: Optuna's, which stops trials early; None for never.
        first: Points to try before the strategy is asked.
    """

    def __init__(
        self,
        *,
        build: Callable[[dict[str, Any]], Any],
        objective: Callable[..., Any],
        strategy: Strategy,
        store: Store,
        limits: dict[str, float],
        minimize: bool,
        pruner: Any,
        first: Sequence[Point],
    ) -> None:
        self._build = build
        self._objective = objective
        self._takes_trial = takes_trial(objective)
        self._strategy = strategy
        self._store = store
        self._limits = limits
        self._minimize = minimize
        self._pruner = pruner
        self._first = first
        self._failures: list[str] = []

    def __call__(self, num_trials: int, progress: Progress) -> None:
        """Runs trials until the study has enough."""
        while True:
            self._store.release_lost()
            trials = self._store.trials()
            progress.update(trials)
            claim = self._next(trials, num_trials)
            if claim == "done":
                return
            if isinstance(claim, Claim):
                self._run(claim)
            elif claim == "wait":
                time.sleep(_WAIT_SECONDS)

    def result(self) -> SearchResult:
        """Returns what is known by now."""
        return SearchResult(
            trials=tuple(self._store.trials()),
            limits=self._limits,
            minimize=self._minimize,
        )

    def _next(self, trials: list[Trial], num_trials: int) -> Claim | str | None:
        """Claims a trial, or says "wait" or "done"; None to look again."""
        for trial in trials:
            if trial.status == "abandoned":
                return self._claim(trial.number, trial.point)
        counted = [trial for trial in trials if trial.status != "infeasible"]
        self._check_feasible(trials)
        if len(counted) < num_trials:
            number = trials[-1].number + 1 if trials else 0
            proposed = self._propose(number, trials)
            if proposed is not None:
                return self._claim(number, proposed)
            if not trials:
                raise ValueError(
                    "A space must have a valid point. Received: "
                    f"{self._store.space.describe()}, of which `valid` "
                    "refuses all that were looked at."
                )
        is_busy = any(trial.status == "running" for trial in trials)
        return "wait" if is_busy else "done"

    def _claim(self, number: int, point: Point) -> Claim | None:
        seeds = np.random.SeedSequence([self._store.seed, number])
        seed = int(seeds.generate_state(1)[0]) % 2**31
        return self._store.claim(number, point, seed)

    def _propose(self, number: int, trials: list[Trial]) -> Point | None:
        space, tried = self._store.space, self._store.keys()
        history = self._history(trials)

        def rng(attempt: int) -> np.random.Generator:
            return np.random.default_rng([self._store.seed, number, attempt])

        def is_new(point: Point) -> bool:
            return space.key(point) not in tried and (
                space.refusal(point) is None
            )

        for point in self._first:
            if is_new(point):
                return point
        for attempt in range(_NUM_PROPOSALS):
            proposed = self._strategy.propose(
                space, history, rng=rng(attempt), attempt=attempt
            )
            space.check(proposed)
            if is_new(proposed):
                return proposed
        return _any_point(space, is_new, rng(_NUM_PROPOSALS))

    def _history(self, trials: list[Trial]) -> list[Measured]:
        history = []
        for trial in trials:
            if trial.reward is None:
                continue
            reward = trial.reward
            if trial.status == "complete":
                # The limits may be others than when it was measured.
                reward = self._reward(trial.values)
            history.append(
                Measured(
                    point=trial.point,
                    reward=reward,
                    losses=losses_of(trial.values, minimize=self._minimize),
                )
            )
        return history

    def _run(self, claim: Claim) -> None:
        trial = next(
            one for one in self._store.trials() if one.number == claim.number
        )
        running = RunningTrial(
            number=trial.number,
            choices=trial.choices,
            seed=trial.seed,
            limits=self._limits,
            report=lambda step, value: claim.report(
                step, self._signed(value), self._pruner
            ),
        )
        start = time.monotonic()

        def end(status: str, **found: Any) -> None:
            claim.finish(status, seconds=time.monotonic() - start, **found)

        try:
            with claim.alive():
                values = self._measure(running)
                reward = self._reward(values)
        except StopTrial:
            self._stop(claim, end)
        except Infeasible as over:
            end("infeasible", values=over.costs)
        except Exception as error:
            end("failed", error=_one_line(error))
            if isinstance(error, _WrongLimitsError):
                raise
            self._check_failures(error)
        except BaseException:
            # An interrupt: the trial is open to whoever goes on.
            end("abandoned")
            raise
        else:
            end("complete", values=values, reward=reward)
        # Graphs of models that are gone hold on to one another, and looking
        # for them takes half a second: after what was long and large only.
        if time.monotonic() - start > _COLLECT_SECONDS:
            gc.collect()

    def _signed(self, quality: float) -> float:
        """Gives a quality so that more is better, or back again."""
        return -quality if self._minimize else quality

    def _measure(self, trial: RunningTrial) -> dict[str, float]:
        keras.utils.set_random_seed(trial.seed)
        model = self._build(dict(trial.choices))
        if model is None:
            raise TypeError("`build` must return a model. Received: None.")
        found = (
            self._objective(model, trial)
            if self._takes_trial
            else self._objective(model)
        )
        return self._in_order(_values(found))

    def _in_order(self, values: dict[str, float]) -> dict[str, float]:
        """Gives values in the order of the first trial's, the quality first."""
        first = next(
            (t.values for t in self._store.trials() if t.status == "complete"),
            values,
        )
        if set(first) != set(values):
            raise ValueError(
                "An objective must give the same quantities each time. "
                f"Received: {list(values)}, and {list(first)} before."
            )
        return {name: values[name] for name in first}

    def _check_failures(self, error: Exception) -> None:
        """Ends a search whose first trials all fail."""
        self._failures.append(_one_line(error))
        trials = self._store.trials()
        is_hopeless = len(self._failures) >= _MAX_FAILURES and not any(
            trial.status in ("complete", "stopped") for trial in trials
        )
        if is_hopeless:
            raise ValueError(
                "`build` and `objective` must work for most of the space. "
                f"Received: the first {len(self._failures)} trials all "
                f"failed, the last with {self._failures[-1]}. Try "
                "`objective(build(choices))` for one point by hand."
            ) from error

    def _reward(self, values: dict[str, float]) -> float:
        unknown = set(self._limits) - set(list(values)[1:])
        if unknown:
            raise _WrongLimitsError(
                "`limits` must name costs that the objective gives, "
                f"{list(values)[1:]}. Received: {sorted(unknown)}."
            )
        reward = reward_of(values, limits=self._limits, minimize=self._minimize)
        if not math.isfinite(reward):
            raise ValueError(
                "Quality and costs must give a finite reward. Received: "
                f"{values}, limits={self._limits}."
            )
        return reward

    def _stop(self, claim: Claim, end: Callable[..., None]) -> None:
        reward = claim.last_report()
        if reward is None:
            end("failed", error="StopTrial was raised before any report")
            return
        values = {"quality": self._signed(reward)}
        end("stopped", values=values, reward=reward)

    def _check_feasible(self, trials: list[Trial]) -> None:
        last = trials[-_MAX_INFEASIBLE:]
        result = self.result()
        if len(last) < _MAX_INFEASIBLE or not all(
            # The limits may be others than when it was measured.
            trial.status == "infeasible"
            and (result.over(trial) or not self._limits)
            for trial in last
        ):
            return
        least = {
            name: min(trial.values.get(name, math.inf) for trial in last)
            for name in self._limits
        }
        raise ValueError(
            "A model of the space must be within the limits. Received: "
            f"limits={self._limits}; the last {len(last)} models were all "
            f"over them, at least {least}. Raise the limits, or give the space "
            "smaller models."
        )


def _any_point(
    space: Space, is_new: Callable[[Point], bool], rng: np.random.Generator
) -> Point | None:
    """Gives a new point, or None if there is none, or none can be found."""
    for _ in range(_NUM_RANDOM):
        point = space.random(rng)
        if is_new(point):
            return point
    if space.size > _MAX_LISTED:
        return None
    left = [point for point in space.points() if is_new(point)]
    return left[int(rng.integers(len(left)))] if left else None


def _values(found: Any) -> dict[str, float]:
    """Gives what an objective returned as numbers by name."""
    if not isinstance(found, Mapping):
        found = {"quality": found}
    if not found:
        raise ValueError("An objective must return a quality. Received: {}.")
    values = {}
    for name, value in found.items():
        try:
            number = float(value)
        except (TypeError, ValueError) as error:
            raise TypeError(
                "An objective must return a number, or a dict of them. "
                f"Received: {name!r}: {value!r}."
            ) from error
        if not math.isfinite(number):
            raise ValueError(
                "An objective must return finite numbers. Received: "
                f"{name!r}: {number}."
            )
        values[str(name)] = number
    return values


def _one_line(error: BaseException) -> str:
    """Says what went wrong, and where outside of this file."""
    frames = traceback.extract_tb(error.__traceback__)
    place = frames[-1]
    for frame in frames:
        if frame.filename != __file__:
            place = frame
            break
    where = f"{os.path.basename(place.filename)}:{place.lineno}"
    return f"{type(error).__name__}: {error} (at {where})"
