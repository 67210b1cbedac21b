"""`Distiller`: the loss by hand, who runs when, and everything fit accepts."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kdtf
from kdtf.distillation import losses

SparseCE = keras.losses.SparseCategoricalCrossentropy


def mlp(width, classes=3, activation=None, features=5, **kwargs):
    return keras.Sequential(
        [
            keras.Input((features,)),
            keras.layers.Dense(width, activation="relu"),
            keras.layers.Dense(classes, activation=activation),
        ],
        **kwargs,
    )


@pytest.fixture
def data(rng):
    x = rng.normal(size=(8, 5)).astype("float32")
    return x, rng.integers(0, 3, size=8).astype("int32")


def numpy_softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def expected_losses(teacher, student, x, y, temperature, weight=None):
    """The two losses in plain NumPy, with Keras's mean over the batch."""
    t, s = (np.asarray(m(x), "float64") for m in (teacher, student))
    weight = np.ones(len(y)) if weight is None else weight
    hard = -np.log(numpy_softmax(s)[np.arange(len(y)), y])
    p, q = numpy_softmax(t / temperature), numpy_softmax(s / temperature)
    soft = temperature**2 * (p * np.log(p / q)).sum(-1)
    return (hard * weight).mean(), (soft * weight).mean()


def one_step(distiller, *args, **kwargs):
    """Takes one step over all of the data and returns its logs."""
    history = distiller.fit(*args, batch_size=64, verbose=0, **kwargs)
    return {name: values[0] for name, values in history.history.items()}


def frozen(optimizer="sgd"):
    """An optimizer that changes nothing, so that losses can be compared."""
    return keras.optimizers.get(
        {"class_name": optimizer, "config": {"learning_rate": 0.0}}
    )


def test_loss_is_alpha_hard_plus_the_rest_soft(data):
    x, y = data
    teacher, student = mlp(16), mlp(4)
    distiller = kdtf.Distiller(teacher, student, alpha=0.3, temperature=4.0)
    distiller.compile(frozen(), SparseCE(from_logits=True))
    logs = one_step(distiller, x, y)
    hard, soft = expected_losses(teacher, student, x, y, 4.0)
    np.testing.assert_allclose(logs["hard_loss"], hard, rtol=1e-5)
    np.testing.assert_allclose(logs["soft_loss"], soft, rtol=1e-4)
    np.testing.assert_allclose(logs["loss"], 0.3 * hard + 0.7 * soft, rtol=1e-4)


def test_one_sgd_step_moves_weights_by_the_gradient_of_that_loss(data):
    x, y = data
    teacher, student = mlp(16), mlp(4)
    before = [tf.identity(v) for v in student.trainable_variables]
    with tf.GradientTape() as tape:
        s = student(x)
        hard = SparseCE(from_logits=True)(y, s)
        soft = tf.reduce_mean(
            losses.kl_divergence(teacher(x), s, temperature=2.0)
        )
        loss = 0.25 * hard + 0.75 * soft
    gradients = tape.gradient(
        loss, [v.value for v in student.trainable_variables]
    )
    distiller = kdtf.Distiller(teacher, student, alpha=0.25, temperature=2.0)
    distiller.compile(keras.optimizers.SGD(0.1), SparseCE(from_logits=True))
    one_step(distiller, x, y)
    for old, gradient, new in zip(
        before, gradients, student.trainable_variables, strict=True
    ):
        np.testing.assert_allclose(new, old - 0.1 * gradient, atol=1e-6)


def test_alpha_one_trains_exactly_as_plain_fit(data):
    x, y = data
    teacher, student = mlp(16), mlp(4)
    plain = keras.models.clone_model(student)
    plain.set_weights(student.get_weights())
    plain.compile("adam", SparseCE(from_logits=True))
    distiller = kdtf.Distiller(teacher, student, alpha=1.0)
    distiller.compile("adam", SparseCE(from_logits=True))
    for model in (plain, distiller):
        model.fit(x, y, batch_size=4, epochs=3, shuffle=False, verbose=0)
    for a, b in zip(plain.get_weights(), student.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-7)


def test_history_names_and_evaluate_is_the_students_own(data):
    x, y = data
    teacher, student = mlp(16), mlp(4)
    distiller = kdtf.Distiller(teacher, student)
    distiller.compile("adam", SparseCE(from_logits=True), metrics=["accuracy"])
    history = distiller.fit(x, y, validation_data=(x, y), verbose=0).history
    assert sorted(history) == [
        "accuracy",
        "hard_loss",
        "loss",
        "soft_loss",
        "val_accuracy",
        "val_hard_loss",
        "val_loss",
    ]
    student.compile(loss=SparseCE(from_logits=True), metrics=["accuracy"])
    own = student.evaluate(x, y, verbose=0, return_dict=True)
    ours = distiller.evaluate(x, y, verbose=0, return_dict=True)
    assert set(ours) == {"accuracy", "hard_loss", "loss"}
    assert ours["loss"] == own["loss"] == ours["hard_loss"]
    assert ours["accuracy"] == own["accuracy"]
    np.testing.assert_array_equal(
        distiller.predict(x, verbose=0), student.predict(x, verbose=0)
    )


