"""The newer soft losses against formulas in float64, and at their edges."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from kdtf.distillation import losses

LABELS = np.array([2, 0, 4])


def softmax(logits, temperature):
    scaled = np.asarray(logits, "float64") / temperature
    weights = np.exp(scaled - scaled.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def kl(p, q):
    return np.where(p > 0, p * np.log(np.where(p > 0, p / q, 1)), 0).sum(-1)


def numpy_skew(p, q, t):
    return t**2 * kl(p, 0.1 * p + 0.9 * q)


def numpy_decoupled(p, q, t):
    """As the paper writes it: cut the label out, and renormalise."""
    labels = np.resize(LABELS, p.shape[:-1])
    values = np.empty(p.shape[:-1])
    for index, label in np.ndenumerate(labels):
        (a, b), (c, d) = (
            (x[index][label], np.delete(x[index], label)) for x in (p, q)
        )
        values[index] = kl(np.array([a, 1 - a]), np.array([c, 1 - c]))
        values[index] += 8 * kl(b / b.sum(), d / d.sum())
    return t**2 * values


def numpy_relational(p, q, t):
    rows, others = (x.reshape(-1, x.shape[-1]) for x in (p, q))

    def one_minus_r(a, b):
        return 1 - np.corrcoef(a, b)[0, 1]

    samples = [one_minus_r(rows[i], others[i]) for i in range(len(rows))]
    columns = range(p.shape[-1])
    classes = [one_minus_r(rows[:, i], others[:, i]) for i in columns]
    inter, intra = np.array(samples), np.mean(classes)
    return t**2 * (inter + intra).reshape(p.shape[:-1])


NUMPY = {
    "skew_kl": numpy_skew,
    "skew_reverse_kl": lambda p, q, t: numpy_skew(q, p, t),
    "dkd": numpy_decoupled,
    "dist": numpy_relational,
    "tvd": lambda p, q, t: t * abs(p - q).sum(-1) / 2,
    "uld": lambda p, q, t: t * abs(np.sort(p) - np.sort(q)).sum(-1),
}
EVERY_LOSS = pytest.mark.parametrize("name", sorted(NUMPY))
# Of all these a class masked with -inf is a class of probability 0; the
# correlations count it, the others do not.
SUMS = sorted(set(NUMPY) - {"dist"})


def expected_values(name, teacher, student, temperature):
    p, q = (softmax(z, temperature) for z in (teacher, student))
    return NUMPY[name](p, q, temperature)


def values_of(name, teacher, student, temperature=1.0):
    loss = losses.get(name)
    if losses.has_trait(loss, "needs_labels"):
        labels = np.resize(LABELS, np.shape(teacher)[:-1])
        loss = functools.partial(loss, labels=labels)
    return loss(teacher, student, temperature=temperature)


def gradients_of(name, teacher, student, temperature=1.0):
    pair = [tf.Variable(np.asarray(z, "float32")) for z in (teacher, student)]
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(values_of(name, *pair, temperature))
    return [g.numpy() for g in tape.gradient(total, pair)]


@EVERY_LOSS
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0])
@pytest.mark.parametrize("shape", [(5, 7), (2, 3, 11), (4, 5)])
def test_equals_the_formula_in_float64(name, temperature, shape, rng):
    teacher, student = rng.normal(scale=3, size=(2, *shape))
    value = values_of(name, teacher, student, temperature)
    assert value.dtype == "float32" and tuple(value.shape) == shape[:-1]
    # float32 probabilities carry 1e-7 of relative error; T^2 multiplies.
    np.testing.assert_allclose(
        value,
        expected_values(name, teacher, student, temperature),
        rtol=3e-5,
        atol=5e-6 * max(1, temperature**2),
    )


@EVERY_LOSS
def test_gradient_equals_differences_of_the_formula(name, rng):
    pair = rng.normal(size=(2, 3, 5)).astype("float32")
    found = gradients_of(name, *pair, 2.0)
    for which in (0, 1):
        expected = np.zeros((3, 5))
        for index in np.ndindex(3, 5):
            ends = []
            for step in (1e-5, -1e-5):
                moved = [z.astype("float64") for z in pair]
                moved[which][index] += step
                ends.append(expected_values(name, *moved, 2.0).sum())
            expected[index] = (ends[0] - ends[1]) / 2e-5
        assert abs(expected).max() > 1e-3
        np.testing.assert_allclose(found[which], expected, rtol=1e-5, atol=3e-5)


@EVERY_LOSS
def test_oneself_costs_nothing_and_teaches_nothing(name, rng):
    logits = rng.normal(scale=4, size=(6, 5)).astype("float32")
    # log(0.1 p + 0.9 p) differs from log p by the last bit.
    np.testing.assert_allclose(values_of(name, logits, logits), 0, atol=2e-6)
    for gradient in gradients_of(name, logits, logits):
        np.testing.assert_allclose(gradient, 0.0, atol=1e-6)


@EVERY_LOSS
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_computed_in_float32(name, dtype, rng):
    pair = [
        keras.ops.cast(z, dtype) for z in rng.normal(scale=20, size=(2, 9, 50))
    ]
    as_double = [
        keras.ops.convert_to_numpy(keras.ops.cast(z, "float64")) for z in pair
    ]
    np.testing.assert_allclose(
        values_of(name, *pair, 4.0),
        expected_values(name, *as_double, 4.0),
        rtol=1e-4,
        atol=1e-4,
    )


@EVERY_LOSS
@pytest.mark.parametrize("which", [0, 1])
def test_nan_is_not_hidden_whichever_class_and_model_has_it(name, which, rng):
    for column in range(5):
        pair = rng.normal(size=(2, 1, 5)).astype("float32")
        pair[which, 0, column] = np.nan
        assert np.isnan(values_of(name, *pair)).all(), column


@pytest.mark.parametrize("name", SUMS)
def test_class_masked_with_minus_infinity_takes_no_part(name, rng):
    teacher, student = rng.normal(size=(2, 3, 5)).astype("float32")
    mask = np.full((3, 2), -np.inf, "float32")
    masked = [np.concatenate([z, mask], -1) for z in (teacher, student)]
    np.testing.assert_allclose(
        values_of(name, *masked), values_of(name, teacher, student), rtol=1e-5
    )


@pytest.mark.parametrize("name", [*sorted(NUMPY), "jensen_shannon"])
def test_gradient_at_a_masked_class_is_zero_and_not_nan(name, rng):
    teacher, student = rng.normal(size=(2, 3, 5)).astype("float32")
    # All of the second row's classes but its label, 0, are masked.
    teacher[:, 3], student[:, 3] = -np.inf, -np.inf
    teacher[1, 1:], student[1, 1:] = -np.inf, -np.inf
    assert np.isfinite(values_of(name, teacher, student)).all()
    for gradient in gradients_of(name, teacher, student):
        assert np.isfinite(gradient).all()
        np.testing.assert_array_equal(gradient[:, 3], 0.0)
        assert abs(gradient).max() > 1e-3


@EVERY_LOSS
def test_one_class_costs_nothing_where_there_is_no_choice(name):
    values = values_of(name, [[3.0], [1.0]], [[2.0], [5.0]])
    np.testing.assert_allclose(values, 0.0, atol=1e-7)


@EVERY_LOSS
def test_empty_batch_gives_no_value(name):
    empty = np.zeros((0, 4, 5), "float32")
    assert values_of(name, empty, empty).shape == (0, 4)


@EVERY_LOSS
def test_sizes_are_free_inside_a_graph(name, rng):
    spec = tf.TensorSpec((None, None, 5))

    @tf.function(input_signature=[spec, spec])
    def run(teacher, student):
        loss = losses.get(name)
        if name == "dkd":
            ids = tf.zeros(tf.shape(student)[:-1], "int32")
            loss = functools.partial(loss, labels=ids)
        return loss(teacher, student, temperature=tf.constant(2.0))

    for shape in ((2, 3, 5), (4, 1, 5)):
        pair = rng.normal(size=(2, *shape)).astype("float32")
        loss = losses.get(name)
        if name == "dkd":
            loss = functools.partial(loss, labels=np.zeros(shape[:-1]))
        np.testing.assert_allclose(
            run(*pair), loss(*pair, temperature=2.0), rtol=1e-5, atol=1e-6
        )


@EVERY_LOSS
def test_offset_of_logits_changes_nothing(name, rng):
    teacher, student = rng.normal(size=(2, 4, 6)).astype("float32")
    np.testing.assert_allclose(
        values_of(name, teacher - 50, student + 50),
        values_of(name, teacher, student),
        atol=1e-4,
    )


@EVERY_LOSS
@settings(max_examples=20, deadline=None)
@given(
    logits=st_numpy.arrays(
        "float32", (2, 4, 5), elements=st.floats(-30, 30, width=32)
    )
)
def test_never_negative_and_zero_for_oneself(name, logits):
    teacher, student = logits
    # Log-probabilities of -30 carry 2e-6; DKD multiplies by 8, and T^2 by 4.
    assert float(np.min(values_of(name, teacher, student, 2.0))) >= -2e-4
    np.testing.assert_allclose(
        values_of(name, teacher, teacher, 2.0), 0.0, atol=2e-4
    )
