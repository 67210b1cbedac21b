"""Soft losses: by hand, against NumPy in float64, and at the edges."""

import functools

import keras
import numpy as np
import pytest

from kdtf.distillation import losses

KL_HEADS = [
    losses.kl_divergence,
    losses.reverse_kl_divergence,
    losses.jensen_shannon_divergence,
]


def log_softmax(logits, temperature):
    scaled = np.asarray(logits, "float64") / temperature
    scaled = scaled - scaled.max(-1, keepdims=True)
    return scaled - np.log(np.exp(scaled).sum(-1, keepdims=True))


def numpy_kl(a, b, temperature):
    p, q = log_softmax(a, temperature), log_softmax(b, temperature)
    return temperature**2 * (np.exp(p) * (p - q)).sum(-1)


def numpy_jensen_shannon(a, b, temperature, beta=0.5):
    p, q = log_softmax(a, temperature), log_softmax(b, temperature)
    m = np.logaddexp(p + np.log(beta), q + np.log(1 - beta))
    total = beta * np.exp(p) * (p - m) + (1 - beta) * np.exp(q) * (q - m)
    return temperature**2 * total.sum(-1)


NUMPY = {
    "kl": numpy_kl,
    "reverse_kl": lambda a, b, t: numpy_kl(b, a, t),
    "jensen_shannon": numpy_jensen_shannon,
    "mse": lambda a, b, t: ((a - b) ** 2).mean(-1),
}


def test_kl_of_two_classes_by_hand():
    # softmax([log 3, 0]) = (3/4, 1/4) against (1/2, 1/2):
    # 3/4 log(3/2) + 1/4 log(1/2) = 0.304099 - 0.173287 = 0.130812
    value = losses.kl_divergence([[np.log(3.0), 0.0]], [[0.0, 0.0]])
    np.testing.assert_allclose(value, [0.130812], atol=1e-6)


def test_reverse_kl_of_two_classes_by_hand():
    # 1/2 log(2/3) + 1/2 log 2 = -0.202733 + 0.346574 = 0.143841
    value = losses.reverse_kl_divergence([[np.log(3.0), 0.0]], [[0.0, 0.0]])
    np.testing.assert_allclose(value, [0.143841], atol=1e-6)


def test_temperature_two_by_hand():
    # At T = 2 the logits [2 log 3, 0] soften to (3/4, 1/4); the factor is 4.
    value = losses.kl_divergence(
        [[2 * np.log(3.0), 0.0]], [[0.0, 0.0]], temperature=2.0
    )
    np.testing.assert_allclose(value, [4 * 0.130812], atol=1e-5)


def test_jensen_shannon_of_disjoint_distributions_is_log_two():
    value = losses.jensen_shannon_divergence([[90.0, 0.0]], [[0.0, 90.0]])
    np.testing.assert_allclose(value, [np.log(2.0)], atol=1e-6)


def test_mse_by_hand_ignores_temperature():
    value = losses.mean_squared_logits(
        [[1.0, 2.0, 3.0]], [[0.0, 2.0, 5.0]], temperature=7.0
    )
    np.testing.assert_allclose(value, [5.0 / 3.0], rtol=1e-6)


@pytest.mark.parametrize("name", sorted(NUMPY))
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0])
@pytest.mark.parametrize("shape", [(5, 7), (2, 3, 11), (4, 2)])
def test_every_loss_equals_numpy_in_float64(name, temperature, shape, rng):
    teacher, student = rng.normal(scale=3, size=(2, *shape))
    value = losses.get(name)(teacher, student, temperature=temperature)
    expected = NUMPY[name](teacher, student, temperature)
    assert value.dtype == "float32" and tuple(value.shape) == shape[:-1]
    # float32 log-probabilities of size ~10 carry 1e-6 each; T^2 multiplies.
    np.testing.assert_allclose(
        value, expected, rtol=2e-5, atol=2e-6 * max(1, temperature**2)
    )


