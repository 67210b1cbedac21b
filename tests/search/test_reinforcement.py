import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from kdtf.search.reinforcement import Reinforcement
from kdtf.search.space import Choice
from kdtf.search.space import Space
from kdtf.search.strategies import Measured

SPACE = Space({"a": range(3), "b": ["x"], "c": range(2), "d": range(4)})


def trials_of(space, count, seed=0):
    rng = np.random.default_rng(seed)
    return [
        Measured(point=space.random(rng), reward=float(rng.normal()))
        for _ in range(count)
    ]


def gate():
    """A kernel size that only convolutions have."""
    return Space(
        {
            "op": ["pool", "conv"],
            "kernel": Choice([3, 5], when=lambda c: c["op"] == "conv"),
        }
    )


def policy(trials, space=SPACE, **settings):
    return Reinforcement(**settings).probabilities(space, trials)


def chi_square(counts, expected):
    counts, expected = np.asarray(counts), np.asarray(expected)
    return float(np.sum((counts - expected) ** 2 / expected))


def test_two_trials_by_hand():
    space = Space({"a": ["x", "y"]})
    trials = [
        Measured(point=(0,), reward=1.0),
        Measured(point=(1,), reward=5.0),
    ]
    # The first is its own average. The second is 0.9 * 4 over the new one,
    # the deviation sqrt(0.1) of that, so the advantage is 3.1623. Adam's first
    # moment is 0.1 g / (1 - 0.81), the second 0.001 g^2 / (1 - 0.998001), and
    # their ratio 0.74414 whatever g is. Logits of -+0.074414 follow.
    (found,) = policy(trials, space, entropy=0.0)
    assert found[1] == pytest.approx(1 / (1 + math.exp(-2 * 0.0744136)), 1e-6)
    (found,) = policy(trials, space, entropy=0.0, learning_rate=0.2)
    assert found[1] == pytest.approx(1 / (1 + math.exp(-4 * 0.0744136)), 1e-6)


def test_the_first_trial_teaches_nothing():
    for found, count in zip(
        policy(trials_of(SPACE, 1)), SPACE.counts, strict=True
    ):
        np.testing.assert_allclose(found, np.full(count, 1 / count), rtol=1e-7)


@pytest.mark.parametrize("entropy", [0.0, 0.7])
@pytest.mark.parametrize("advantage", [2.5, -0.4])
def test_gradient_is_that_of_the_objective(entropy, advantage):
    rng = np.random.default_rng(0)
    logits, taken = rng.normal(size=(2, 4)), (2, 0)
    exists = np.array([[True] * 4, [True] * 3 + [False]])

    def objective(values):
        total = 0.0
        for row, real, index in zip(values, exists, taken, strict=True):
            powers = np.exp(row[real])
            p = powers / powers.sum()
            total += advantage * np.log(p[index])
            total -= entropy * np.sum(p * np.log(p))
        return total

    expected = np.zeros((2, 4))
    for place in np.ndindex(2, 4):
        step = np.zeros((2, 4))
        step[place] = 1e-5
        expected[place] = (
            objective(logits + step) - objective(logits - step)
        ) / 2e-5
    found = Reinforcement(entropy=entropy)._gradient(
        np.where(exists, logits, -np.inf), taken, advantage
    )
    # What differences of 1e-5 leave: their square, and rounding over them.
    np.testing.assert_allclose(found, expected, atol=1e-9)


def advantages(rewards, keep):
    """The definition, with the averages written out as weighted sums."""
    found, deviations = [], []
    for n in range(len(rewards)):
        average = keep ** (n + 1) * rewards[0] + (1 - keep) * sum(
            keep ** (n - i) * rewards[i] for i in range(n + 1)
        )
        deviations.append(rewards[n] - average)
        variance = (1 - keep) * sum(
            keep ** (n - i) * deviations[i] ** 2 for i in range(n + 1)
        )
        found.append(deviations[n] / (math.sqrt(variance) + 1e-8))
    return found


@pytest.mark.parametrize("keep", [0.9, 0.0])
def test_policy_is_what_keras_adam_learns(keep):
    trials = trials_of(SPACE, 10)
    logits = [
        keras.Variable(np.zeros(n), dtype="float64") for n in SPACE.counts
    ]
    adam = keras.optimizers.Adam(0.3, epsilon=1e-8)
    scores = advantages([one.reward for one in trials], keep)
    for one, advantage in zip(trials, scores, strict=True):
        with tf.GradientTape() as tape:
            loss = 0.0
            for row, index in zip(logits, one.point, strict=True):
                log = tf.nn.log_softmax(tf.convert_to_tensor(row))
                entropy = -tf.reduce_sum(tf.exp(log) * log)
                loss -= advantage * log[index] + 0.05 * entropy
        values = [row.value for row in logits]
        adam.apply_gradients(
            zip(tape.gradient(loss, values), logits, strict=True)
        )
    found = policy(trials, learning_rate=0.3, baseline_decay=keep, entropy=0.05)
    for ours, row in zip(found, logits, strict=True):
        # Keras computes its rate in float32.
        np.testing.assert_allclose(
            ours, tf.nn.softmax(tf.convert_to_tensor(row)), rtol=1e-4
        )


