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


def run_by_optuna(count, num_losses):
    """A study that proposed its trials itself, and these trials."""
    study = optuna.create_study(
        directions=["minimize"] * num_losses,
        sampler=optuna.samplers.NSGAIISampler(population_size=4, seed=1),
    )
    history = []
    for _ in range(count):
        trial = study.ask(DISTRIBUTIONS)
        a, b, c = (trial.params[name] for name in "abc")
        losses = ((a - 3.0) ** 2 - b, float(a), -1.0 * b)[:num_losses]
        study.tell(trial, losses)
        history.append(
            Measured(point=(a, b, c), reward=-losses[0], losses=losses)
        )
    return study, history


@pytest.mark.parametrize("num_losses", [1, 3])
@pytest.mark.parametrize("count", [3, 4, 9, 16])
def test_nsga2_goes_on_as_optuna_does(count, num_losses):
    for seed in range(6):
        # A study for each: asking leaves a trace in it.
        study, history = run_by_optuna(count, num_losses)
        study.sampler = optuna.samplers.NSGAIISampler(
            population_size=4, seed=seed_of(seed)
        )
        found = Nsga2(population=4).propose(
            SPACE, history, rng=np.random.default_rng(seed)
        )
        assert params(found) == study.ask(DISTRIBUTIONS).params


def test_nsga2_has_children_of_the_front():
    space = Space({str(i): list("vwxyz") for i in range(8)})
    # The first four are on the front and agree; the rest are worse in both.
    good, bad = (1,) * 8, (3,) * 8
    history = [
        Measured(point=good, reward=0.0, losses=(float(i), 3.0 - i))
        for i in range(4)
    ] + [Measured(point=bad, reward=0.0, losses=(9.0, 9.0))] * 4
    for seed in range(20):
        child = Nsga2(population=4).propose(
            space, history, rng=np.random.default_rng(seed)
        )
        # A gene mutates one time in eight.
        assert child.count(1) >= 4


def test_nsga2_can_go_on_for_many_generations():
    # Parents of parents would be deeper than Python's stack.
    history = history_of(1100)
    found = Nsga2(population=2).propose(
        SPACE, history, rng=np.random.default_rng(0)
    )
    assert found in set(SPACE.points())


def test_nsga2_leaves_out_trials_without_costs():
    whole, stopped = history_of(12, num_losses=3), history_of(5)
    mixed = [*whole[:6], *stopped, *whole[6:]]
    for seed in range(4):
        found, other = (
            Nsga2(population=4).propose(
                SPACE, trials, rng=np.random.default_rng(seed)
            )
            for trials in (whole, mixed)
        )
        assert found == other


def test_nsga2_gives_up_after_many_refusals():
    history = history_of(12)
    for seed in range(4):
        found = Nsga2(population=4).propose(
            SPACE, history, rng=np.random.default_rng(seed), attempt=20
        )
        assert found == SPACE.random(np.random.default_rng(seed))


def test_without_losses_nsga2_takes_the_reward():
    history = history_of(12)
    plain = [Measured(point=one.point, reward=one.reward) for one in history]
    for seed in range(4):
        found, other = (
            Nsga2(population=4).propose(
                SPACE, trials, rng=np.random.default_rng(seed)
            )
            for trials in (history, plain)
        )
        assert found == other


@pytest.mark.parametrize("strategy", [Tpe(2), Nsga2(2)])
def test_optuna_is_as_loud_as_before(strategy, capfd):
    optuna.logging.set_verbosity(optuna.logging.INFO)
    strategy.propose(SPACE, history_of(4), rng=np.random.default_rng(0))
    assert optuna.logging.get_verbosity() == optuna.logging.INFO
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "make, match",
    [
        (lambda: Tpe(0), "`startup`.*Received: startup=0"),
        (lambda: Tpe(startup=2.5), "`startup`.*Received: startup=2.5"),
        (lambda: Nsga2(0), "`population`.*Received: population=0"),
        (lambda: Nsga2(1), "at least 2. Received: population=1"),
    ],
)
def test_bad_settings_are_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make()
