"""The loop of a search: what is proposed, run, recorded and refused."""

import re

import keras
import numpy as np
import pytest

import kdtf
from kdtf.search import Choice
from kdtf.search import Evolution
from kdtf.search import Infeasible
from kdtf.search import Space
from kdtf.search import search
from kdtf.search import shortlist
from kdtf.search.rewards import reward_of
from kdtf.search.searching import STRATEGIES
from kdtf.search.trial import StopTrial

SPACE = {"a": range(6), "b": range(5), "c": ["x", "y"]}


def same(choices):
    """Builds what is not a model: most of the loop does not look at it."""
    return choices


def score(chosen):
    return chosen["a"] + 2 * chosen["b"] + (chosen["c"] == "y")


def two(chosen):
    return {"score": score(chosen), "cost": 1 + chosen["a"] * chosen["b"]}


def run(objective=score, space=SPACE, **options):
    options = {"trials": 12, "seed": 0, "verbose": 0} | options
    return search(same, space, objective, **options)


def story(result):
    return [(t.number, t.choices, t.values, t.seed) for t in result.trials]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_all_trials_are_different_models_and_the_best_is_found(strategy):
    space = {"a": range(4), "b": range(3), "c": ["x", "y"]}
    result = run(two, space=space, strategy=strategy, trials=24)
    chosen = {tuple(t.choices.items()) for t in result.trials}
    # 4 * 3 * 2 points: at the end none is left out.
    assert len(chosen) == len(result.trials) == 24
    assert result.best.choices == {"a": 3, "b": 2, "c": "y"}
    assert result.best.values == {"score": 8.0, "cost": 7.0}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_seed_decides(strategy):
    one, other = (run(two, strategy=strategy, seed=3) for _ in range(2))
    assert story(one) == story(other)
    assert story(run(two, strategy=strategy, seed=4)) != story(one)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_study_goes_on_as_if_it_had_not_stopped(strategy, tmp_path):
    path = tmp_path / "study.log"
    whole = run(two, strategy=strategy, trials=20)
    for trials in (7, 20):
        part = run(two, strategy=strategy, trials=trials, study=path)
        assert story(part) == story(whole)[:trials]


def test_an_interrupted_trial_is_repeated_and_the_rest_is_the_same(tmp_path):
    calls = []

    def interrupted(chosen, trial):
        calls.append(trial.number)
        if trial.number == 11 and calls.count(11) == 1:
            raise KeyboardInterrupt
        return score(chosen) + np.random.normal()

    study = tmp_path / "study.log"
    with pytest.raises(KeyboardInterrupt):
        run(interrupted, trials=20, study=study)
    result = run(interrupted, trials=20, study=study)
    assert calls == [*range(12), *range(11, 20)]

    def noisy(chosen):
        return score(chosen) + np.random.normal()

    # The global seed is set for each trial: noise is repeated too.
    assert story(result) == story(run(noisy, trials=20))


def test_a_finished_study_runs_nothing(tmp_path):
    study = tmp_path / "study.log"
    before = run(trials=5, study=study)

    def never(chosen):
        raise AssertionError

    assert story(run(never, trials=5, study=study)) == story(before)


def test_a_database_holds_a_study_too(tmp_path):
    url = f"sqlite:///{tmp_path / 'study.db'}"
    run(two, trials=4, study=url)
    assert story(run(two, trials=9, study=url)) == story(run(two, trials=9))


def test_the_seed_of_a_study_is_kept_when_none_is_given(tmp_path):
    study = tmp_path / "study.log"
    run(trials=3, study=study, seed=8)
    assert story(run(trials=12, study=study, seed=None)) == story(run(seed=8))
    with pytest.raises(ValueError, match="seed=9, not 8"):
        run(study=study, seed=9)


def test_without_a_seed_two_searches_differ():
    assert story(run(seed=None)) != story(run(seed=None))


