"""Mixtures of teachers: by hand, against NumPy, and what is refused."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from kdtf.distillation import losses
from kdtf.distillation import mixtures

SPACES = pytest.mark.parametrize("space", ["probabilities", "logits"])


def softmax(logits, temperature=1.0):
    scaled = np.asarray(logits, "float64") / temperature
    weights = np.exp(scaled - scaled.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def sigmoid(logits):
    return 1 / (1 + np.exp(-np.asarray(logits, "float64")))


def test_probabilities_by_hand():
    # 3/4 (0.9, 0.1) + 1/4 (0.1, 0.9) = (0.7, 0.3); the weights sum to 4.
    mixed = mixtures.mix([np.log([[0.9, 0.1]]), np.log([[0.1, 0.9]])], [3, 1])
    np.testing.assert_allclose(mixed, np.log([[0.7, 0.3]]), atol=1e-6)


def test_logits_by_hand():
    mixed = mixtures.mix([[[4.0, 0.0]], [[0.0, 8.0]]], [3, 1], space="logits")
    np.testing.assert_allclose(mixed, [[3.0, 2.0]])


def test_equal_weights_are_the_default():
    mixed = mixtures.mix([[[4.0]], [[1.0]], [[1.0]]], space="logits")
    np.testing.assert_allclose(mixed, [[2.0]], rtol=1e-6)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("shape", [(5, 7), (2, 3, 4)])
def test_softened_mixture_is_the_mixture_of_the_softened(
    temperature, shape, rng
):
    teachers = rng.normal(scale=3, size=(3, *shape))
    weights = [0.2, 0.3, 0.5]
    mixed = mixtures.mix(list(teachers), weights, temperature=temperature)
    assert mixed.dtype == "float32" and tuple(mixed.shape) == shape
    expected = np.tensordot(weights, softmax(teachers, temperature), 1)
    np.testing.assert_allclose(
        softmax(mixed, temperature), expected, rtol=1e-5, atol=1e-7
    )


def test_loss_of_the_mixture_is_the_loss_of_the_mean_probabilities(rng):
    teachers, student = rng.normal(size=(2, 4, 6)), rng.normal(size=(4, 6))
    mixed = mixtures.mix(list(teachers), temperature=3.0)
    mean, q = softmax(teachers, 3.0).mean(0), softmax(student, 3.0)
    np.testing.assert_allclose(
        losses.kl_divergence(mixed, student, temperature=3.0),
        9 * (mean * np.log(mean / q)).sum(-1),
        rtol=1e-4,
    )


def test_each_example_has_its_own_weights_for_all_its_tokens(rng):
    teachers = rng.normal(size=(2, 3, 4, 5))
    # The rows sum to 4, 1 and 2.
    weights = np.array([[3.0, 1.0], [0.5, 0.5], [0.0, 2.0]])
    shares = np.array([[0.75, 0.25], [0.5, 0.5], [0.0, 1.0]])
    mixed = mixtures.mix(list(teachers), weights, temperature=2.0)
    expected = np.einsum("bn,nbtc->btc", shares, softmax(teachers, 2.0))
    np.testing.assert_allclose(softmax(mixed, 2.0), expected, rtol=1e-5)
    mixed = mixtures.mix(list(teachers), tf.constant(weights), space="logits")
    expected = np.einsum("bn,nbtc->btc", shares, teachers)
    np.testing.assert_allclose(mixed, expected, rtol=1e-5, atol=1e-6)


@SPACES
def test_one_hot_rows_choose_a_teacher(space, rng):
    teachers = rng.normal(size=(2, 3, 5)).astype("float32")
    # A class that only the other teacher masks stays as it is.
    teachers[1, 0, 2], teachers[0, 1, 4] = -np.inf, -np.inf
    chosen = [0, 1, 0]
    mixed = mixtures.mix(list(teachers), np.eye(2)[chosen], space=space)
    np.testing.assert_allclose(
        softmax(mixed),
        [softmax(teachers[t, row]) for row, t in enumerate(chosen)],
        rtol=1e-5,
    )


@SPACES
def test_one_teacher_is_itself(space, rng):
    logits = rng.normal(size=(3, 5))
    mixed = mixtures.mix([logits], [7.0], temperature=2.0, space=space)
    np.testing.assert_allclose(
        softmax(mixed, 2.0), softmax(logits, 2.0), rtol=1e-6
    )


def test_class_masked_by_all_stays_masked_and_by_one_does_not(rng):
    pair = np.array([[[0.0, 1.0, -np.inf]], [[1.0, -np.inf, -np.inf]]])
    mixed = np.asarray(mixtures.mix(pair, [0.5, 0.5]))
    np.testing.assert_array_equal(np.isfinite(mixed), [[True, True, False]])
    # The second opinion of the first: half of sigmoid(1).
    np.testing.assert_allclose(np.exp(mixed[0, 1]), sigmoid(1.0) / 2, rtol=1e-6)
    # In the space of logits one teacher's veto is enough.
    mixed = np.asarray(mixtures.mix(pair, [0.5, 0.5], space="logits"))
    np.testing.assert_array_equal(mixed, [[0.5, -np.inf, -np.inf]])


@SPACES
def test_nan_of_a_teacher_is_not_hidden(space):
    mixed = mixtures.mix([[[np.nan, 0.0]], [[0.0, 0.0]]], space=space)
    assert np.isnan(np.asarray(mixed)[0, 0])


@pytest.mark.parametrize("space", ["probabilities", "logits"])
def test_row_of_zeros_gives_nan_in_its_example_only(space):
    mixed = mixtures.mix(
        [np.ones((2, 3)), np.zeros((2, 3))],
        np.array([[0.0, 0.0], [1.0, 1.0]]),
        space=space,
    )
    np.testing.assert_array_equal(np.isnan(mixed), [[True] * 3, [False] * 3])


@pytest.mark.parametrize("weights", [[3, 1], np.array([[3.0, 1.0]] * 4)])
def test_sigmoids_are_mixed_label_by_label(weights, rng):
    teachers = rng.normal(scale=2, size=(2, 4, 3))
    mixed = mixtures.mix(
        list(teachers), weights, temperature=2.0, head="sigmoid"
    )
    assert tuple(mixed.shape) == (4, 3)
    expected = 0.75 * sigmoid(teachers[0] / 2) + 0.25 * sigmoid(teachers[1] / 2)
    np.testing.assert_allclose(
        sigmoid(np.asarray(mixed) / 2), expected, rtol=1e-5
    )
    mixed = mixtures.mix(
        list(teachers), weights, space="logits", head="sigmoid"
    )
    np.testing.assert_allclose(
        mixed, 0.75 * teachers[0] + 0.25 * teachers[1], rtol=1e-5, atol=1e-6
    )


def test_sure_sigmoids_do_not_overflow():
    # (1 + e^-200) / 2 for both: sigmoid(200) and its opposite, at odds.
    mixed = mixtures.mix([[[200.0]], [[-200.0]]], head="sigmoid")
    np.testing.assert_allclose(mixed, [[0.0]], atol=1e-6)
    mixed = mixtures.mix([[[200.0]], [[200.0]]], head="sigmoid")
    np.testing.assert_allclose(mixed, [[200.0]], rtol=1e-6)


def test_half_precision_is_mixed_in_float32(rng):
    teachers = rng.normal(scale=50, size=(2, 3, 40)).astype("float16")
    mixed = mixtures.mix(list(teachers), [0.5, 0.5])
    assert mixed.dtype == "float32"
    np.testing.assert_allclose(
        softmax(mixed), softmax(teachers).mean(0), rtol=1e-4, atol=1e-9
    )


def test_sizes_are_free_inside_a_graph(rng):
    logits, rows = tf.TensorSpec((None, None, 5)), tf.TensorSpec((None, 2))

    @tf.function(input_signature=[logits, logits, rows])
    def run(first, second, weights):
        return mixtures.mix(
            [first, second], weights, temperature=tf.constant(2.0)
        )

    teachers = rng.normal(size=(2, 3, 4, 5)).astype("float32")
    weights = rng.uniform(size=(3, 2)).astype("float32")
    np.testing.assert_allclose(
        run(*teachers, weights),
        mixtures.mix(list(teachers), weights, temperature=2.0),
        rtol=1e-6,
    )


@settings(max_examples=30, deadline=None)
@given(
    weights=st.lists(st.floats(0.01, 100), min_size=1, max_size=4),
    temperature=st.floats(0.25, 20),
)
def test_mixture_lies_between_its_teachers(weights, temperature):
    rng = np.random.default_rng(len(weights))
    teachers = rng.normal(scale=3, size=(len(weights), 2, 6))
    mixed = mixtures.mix(list(teachers), weights, temperature=temperature)
    each, p = softmax(teachers, temperature), softmax(mixed, temperature)
    assert (p <= each.max(0) * 1.0001 + 1e-9).all()
    assert (p >= each.min(0) * 0.9999 - 1e-9).all()


def test_weights_are_made_to_sum_to_one():
    assert mixtures.check_mixture([2, 6, 0], 3) == (0.25, 0.75, 0.0)
    assert mixtures.check_mixture(None, 4, "logits") == (0.25,) * 4
    assert mixtures.check_mixture(np.array([1.0, 1.0]), 2) == (0.5, 0.5)


@pytest.mark.parametrize(
    "weights",
    [[0.0, 0.0], [1.0, -0.5], [float("nan"), 1.0], [float("inf"), 1.0]],
)
def test_weights_that_are_none_are_refused(weights):
    with pytest.raises(ValueError, match=r"`weights`.*>= 0.*Received.*\["):
        mixtures.check_mixture(weights, 2)
    with pytest.raises(ValueError, match="`weights`"):
        mixtures.mix([[[0.0]], [[0.0]]], weights)


def test_wrong_number_of_weights_is_refused():
    with pytest.raises(ValueError, match=r"`weights`.*\[1, 2, 3\].*2 teachers"):
        mixtures.check_mixture([1, 2, 3], 2)
    with pytest.raises(ValueError, match=r"column.*\(1, 3\), for 2 teachers"):
        mixtures.mix([[[0.0]], [[0.0]]], np.ones((1, 3)))


def test_no_teacher_and_another_space_are_refused():
    with pytest.raises(ValueError, match=r"`teachers`.*0 teachers"):
        mixtures.check_mixture(None, 0)
    with pytest.raises(ValueError, match=r"`space`.*'odds'"):
        mixtures.check_mixture(None, 2, "odds")
    with pytest.raises(ValueError, match=r"`space`.*'odds'"):
        mixtures.mix([[[0.0]]], np.ones((1, 1)), space="odds")


def test_teachers_of_other_classes_are_refused():
    with pytest.raises(
        ValueError, match=r"`logits`.*\(1, 2\), \(1, 3\).*'uld'"
    ):
        mixtures.mix([np.zeros((1, 2)), np.zeros((1, 3))])
