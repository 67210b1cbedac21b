"""What holds for every strategy, and random search."""

import copy
import dataclasses
import itertools
import random

import numpy as np
import pytest

from kdtf.search.evolution import Evolution
from kdtf.search.optuna_strategies import Nsga2
from kdtf.search.optuna_strategies import Tpe
from kdtf.search.reinforcement import Reinforcement
from kdtf.search.space import Choice
from kdtf.search.space import Space
from kdtf.search.strategies import Measured
from kdtf.search.strategies import RandomSearch
from kdtf.search.strategies import check_positive

# Small, so that ten trials are more than each needs before it learns.
MAKERS = {
    "random": RandomSearch,
    "evolution": lambda: Evolution(4, 2),
    "reinforcement": lambda: Reinforcement(warmup=2),
    "tpe": lambda: Tpe(startup=4),
    "nsga2": lambda: Nsga2(population=4),
}
LEARNERS = [name for name in MAKERS if name != "random"]


@pytest.fixture(params=list(MAKERS))
def make(request):
    return MAKERS[request.param]


@pytest.fixture(params=LEARNERS)
def make_learner(request):
    return MAKERS[request.param]


def mixed_space():
    return Space(
        {
            "op": ["pool", "conv", "none"],
            "kernel": Choice(
                [3, 5, 7], when=lambda chosen: chosen["op"] == "conv"
            ),
            "fixed": ["only"],
            "number": [42],
            "width": [8, 16, 32, 64],
        }
    )


def history_of(space, count, seed=0):
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        point = space.random(rng)
        reward = float(sum(point) + rng.normal())
        losses = (-reward, float(point[0]))
        found.append(Measured(point=point, reward=reward, losses=losses))
    return found


def propose(strategy, space, history, seed=1, attempt=0):
    rng = np.random.default_rng(seed)
    return strategy.propose(space, history, rng=rng, attempt=attempt)


def chi_square(counts, expected):
    counts, expected = np.asarray(counts), np.asarray(expected)
    return float(np.sum((counts - expected) ** 2 / expected))


@pytest.mark.parametrize("count", [0, 3, 10])
@pytest.mark.parametrize("attempt", [0, 50])
def test_a_proposal_is_a_point(make, count, attempt):
    space = mixed_space()
    history = history_of(space, count)
    for seed in range(5):
        point = propose(make(), space, history, seed, attempt)
        assert [type(index) for index in point] == [int] * 5
        assert isinstance(point, tuple)
        assert point in set(space.points())
        # What there is only one of stays.
        assert point[2:4] == (0, 0)


def test_the_same_trials_and_seed_give_the_same_proposal(make):
    space, strategy = mixed_space(), make()
    history, other = history_of(space, 10), history_of(space, 12, seed=5)
    found = [propose(strategy, space, history, seed) for seed in range(6)]
    # Neither other trials nor another space between leave a trace.
    propose(strategy, space, other)
    propose(strategy, Space({"a": [1, 2]}), [])
    again = [propose(strategy, space, history, seed) for seed in range(6)]
    fresh = [propose(make(), space, history, seed) for seed in range(6)]
    assert found == again == fresh
    assert len(set(found)) > 1


def test_proposals_come_from_the_trials(make_learner):
    space, strategy = mixed_space(), make_learner()
    history = history_of(space, 12)
    worst = [
        dataclasses.replace(
            one, reward=-one.reward, losses=tuple(-x for x in one.losses)
        )
        for one in history
    ]
    found, other = (
        [propose(strategy, space, trials, seed) for seed in range(12)]
        for trials in (history, worst)
    )
    assert found != other


def test_nothing_but_the_generator_changes(make):
    space, strategy = mixed_space(), make()
    history = history_of(space, 10)
    kept, settings = copy.deepcopy(history), copy.deepcopy(vars(strategy))
    state, python_state = np.random.get_state(), random.getstate()
    rng = np.random.default_rng(3)
    before = rng.bit_generator.state
    strategy.propose(space, history, rng=rng)
    assert rng.bit_generator.state != before
    assert history == kept
    assert vars(strategy) == settings
    np.testing.assert_array_equal(np.random.get_state()[1], state[1])
    assert random.getstate() == python_state


def test_a_space_of_one_point(make):
    space = Space({"a": ["x"], "b": [3]})
    history = [Measured(point=(0, 0), reward=1.0, losses=(-1.0,))] * 10
    for trials, attempt in itertools.product([[], history], [0, 30]):
        assert propose(make(), space, trials, attempt=attempt) == (0, 0)


def test_asking_again_finds_the_last_points(make):
    # One point is by far the best; the others must still come up.
    space = Space({"a": ["x", "y", "z"], "b": range(3)})
    strategy, rng = make(), np.random.default_rng(0)
    history, tried = [], set()
    while len(tried) < space.size:
        for attempt in range(200):
            point = strategy.propose(space, history, rng=rng, attempt=attempt)
            if point not in tried:
                break
        assert point not in tried
        tried.add(point)
        reward = 10.0 * (point == (0, 2))
        history.append(Measured(point=point, reward=reward, losses=(-reward,)))


def test_learners_beat_random(make_learner):
    """On choices that count alone, in an order that is none of theirs."""
    space = Space(
        {f"choice {i}": [f"option {j}" for j in range(4)] for i in range(4)}
    )
    worth = np.random.default_rng(0).permuted(np.tile(range(4), (4, 1)), axis=1)

    def late_mean(strategy, seed):
        rng, history = np.random.default_rng(seed), []
        for _ in range(50):
            point = strategy.propose(space, history, rng=rng)
            reward = float(worth[range(4), point].sum())
            history.append(
                Measured(point=point, reward=reward, losses=(-reward,))
            )
        return np.mean([one.reward for one in history[-20:]])

    found = [late_mean(make_learner(), seed) for seed in range(2)]
    baseline = [late_mean(RandomSearch(), seed) for seed in range(2)]
    # A random point is worth 6 with a deviation of 2.24: 7.5 is three
    # deviations of the mean of 20.
    assert max(baseline) < 7.5
    assert min(found) > 7.5


def test_random_search_is_uniform(rng):
    space = Space({"a": range(3), "b": ["x", "y"]})
    strategy = RandomSearch()
    found = [strategy.propose(space, [], rng=rng) for _ in range(3000)]
    counts = [found.count(point) for point in space.points()]
    # 20.5 is the 99.9% quantile for 5 degrees of freedom.
    assert chi_square(counts, np.full(6, 500.0)) < 20.5


def test_random_search_learns_nothing():
    space, strategy = mixed_space(), RandomSearch()
    history = history_of(space, 10)
    for seed in range(5):
        found = propose(strategy, space, history, seed, attempt=seed)
        assert found == propose(strategy, space, [], seed)
        assert found == space.random(np.random.default_rng(seed))


def test_a_measurement_is_frozen():
    one = Measured(point=(0,), reward=1.0)
    assert one.losses == ()
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.reward = 2.0


@pytest.mark.parametrize("value", [0, -1, 1.0, True, "3", None])
def test_what_is_no_positive_integer_is_refused(value):
    with pytest.raises(ValueError, match=f"`size`.*Received: size={value!r}"):
        check_positive("size", value)


def test_positive_integers_pass():
    assert [check_positive("size", value) for value in (1, 7)] == [None, None]
