"""What is to be reduced: counted by hand, measured, and reached."""

import keras
import numpy as np
import pytest
from keras import layers
from shrink_models import random_model

from kdtf.pruning.shrinking import latency
from kdtf.pruning.shrinking import plan_shrink
from kdtf.pruning.shrinking.balance import balanced
from kdtf.pruning.shrinking.families import Costs
from kdtf.pruning.shrinking.tracing import trace


def mlp(*units, dtype="float32"):
    model = keras.Sequential([keras.Input((3,))])
    for number in units:
        model.add(layers.Dense(number, dtype=dtype))
    model.add(layers.Dense(2, name="head"))
    return model


def test_bytes_are_those_of_each_weights_own_type():
    plan = plan_shrink(mlp(8, dtype="float16"), 0.6, "bytes", round_to=1)
    # A unit: 3 weights and a bias of 2 bytes, 2 weights of 4 in the head.
    assert plan.cost == (8 * 16 + 8, 4 * 16 + 8)
    assert plan.parameters == (8 * 6 + 2, 4 * 6 + 2)


def test_times_are_taken_in_turn_and_the_medians_returned(monkeypatch):
    monkeypatch.setattr(latency, "_ROUNDS", 3)
    monkeypatch.setattr(latency, "_SECONDS", 0.0)
    now, called = [0.0], []

    def call(name, seconds):
        def run():
            called.append(name)
            now[0] += seconds[min(called.count(name) - 1, 5)]

        return run

    # Three calls warm up.
    slow = call("slow", [9, 9, 9, 4.0, 2.0, 3.0])
    fast = call("fast", [9, 9, 9, 1.0, 7.0, 1.5])
    found = latency.medians([slow, fast], clock=lambda: now[0])
    assert found == [3.0, 1.5]
    assert called == ["slow", "fast"] * 6


def test_a_model_takes_as_long_as_itself():
    model = mlp(256, 256)
    assert 0.5 < latency.RelativeLatency(model)(model) < 2.0


@pytest.mark.slow
def test_latency_falls_to_what_was_asked_for():
    plan = plan_shrink(mlp(1024, 1024, 1024), 0.5, "latency", round_to=64)
    assert plan.cost[0] == pytest.approx(1.0, abs=0.3)
    # Measured once more than when it was chosen.
    assert 0.2 < plan.cost[1] < 0.7
    assert plan.build().count_params() == plan.parameters[1]


@pytest.mark.slow
def test_latency_of_a_language_model_is_that_of_128_tokens():
    import keras_nlp

    model = keras_nlp.models.GPT2Backbone(
        vocabulary_size=50,
        num_layers=1,
        num_heads=2,
        hidden_dim=32,
        intermediate_dim=64,
        max_sequence_length=128,
    )
    runner = latency._runner(model)
    assert runner({name: np.ones((1, 128), "int32") for name in model.input})
    assert 0.5 < latency.RelativeLatency(model)(model) < 2.0


@pytest.mark.parametrize("keep", [0.7, 0.5, 0.3])
def test_what_is_left_is_within_2_percent_of_the_target(keep):
    for by in ("parameters", "macs", "bytes"):
        plan = plan_shrink(mlp(64, 96, 64), keep, by, round_to=1)
        assert 0.98 * keep <= plan.cost[1] / plan.cost[0] <= keep


@pytest.mark.parametrize("by", ["parameters", "macs"])
def test_no_channel_more_would_fit_into_the_target(by):
    reached = []
    for seed in range(10):
        model = random_model(seed)
        try:
            plan = plan_shrink(model, 0.6, by, round_to=1)
        except ValueError:
            # Nothing can go, or not so much.
            continue
        found = trace(model)
        roots = found.atoms.roots()
        costs = Costs(found, roots, model)
        kept = plan.removal.kept
        target = 0.6 * plan.cost[0]
        assert plan.cost[1] <= target
        for group in np.unique(roots[~kept]):
            assert costs(by, kept | (roots == group)) > target
        reached.append(plan.cost[1] / target)
    assert len(reached) >= 5
    # A single width of 6: each channel is a sixth of the cost.
    assert min(reached) > 0.8
    assert np.median(reached) > (0.9 if by == "macs" else 0.95)


def test_coarse_kinds_are_chosen_for_balance_and_the_finest_fills_up():
    heads, neurons = np.arange(1, 4), np.arange(1, 101)

    def cost(counts):
        return 30 * counts[0] + counts[1]

    # One head: 30 + 70, shares 1/3 and 0.7; two of them: 60 + 40, 2/3 and
    # 0.4, which is closer.
    assert balanced([heads, neurons], cost, target=100) == [2, 40]
    assert balanced([heads, neurons], cost, target=31) == [1, 1]
    assert balanced([heads, neurons], cost, target=190) == [3, 100]
    with pytest.raises(ValueError, match="smallest widths cost 31"):
        balanced([heads, neurons], cost, target=30)


def test_near_the_target_comes_before_balance():
    # Two blocks: 20, the half of what may be left; three: 30 of 35.
    blocks, width = np.arange(1, 5), np.array([5, 10])

    def cost(counts):
        return counts[0] * counts[1]

    assert balanced([blocks, width], cost, target=35) == [3, 10]
