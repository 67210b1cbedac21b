"""What holds for every soft loss in the table, a new one included."""

import numpy as np
import pytest

from kdtf.distillation import losses


def values_of(name, teacher, student):
    """Returns a loss's values at T = 2, with label 0 for all if it asks."""
    return losses.per_sample(
        losses.get(name),
        teacher,
        student,
        temperature=2.0,
        head="softmax",
        labels=np.zeros(np.shape(teacher)[:-1], "int32"),
    )


EVERY_LOSS = pytest.mark.parametrize("name", sorted(losses.LOSSES))


@EVERY_LOSS
def test_shape_and_dtype(name, rng):
    teacher, student = rng.normal(size=(2, 3, 4, 5)).astype("float16")
    values = values_of(name, teacher, student)
    assert values.shape == (3, 4) and values.dtype == "float32"


@EVERY_LOSS
def test_nothing_to_learn_from_oneself(name, rng):
    logits = rng.normal(size=(6, 5)).astype("float32")
    values = values_of(name, logits, logits)
    np.testing.assert_allclose(values, np.zeros(6), atol=1e-5)


@EVERY_LOSS
def test_every_other_student_pays(name, rng):
    teacher, student = rng.normal(size=(2, 50, 5)).astype("float32")
    values = values_of(name, teacher, student)
    assert float(np.min(values)) > 1e-4


@EVERY_LOSS
def test_gradient_reaches_the_student(name, rng):
    import tensorflow as tf

    teacher = rng.normal(size=(4, 5)).astype("float32")
    student = tf.Variable(rng.normal(size=(4, 5)).astype("float32"))
    before = float(np.sum(values_of(name, teacher, student)))
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(values_of(name, teacher, student))
    student.assign_sub(0.05 * tape.gradient(total, student))
    assert float(np.sum(values_of(name, teacher, student))) < before


@EVERY_LOSS
def test_order_of_samples_does_not_matter(name, rng):
    teacher, student = rng.normal(size=(2, 6, 5)).astype("float32")
    order = rng.permutation(6)
    np.testing.assert_allclose(
        np.asarray(values_of(name, teacher, student))[order],
        values_of(name, teacher[order], student[order]),
        rtol=1e-5,
        atol=1e-6,
    )
