"""`search`: propose, build, train, measure, remember."""

import math
import os
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from kdtf.search.evolution import Evolution
from kdtf.search.loop import Loop
from kdtf.search.optuna_strategies import Nsga2
from kdtf.search.optuna_strategies import Tpe
from kdtf.search.progress import Progress
from kdtf.search.quiet_logs import import_optuna
from kdtf.search.quiet_logs import quiet_retracing
from kdtf.search.reinforcement import Reinforcement
from kdtf.search.result import SearchResult
from kdtf.search.space import as_space
from kdtf.search.store import Store
from kdtf.search.strategies import RandomSearch
from kdtf.search.strategies import Strategy
from kdtf.search.strategies import check_positive

__all__ = ["EARLY_STOPPING", "STRATEGIES", "search"]

STRATEGIES: dict[str, Callable[[], Strategy]] = {
    "evolution": Evolution,
    "reinforcement": Reinforcement,
    "nsga2": Nsga2,
    "tpe": Tpe,
    "random": RandomSearch,
}
EARLY_STOPPING = ("halving", "median")


def search(
    build: Callable[[dict[str, Any]], Any],
    space: Any,
    objective: Callable[..., Any],
    *,
    strategy: str | Strategy = "evolution",
    trials: int = 20,
    limits: Mapping[str, float] | None = None,
    direction: str = "max",
    first: Sequence[Mapping[str, Any]] = (),
    study: str | os.PathLike[str] | None = None,
    seed: int | None = None,
    early_stopping: str | None = None,
    verbose: int = 1,
) -> SearchResult:
    """Finds the model worth training, by training some.

    Each trial takes a point of the space, builds its model and asks the
    objective what it is worth. Points that are not valid, or are the same
    model as one tried before, are refused before anything is built. A trial
    that fails is recorded with its error, and the search goes on.

    Trials are kept in `study` as they finish. Called again with the same
    study, also after a kill, the search goes on exactly as if it had not been
    interrupted. Called by several processes, on one machine with a file or on
    many with a database, they share the work: no trial is done twice, and
    those of a process that died are taken up by the others.

    Of the strategies, "evolution" is the one to begin with. "tpe" is better
    still on small spaces and worse than random on wide ones. "nsga2" finds
    the front of quality against cost rather than one best. "reinforcement"
    needs some hundred trials. "random" is the baseline that tells whether the
    others were worth it.

    Args:
        build: Called with the choices, a dict; returns a Keras model.
        space: A `Space`, or just a mapping of names to options.
        objective: Called as `objective(model)` or `objective(model, trial)`
            with a `RunningTrial`; trains the model and returns its quality,
            or a dict of the quality first and then what it costs, lower being
            better. `DeviceObjective` is one.
        strategy: "evolution", "reinforcement", "nsga2", "tpe", "random", or a
            `Strategy` with settings of its own.
        trials: How many the study shall have in the end. Infeasible ones do
            not count.
        limits: The highest cost by name. They pull the search (MnasNet's
            reward), and `best` is within them. A study may go on with others;
            but what was infeasible is not tried again.
        direction: "max", or "min" for a quality that is a loss.
        first: Choices to try before the strategy is asked, such as a hand-made
            model's, or a `shortlist`.
        study: A file, or the URL of an Optuna storage. Defaults to none: the
            trials live as long as the result.
        seed: Of proposals and, by trial, of Keras's global seed. Defaults to
            the study's, or a random one.
        early_stopping: "halving" (of what was trained as long, the best third
            goes on; Li et al. 2020) or "median" (what is below the median
            stops), for objectives that report. Defaults to never.
        verbose: 0 for silence, 1 for a progress bar.

    Returns:
        The result: `.best`, `.pareto`, `.trials`, a table and pictures.

    Raises:
        TypeError: `build` or `objective` cannot be called, or the space is
            none.
        ValueError: An argument is unknown or out of range, the study belongs
            to another search, no point of the space is valid, the first
            trials all failed, `limits` names what the objective does not
            give, or none of many models was within them.

    Example:
        >>> import keras, kdtf
        >>> def build(choices):
        ...     return keras.Sequential([
        ...         keras.Input((4,)), keras.layers.Dense(choices["units"]),
        ...     ])
        >>> found = kdtf.search(
        ...     build, {"units": [1, 2, 4, 8]},
        ...     lambda model: {"units": model.output_shape[-1],
        ...                    "parameters": model.count_params()},
        ...     limits={"parameters": 20}, trials=4, seed=0, verbose=0,
        ... )
        >>> found.best.choices
        {'units': 4}
        >>> [trial.choices["units"] for trial in found.pareto]
        [1, 2, 4, 8]
    """
    for name, value in (("build", build), ("objective", objective)):
        if not callable(value):
            raise TypeError(
                f"`{name}` must be a function. Received: {name}={value!r}."
            )
    check_positive("trials", trials)
    if direction not in ("max", "min"):
        raise ValueError(
            "`direction` must be 'max' or 'min'. Received: "
            f"direction={direction!r}."
        )
    store = Store(
        study, as_space(space), seed=seed, minimize=direction == "min"
    )
    run = Loop(
        build=build,
        objective=objective,
        strategy=_strategy(strategy),
        store=store,
        limits=_limits(limits),
        minimize=direction == "min",
        pruner=_pruner(early_stopping),
        first=[store.space.checked(chosen) for chosen in first],
    )
    progress = Progress(
        trials, verbose=verbose, best=lambda: run.result().best_or_none
    )
    with quiet_retracing():
        run(trials, progress)
    return run.result()


def _strategy(strategy: Any) -> Strategy:
    if isinstance(strategy, str):
        if strategy not in STRATEGIES:
            raise ValueError(
                f"`strategy` must be one of {sorted(STRATEGIES)}. Received: "
                f"strategy={strategy!r}."
            )
        return STRATEGIES[strategy]()
    if not callable(getattr(strategy, "propose", None)):
        raise TypeError(
            f"`strategy` must be one of {sorted(STRATEGIES)} or have a "
            f"`propose` method. Received: strategy={strategy!r}."
        )
    return strategy


def _limits(limits: Any) -> dict[str, float]:
    found = dict(limits or {})
    for name, limit in found.items():
        is_number = isinstance(limit, int | float)
        if not is_number or not math.isfinite(limit) or limit <= 0:
            raise ValueError(
                "Limits must be positive numbers. Received: "
                f"limits[{name!r}]={limit!r}."
            )
    return found


def _pruner(name: str | None) -> Any:
    if name is None:
        return None
    optuna = import_optuna()
    if name == "halving":
        return optuna.pruners.SuccessiveHalvingPruner(
            min_resource=1, reduction_factor=3
        )
    if name == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=5)
    raise ValueError(
        f"`early_stopping` must be None or one of {list(EARLY_STOPPING)}. "
        f"Received: early_stopping={name!r}."
    )