class Counting(keras.layers.Layer):
    """Counts its calls, told apart by `training`, in variables."""

    def build(self, shape):
        self.calls = {
            flag: self.add_weight(
                (), "zeros", trainable=False, name=f"calls_{flag}"
            )
            for flag in (True, False)
        }

    def call(self, x, training=None):
        self.calls[bool(training)].assign_add(1.0)
        return x

    def counts(self):
        return {flag: int(calls) for flag, calls in self.calls.items()}


def counting_mlp(width):
    layer = Counting()
    inputs = keras.Input((5,))
    hidden = keras.layers.Dense(width)(layer(inputs))
    return keras.Model(inputs, keras.layers.Dense(3)(hidden)), layer


def test_each_model_runs_once_a_step_and_the_teacher_never_in_evaluate(data):
    x, y = data
    (teacher, taught), (student, learned) = counting_mlp(8), counting_mlp(4)
    distiller = kdtf.Distiller(teacher, student)
    distiller.compile("sgd", SparseCE(from_logits=True))
    distiller.fit(x, y, batch_size=4, epochs=3, verbose=0)
    assert taught.counts() == {True: 0, False: 6}
    assert learned.counts() == {True: 6, False: 0}
    distiller.evaluate(x, y, batch_size=4, verbose=0)
    distiller.predict(x, batch_size=4, verbose=0)
    assert taught.counts() == {True: 0, False: 6}
    assert learned.counts() == {True: 6, False: 4}