def test_a_study_of_another_space_is_refused(tmp_path):
    study = tmp_path / "study.log"
    run(study=study)
    with pytest.raises(ValueError, match=r"space.*begun.*Received: .*'a': \[0"):
        run(space={"a": [0, 1]}, study=study)
    with pytest.raises(ValueError, match="minimize it was begun with, False"):
        run(study=study, direction="min")


def test_invalid_points_are_never_built():
    def build(chosen):
        assert chosen["a"] % 2 == 0
        return chosen

    space = Space(SPACE, valid=lambda chosen: chosen["a"] % 2 == 0)
    result = search(build, space, score, trials=40, seed=0, verbose=0)
    # 3 of 6 options of "a" are valid; then the space is exhausted.
    assert [t.status for t in result.trials] == ["complete"] * 30


def test_choices_not_in_force_make_no_new_model():
    space = {
        "kind": ["plain", "wide"],
        "width": Choice([1, 2, 3], when=lambda c: c["kind"] == "wide"),
    }
    result = run(lambda chosen: len(chosen), space=space, trials=50)
    assert sorted(str(t.choices) for t in result.trials) == [
        "{'kind': 'plain'}",
        "{'kind': 'wide', 'width': 1}",
        "{'kind': 'wide', 'width': 2}",
        "{'kind': 'wide', 'width': 3}",
    ]


def test_a_failed_trial_is_recorded_and_the_search_goes_on():
    def objective(chosen):
        if chosen["a"] == 3:
            raise RuntimeError("no room")
        return score(chosen)

    result = run(objective, trials=60)
    failed = [t for t in result.trials if t.status == "failed"]
    assert len(result.trials) == 60
    assert [t.choices["a"] for t in failed] == [3] * 10
    assert failed[0].error.startswith(
        "RuntimeError: no room (at test_searching.py:"
    )
    assert failed[0].reward is None
    assert "RuntimeError: no room" in str(result)


@pytest.mark.parametrize(
    "value, message",
    [
        (np.nan, "finite numbers. Received: 'quality': nan"),
        ({"q": 1.0, "cost": np.inf}, "'cost': inf"),
        ("good", "return a number.*'quality': 'good'"),
        ({}, "return a quality"),
    ],
)
def test_what_is_no_number_fails_the_trial(value, message):
    def objective(chosen, trial):
        return value if trial.number == 4 else 1.0

    failed = run(objective, trials=6).trials[4]
    assert failed.status == "failed"
    assert re.search(message, failed.error)


def test_if_all_fail_the_search_ends_and_says_why():
    def build(chosen):
        raise KeyError("width")

    with pytest.raises(ValueError, match="first 3 trials.*KeyError: 'width'"):
        search(build, SPACE, score, verbose=0)
    with pytest.raises(ValueError, match="must return a model"):
        search(lambda chosen: None, SPACE, score, verbose=0)


def test_limits_pull_the_search_and_bound_the_best():
    result = run(two, trials=60, limits={"cost": 5})
    best = max(
        (a + 2 * b + (c == "y"), a, b)
        for a in range(6)
        for b in range(5)
        for c in "xy"
        if 1 + a * b <= 5
    )
    assert result.best.values["score"] == best[0]
    assert result.best.values["cost"] <= 5


def test_limits_on_what_is_not_given_are_refused():
    with pytest.raises(ValueError, match=r"\['cost'\]. Received: \['bytes'\]"):
        run(two, limits={"bytes": 5})
    # A quality is no cost.
    with pytest.raises(ValueError, match=r"Received: \['score'\]"):
        run(two, limits={"score": 5})


def test_infeasible_models_do_not_count():
    trained = []

    def objective(chosen):
        if chosen["a"] > 2:
            raise Infeasible({"cost": chosen["a"]})
        trained.append(chosen)
        return {"score": score(chosen), "cost": chosen["a"]}

    result = run(objective, trials=20, limits={"cost": 2})
    assert len(trained) == 20
    over = [t for t in result.trials if t.status == "infeasible"]
    assert over
    assert all(t.values == {"cost": t.choices["a"]} for t in over)
    assert result.best.choices["a"] <= 2


