"""Several teachers, teachers of other vocabularies, losses with labels."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kdtf

# For its time; CI runs it.
pytestmark = pytest.mark.slow

SparseCE = keras.losses.SparseCategoricalCrossentropy


def classifier(width, activation=None, classes=4, kera=keras):
    model = kera.Sequential(
        [
            kera.layers.InputLayer((3,)),
            kera.layers.Dense(width, "tanh"),
            kera.layers.Dense(classes, activation),
        ]
    )
    rng = np.random.default_rng(width)
    model.set_weights([rng.normal(size=w.shape) for w in model.get_weights()])
    return model


@pytest.fixture
def data(rng):
    x = rng.normal(size=(8, 3)).astype("float32")
    return x, (np.arange(8) % 4).astype("int32")


def train(teacher, data, student=None, rate=0.0, compiled=None, **kwargs):
    """Takes steps over all of the data; gives the Distiller and its logs."""
    fitted = {"epochs": kwargs.pop("epochs", 1)}
    student = student or classifier(4)
    distiller = kdtf.Distiller(teacher, student, **{"alpha": 0.3, **kwargs})
    distiller.compile(
        keras.optimizers.SGD(rate),
        SparseCE(from_logits=True),
        **{"run_eagerly": True, **(compiled or {})},
    )
    logs = distiller.fit(
        *data, batch_size=8, verbose=0, shuffle=False, **fitted
    ).history
    return distiller, logs


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def logits_of(*models, x):
    return [np.asarray(m(x), "float64") for m in models]


def divergence(p, student, temperature):
    q = softmax(student / temperature)
    return temperature**2 * (p * np.log(p / q)).sum(-1).mean()


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("weights", [None, [3.0, 1.0]])
def test_mixture_of_probabilities_at_the_temperature(
    temperature, weights, data
):
    models = classifier(8), classifier(6)
    student = classifier(4)
    *z, s = logits_of(*models, student, x=data[0])
    share = np.array(weights or [1.0, 1.0])
    share = share / share.sum()
    p = sum(a * softmax(t / temperature) for a, t in zip(share, z, strict=True))
    _, logs = train(
        list(models),
        data,
        student,
        temperature=temperature,
        teacher_weights=weights,
    )
    np.testing.assert_allclose(
        logs["soft_loss"], [divergence(p, s, temperature)], rtol=1e-5
    )


def test_mixture_of_logits(data):
    models, student = (classifier(8), classifier(6)), classifier(4)
    *z, s = logits_of(*models, student, x=data[0])
    p = softmax((0.75 * z[0] + 0.25 * z[1]) / 2.0)
    _, logs = train(
        models,
        data,
        student,
        temperature=2.0,
        teacher_weights=(3, 1),
        mixture="logits",
    )
    np.testing.assert_allclose(
        logs["soft_loss"], [divergence(p, s, 2.0)], rtol=1e-5
    )


def test_a_dict_is_a_list_with_names(data):
    one, other = classifier(8), classifier(6)
    given = {"large": one, "small": other}
    named = train(given, data, rate=0.5, teacher_weights=[3, 1])
    listed = train([one, other], data, rate=0.5, teacher_weights=[3, 1])
    assert named[0].teacher is given and named[1] == listed[1]
    pairs = zip(
        named[0].student.get_weights(),
        listed[0].student.get_weights(),
        strict=True,
    )
    for a, b in pairs:
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("eagerly", [True, False])
@pytest.mark.parametrize("mixture", ["probabilities", "logits"])
def test_one_hot_weights_choose_each_examples_own_teacher(
    mixture, eagerly, data
):
    models = [classifier(8), classifier(6), classifier(5)]
    student = classifier(4)
    x = data[0]
    *z, s = logits_of(*models, student, x=x)
    # Which of three, by the sign of two features.
    own = np.where(x[:, 0] > 0, 0, np.where(x[:, 2] > 0, 1, 2))
    assert set(own) == {0, 1, 2}
    chosen = np.stack(z)[own, np.arange(8)]

    def weights(x):
        first = tf.cast(x[:, 0] > 0, "float32")
        second = (1 - first) * tf.cast(x[:, 2] > 0, "float32")
        return tf.stack([first, second, 1 - first - second], axis=-1)

    distiller, logs = train(
        models,
        data,
        student,
        rate=0.1,
        temperature=2.0,
        teacher_weights=weights,
        mixture=mixture,
        compiled={"run_eagerly": eagerly},
    )
    expected = divergence(softmax(chosen / 2.0), s, 2.0)
    np.testing.assert_allclose(logs["soft_loss"], [expected], rtol=1e-5)
    assert all(np.isfinite(w).all() for w in distiller.student.get_weights())


def test_probabilities_and_logits_mix(data):
    one, other, student = classifier(8), classifier(6), classifier(4)
    ends_in_softmax = keras.Sequential([other, keras.layers.Softmax()])
    ends_in_softmax.build((None, 3))
    _, logs = train([one, ends_in_softmax], data, student)
    _, expected = train([one, other], data, classifier(4))
    np.testing.assert_allclose(
        logs["soft_loss"], expected["soft_loss"], rtol=1e-5
    )


def test_teachers_of_both_flavours_mix(data):
    import tf_keras

    one, other = classifier(8), classifier(6)
    legacy = classifier(6, kera=tf_keras)
    _, logs = train([one, legacy], data)
    _, expected = train([one, other], data)
    np.testing.assert_allclose(
        logs["soft_loss"], expected["soft_loss"], rtol=1e-5
    )


def test_a_tf_keras_student_of_two_teachers(data):
    import tf_keras

    models = [classifier(8), classifier(6)]
    student = classifier(4, kera=tf_keras)
    distiller = kdtf.Distiller(
        models, student, alpha=0.3, teacher_weights=[3, 1]
    )
    distiller.compile(
        tf_keras.optimizers.SGD(0.5),
        tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        run_eagerly=True,
    )
    logs = distiller.fit(*data, batch_size=8, verbose=0, shuffle=False).history
    one, expected = train(models, data, rate=0.5, teacher_weights=[3, 1])
    for name in expected:
        np.testing.assert_allclose(logs[name], expected[name], rtol=1e-5)
    pairs = zip(student.get_weights(), one.student.get_weights(), strict=True)
    for a, b in pairs:
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_sigmoid_heads_are_mixed_label_by_label(data, rng):
    x = data[0]
    y = rng.integers(0, 2, (8, 4)).astype("float32")
    models = [classifier(8, "sigmoid"), classifier(6, "sigmoid")]
    student = classifier(4, "sigmoid")
    z = [np.log(p / (1 - p)) for p in logits_of(*models, student, x=x)]
    p, other, q = (1 / (1 + np.exp(-one / 2.0)) for one in z)
    p = (p + other) / 2
    kl = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    distiller = kdtf.Distiller(models, student, alpha=0.3, temperature=2.0)
    distiller.compile(
        keras.optimizers.SGD(0.0), "binary_crossentropy", run_eagerly=True
    )
    logs = distiller.fit(x, y, batch_size=8, verbose=0).history
    np.testing.assert_allclose(logs["soft_loss"], [4 * kl.mean()], rtol=1e-4)


def test_teachers_are_neither_tracked_nor_saved(data, tmp_path):
    models = [classifier(8), classifier(6)]
    before = [w for m in models for w in m.get_weights()]
    distiller, _ = train(models, data, rate=0.5)
    after = [w for m in models for w in m.get_weights()]
    for a, b in zip(before, after, strict=True):
        np.testing.assert_array_equal(a, b)
    ours = {id(v) for v in distiller.variables}
    assert not ours & {id(v) for m in models for v in m.variables}
    distiller.save(tmp_path / "d.keras")
    loaded = keras.saving.load_model(tmp_path / "d.keras")
    assert loaded.teacher is None
    loaded.set_teacher(models, teacher_weights=[1, 0])
    loaded.run_eagerly = True
    logs = loaded.fit(*data, batch_size=8, verbose=0).history
    z, s = logits_of(models[0], distiller.student, x=data[0])
    np.testing.assert_allclose(
        logs["soft_loss"], [divergence(softmax(z / 4.0), s, 4.0)], rtol=1e-4
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"teacher_weights": [1.0]}, "for 2 teachers"),
        ({"teacher_weights": [1.0, -1.0]}, "must be one number >= 0"),
        ({"teacher_weights": [0.0, 0.0]}, "not all 0"),
        ({"teacher_weights": [float("nan"), 1.0]}, "must be one number >= 0"),
        ({"mixture": "votes"}, "`mixture` must be one of.*votes"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    models = [classifier(8), classifier(6)]
    with pytest.raises(ValueError, match=message):
        kdtf.Distiller(models, classifier(4), **settings)


def test_teachers_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="at least one teacher"):
        kdtf.Distiller([], classifier(4))
    with pytest.raises(ValueError, match="same classes"):
        kdtf.Distiller([classifier(8), classifier(6, classes=5)], classifier(4))
    with pytest.raises(TypeError, match="teacher 1"):
        kdtf.Distiller([classifier(8), "bert"], classifier(4))


def test_weights_for_another_number_of_teachers_are_refused_in_fit(data):
    models = [classifier(8), classifier(6)]
    with pytest.raises(ValueError, match="one column for each teacher"):
        train(models, data, teacher_weights=lambda x: tf.ones_like(x))


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_dkd_is_the_numpy_formula(temperature, data):
    x, y = data
    teacher, student = classifier(8), classifier(4)
    t, s = logits_of(teacher, student, x=x)
    p, q = softmax(t / temperature), softmax(s / temperature)
    rows = np.arange(8)
    p_y, q_y = p[rows, y], q[rows, y]
    label_or_not = p_y * np.log(p_y / q_y)
    label_or_not += (1 - p_y) * np.log((1 - p_y) / (1 - q_y))
    others = np.ones_like(p, bool)
    others[rows, y] = False
    p_o = p[others].reshape(8, 3) / (1 - p_y)[:, None]
    q_o = q[others].reshape(8, 3) / (1 - q_y)[:, None]
    rest = (p_o * np.log(p_o / q_o)).sum(-1)
    settings = {"temperature": temperature, "soft_loss": "dkd"}
    for labels in (y, y[:, None]):
        _, logs = train(teacher, (x, labels), classifier(4), **settings)
        np.testing.assert_allclose(
            logs["soft_loss"],
            [temperature**2 * (label_or_not + 8.0 * rest).mean()],
            rtol=1e-5,
        )


def test_dkd_of_one_hot_labels_and_with_its_settings(data):
    x, y = data
    loss = kdtf.distillation.DecoupledDistillation(alpha=0.5, beta=2.0)
    teacher = classifier(8)
    _, expected = train(teacher, data, soft_loss=loss)
    distiller = kdtf.Distiller(
        teacher, classifier(4), alpha=0.3, soft_loss=loss
    )
    hard = keras.losses.CategoricalCrossentropy(from_logits=True)
    distiller.compile(keras.optimizers.SGD(0.0), hard, run_eagerly=True)
    one_hot = np.eye(4, dtype="float32")[y]
    logs = distiller.fit(x, one_hot, batch_size=8, verbose=0).history
    for name in expected:
        np.testing.assert_allclose(logs[name], expected[name], rtol=1e-5)


def test_dkd_with_two_teachers(data):
    models = [classifier(8), classifier(6)]
    one, _ = train(models[:1], data, rate=0.5, soft_loss="dkd")
    weighted, _ = train(
        models, data, rate=0.5, soft_loss="dkd", teacher_weights=[1, 0]
    )
    pairs = zip(
        one.student.get_weights(), weighted.student.get_weights(), strict=True
    )
    for a, b in pairs:
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_dkd_without_labels_is_refused(data):
    distiller = kdtf.Distiller(
        classifier(8), classifier(4), alpha=0.0, soft_loss="dkd"
    )
    distiller.compile("sgd", run_eagerly=True)
    with pytest.raises(ValueError, match="needs the labels"):
        distiller.fit(data[0], verbose=0)


def test_uld_trains_between_vocabularies(data):
    x, y = data
    teacher, student = classifier(8, classes=6), classifier(4)
    t, s = (softmax(z / 2.0) for z in logits_of(teacher, student, x=x))
    filled = np.pad(s, [(0, 0), (2, 0)])
    distance = np.abs(np.sort(t) - np.sort(filled)).sum(-1)
    before = student.get_weights()
    distiller, logs = train(
        teacher,
        data,
        student,
        rate=0.05,
        alpha=0.0,
        epochs=10,
        temperature=2.0,
        soft_loss="uld",
    )
    values = logs["soft_loss"]
    np.testing.assert_allclose(values[0], 2.0 * distance.mean(), rtol=1e-5)
    assert values[-1] < 0.95 * values[0]
    assert np.abs(before[0] - student.get_weights()[0]).max() > 1e-3
    with pytest.raises(ValueError, match="same shape"):
        kdtf.Distiller(teacher, classifier(4))
    with pytest.raises(ValueError, match="same classes|other vocabularies"):
        train([teacher, classifier(6)], data, soft_loss="uld")


@pytest.mark.parametrize("loss", ["dist", "tvd", "skew_kl", "uld"])
def test_losses_by_name_take_their_value_into_fit(loss, data):
    teacher, student = classifier(8), classifier(4)
    z, s = (np.asarray(m(data[0])) for m in (teacher, student))
    expected = kdtf.distillation.losses.get(loss)(z, s, temperature=2.0)
    _, logs = train(teacher, data, student, soft_loss=loss, temperature=2.0)
    np.testing.assert_allclose(
        logs["soft_loss"], [np.mean(expected)], rtol=1e-5
    )
