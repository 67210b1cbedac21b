"""The tf_keras twin: the same numbers as the Keras 3 Distiller."""

import keras
import numpy as np
import pytest
import tf_keras

import kdtf
from kdtf.distillation.tf_keras_distiller import TfKerasDistiller

pytestmark = pytest.mark.slow

SparseCE = tf_keras.losses.SparseCategoricalCrossentropy


def mlp(width, kera=tf_keras, activation=None, classes=3):
    return kera.Sequential(
        [
            kera.layers.InputLayer((5,)),
            kera.layers.Dense(width, activation="relu"),
            kera.layers.Dense(classes, activation=activation),
        ]
    )


@pytest.fixture
def data(rng):
    x = rng.normal(size=(8, 5)).astype("float32")
    return x, rng.integers(0, 3, size=8).astype("int32")


def twins(width, activation=None):
    """The same model in both flavours, with the same weights."""
    legacy, modern = (mlp(width, k, activation) for k in (tf_keras, keras))
    legacy.set_weights(modern.get_weights())
    return legacy, modern


def test_a_tf_keras_student_gets_the_twin():
    distiller = kdtf.Distiller(mlp(8), mlp(4), alpha=0.2, name="twin")
    assert type(distiller) is TfKerasDistiller and distiller.name == "twin"


@pytest.mark.parametrize("activation", [None, "softmax"])
def test_twin_trains_as_the_keras_3_distiller(activation, data):
    x, y = data
    weight = np.linspace(0, 2, 8).astype("float32")
    (old_teacher, teacher), (old, new) = twins(16), twins(4, activation)
    logs = []
    for kera, taught, learner in (
        (tf_keras, old_teacher, old),
        (keras, teacher, new),
    ):
        distiller = kdtf.Distiller(taught, learner, alpha=0.3, temperature=3.0)
        loss = kera.losses.SparseCategoricalCrossentropy(
            from_logits=activation is None
        )
        distiller.compile(
            kera.optimizers.SGD(0.1), loss=loss, metrics=["accuracy"]
        )
        history = distiller.fit(
            x,
            y,
            sample_weight=weight,
            batch_size=4,
            epochs=3,
            shuffle=False,
            verbose=0,
            validation_data=(x, y),
        )
        logs.append(history.history)
    assert set(logs[0]) == set(logs[1])
    for name in logs[0]:
        np.testing.assert_allclose(
            logs[0][name], logs[1][name], rtol=1e-4, err_msg=name
        )
    for a, b in zip(old.get_weights(), new.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("student_flavour", ["keras", "tf_keras"])
def test_mixed_pairs_work(student_flavour, data):
    x, y = data
    (old_teacher, teacher), (old, new) = twins(16), twins(4)
    pairs = {"keras": (old_teacher, new), "tf_keras": (teacher, old)}
    kera = keras if student_flavour == "keras" else tf_keras
    found = []
    for taught, learner in (pairs[student_flavour], (teacher, new)):
        distiller = kdtf.Distiller(taught, learner, alpha=0.3)
        kera = tf_keras if learner is old else keras
        loss = kera.losses.SparseCategoricalCrossentropy(from_logits=True)
        distiller.compile(kera.optimizers.SGD(0.0), loss=loss)
        found.append(distiller.fit(x, y, verbose=0).history["loss"][0])
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5)


def test_padding_masks_and_penalties(rng):
    def tagger(width):
        inputs = tf_keras.Input((6,), dtype="int32")
        layers = tf_keras.layers
        hidden = layers.Embedding(10, width, mask_zero=True)(inputs)
        penalty = tf_keras.regularizers.L2(0.5)
        out = layers.Dense(4, kernel_regularizer=penalty)(hidden)
        return tf_keras.Model(inputs, out)

    teacher, student = tagger(8), tagger(4)
    tokens = rng.integers(1, 10, size=(3, 6)).astype("int32")
    tokens[0, 2:] = 0
    distiller = kdtf.Distiller(teacher, student, alpha=0.0, temperature=2.0)
    distiller.compile(tf_keras.optimizers.SGD(0.0))
    logs = distiller.fit(tokens, verbose=0).history
    values = kdtf.distillation.kl_divergence(
        teacher(tokens), student(tokens), temperature=2.0
    )
    soft = np.asarray(values)[tokens != 0].mean()
    squares = 0.5 * float(np.sum(np.square(student.layers[-1].kernel)))
    np.testing.assert_allclose(logs["soft_loss"][0], soft, rtol=1e-4)
    np.testing.assert_allclose(logs["loss"][0], soft + squares, rtol=1e-4)


def test_saved_twin_loads_and_goes_on(data, tmp_path):
    x, y = data
    teacher, student = mlp(16), mlp(4)
    cooling = kdtf.CosineSchedule(initial=8.0, final=2.0, end_step=6)
    distiller = kdtf.Distiller(teacher, student, temperature=cooling)
    distiller.compile("sgd", SparseCE(from_logits=True))
    distiller.fit(x, y, verbose=0)
    distiller.save(tmp_path / "d.keras")
    loaded = tf_keras.models.load_model(tmp_path / "d.keras", compile=False)
    loaded.compile("sgd", SparseCE(from_logits=True))
    assert loaded.evaluate(x, y, verbose=0) == distiller.evaluate(
        x, y, verbose=0
    )
    with pytest.raises(ValueError, match="no teacher"):
        loaded.fit(x, y, verbose=0)
    loaded.set_teacher(teacher)
    assert loaded.fit(x, y, verbose=0).history["soft_loss"][0] > 0
    assert loaded._objective.temperature == cooling


def test_the_same_errors(data):
    x, _ = data
    with pytest.raises(ValueError, match="alpha=2"):
        kdtf.Distiller(mlp(4), mlp(4), alpha=2)
    with pytest.raises(ValueError, match="same shape"):
        kdtf.Distiller(mlp(4, classes=5), mlp(4))
    with pytest.raises(ValueError, match="student must be built"):
        kdtf.Distiller(mlp(4), tf_keras.Sequential([tf_keras.layers.Dense(3)]))
    distiller = kdtf.Distiller(mlp(4), mlp(4))
    with pytest.raises(ValueError, match="needs a `loss`"):
        distiller.compile("sgd")
    with pytest.raises(ValueError, match="from_logits=True"):
        distiller.compile("sgd", "sparse_categorical_crossentropy")
    distiller.compile("sgd", SparseCE(from_logits=True))
    with pytest.raises(ValueError, match="needs labels"):
        distiller.fit(x, verbose=0)


@pytest.mark.tfmot
def test_a_student_wrapped_by_tfmot_is_pruned_while_it_learns(
    data, monkeypatch
):
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", "1")
    import tensorflow_model_optimization as tfmot

    x, y = data
    student = tfmot.sparsity.keras.prune_low_magnitude(
        mlp(16),
        tfmot.sparsity.keras.ConstantSparsity(0.75, 0, frequency=1),
    )
    distiller = kdtf.Distiller(mlp(32), student)
    distiller.compile("adam", SparseCE(from_logits=True))
    distiller.fit(
        x,
        y,
        batch_size=4,
        epochs=5,
        verbose=0,
        callbacks=[tfmot.sparsity.keras.UpdatePruningStep()],
    )
    bare = tfmot.sparsity.keras.strip_pruning(student)
    kernel = bare.layers[0].get_weights()[0]
    assert (kernel == 0).mean() == 0.75