def test_a_budget_that_nothing_meets_is_an_error():
    def objective(chosen):
        raise Infeasible({"cost": 10 + chosen["a"]})

    message = r"within the limits. Received: .*50 models.*\{'cost': 10\}"
    with pytest.raises(ValueError, match=message):
        run(objective, limits={"cost": 2}, trials=60)


def test_a_study_that_met_no_budget_goes_on_under_a_larger_one(tmp_path):
    limit = 2

    def objective(chosen):
        cost = 10 + chosen["a"]
        if cost > limit:
            raise Infeasible({"cost": cost})
        return {"score": 1.0, "cost": cost}

    study = tmp_path / "study.log"
    with pytest.raises(ValueError, match="50 models"):
        run(objective, limits={"cost": limit}, trials=60, study=study)
    limit = 20
    result = run(objective, limits={"cost": limit}, trials=5, study=study)
    assert len(result.complete) == 5


def test_none_within_the_limits_is_an_error_of_best_only():
    result = run(two, limits={"cost": 0.5})
    assert result.best_or_none is None
    assert result.pareto
    with pytest.raises(ValueError, match=r"least of any trial were \{'cost'"):
        result.best  # noqa: B018


def test_losses_are_minimized():
    result = run(lambda c: 100 - score(c), trials=60, direction="min")
    assert result.best.choices == {"a": 5, "b": 4, "c": "y"}
    assert result.best.reward == -86.0


def test_evolution_finds_more_than_chance_in_a_large_space():
    space = {f"x{i}": range(8) for i in range(6)}

    def objective(chosen):
        return sum(chosen.values())

    def mean_best(strategy):
        return np.mean(
            [
                run(
                    objective,
                    space=space,
                    trials=60,
                    strategy=strategy,
                    seed=seed,
                ).best.values["quality"]
                for seed in range(5)
            ]
        )

    # Of 42; by chance a best of 60 is about 32.
    assert mean_best("evolution") > mean_best("random") + 3


@pytest.mark.parametrize("point", [(0, 0), (0, 0, 2), (0, -1, 0), [0, 0, 0]])
def test_what_is_no_point_is_refused(point):
    class Broken:
        def propose(self, space, history, *, rng, attempt=0):
            return point

    with pytest.raises(ValueError, match=r"below \(6, 5, 2\). Received: "):
        run(strategy=Broken())


def test_first_comes_first_and_once(tmp_path):
    first = [{"a": 2, "b": 1, "c": "y"}, {"a": 0, "b": 4, "c": "x"}]
    study = tmp_path / "study.log"
    result = run(first=[first[0], *first], trials=3, study=study)
    assert [t.choices for t in result.trials[:2]] == first
    again = run(first=first, trials=6, study=study)
    assert len({tuple(t.choices.items()) for t in again.trials}) == 6


@pytest.mark.parametrize(
    "chosen, message",
    [
        ({"a": 2, "b": 1}, r"in force are \['a', 'b', 'c'\]"),
        ({"a": 9, "b": 1, "c": "x"}, "'a' must be one of .* Received: 9"),
        ({"a": 1, "b": 1, "c": "x", "d": 0}, r"Received: \['d'\]"),
        ({"a": 3, "b": 1, "c": "x"}, "'c': 'x'}: odd"),
    ],
)
def test_first_must_be_points(chosen, message):
    space = Space(SPACE, valid=lambda c: "odd" if c["a"] == 3 else True)
    with pytest.raises(ValueError, match=message):
        run(space=space, first=[chosen])


