"""A step with a few tokens' logits at a time is the step with all of them."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kdtf

pytestmark = pytest.mark.slow

SparseCE = keras.losses.SparseCategoricalCrossentropy
CLASSES, TIME = 6, 5


def filled(model, seed):
    rng = np.random.default_rng(seed)
    model.set_weights([rng.normal(size=w.shape) for w in model.get_weights()])
    return model


def tagger(width, classes=CLASSES, activation=None, masked=False):
    inputs = keras.Input((TIME,), dtype="int32")
    hidden = keras.layers.Embedding(12, width, mask_zero=masked)(inputs)
    hidden = keras.layers.Dense(width, "tanh", name="states")(hidden)
    out = keras.layers.Dense(classes, activation, name="logits")(hidden)
    return filled(keras.Model(inputs, out), width)


def gpt2(width):
    import keras_nlp

    keras.utils.set_random_seed(width)
    backbone = keras_nlp.models.GPT2Backbone(
        vocabulary_size=12,
        num_layers=1,
        num_heads=2,
        hidden_dim=width,
        intermediate_dim=4,
        dropout=0.0,
        max_sequence_length=TIME,
    )
    model = keras_nlp.models.GPT2CausalLM(backbone, preprocessor=None)
    rng = np.random.default_rng(width)
    model.set_weights(
        [w + 0.3 * rng.normal(size=w.shape) for w in model.get_weights()]
    )
    return model


@pytest.fixture
def data(rng):
    x = rng.integers(1, 12, (8, TIME)).astype("int32")
    y = rng.integers(0, CLASSES, (8, TIME)).astype("int32")
    weight = rng.uniform(size=(8, TIME)).astype("float32")
    weight[::2, 3:] = 0.0
    return x, y, weight


def train(teacher, data, student, *, loss=None, compiled=None, **kwargs):
    """Takes two steps of SGD from where the student stands."""
    epochs = kwargs.pop("epochs", 1)
    fitted = kwargs.pop("fitted", {})
    distiller = kdtf.Distiller(teacher, student, **{"alpha": 0.3, **kwargs})
    distiller.compile(
        keras.optimizers.SGD(0.1),
        loss or SparseCE(from_logits=True),
        **{"run_eagerly": True, **(compiled or {})},
    )
    dataset = tf.data.Dataset.from_tensor_slices(data).batch(4)
    logs = distiller.fit(
        dataset, epochs=epochs, verbose=0, shuffle=False, **fitted
    ).history
    return distiller, logs


def assert_equal(teacher, data, make, chunk=3, **kwargs):
    """Trains with chunks and without; gives the Distiller with chunks."""
    whole, logs = train(teacher, data, make(), **kwargs)
    parts, other = train(teacher, data, make(), chunk=chunk, **kwargs)
    moved = 0.0
    for start, a, b in zip(
        make().get_weights(),
        whole.student.get_weights(),
        parts.student.get_weights(),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)
        moved = max(moved, np.abs(a - start).max())
    assert moved > 1e-3
    assert sorted(logs) == sorted(other)
    for name in logs:
        np.testing.assert_allclose(
            logs[name], other[name], rtol=1e-5, atol=1e-6, err_msg=name
        )
    return parts


@pytest.mark.parametrize("chunk", [1, 7, 100])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_weights_and_logs_are_those_without(alpha, chunk, data):
    assert_equal(tagger(8), data, lambda: tagger(4), chunk=chunk, alpha=alpha)


@pytest.mark.slow
@pytest.mark.parametrize("reduction", ["mean_with_sample_weight", "sum"])
def test_gpt2_with_padding_as_weights(reduction, data):
    ids, y, weight = data
    mask = (weight > 0).astype("int32")
    x = {"token_ids": ids, "padding_mask": mask}
    loss = SparseCE(from_logits=True, reduction=reduction)
    assert_equal(gpt2(8), (x, y, weight), lambda: gpt2(4), loss=loss)


@pytest.mark.slow
def test_gpt2_compiled_to_a_graph(data):
    ids, y, weight = data
    x = {"token_ids": ids, "padding_mask": np.ones_like(ids)}
    graph = {"run_eagerly": False}
    assert_equal(gpt2(8), (x, y, weight), lambda: gpt2(4), compiled=graph)


@pytest.mark.parametrize("name", ["jensen_shannon", "reverse_kl", "tvd"])
def test_other_soft_losses(name, data):
    assert_equal(
        tagger(8), data, lambda: tagger(4), soft_loss=name, temperature=2.0
    )


def test_a_keras_mask(data):
    x, y, _ = data
    x[::2, 3:] = 0

    def make():
        return tagger(4, masked=True)

    parts = assert_equal(tagger(8), (x, y), make)
    # And what stands under padding has no part.
    y[x == 0] = (y[x == 0] + 1) % CLASSES
    again, _ = train(tagger(8), (x, y), make(), chunk=3)
    pairs = zip(
        parts.student.get_weights(), again.student.get_weights(), strict=True
    )
    for a, b in pairs:
        np.testing.assert_array_equal(a, b)


def test_without_labels(data):
    assert_equal(tagger(8), (data[0],), lambda: tagger(4), alpha=0.0)


@pytest.mark.slow
def test_labels_with_an_axis_of_one_and_one_hot(data):
    x, y, weight = data
    assert_equal(tagger(8), (x, y[..., None], weight), lambda: tagger(4))
    hard = keras.losses.CategoricalCrossentropy(from_logits=True)
    for dtype in ("float32", "int32"):
        one_hot = np.eye(CLASSES, dtype=dtype)[y]
        assert_equal(
            tagger(8), (x, one_hot, weight), lambda: tagger(4), loss=hard
        )


def test_mean_squared_logits_as_hard_loss(data):
    x, y, weight = data
    target = np.eye(CLASSES, dtype="float32")[y]
    loss = keras.losses.MeanSquaredError()
    assert_equal(tagger(8), (x, target, weight), lambda: tagger(4), loss=loss)


def squared(y_true, y_pred):
    return keras.ops.mean(keras.ops.square(y_true - y_pred), axis=-1)


@pytest.mark.parametrize("loss", ["mse", squared])
def test_a_hard_loss_that_is_a_name_or_a_function(loss, data):
    x, y, weight = data
    target = np.eye(CLASSES, dtype="float32")[y]
    assert_equal(tagger(8), (x, target, weight), lambda: tagger(4), loss=loss)


def test_labels_that_the_hard_loss_ignores(data):
    x, y, _ = data
    y[:, 3:] = -1
    loss = SparseCE(from_logits=True, ignore_class=-1)
    assert_equal(tagger(8), (x, y), lambda: tagger(4), loss=loss)


@pytest.mark.parametrize("classes", [1, CLASSES])
def test_labels_each_for_itself(classes, data, rng):
    y = rng.integers(0, 2, (8, TIME, classes)).astype("float32")
    assert_equal(
        tagger(8, classes),
        (data[0], y),
        lambda: tagger(4, classes),
        loss=keras.losses.BinaryCrossentropy(from_logits=True),
    )


def test_labels_each_for_itself_when_told(data, rng):
    y = rng.integers(0, 2, (8, TIME, CLASSES)).astype("float32")
    assert_equal(
        tagger(8),
        (data[0], y),
        lambda: tagger(4),
        loss=keras.losses.BinaryCrossentropy(from_logits=True),
        head="sigmoid",
    )


@pytest.mark.slow
def test_schedules_go_on_by_step(data):
    cooling = kdtf.CosineSchedule(initial=8.0, final=1.0, end_step=4)
    rising = kdtf.PolynomialSchedule(initial=0.1, final=0.9, end_step=4)
    assert_equal(
        tagger(8),
        data,
        lambda: tagger(4),
        temperature=cooling,
        alpha=rising,
        epochs=2,
    )


def test_teacher_inputs(data):
    assert_equal(
        tagger(8), data, lambda: tagger(4), teacher_inputs=lambda x: 11 - x
    )


@pytest.mark.parametrize("kind", [{}, {"top_k": 3}, {"samples": 4}])
def test_from_a_cache(kind, data, tmp_path):
    x, y, weight = data
    x[:, 0] = np.arange(8)
    cache = kdtf.cache_teacher(tagger(8), (x,), tmp_path, verbose=0, **kind)
    dataset = tf.data.Dataset.from_tensor_slices((x, y, weight)).batch(4)
    found = []
    for chunk in (None, 3):
        distiller = kdtf.Distiller(
            cache, tagger(4), alpha=0.3, temperature=1.0, chunk=chunk
        )
        loss = SparseCE(from_logits=True)
        distiller.compile(keras.optimizers.SGD(0.1), loss, run_eagerly=True)
        with pytest.raises(ValueError, match=r"cache\.attach\(dataset\)"):
            distiller.fit(dataset, verbose=0)
        logs = distiller.fit(
            cache.attach(dataset), epochs=2, verbose=0, shuffle=False
        ).history
        found.append((distiller.student.get_weights(), logs))
    (whole, logs), (parts, other) = found
    for a, b in zip(whole, parts, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)
    for name in logs:
        np.testing.assert_allclose(logs[name], other[name], rtol=1e-5)


@pytest.mark.slow
def test_metrics_show_in_evaluate_and_not_in_fit(data):
    x, y, weight = data
    validation = tf.data.Dataset.from_tensor_slices((x, y)).batch(4)
    distiller, logs = train(
        tagger(8),
        data,
        tagger(4),
        chunk=3,
        epochs=2,
        compiled={"metrics": ["accuracy"]},
        fitted={"validation_data": validation},
    )
    losses = ["hard_loss", "loss", "soft_loss"]
    assert sorted(logs) == [
        *losses,
        "val_accuracy",
        "val_hard_loss",
        "val_loss",
    ]
    student = distiller.student
    student.compile(loss=SparseCE(from_logits=True), metrics=["accuracy"])
    own = student.evaluate(validation, verbose=0, return_dict=True)
    for name, value in own.items():
        np.testing.assert_allclose(logs[f"val_{name}"][-1], value, rtol=1e-6)
    found = distiller.evaluate(validation, verbose=0, return_dict=True)
    assert sorted(found) == ["accuracy", "hard_loss", "loss"]
    np.testing.assert_allclose(found["accuracy"], own["accuracy"], rtol=1e-6)
    np.testing.assert_array_equal(
        distiller.predict(x, verbose=0), student.predict(x, verbose=0)
    )


def test_a_student_pruned_after_construction(data):
    teacher, found = tagger(8), []
    for chunk in (None, 3):
        student = tagger(4)
        distiller = kdtf.Distiller(teacher, student, alpha=0.3, chunk=chunk)
        distiller.compile(
            keras.optimizers.SGD(0.1),
            SparseCE(from_logits=True),
            run_eagerly=True,
        )
        dataset = tf.data.Dataset.from_tensor_slices(data).batch(4)
        distiller.fit(dataset, verbose=0, shuffle=False)
        kdtf.prune(student, 0.5)
        logs = distiller.fit(dataset, verbose=0, shuffle=False).history
        found.append((distiller.predict(data[0], verbose=0), logs))
        kernel = np.asarray(
            keras.ops.convert_to_tensor(student.get_layer("logits").kernel)
        )
        found[-1] += (kernel,)
    (whole, logs, kernel), (parts, other, same) = found
    np.testing.assert_allclose(whole, parts, atol=1e-4)
    np.testing.assert_allclose(kernel, same, atol=1e-5)
    for name in logs:
        np.testing.assert_allclose(logs[name], other[name], rtol=1e-5)


def test_a_student_quantize_aware_after_construction(data):
    """Its grids either take part in every chunk, or it is refused."""
    student = tagger(4)
    distiller = kdtf.Distiller(tagger(8), student, alpha=0.3, chunk=3)
    loss = SparseCE(from_logits=True)
    distiller.compile(keras.optimizers.SGD(0.1), loss, run_eagerly=True)
    dataset = tf.data.Dataset.from_tensor_slices(data).batch(4)
    distiller.fit(dataset, verbose=0, shuffle=False)
    kdtf.quantize_aware(student)
    weights = student.get_weights()
    try:
        logs = distiller.fit(dataset, verbose=0, shuffle=False).history
    except ValueError as error:
        assert "`student` must end in a projection" in str(error)
        return
    other = tagger(4)
    kdtf.quantize_aware(other)
    other.set_weights(weights)
    _, expected = train(tagger(8), data, other)
    for name in expected:
        np.testing.assert_allclose(logs[name], expected[name], rtol=1e-4)


@pytest.mark.slow
def test_saved_and_loaded_it_goes_on_as_if_never_interrupted(data, tmp_path):
    teacher = tagger(8)
    dataset = tf.data.Dataset.from_tensor_slices(data).batch(4)

    def new():
        made = kdtf.Distiller(teacher, tagger(4), alpha=0.3, chunk=3)
        loss = SparseCE(from_logits=True)
        made.compile(keras.optimizers.Adam(0.1), loss, run_eagerly=True)
        return made

    def fit(model):
        model.fit(dataset, epochs=2, verbose=0, shuffle=False)

    whole, first = new(), new()
    fit(whole), fit(whole), fit(first)
    first.save(tmp_path / "d.keras")
    loaded = keras.saving.load_model(tmp_path / "d.keras")
    assert loaded.chunk == 3 and loaded.get_config()["chunk"] == 3
    loaded.set_teacher(teacher)
    loaded.run_eagerly = True
    fit(loaded)
    pairs = zip(
        whole.student.get_weights(), loaded.student.get_weights(), strict=True
    )
    for v, w in pairs:
        np.testing.assert_allclose(v, w, atol=1e-6)


def test_nothing_but_the_student_is_tracked(data):
    distiller, _ = train(tagger(8), data, tagger(4), chunk=3)
    assert distiller.count_params() == distiller.student.count_params()
    assert len(distiller.trainable_variables) == 5


def test_mixed_float16(data):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        students = [tagger(4), tagger(4)]
    finally:
        keras.config.set_dtype_policy("float32")
    _, whole = train(tagger(8), data, students[0])
    distiller, parts = train(tagger(8), data, students[1], chunk=3)
    assert type(distiller.optimizer).__name__ == "LossScaleOptimizer"
    # Logits rounded to float16, in another order.
    for name in whole:
        np.testing.assert_allclose(whole[name], parts[name], rtol=1e-2)


@pytest.mark.parametrize("chunk", [0, -1, 2.5, "all"])
def test_what_is_no_number_of_tokens_is_refused(chunk):
    with pytest.raises((ValueError, TypeError), match="`chunk` must"):
        kdtf.Distiller(tagger(8), tagger(4), chunk=chunk)


def test_models_without_a_projection_are_refused():
    softmax = tagger(4, activation="softmax")
    with pytest.raises(ValueError, match="`student` must end in a projection"):
        kdtf.Distiller(tagger(8), softmax, chunk=3)
    with pytest.raises(ValueError, match="`teacher` must end in a projection"):
        kdtf.Distiller(tagger(8, activation="softmax"), tagger(4), chunk=3)
    inputs = keras.Input((TIME,), dtype="int32")
    nested = keras.Model(inputs, tagger(4)(inputs))
    with pytest.raises(ValueError, match="`student` must end in a projection"):
        kdtf.Distiller(tagger(8), nested, chunk=3)


@pytest.mark.parametrize("name", ["dkd", "dist"])
def test_losses_of_more_than_a_token_are_refused(name):
    with pytest.raises(ValueError, match=f"single tokens.*{name}"):
        kdtf.Distiller(tagger(8), tagger(4), chunk=3, soft_loss=name)


def test_two_teachers_are_refused():
    with pytest.raises(ValueError, match="one teacher or a cache.*2 teachers"):
        kdtf.Distiller([tagger(8), tagger(6)], tagger(4), chunk=3)


def test_uld_between_vocabularies(data):
    assert_equal(
        tagger(8, classes=9),
        data,
        lambda: tagger(4),
        soft_loss="uld",
        temperature=2.0,
    )


def test_a_tf_keras_teacher_is_refused():
    import tf_keras

    legacy = tf_keras.Sequential(
        [
            tf_keras.layers.InputLayer((TIME,), dtype="int32"),
            tf_keras.layers.Embedding(12, 8),
            tf_keras.layers.Dense(CLASSES),
        ]
    )
    with pytest.raises((ValueError, TypeError), match="teacher"):
        kdtf.Distiller(legacy, tagger(4), chunk=3)


def test_a_tf_keras_student_is_refused():
    import tf_keras

    legacy = tf_keras.Sequential(
        [tf_keras.layers.InputLayer((3,)), tf_keras.layers.Dense(4)]
    )
    with pytest.raises(ValueError, match="`features` and `chunk` are for"):
        kdtf.Distiller(legacy, legacy, chunk=3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "compiled", [{"steps_per_execution": 2}, {"jit_compile": True}]
)
def test_ways_of_running_a_step(compiled, data):
    found = []
    for chunk, how in ((None, {}), (3, {"run_eagerly": False, **compiled})):
        distiller, _ = train(
            tagger(8), data, tagger(4), chunk=chunk, compiled=how
        )
        found.append(distiller.student.get_weights())
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


REPLICAS = """
def tagger(width):
    inputs = keras.Input((6,), dtype="int32")
    hidden = keras.layers.Embedding(10, width, mask_zero=True)(inputs)
    hidden = keras.layers.Dense(width, "tanh")(hidden)
    return keras.Model(inputs, keras.layers.Dense(4)(hidden))

rng = np.random.default_rng(0)
x = rng.integers(1, 10, size=(8, 6)).astype("int32")
x[::3, 4:] = 0
y = rng.integers(0, 4, size=(8, 6)).astype("int32")
data = tf.data.Dataset.from_tensor_slices((x, y)).batch(4)

def make():
    keras.utils.set_random_seed(1)
    distiller = kdtf.Distiller(tagger(8), tagger(4), chunk=3)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile(keras.optimizers.SGD(0.5), loss, metrics=["accuracy"])
    return distiller

def fit(distiller):
    history = distiller.fit(data, shuffle=False, verbose=0)
    logs = sorted(history.history)
    assert logs == ["hard_loss", "loss", "soft_loss"], logs
    return history

def weights(distiller):
    return distiller.student.weights
"""


@pytest.mark.slow
def test_two_replicas_give_the_weights_and_logs_of_one(check_replicas):
    check_replicas(REPLICAS, rtol=1e-4)