@pytest.mark.parametrize("loss", KL_HEADS)
def test_offset_of_logits_changes_nothing(loss, rng):
    teacher, student = rng.normal(size=(2, 4, 6)).astype("float32")
    np.testing.assert_allclose(
        loss(teacher - 50, student + 50), loss(teacher, student), atol=1e-4
    )


@pytest.mark.parametrize("loss", KL_HEADS)
def test_equal_logits_cost_nothing_and_all_negative_ones_something(loss):
    # keras.distillation 3.15.1 clips raw logits: it gives 0 for this pair.
    teacher, student = [[-1.0, -2.0, -3.0]], [[-3.0, -2.0, -1.0]]
    np.testing.assert_allclose(loss(teacher, teacher), [0.0], atol=1e-6)
    assert float(loss(teacher, student)[0]) > 0.2


@pytest.mark.parametrize("loss", [*KL_HEADS, losses.mean_squared_logits])
def test_one_class_costs_nothing_where_there_is_no_choice(loss):
    value = loss([[3.0]], [[3.0]])
    np.testing.assert_allclose(value, [0.0], atol=1e-7)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", sorted(NUMPY))
def test_half_precision_is_computed_in_float32(name, dtype, rng):
    # Logits of 200 overflow float16 once exponentiated or squared and summed.
    teacher = keras.ops.cast(rng.normal(scale=200, size=(3, 50)), dtype)
    student = keras.ops.cast(rng.normal(scale=200, size=(3, 50)), dtype)
    value = losses.get(name)(teacher, student, temperature=1.0)
    as_double = [
        keras.ops.convert_to_numpy(keras.ops.cast(z, "float64"))
        for z in (teacher, student)
    ]
    expected = NUMPY[name](*as_double, 1.0)
    np.testing.assert_allclose(value, expected, rtol=1e-5)


@pytest.mark.parametrize("name", sorted(NUMPY))
def test_nan_is_not_hidden(name):
    value = losses.get(name)([[np.nan, 0.0]], [[0.0, 0.0]], temperature=1.0)
    assert np.isnan(np.asarray(value)).all()


@pytest.mark.parametrize("loss", KL_HEADS)
def test_class_masked_with_minus_infinity_takes_no_part(loss):
    teacher, student = [[1.0, 0.0]], [[0.0, 2.0]]
    masked = loss([[1.0, 0.0, -np.inf]], [[0.0, 2.0, -np.inf]])
    np.testing.assert_allclose(masked, loss(teacher, student), rtol=1e-6)


def test_gradient_is_t_times_the_difference_of_softened_outputs(rng):
    # d/ds of T^2 KL(p || softmax(s/T)) = T (softmax(s/T) - p), Hinton eq. 2.
    import tensorflow as tf

    teacher = rng.normal(size=(3, 5)).astype("float32")
    student = tf.Variable(rng.normal(size=(3, 5)).astype("float32"))
    with tf.GradientTape() as tape:
        values = losses.kl_divergence(teacher, student, temperature=4.0)
        total = tf.reduce_sum(values)
    p = np.exp(log_softmax(teacher, 4.0))
    q = np.exp(log_softmax(student.numpy(), 4.0))
    np.testing.assert_allclose(
        tape.gradient(total, student), 4.0 * (q - p), atol=1e-5
    )


@pytest.mark.parametrize("loss", KL_HEADS)
def test_gradients_equal_finite_differences(loss, rng):
    import tensorflow as tf

    teacher, student = rng.normal(size=(2, 3, 5)).astype("float32")
    t, s = tf.Variable(teacher), tf.Variable(student)
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(loss(t, s, temperature=2.0))
    found = tape.gradient(total, [t, s])
    name = next(n for n, f in losses.LOSSES.items() if f is loss)
    for which in (0, 1):
        expected = np.zeros((3, 5))
        for index in np.ndindex(3, 5):
            ends = []
            for step in (1e-5, -1e-5):
                pair = [teacher.astype("float64"), student.astype("float64")]
                pair[which][index] += step
                ends.append(NUMPY[name](*pair, 2.0).sum())
            expected[index] = (ends[0] - ends[1]) / 2e-5
        np.testing.assert_allclose(found[which], expected, atol=1e-5)