def test_a_shortlist_is_the_best_by_the_proxy():
    space = Space(SPACE, valid=lambda chosen: chosen["a"] != 5)
    found = shortlist(same, space, score, size=3, samples=50)
    assert found == [
        {"a": 4, "b": 4, "c": "y"},
        {"a": 4, "b": 4, "c": "x"},
        {"a": 3, "b": 4, "c": "y"},
    ]
    # None and nan are no recommendations; fewer are left than asked for.
    few = shortlist(
        same,
        space,
        lambda c: {0: None, 1: np.nan}.get(
            c["a"], 1.0 if c["a"] == 2 else None
        ),
        size=50,
        samples=50,
    )
    assert {chosen["a"] for chosen in few} == {2}
    assert len(few) == 10
    one = shortlist(same, space, score, size=3, samples=3, seed=1)
    assert one != shortlist(same, space, score, size=3, samples=3, seed=2)


def test_a_shortlist_needs_a_valid_point_and_numbers():
    with pytest.raises(ValueError, match="must have a valid point. Received"):
        shortlist(same, Space(SPACE, valid=lambda chosen: False), score)
    with pytest.raises(ValueError, match="size=0"):
        shortlist(same, SPACE, score, size=0)


def test_a_strategy_with_settings_of_its_own():
    first = run(strategy=Evolution(4, 2), trials=30)
    assert story(first) != story(run(trials=30))


def test_halving_stops_what_is_behind():
    steps = []

    def objective(chosen, trial):
        for epoch in range(1, 10):
            steps.append(trial.number)
            trial.report(epoch, score(chosen) * epoch)
        return score(chosen) * 9

    result = run(
        objective, strategy="random", trials=30, early_stopping="halving"
    )
    stopped = [t for t in result.trials if t.status == "stopped"]
    ended = {steps.count(t.number) for t in stopped}
    # Rungs after 1, 3 and 9 epochs.
    assert ended <= {1, 3, 9}
    assert len(stopped) > 10
    assert len(steps) < 0.6 * 30 * 9
    # The best is never behind.
    assert result.best.values["quality"] == 9 * max(
        score(t.choices) for t in result.trials
    )


def test_a_report_that_is_not_finite_fails_the_trial():
    def objective(chosen, trial):
        trial.report(1, np.nan if trial.number == 4 else 1.0)
        return 1.0

    failed = run(objective, trials=6, early_stopping="median").trials[4]
    assert failed.status == "failed"
    assert "must be finite. Received: value=nan at step 1" in failed.error


def test_stopping_without_a_report_fails_the_trial():
    def objective(chosen, trial):
        if trial.number == 4:
            raise StopTrial
        return 1.0

    failed = run(objective, trials=6).trials[4]
    assert failed.status == "failed"
    assert "before any report" in failed.error


def test_a_reward_that_is_not_finite_fails_the_trial():
    def objective(chosen, trial):
        return {"q": 1.7e308 if trial.number == 4 else 1.0, "cost": 1e-3}

    failed = run(objective, trials=6, limits={"cost": 1e9}).trials[4]
    assert failed.status == "failed"
    assert "finite reward" in failed.error


def test_quantities_have_one_order_and_one_set_of_names():
    def objective(chosen, trial):
        if trial.number == 2:
            return {"q": 1.0, "b": 2.0, "a": 3.0}
        if trial.number == 3:
            return {"q": 1.0, "a": 3.0}
        return {"q": 1.0, "a": 3.0, "b": 2.0}

    trials = run(objective, trials=5).trials
    assert list(trials[2].values.items()) == [("q", 1), ("a", 3), ("b", 2)]
    assert trials[3].status == "failed"
    assert "['q', 'a'], and ['q', 'a', 'b'] before" in trials[3].error


def test_new_limits_count_for_what_was_measured_under_the_old(tmp_path):
    study = tmp_path / "study.log"
    run(two, trials=12, study=study, limits={"cost": 100})
    seen = []

    class Watching:
        def propose(self, space, history, *, rng, attempt=0):
            seen[:] = [one.reward for one in history]
            return space.random(rng)

    result = run(
        two, trials=13, study=study, limits={"cost": 2}, strategy=Watching()
    )
    assert seen == [
        reward_of(trial.values, limits={"cost": 2})
        for trial in result.trials[:12]
    ]


