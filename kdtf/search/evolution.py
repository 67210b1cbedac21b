"""Regularized evolution: the youngest live, the best of a few have children."""

from collections.abc import Sequence

import numpy as np

from kdtf.search.space import Point
from kdtf.search.space import Space
from kdtf.search.strategies import Measured
from kdtf.search.strategies import check_positive

__all__ = ["Evolution"]


class Evolution:
    """Regularized evolution (Real et al. 2019, algorithm 1).

    The first `population` trials are random. Then the best of `tournament`
    random members of the last `population` trials is the parent, and its
    child differs in one choice. Age decides who dies, not quality: a lucky
    measurement is forgotten unless its children are as good.

    The paper's population of 100 with tournaments of 25 is for thousands of
    trials; the defaults did best for some hundred on NAS-Bench-201.

    Args:
        population: How many trials live.
        tournament: How many compete to be the parent.

    Raises:
        ValueError: One is no integer from 1 on, or the tournament is larger
            than the population.

    Example:
        >>> space = Space({"a": range(4), "b": range(4)})
        >>> history = [Measured(point=(i, 0), reward=float(i))
        ...            for i in range(4)]
        >>> rng = np.random.default_rng(0)
        >>> child = Evolution(4, 4).propose(space, history, rng=rng)
        >>> sum(a != b for a, b in zip(child, (3, 0)))
        1

    Reference:
        Real et al. 2019, https://arxiv.org/abs/1802.01548
    """

    def __init__(self, population: int = 10, tournament: int = 5) -> None:
        check_positive("population", population)
        check_positive("tournament", tournament)
        if tournament > population:
            raise ValueError(
                "`tournament` must be at most `population`. Received: "
                f"tournament={tournament}, population={population}."
            )
        self.population = population
        self.tournament = tournament

    def propose(
        self,
        space: Space,
        history: Sequence[Measured],
        *,
        rng: np.random.Generator,
        attempt: int = 0,
    ) -> Point:
        """Returns the parent with one choice changed.

        After 20 refused children it is changed twice, after 40 three times
        and so on: around a good point all neighbours may have been tried.
        """
        if len(history) < self.population:
            return space.random(rng)
        alive = history[-self.population :]
        rivals = rng.choice(len(alive), self.tournament, replace=False)
        parent = max((alive[i] for i in rivals), key=lambda one: one.reward)
        point = parent.point
        for _ in range(1 + attempt // 20):
            point = _mutated(space, point, rng)
        return point


def _mutated(space: Space, point: Point, rng: np.random.Generator) -> Point:
    """Changes one choice that is in force and has another option."""
    in_force = space.key(point)
    places = [
        place
        for place, count in enumerate(space.counts)
        if count > 1 and in_force[place] is not None
    ]
    if not places:
        return point
    place = places[rng.integers(len(places))]
    # One of the others: shift by 1 to count - 1.
    shift = 1 + int(rng.integers(space.counts[place] - 1))
    changed = (point[place] + shift) % space.counts[place]
    return (*point[:place], changed, *point[place + 1 :])