def test_teacher_is_neither_trained_nor_tracked_nor_touched(data, tmp_path):
    x, y = data
    teacher, student = mlp(64), mlp(4)
    teacher.trainable = True
    before = teacher.get_weights()
    distiller = kdtf.Distiller(teacher, student)
    distiller.compile("adam", SparseCE(from_logits=True))
    distiller.fit(x, y, verbose=0)
    for a, b in zip(before, teacher.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert teacher.trainable and teacher.trainable_variables
    ids = {id(v) for v in teacher.variables}
    assert not ids & {id(v) for v in distiller.variables}
    assert len(distiller.trainable_variables) == 4
    # Adam keeps two moments for each of the student's four variables.
    assert len(distiller.optimizer.variables) == 2 + 2 * 4
    assert distiller.count_params() == student.count_params()
    distiller.save(tmp_path / "distiller.keras")
    loaded = keras.saving.load_model(tmp_path / "distiller.keras")
    shapes = [tuple(v.shape) for v in loaded.variables]
    assert (5, 64) not in shapes and (64, 3) not in shapes


def test_saved_distiller_loads_compiled_and_goes_on(data, tmp_path):
    x, y = data
    teacher, student = mlp(16), mlp(4)
    distiller = kdtf.Distiller(
        teacher,
        student,
        alpha=0.2,
        temperature=kdtf.CosineSchedule(initial=8.0, final=2.0, end_step=6),
        soft_loss=kdtf.distillation.JensenShannonDivergence(beta=0.3),
        outputs=("logits", "auto"),
        name="teaching",
    )
    distiller.compile("adam", SparseCE(from_logits=True), metrics=["accuracy"])
    distiller.fit(x, y, epochs=2, shuffle=False, verbose=0)
    distiller.save(tmp_path / "d.keras")
    loaded = keras.saving.load_model(tmp_path / "d.keras")
    ours, theirs = distiller.get_config(), loaded.get_config()
    # Build shapes of a loaded model are lists where they were tuples.
    ours.pop("student"), theirs.pop("student")
    assert theirs == ours
    assert loaded.name == "teaching" and loaded.teacher is None
    assert loaded.evaluate(x, y, verbose=0) == distiller.evaluate(
        x, y, verbose=0
    )
    with pytest.raises(ValueError, match="no teacher.*set_teacher"):
        loaded.fit(x, y, verbose=0)
    loaded.set_teacher(teacher)
    for model in (distiller, loaded):
        model.fit(x, y, epochs=2, shuffle=False, verbose=0)
    for a, b in zip(
        distiller.student.get_weights(),
        loaded.student.get_weights(),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, atol=1e-7)


def test_weights_round_trip_through_a_fresh_distiller(data, tmp_path):
    x, y = data
    teacher, first, second = mlp(16), mlp(4), mlp(4)
    distiller = kdtf.Distiller(teacher, first)
    distiller.compile("adam", SparseCE(from_logits=True))
    distiller.fit(x, y, verbose=0)
    distiller.save_weights(tmp_path / "w.weights.h5")
    other = kdtf.Distiller(teacher, second)
    other.load_weights(tmp_path / "w.weights.h5")
    for a, b in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_schedules_follow_the_optimizers_step(data):
    x, y = data
    teacher, student = mlp(16), mlp(4)
    alpha = kdtf.PolynomialSchedule(
        initial=0.0, final=1.0, end_step=4, power=1.0
    )
    distiller = kdtf.Distiller(teacher, student, alpha=alpha, temperature=2.0)
    distiller.compile(frozen(), SparseCE(from_logits=True))
    logs = distiller.fit(x, y, batch_size=8, epochs=6, verbose=0).history
    hard, soft = expected_losses(teacher, student, x, y, 2.0)
    weights = np.minimum(np.arange(6) / 4, 1.0)
    np.testing.assert_allclose(
        logs["loss"], weights * hard + (1 - weights) * soft, rtol=1e-4
    )


def test_temperature_may_be_a_schedule(data):
    x, y = data
    teacher, student = mlp(16), mlp(4)
    cooling = kdtf.PolynomialSchedule(
        initial=8.0, final=2.0, end_step=2, power=1.0
    )
    distiller = kdtf.Distiller(teacher, student, temperature=cooling)
    distiller.compile(frozen(), SparseCE(from_logits=True))
    logs = distiller.fit(x, y, batch_size=8, epochs=4, verbose=0).history
    expected = [
        expected_losses(teacher, student, x, y, t)[1] for t in (8, 5, 2, 2)
    ]
    np.testing.assert_allclose(logs["soft_loss"], expected, rtol=1e-4)


def test_learns_from_the_teacher_alone_without_labels(data):
    x, _ = data
    distiller = kdtf.Distiller(mlp(16), mlp(16), alpha=0, temperature=2.0)
    distiller.compile(keras.optimizers.Adam(0.02))
    history = distiller.fit(x, epochs=40, verbose=0).history
    assert sorted(history) == ["loss", "soft_loss"]
    assert history["loss"] == history["soft_loss"]
    assert history["loss"][-1] < 0.1 * history["loss"][0]


def test_penalties_count_once_and_in_full(data):
    x, y = data
    penalty = keras.regularizers.L2(0.5)
    student = keras.Sequential(
        [keras.Input((5,)), keras.layers.Dense(3, kernel_regularizer=penalty)]
    )
    teacher = mlp(16)
    distiller = kdtf.Distiller(teacher, student, alpha=0.3, temperature=2.0)
    distiller.compile(frozen(), SparseCE(from_logits=True))
    logs = one_step(distiller, x, y)
    hard, soft = expected_losses(teacher, student, x, y, 2.0)
    squares = 0.5 * float(np.sum(np.square(student.layers[0].kernel)))
    np.testing.assert_allclose(
        logs["loss"], 0.3 * hard + 0.7 * soft + squares, rtol=1e-4
    )
    np.testing.assert_allclose(logs["hard_loss"], hard, rtol=1e-4)
    tested = distiller.evaluate(x, y, verbose=0, return_dict=True)
    np.testing.assert_allclose(tested["loss"], hard + squares, rtol=1e-4)
    np.testing.assert_allclose(tested["hard_loss"], hard, rtol=1e-4)


def test_trackers_weigh_batches_by_their_size(data):
    x, y = data
    teacher, student = mlp(16), mlp(4)
    distiller = kdtf.Distiller(teacher, student, alpha=0.3, temperature=2.0)
    distiller.compile(frozen(), SparseCE(from_logits=True))
    # Batches of 5 and 3.
    logs = distiller.fit(x, y, batch_size=5, shuffle=False, verbose=0).history
    hard, soft = expected_losses(teacher, student, x, y, 2.0)
    np.testing.assert_allclose(logs["hard_loss"][0], hard, rtol=1e-4)
    np.testing.assert_allclose(logs["soft_loss"][0], soft, rtol=1e-4)
    np.testing.assert_allclose(
        logs["loss"][0], 0.3 * hard + 0.7 * soft, rtol=1e-4
    )


@pytest.mark.parametrize("kind", ["eager", "steps_per_execution", "jit"])
def test_every_way_of_running_a_step_gives_the_same_weights(data, kind):
    x, y = data
    settings = {
        "eager": {"run_eagerly": True},
        "steps_per_execution": {"steps_per_execution": 2},
        "jit": {"jit_compile": True},
    }[kind]
    teacher, student = mlp(16), mlp(4)
    twin = keras.models.clone_model(student)
    twin.set_weights(student.get_weights())
    for learner, extra in ((student, {}), (twin, settings)):
        distiller = kdtf.Distiller(teacher, learner)
        distiller.compile("adam", SparseCE(from_logits=True), **extra)
        distiller.fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0)
    for a, b in zip(student.get_weights(), twin.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_custom_loop_may_call_compute_loss(data):
    x, y = data
    teacher, student = mlp(16), mlp(4)
    distiller = kdtf.Distiller(teacher, student, alpha=0.3, temperature=2.0)
    distiller.compile("sgd", SparseCE(from_logits=True))
    with tf.GradientTape() as tape:
        y_pred = distiller(x, training=True)
        loss = distiller.compute_loss(x, y, y_pred)
    hard, soft = expected_losses(teacher, student, x, y, 2.0)
    np.testing.assert_allclose(loss, 0.3 * hard + 0.7 * soft, rtol=1e-4)
    assert all(
        g is not None for g in tape.gradient(loss, student.trainable_weights)
    )


BAD_SETTINGS = {
    r"`alpha`.*\[0, 1\].*alpha=1.5": {"alpha": 1.5},
    r"`alpha`.*alpha=-0.1": {"alpha": -0.1},
    r"`alpha`.*PolynomialSchedule": {
        "alpha": kdtf.PolynomialSchedule(final=2.0, end_step=5)
    },
    r"`temperature` must be positive.*temperature=0": {"temperature": 0},
    r"`temperature` must be positive.*initial=-1": {
        "temperature": kdtf.CosineSchedule(initial=-1.0, final=2.0, end_step=5)
    },
    r"`soft_loss`.*'reverse_kl'.*'nope'": {"soft_loss": "nope"},
    r"`head`.*'sigmoid'.*head='both'": {"head": "both"},
    r"`outputs`.*outputs='raw'": {"outputs": "raw"},
    r"`outputs`.*pair": {"outputs": ("logits",) * 3},
}


@pytest.mark.parametrize("message", BAD_SETTINGS)
def test_bad_settings_are_refused_at_construction(message):
    with pytest.raises(ValueError, match=message):
        kdtf.Distiller(mlp(4), mlp(4), **BAD_SETTINGS[message])


def test_what_is_no_model_is_refused():
    with pytest.raises(TypeError, match="`student` must be.*'path'.*load_mo"):
        kdtf.Distiller(mlp(4), "path")
    with pytest.raises(TypeError, match="`teacher` must be"):
        kdtf.Distiller("path", mlp(4))
    with pytest.raises(TypeError, match="missing 1 required.*student"):
        kdtf.Distiller(mlp(4))


def test_models_without_weights_are_refused():
    unbuilt = keras.Sequential([keras.layers.Dense(3)], name="airy")
    with pytest.raises(ValueError, match=r"student.*'airy'.*build\("):
        kdtf.Distiller(mlp(4), unbuilt)
    with pytest.raises(ValueError, match=r"teacher.*'airy'.*build\("):
        kdtf.Distiller(unbuilt, mlp(4))


def test_different_class_counts_are_refused():
    with pytest.raises(ValueError, match=r"\(None, 5\).*\(None, 3\)"):
        kdtf.Distiller(mlp(4, classes=5), mlp(4, classes=3))


def test_different_vocabularies_are_refused():
    def tagger(words):
        inputs = keras.Input((6,), dtype="int32")
        hidden = keras.layers.Embedding(words, 4)(inputs)
        return keras.Model(inputs, keras.layers.Dense(words)(hidden))

    with pytest.raises(ValueError, match="one vocabulary.*6, 9.*6, 8.*tokeni"):
        kdtf.Distiller(tagger(9), tagger(8))


def test_a_hard_loss_that_takes_logits_for_probabilities_is_refused():
    distiller = kdtf.Distiller(mlp(4), mlp(4))
    for loss in ("sparse_categorical_crossentropy", SparseCE()):
        with pytest.raises(ValueError, match="from_logits=True"):
            distiller.compile("sgd", loss)
    honest = kdtf.Distiller(mlp(4), mlp(4, activation="softmax"))
    honest.compile("sgd", "sparse_categorical_crossentropy")
    assert honest.compiled


def test_missing_loss_and_missing_labels_are_refused(data):
    x, _ = data
    distiller = kdtf.Distiller(mlp(4), mlp(4))
    with pytest.raises(ValueError, match="needs a `loss`.*alpha=0"):
        distiller.compile("sgd")
    with pytest.raises(ValueError, match="one hard loss.*'mse', 'mse'"):
        distiller.compile("sgd", ["mse", "mse"])
    distiller.compile("sgd", SparseCE(from_logits=True))
    with pytest.raises(ValueError, match="needs labels.*alpha=0"):
        distiller.fit(x, verbose=0)