def test_without_early_stopping_reports_stop_nothing():
    def objective(chosen, trial):
        trial.report(1, -trial.number)
        return 1.0

    statuses = {t.status for t in run(objective, trials=12).trials}
    assert statuses == {"complete"}


def test_the_callback_reports_validation_and_stops_fit():
    epochs = []

    def build(chosen):
        model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        model.compile(keras.optimizers.SGD(0.0), "mse", run_eagerly=True)
        model.set_weights(
            [np.array([[1.0]]), np.array([float(chosen["bias"])])]
        )
        return model

    x = np.zeros((4, 1))

    def objective(model, trial):
        history = model.fit(
            x,
            x,
            epochs=3,
            verbose=0,
            validation_data=(x, x),
            callbacks=[trial.callback("val_loss")],
        )
        epochs.append(len(history.history["loss"]))
        return history.history["val_loss"][-1]

    result = search(
        build,
        {"bias": range(6)},
        objective,
        strategy="random",
        trials=6,
        direction="min",
        early_stopping="halving",
        seed=0,
        verbose=0,
    )
    by_status = {
        status: [t for t in result.trials if t.status == status]
        for status in ("complete", "stopped")
    }
    assert epochs == [3] * len(by_status["complete"])
    assert by_status["stopped"]
    for trial in by_status["stopped"]:
        assert trial.values["quality"] == trial.choices["bias"] ** 2
        assert trial.reward == -(trial.choices["bias"] ** 2)
    assert result.best.choices == {"bias": 0}


def test_a_wrong_monitor_is_named():
    def objective(model, trial):
        trial.callback("val_acc").on_epoch_end(0, {"loss": 1.0})

    with pytest.raises(ValueError, match=r"one of \['loss'\].*'val_acc'"):
        run(objective)


def test_objectives_with_defaults_get_the_model_only():
    assert run(lambda chosen, weight=1: weight, trials=2).best.values == {
        "quality": 1.0
    }


def test_progress_shows_the_best(capsys):
    best = run(two, trials=12, verbose=1).best.values["score"]
    shown = capsys.readouterr().out
    assert "12/12" in shown
    assert f"best score: {best:.4f}" in shown


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"strategy": "genetic"}, ValueError, "'evolution'.*'genetic'"),
        ({"strategy": 3}, TypeError, "`propose` method. Received: strategy=3"),
        ({"trials": 0}, ValueError, "`trials`.*trials=0"),
        ({"trials": True}, ValueError, "`trials`"),
        ({"direction": "up"}, ValueError, "'max' or 'min'.*'up'"),
        ({"limits": {"cost": 0}}, ValueError, r"limits\['cost'\]=0"),
        ({"limits": {"cost": "1MB"}}, ValueError, "positive numbers.*'1MB'"),
        ({"early_stopping": "asha"}, ValueError, "'halving'.*'asha'"),
        ({"space": {}}, ValueError, "at least one choice. Received: {}"),
        ({"space": {"a": [1.0, np.nan]}}, TypeError, "not nan.*Received: nan"),
        ({"space": {"a": []}}, ValueError, "Choice 'a'.*at least one"),
        ({"objective": 3}, TypeError, "`objective` must be a function"),
    ],
)
def test_bad_arguments_are_refused_before_anything_runs(
    options, error, message
):
    with pytest.raises(error, match=message):
        run(**options)


def test_a_space_without_a_valid_point_is_refused():
    space = Space(SPACE, valid=lambda chosen: "never")
    with pytest.raises(ValueError, match="must have a valid point. Received"):
        run(space=space)


def test_the_room_is_the_verb():
    assert kdtf.search(same, SPACE, score, trials=2, verbose=0).complete
    assert kdtf.search.Choice is Choice