def test_what_pays_grows_likely():
    trials = [
        Measured(
            point=(i % 3, 0, i % 2, i % 4), reward=float(i % 3 == 1) - i % 2
        )
        for i in range(120)
    ]
    a, b, c, d = policy(trials)
    assert a[1] > 0.9
    assert c[0] > 0.9
    assert b.tolist() == [1.0]
    # Options 0 and 2 of the last come with option 0 of the third.
    assert d[0] + d[2] > 0.9


def test_equal_rewards_teach_nothing():
    trials = [
        Measured(point=one.point, reward=0.7) for one in trials_of(SPACE, 40)
    ]
    for found, count in zip(policy(trials), SPACE.counts, strict=True):
        np.testing.assert_allclose(found, np.full(count, 1 / count), rtol=1e-5)


@pytest.mark.parametrize("scale, offset", [(100.0, 0.0), (0.01, 7.0)])
def test_units_of_the_reward_do_not_matter(scale, offset):
    trials = trials_of(SPACE, 20)
    other = [
        Measured(point=one.point, reward=scale * one.reward + offset)
        for one in trials
    ]
    for ours, theirs in zip(policy(trials), policy(other), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4)
    assert np.ptp(policy(trials)[0]) > 0.1


def test_choices_not_in_force_keep_their_policy():
    space = gate()
    learned = [
        Measured(point=(1, i % 2), reward=float(i % 2)) for i in range(12)
    ]
    pools = [Measured(point=(0, i % 2), reward=3.0 + i) for i in range(6)]
    before, after = policy(learned, space), policy(learned + pools, space)
    assert before[1][1] > 0.6
    # Nor does Adam's momentum move them.
    np.testing.assert_array_equal(before[1], after[1])
    assert after[0][0] > before[0][0] + 0.05


def test_a_choice_late_in_force_starts_as_any_other():
    space = gate()
    pools = [Measured(point=(0, 0), reward=0.0)] * 30
    first = [Measured(point=(1, 1), reward=1.0)]
    found = policy(pools + first, space, entropy=0.0)[1]
    # Adam's first step is the learning rate, up and down.
    assert found[1] == pytest.approx(1 / (1 + math.exp(-0.2)), rel=1e-6)


def test_entropy_keeps_the_policy_open():
    trials = [
        Measured(point=(i % 3, 0, 0, 0), reward=float(i % 3 == 1))
        for i in range(150)
    ]
    greedy, open_ = (
        policy(trials, entropy=entropy)[0][1] for entropy in (0.0, 2.0)
    )
    assert greedy > 0.95
    assert 0.34 < open_ < 0.8


def samples(trials, attempt, count=600):
    rng = np.random.default_rng(0)
    strategy = Reinforcement(warmup=1)
    return np.array(
        [
            strategy.propose(SPACE, trials, rng=rng, attempt=attempt)
            for _ in range(count)
        ]
    )


@pytest.mark.parametrize("attempt, temperature", [(0, 1), (10, 2), (30, 4)])
def test_proposals_follow_the_policy_flatter_when_refused(attempt, temperature):
    trials = trials_of(SPACE, 4)
    found = samples(trials, attempt)
    for place, row in enumerate(policy(trials)):
        flat = row ** (1 / temperature)
        counts = np.bincount(found[:, place], minlength=len(row))
        # 16.3 is the 99.9% quantile for 3 degrees of freedom, the most here.
        expected = len(found) * flat / flat.sum()
        assert chi_square(counts, expected) < 16.3


def test_choices_are_drawn_apart():
    found = samples(trials_of(SPACE, 4), 0)
    counts = np.zeros((3, 4))
    np.add.at(counts, (found[:, 0], found[:, 3]), 1)
    expected = np.outer(counts.sum(1), counts.sum(0)) / counts.sum()
    # The 99.9% quantile for 6 degrees of freedom.
    assert chi_square(counts, expected) < 22.5


def test_the_first_trials_are_random():
    trials = trials_of(SPACE, 10)
    for seed in range(5):
        found = Reinforcement(warmup=11).propose(
            SPACE, trials, rng=np.random.default_rng(seed)
        )
        assert found == SPACE.random(np.random.default_rng(seed))
    # From then on the policy is asked.
    settled = [
        Measured(point=(i % 3, 0, 0, 0), reward=float(i % 3 == 1))
        for i in range(150)
    ]
    rng = np.random.default_rng(0)
    found = [
        Reinforcement(warmup=150).propose(SPACE, settled, rng=rng)[0]
        for _ in range(20)
    ]
    assert found.count(1) > 15


@pytest.mark.parametrize(
    "arguments, match",
    [
        ({"warmup": 0}, "`warmup`.*Received: warmup=0"),
        ({"learning_rate": 0.0}, "`learning_rate`.*: learning_rate=0.0"),
        ({"learning_rate": math.nan}, "Received: learning_rate=nan"),
        ({"baseline_decay": 1.0}, "Received: .*baseline_decay=1.0"),
        ({"baseline_decay": -0.1}, "Received: .*baseline_decay=-0.1"),
        ({"entropy": -0.1}, "Received: .*entropy=-0.1"),
        ({"entropy": math.nan}, "Received: .*entropy=nan"),
    ],
)
def test_bad_settings_are_refused(arguments, match):
    with pytest.raises(ValueError, match=match):
        Reinforcement(**arguments)