@pytest.mark.parametrize("loss", KL_HEADS[:2])
def test_gradient_at_a_masked_class_is_zero_and_not_nan(loss):
    import tensorflow as tf

    t = tf.Variable([[1.0, 0.0, -np.inf]])
    s = tf.Variable([[0.0, 2.0, -np.inf]])
    with tf.GradientTape() as tape:
        total = loss(t, s)
    for gradient in tape.gradient(total, [t, s]):
        assert np.isfinite(gradient).all() and float(gradient[0, 2]) == 0.0


def test_jensen_shannon_tends_to_the_two_kls(rng):
    teacher, student = rng.normal(size=(2, 4, 6)).astype("float32")
    near_zero = losses.jensen_shannon_divergence(teacher, student, beta=1e-3)
    near_one = losses.jensen_shannon_divergence(teacher, student, beta=0.999)
    # The limit is reached to first order in beta; float32 noise is 1e-7/1e-3.
    np.testing.assert_allclose(
        np.asarray(near_zero) / 1e-3,
        losses.kl_divergence(teacher, student),
        rtol=0.02,
        atol=2e-3,
    )
    np.testing.assert_allclose(
        np.asarray(near_one) / 1e-3,
        losses.reverse_kl_divergence(teacher, student),
        rtol=0.02,
        atol=2e-3,
    )


def test_jensen_shannon_object_holds_its_beta(rng):
    teacher, student = rng.normal(size=(2, 4, 6)).astype("float32")
    loss = losses.JensenShannonDivergence(beta=0.1)
    np.testing.assert_allclose(
        loss(teacher, student, temperature=2.0),
        numpy_jensen_shannon(teacher, student, 2.0, beta=0.1),
        rtol=1e-4,
        atol=1e-6,
    )
    config = keras.saving.serialize_keras_object(loss)
    assert keras.saving.deserialize_keras_object(config) == loss


@pytest.mark.parametrize("beta", [0.0, 1.0, -0.1])
def test_beta_outside_the_open_interval_is_refused(beta):
    with pytest.raises(ValueError, match=rf"`beta`.*beta={beta}.*reverse_kl"):
        losses.JensenShannonDivergence(beta=beta)
    with pytest.raises(ValueError, match="`beta`"):
        losses.jensen_shannon_divergence([[0.0]], [[0.0]], beta=beta)


def bernoulli_kl(p, q):
    return p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_sigmoid_head_is_the_mean_of_bernoulli_divergences(temperature, rng):
    teacher, student = rng.normal(size=(2, 4, 3))
    value = losses.per_sample(
        losses.kl_divergence,
        teacher,
        student,
        temperature=temperature,
        head="sigmoid",
    )
    p, q = (1 / (1 + np.exp(-z / temperature)) for z in (teacher, student))
    expected = temperature**2 * bernoulli_kl(p, q).mean(-1)
    np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-6)


def test_sigmoid_head_leaves_the_mean_square_of_logits_alone():
    value = losses.per_sample(
        losses.mean_squared_logits,
        [[1.0, 2.0]],
        [[0.0, 4.0]],
        temperature=1.0,
        head="sigmoid",
    )
    np.testing.assert_allclose(value, [2.5])


def test_get_takes_names_and_functions_and_lists_what_it_knows():
    mine = functools.partial(losses.jensen_shannon_divergence, beta=0.3)
    assert losses.get(mine) is mine
    assert losses.get("kl") is losses.kl_divergence
    with pytest.raises(ValueError, match=r"'jensen_shannon', 'kl'.*'l2'"):
        losses.get("l2")
