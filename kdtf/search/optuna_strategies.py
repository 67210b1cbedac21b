"""Optuna's samplers as strategies: TPE and NSGA-II.

Each proposal rebuilds a study in memory from the finished trials, so that
these strategies keep nothing either.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from kdtf.search.quiet_logs import import_optuna
from kdtf.search.quiet_logs import quiet_optuna
from kdtf.search.space import Point
from kdtf.search.space import Space
from kdtf.search.strategies import Measured
from kdtf.search.strategies import check_positive

__all__ = ["Nsga2", "Tpe"]

_SEEDS = 2**31
# Optuna does not learn which points are refused: after so many, any will do.
_MAX_ATTEMPTS = 20
# Optuna's own default.
_CANDIDATES = 24


class Tpe:
    """Tree-structured Parzen estimator (Bergstra et al. 2011), Optuna's.

    It models where good and where bad trials lie, and proposes where the
    former are denser. Best on small spaces; on wide ones, such as widths of
    many layers, evolution does better.

    Args:
        startup: Trials that are random before it models anything.

    Raises:
        ValueError: `startup` is no integer from 1 on.
    """

    def __init__(self, startup: int = 10) -> None:
        check_positive("startup", startup)
        self.startup = startup

    def propose(
        self,
        space: Space,
        history: Sequence[Measured],
        *,
        rng: np.random.Generator,
        attempt: int = 0,
    ) -> Point:
        """Returns the most promising of the points it draws.

        After a refusal it draws fewer: the most promising of many is mostly
        the one that was refused.
        """
        optuna = import_optuna()

        with quiet_optuna():
            sampler = optuna.samplers.TPESampler(
                seed=int(rng.integers(_SEEDS)),
                n_startup_trials=self.startup,
                n_ei_candidates=max(1, _CANDIDATES // (1 + attempt)),
            )
            study = optuna.create_study(direction="maximize", sampler=sampler)
            distributions = _distributions(space)
            for one in history:
                study.add_trial(
                    optuna.trial.create_trial(
                        params=_params(space, one.point),
                        distributions=distributions,
                        value=one.reward,
                    )
                )
            return _point(space, study.ask(distributions).params)


class Nsga2:
    """NSGA-II (Deb et al. 2002), Optuna's, on quality and each cost.

    Where the others follow one reward, it spreads along the front of what is
    best for its cost. A population costs as many trials before anything is
    learned.

    Args:
        population: Trials in a generation, at least 2.

    Raises:
        ValueError: `population` is no integer from 2 on.
    """

    def __init__(self, population: int = 16) -> None:
        check_positive("population", population)
        if population < 2:
            raise ValueError(
                "`population` must be at least 2. Received: "
                f"population={population}."
            )
        self.population = population

    def propose(
        self,
        space: Space,
        history: Sequence[Measured],
        *,
        rng: np.random.Generator,
        attempt: int = 0,
    ) -> Point:
        """Returns a child of two of the current front."""
        optuna = import_optuna()

        if attempt >= _MAX_ATTEMPTS:
            return space.random(rng)
        measured = [
            (one.point, one.losses or (-one.reward,)) for one in history
        ]
        num_losses = max((len(losses) for _, losses in measured), default=1)
        with quiet_optuna():
            sampler = optuna.samplers.NSGAIISampler(
                seed=int(rng.integers(_SEEDS)), population_size=self.population
            )
            study = optuna.create_study(
                directions=["minimize"] * num_losses, sampler=sampler
            )
            distributions = _distributions(space)
            for point, losses in measured:
                # What was stopped early has no costs: no place on a front.
                if len(losses) < num_losses:
                    continue
                study.enqueue_trial(_params(space, point))
                trial = study.ask(distributions)
                # As sampling does, which given points skip: without it there
                # would be no generation but the first, a random one. Parents
                # now, or the last generation would recurse through them all.
                running = study.get_trials(deepcopy=False)[-1]
                generation = sampler.get_trial_generation(study, running)
                sampler.get_parent_population(study, generation)
                study.tell(trial, losses)
            return _point(space, study.ask(distributions).params)


def _distributions(space: Space) -> dict[str, Any]:
    optuna = import_optuna()

    found: dict[str, Any] = {}
    for name, count in zip(space.names, space.counts, strict=True):
        if space.is_ordered(name):
            found[name] = optuna.distributions.IntDistribution(0, count - 1)
        else:
            indices = range(count)
            found[name] = optuna.distributions.CategoricalDistribution(indices)
    return found


def _params(space: Space, point: Point) -> dict[str, int]:
    return dict(zip(space.names, point, strict=True))


def _point(space: Space, params: dict[str, Any]) -> Point:
    return tuple(int(params[name]) for name in space.names)
