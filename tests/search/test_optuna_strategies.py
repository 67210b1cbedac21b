import collections

import numpy as np
import optuna
import pytest

from kdtf.search.optuna_strategies import Nsga2
from kdtf.search.optuna_strategies import Tpe
from kdtf.search.space import Space
from kdtf.search.strategies import Measured

# One choice that has an order, one that has none, one that is none.
SPACE = Space({"a": range(5), "b": ["x", "y", "z"], "c": [1]})
DISTRIBUTIONS = {
    "a": optuna.distributions.IntDistribution(0, 4),
    "b": optuna.distributions.CategoricalDistribution([0, 1, 2]),
    "c": optuna.distributions.IntDistribution(0, 0),
}


def history_of(count, num_losses=1):
    rng = np.random.default_rng(7)
    found = []
    for _ in range(count):
        point = SPACE.random(rng)
        reward = float(-((point[0] - 3) ** 2) + 2 * point[1] + rng.normal())
        losses = (-reward, float(point[0]), 1.0 * point[1])[:num_losses]
        found.append(Measured(point=point, reward=reward, losses=losses))
    return found


def params(point):
    return dict(zip("abc", point, strict=True))


def seed_of(seed):
    """The one number that a proposal takes from its generator."""
    return int(np.random.default_rng(seed).integers(2**31))


@pytest.fixture(autouse=True)
def quiet():
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    yield
    optuna.logging.set_verbosity(before)


def optuna_alone(sampler, history, directions, values):
    """What Optuna proposes that ran all these trials itself."""
    study = optuna.create_study(directions=directions, sampler=sampler)
    for one in history:
        study.enqueue_trial(params(one.point))
    # Optuna samples what it shall not propose only if it is asked: so it
    # counts generations, and so it learns a trial's values at the end of it.
    for one in history:
        trial = study.ask()
        assert isinstance(trial.relative_params, dict)
        for name, distribution in DISTRIBUTIONS.items():
            trial._suggest(name, distribution)
        study.tell(trial, values(one))
    return study.ask(DISTRIBUTIONS).params


@pytest.mark.parametrize("count", [0, 5, 6, 25])
@pytest.mark.parametrize("attempt, candidates", [(0, 24), (3, 6), (99, 1)])
def test_tpe_proposes_what_optuna_does(count, attempt, candidates):
    history = history_of(count)
    for seed in range(4):
        # A study that never sampled, as after a restart.
        study = optuna.create_study(
            direction="maximize",
            sampler=optuna.samplers.TPESampler(
                seed=seed_of(seed),
                n_startup_trials=6,
                n_ei_candidates=candidates,
            ),
        )
        for one in history:
            study.add_trial(
                optuna.trial.create_trial(
                    params=params(one.point),
                    distributions=DISTRIBUTIONS,
                    value=one.reward,
                )
            )
        found = Tpe(startup=6).propose(
            SPACE, history, rng=np.random.default_rng(seed), attempt=attempt
        )
        assert params(found) == study.ask(DISTRIBUTIONS).params


def test_tpe_with_defaults_is_optunas():
    sampler = optuna.samplers.TPESampler()
    assert sampler._n_ei_candidates == 24
    assert sampler._n_startup_trials == Tpe().startup


def spread(history, attempt):
    return {
        Tpe(startup=2).propose(
            SPACE, history, rng=np.random.default_rng(seed), attempt=attempt
        )
        for seed in range(25)
    }


def test_a_refused_tpe_spreads():
    history = [
        Measured(point=point, reward=5.0 * (point == (3, 2, 0)))
        for point in list(SPACE.points()) * 2
    ]
    assert len(spread(history, 50)) > len(spread(history, 0))


@pytest.mark.parametrize("num_losses", [1, 3])
def test_nsga2_proposes_children_of_optunas_parents(num_losses):
    """Against a study whose generations Optuna made itself."""
    sampler = optuna.samplers.NSGAIISampler(population_size=4, seed=1)
    study = optuna.create_study(
        directions=["minimize"] * num_losses, sampler=sampler
    )
    history = []
    for _ in range(18):
        trial = study.ask(DISTRIBUTIONS)
        point = tuple(trial.params[name] for name in "abc")
        losses = ((point[0] - 3.0) ** 2 - point[1], point[0], -1.0 * point[1])
        losses = losses[:num_losses]
        study.tell(trial, losses)
        history.append(
            Measured(point=point, reward=-losses[0], losses=losses)
        )
        # Its first generation is random, and ends with 4 trials.
        before = study.get_trials(deepcopy=False)
        generation = [t.system_attrs.get(GENERATION) for t in before]
        assert generation in ([i // 4 for i in range(len(before))],)
    for seed in range(8):
        # The same study goes on with a sampler seeded as ours. What it draws
        # until then differs, so only the law of its children is the same.
        found = Nsga2(population=4).propose(
            SPACE, history, rng=np.random.default_rng(seed)
        )
        assert found in set(SPACE.points())


GENERATION = "NSGAIISampler:generation"
