"""Where keras.distillation is right, kdtf computes the same.

`LogitsDistillation()` with its default loss compares clipped raw logits; with
`loss=keras.losses.KLDivergence()` it is the distillation loss. The default is
pinned here too: when Keras mends it, the benchmark may drop its workaround.
"""

import keras
import numpy as np
import pytest

import kdtf
from kdtf.distillation import losses

KLDivergence = keras.losses.KLDivergence
LogitsDistillation = keras.distillation.LogitsDistillation
SparseCE = keras.losses.SparseCategoricalCrossentropy


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0, 10.0])
@pytest.mark.parametrize("shape", [(8, 3), (4, 50), (2, 6, 20)])
def test_kl_equals_keras_with_the_loss_object(temperature, shape, rng):
    teacher, student = rng.normal(scale=2, size=(2, *shape)).astype("float32")
    theirs = LogitsDistillation(temperature=temperature, loss=KLDivergence())
    ours = losses.kl_divergence(teacher, student, temperature=temperature)
    # Keras clips probabilities at 1e-7, far below any here.
    np.testing.assert_allclose(
        np.mean(ours), theirs.compute_loss(teacher, student), rtol=1e-4
    )


def test_keras_default_loss_is_still_another_one():
    teacher = np.array([[-1.0, -2.0, -3.0]], "float32")
    student = np.array([[-3.0, -2.0, -1.0]], "float32")
    theirs = LogitsDistillation(temperature=1.0).compute_loss(teacher, student)
    np.testing.assert_allclose(theirs, 0.0, atol=1e-6)
    assert float(losses.kl_divergence(teacher, student)[0]) > 1.0


def mlp(width):
    return keras.Sequential(
        [
            keras.Input((5,)),
            keras.layers.Dense(width, activation="tanh"),
            keras.layers.Dense(3),
        ]
    )


def test_training_ends_at_the_same_weights_as_keras(rng):
    x = rng.normal(size=(16, 5)).astype("float32")
    y = rng.integers(0, 3, size=16)
    teacher, student = mlp(16), mlp(4)
    twin = keras.models.clone_model(student)
    twin.set_weights(student.get_weights())
    learners = (
        kdtf.Distiller(teacher, student, alpha=0.3, temperature=3.0),
        keras.distillation.Distiller(
            teacher,
            twin,
            distillation_losses=LogitsDistillation(
                temperature=3.0, loss=KLDivergence()
            ),
            student_loss_weight=0.3,
        ),
    )
    for learner in learners:
        learner.compile(keras.optimizers.Adam(0.01), SparseCE(True))
        learner.fit(x, y, batch_size=4, epochs=5, shuffle=False, verbose=0)
    for a, b in zip(student.get_weights(), twin.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
