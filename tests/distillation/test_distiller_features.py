"""Features in the training step: what they add, what trains, what is saved."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kdtf
from kdtf.distillation import HiddenStates
from kdtf.distillation import PairwiseDistances

SparseCE = keras.losses.SparseCategoricalCrossentropy
TIME = 5
STATES = HiddenStates(layers={"states": "states"}, weight=0.5)


def filled(model, seed):
    rng = np.random.default_rng(seed)
    model.set_weights([rng.normal(size=w.shape) for w in model.get_weights()])
    return model


def tagger(width, masked=False, padded=False, dropout=0.0):
    ids = keras.Input((TIME,), dtype="int32", name="token_ids")
    mask = keras.Input((TIME,), dtype="int32", name="padding_mask")
    hidden = keras.layers.Embedding(12, width, mask_zero=masked)(ids)
    hidden = keras.layers.Dense(width, "tanh", name="states")(hidden)
    hidden = keras.layers.Dropout(dropout)(hidden)
    outputs = keras.layers.Dense(6, name="logits")(hidden)
    inputs = {"token_ids": ids, "padding_mask": mask} if padded else ids
    return filled(keras.Model(inputs, outputs), width)


@pytest.fixture
def data(rng):
    x = rng.integers(1, 12, (8, TIME)).astype("int32")
    y = rng.integers(0, 6, (8, TIME)).astype("int32")
    return x, y, rng.uniform(size=(8, TIME)).astype("float32")


def batches(*parts, size=4):
    return tf.data.Dataset.from_tensor_slices(parts).batch(size)


def make(
    teacher,
    student=None,
    features=(STATES,),
    optimizer=None,
    loss=None,
    compiled=None,
    **kwargs,
):
    distiller = kdtf.Distiller(
        teacher,
        student or tagger(4),
        **{"alpha": 0.3, "features": features, **kwargs},
    )
    distiller.compile(
        optimizer or keras.optimizers.SGD(0.1),
        loss or SparseCE(from_logits=True),
        **{"run_eagerly": True, **(compiled or {})},
    )
    return distiller


def fit(distiller, dataset, **kwargs):
    settings = {"verbose": 0, "shuffle": False, **kwargs}
    return distiller.fit(dataset, **settings).history


def states_of(model, x):
    """Hidden states in plain NumPy."""
    table, kernel, bias = (np.asarray(w) for w in model.get_weights()[:3])
    return np.tanh(table[x] @ kernel + bias)


def error_of(distiller, teacher, student, x):
    """Squared errors by token, after the projection, in plain NumPy."""
    (projection,) = distiller.projections
    made = states_of(student, x) @ np.asarray(projection.kernel)
    return np.square(states_of(teacher, x) - made).mean(-1)


def weights_of(distiller):
    return [np.array(v) for v in distiller.trainable_variables]


def assert_same(one, other, atol=0.0):
    pairs = zip(weights_of(one), weights_of(other), strict=True)
    for a, b in pairs:
        np.testing.assert_allclose(a, b, rtol=0, atol=atol)


def test_total_is_the_loss_and_the_weighted_feature_by_hand(data):
    x, y, weight = data
    teacher, student = tagger(8), tagger(4)
    distiller = make(teacher, student, optimizer=keras.optimizers.SGD(0.0))
    error = error_of(distiller, teacher, student, x)
    plain = make(teacher, tagger(4), (), optimizer=keras.optimizers.SGD(0.0))
    for dataset, expected in (
        (batches(x, y, size=8), error.mean()),
        (
            batches(x, y, weight, size=8),
            # A sample counts as much as its tokens do.
            (error.mean(-1) * weight.mean(-1)).mean(),
        ),
    ):
        logs = fit(distiller, dataset)
        base = fit(plain, dataset)
        assert sorted(logs) == [
            "hard_loss",
            "hidden_states",
            "loss",
            "soft_loss",
        ]
        np.testing.assert_allclose(logs["hidden_states"], [expected], rtol=1e-5)
        np.testing.assert_allclose(
            logs["loss"][0], base["loss"][0] + 0.5 * expected, rtol=1e-5
        )


def test_one_sgd_step_moves_student_and_projection_by_the_gradient(data):
    x, y, _ = data
    teacher, student = tagger(8), tagger(4)
    distiller = make(teacher, student, alpha=1.0)
    (projection,) = distiller.projections
    before = weights_of(distiller)
    # Last in line: Keras tracks the student first.
    np.testing.assert_array_equal(before[-1], projection.kernel)
    variables = [v.value for v in distiller.trainable_variables]
    taught = states_of(teacher, x)
    middle = keras.Model(student.input, student.get_layer("states").output)
    with tf.GradientTape() as tape:
        hard = SparseCE(from_logits=True)(y, student(x))
        made = middle(x) @ projection.kernel
        loss = hard + 0.5 * tf.reduce_mean(tf.square(taught - made))
    gradients = tape.gradient(loss, variables)
    fit(distiller, batches(x, y, size=8))
    for old, gradient, new in zip(
        before, gradients, weights_of(distiller), strict=True
    ):
        gradient = np.asarray(tf.convert_to_tensor(gradient))
        np.testing.assert_allclose(new, old - 0.1 * gradient, atol=1e-6)


def test_compiled_to_a_graph_it_is_the_same(data):
    teacher = tagger(8)
    eager = make(teacher)
    graph = make(teacher, compiled={"run_eagerly": False})
    logs, other = (fit(d, batches(*data), epochs=2) for d in (eager, graph))
    assert_same(eager, graph, atol=1e-6)
    for name in logs:
        np.testing.assert_allclose(logs[name], other[name], rtol=1e-5)


def test_weight_zero_changes_nothing_but_the_logs(data):
    teacher = tagger(8)
    off = HiddenStates(layers={"states": "states"}, weight=0.0)
    one, other = make(teacher, features=[off]), make(teacher, features=())
    logs = fit(one, batches(*data))
    plain = fit(other, batches(*data))
    pairs = zip(
        one.student.get_weights(), other.student.get_weights(), strict=True
    )
    for a, b in pairs:
        np.testing.assert_array_equal(a, b)
    assert logs["loss"] == plain["loss"] and logs["hidden_states"][0] > 0


def test_a_weight_may_follow_a_schedule(data):
    teacher = tagger(8)
    ramp = kdtf.PolynomialSchedule(initial=0.0, final=1.0, end_step=2, power=1)
    term = HiddenStates(layers={"states": "states"}, weight=ramp)
    frozen = keras.optimizers.SGD(0.0)
    distiller = make(teacher, features=[term], optimizer=frozen, alpha=1.0)
    dataset = batches(*data, size=8)
    found = []
    for _ in range(3):
        logs = fit(distiller, dataset)
        extra = logs["loss"][0] - logs["hard_loss"][0]
        found.append(extra / logs["hidden_states"][0])
    np.testing.assert_allclose(found, [0.0, 0.5, 1.0], atol=1e-5)


@pytest.mark.parametrize("kind", ["padding_mask", "keras_mask"])
def test_padding_has_no_part(kind, data):
    x, y, _ = data
    real = np.ones_like(x)
    real[::2, 3:] = 0
    x = x * real
    padded = kind == "padding_mask"
    teacher, student = (
        tagger(w, padded=padded, masked=not padded) for w in (8, 4)
    )
    inputs = {"token_ids": x, "padding_mask": real} if padded else x
    distiller = make(teacher, student, optimizer=keras.optimizers.SGD(0.0))
    error = error_of(distiller, teacher, student, x)
    expected = ((error * real).sum(-1) / real.sum(-1)).mean()
    logs = fit(distiller, batches(inputs, y, size=8))
    np.testing.assert_allclose(logs["hidden_states"], [expected], rtol=1e-5)
    assert abs(error.mean() - expected) > 1e-3


def test_padding_has_no_part_in_an_attached_dataset(data, tmp_path):
    x, y, _ = data
    real = np.ones_like(x)
    real[::2, 3:] = 0
    inputs = {"token_ids": x, "padding_mask": real}
    teacher, student = tagger(8, padded=True), tagger(4, padded=True)
    cache = kdtf.cache_teacher(teacher, (inputs,), tmp_path, verbose=0)
    dataset = batches(inputs, y, size=8)
    distiller = make(teacher, student, optimizer=keras.optimizers.SGD(0.0))
    plain = fit(distiller, dataset)["hidden_states"]
    found = fit(distiller, cache.attach(dataset))["hidden_states"]
    np.testing.assert_allclose(found, plain, rtol=1e-6)


@pytest.mark.parametrize("reduction", ["sum", "mean_with_sample_weight"])
def test_reduced_as_the_hard_loss(reduction, data):
    x, y, weight = data
    teacher, student = tagger(8), tagger(4)
    distiller = make(
        teacher,
        student,
        optimizer=keras.optimizers.SGD(0.0),
        loss=SparseCE(from_logits=True, reduction=reduction),
    )
    own = error_of(distiller, teacher, student, x).mean(-1)
    share = weight.mean(-1)
    expected = (own * share).sum()
    if reduction != "sum":
        expected /= share.sum()
    logs = fit(distiller, batches(x, y, weight, size=8))
    np.testing.assert_allclose(logs["hidden_states"], [expected], rtol=1e-5)


def test_class_weights_weigh_features(rng):
    def classifier(width):
        return filled(
            keras.Sequential(
                [
                    keras.Input((3,)),
                    keras.layers.Dense(width, "tanh", name="states"),
                    keras.layers.Dense(4, name="logits"),
                ]
            ),
            width,
        )

    x = rng.normal(size=(8, 3)).astype("float32")
    y = (np.arange(8) % 4).astype("int32")
    teacher, student = classifier(4), classifier(4)
    student.set_weights([w + 0.1 for w in teacher.get_weights()])
    distiller = make(teacher, student, optimizer=keras.optimizers.SGD(0.0))
    assert distiller.projections == []

    def states(model):
        kernel, bias = model.get_weights()[:2]
        return np.tanh(x @ kernel + bias)

    share = np.array([2.0, 0.0, 1.0, 0.5])
    error = np.square(states(teacher) - states(student)).mean(-1)
    logs = fit(
        distiller, batches(x, y, size=8), class_weight=dict(enumerate(share))
    )
    np.testing.assert_allclose(
        logs["hidden_states"], [(error * share[y]).mean()], rtol=1e-5
    )


def test_evaluate_and_predict_are_the_students_own(data):
    x, y, _ = data
    distiller = make(tagger(8))
    logs = fit(
        distiller, batches(x, y), validation_data=batches(x, y), epochs=2
    )
    names = ["hard_loss", "hidden_states", "loss", "soft_loss"]
    assert sorted(logs) == [*names, "val_hard_loss", "val_loss"]
    student = distiller.student
    student.compile(loss=SparseCE(from_logits=True))
    own = student.evaluate(batches(x, y), verbose=0)
    np.testing.assert_allclose(logs["val_loss"][-1], own, rtol=1e-6)
    np.testing.assert_array_equal(
        distiller.predict(x, verbose=0), student.predict(x, verbose=0)
    )


@pytest.mark.slow
def test_saved_and_loaded_it_goes_on_as_if_never_interrupted(data, tmp_path):
    teacher = tagger(8)

    def new():
        adam = keras.optimizers.Adam(0.05)
        return make(teacher, tagger(4, dropout=0.3), optimizer=adam)

    keras.utils.set_random_seed(3)
    whole = new()
    fit(whole, batches(*data), epochs=4)
    keras.utils.set_random_seed(3)
    first = new()
    fit(first, batches(*data), epochs=2)
    first.save(tmp_path / "d.keras")
    loaded = keras.saving.load_model(tmp_path / "d.keras")
    assert_same(loaded, first)
    slots = [np.array(v) for v in first.optimizer.variables]
    again = [np.array(v) for v in loaded.optimizer.variables]
    # Step and rate, and two moments for each weight and projection.
    assert len(slots) == 2 + 2 * len(first.trainable_variables)
    for a, b in zip(slots, again, strict=True):
        np.testing.assert_array_equal(a, b)
    loaded.set_teacher(teacher)
    loaded.run_eagerly = True
    fit(loaded, batches(*data), epochs=2)
    assert_same(loaded, whole, atol=1e-6)


def test_config_round_trip(data):
    ramp = kdtf.PolynomialSchedule(final=1.0, end_step=5)
    terms = [
        HiddenStates(layers={"states": "states"}, weight=ramp),
        PairwiseDistances(layers={"states": "states"}),
    ]
    distiller = kdtf.Distiller(tagger(8), tagger(4), features=terms)
    config = distiller.get_config()
    made = kdtf.Distiller.from_config(config)
    again = made.get_config()
    for one in (config, again):
        one.pop("student")
    assert again == config
    assert config["features"]["widths"] == [[[4, 8]], [None]]
    shapes = [tuple(p.kernel.shape) for p in made.projections]
    assert shapes == [(4, 8)] and made.teacher is None


def test_files_of_an_earlier_version_load(data, tmp_path):
    x, y, _ = data
    distiller = kdtf.Distiller(tagger(8), tagger(4))
    config = distiller.get_config()
    assert config.pop("features") is None and config.pop("chunk") is None
    made = kdtf.Distiller.from_config(config)
    made.student.set_weights(distiller.student.get_weights())
    np.testing.assert_array_equal(
        made.predict(x, verbose=0), distiller.predict(x, verbose=0)
    )


def test_a_teacher_that_has_no_layers_to_show_is_refused(data, tmp_path):
    teacher = tagger(8)
    cache = kdtf.cache_teacher(teacher, (data[0],), tmp_path, verbose=0)
    for wrong, name in (
        (cache, "TeacherCache"),
        ([teacher, teacher], "list"),
        ({"a": teacher}, "dict"),
    ):
        with pytest.raises(ValueError, match=f"one live teacher.*{name}"):
            kdtf.Distiller(wrong, tagger(4), features=[STATES])


def test_a_teacher_or_student_of_tf_keras_is_refused():
    import tf_keras

    legacy = tf_keras.Sequential(
        [tf_keras.layers.InputLayer((3,)), tf_keras.layers.Dense(4)]
    )
    student = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)])
    with pytest.raises(TypeError, match="Keras 3 models.*teacher"):
        kdtf.Distiller(legacy, student, features=[STATES])
    with pytest.raises(ValueError, match="`features` and `chunk` are for"):
        kdtf.Distiller(student, legacy, features=[STATES])


def test_layers_that_are_not_there_are_refused():
    term = HiddenStates(layers={"state": "states"})
    with pytest.raises(ValueError, match="Near to it: 'states'"):
        kdtf.Distiller(tagger(8), tagger(4), features=[term])


@pytest.mark.parametrize("wrong", ["widths", "cache"])
def test_a_refused_teacher_leaves_the_former_one(wrong, data, tmp_path):
    teacher = tagger(8)
    distiller = kdtf.Distiller(teacher, tagger(4), features=[STATES])
    other = tagger(10)
    if wrong == "cache":
        other = kdtf.cache_teacher(other, (data[0],), tmp_path, verbose=0)
    with pytest.raises((ValueError, TypeError), match="teacher"):
        distiller.set_teacher(other)
    assert distiller.teacher is teacher


def test_another_teacher_of_the_same_sizes_is_taken(data):
    teacher, other = tagger(8), tagger(8)
    other.set_weights([0.5 * w for w in teacher.get_weights()])
    distiller, fresh = make(teacher), make(other)
    distiller.set_teacher(other)
    for one in (distiller, fresh):
        fit(one, batches(*data))
    assert_same(distiller, fresh)


def test_teacher_is_neither_tracked_nor_changed(data):
    teacher = tagger(8)
    before = teacher.get_weights()
    distiller = make(teacher)
    fit(distiller, batches(*data))
    ours = {id(v) for v in distiller.variables}
    assert not ours & {id(v) for v in teacher.variables}
    for a, b in zip(before, teacher.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not [
        layer for layer in teacher._flatten_layers() if "call" in vars(layer)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("chunk", [1, 3])
def test_with_chunks(chunk, data):
    teacher = tagger(8)
    whole, parts = make(teacher), make(teacher, chunk=chunk)
    logs, other = (fit(d, batches(*data), epochs=2) for d in (whole, parts))
    assert_same(whole, parts, atol=1e-5)
    assert sorted(logs) == sorted(other)
    for name in logs:
        np.testing.assert_allclose(logs[name], other[name], rtol=1e-5)


def test_mixed_float16(data):
    teacher = tagger(8)
    keras.config.set_dtype_policy("mixed_float16")
    try:
        student = tagger(4)
    finally:
        keras.config.set_dtype_policy("float32")
    whole, half = make(teacher), make(teacher, student)
    logs, other = (fit(d, batches(*data)) for d in (whole, half))
    assert half.projections[0].kernel.dtype == "float32"
    for name in logs:
        np.testing.assert_allclose(logs[name], other[name], rtol=2e-2)


@pytest.mark.slow
@pytest.mark.parametrize(
    "compiled", [{"steps_per_execution": 2}, {"jit_compile": True}]
)
def test_ways_of_running_a_step(compiled, data):
    teacher = tagger(8)
    whole = make(teacher)
    other = make(teacher, compiled={"run_eagerly": False, **compiled})
    for one in (whole, other):
        fit(one, batches(*data), epochs=2)
    assert_same(whole, other, atol=1e-5)


REPLICAS = """
def tagger(width):
    inputs = keras.Input((6,), dtype="int32")
    hidden = keras.layers.Embedding(10, width)(inputs)
    hidden = keras.layers.Dense(width, "tanh", name="states")(hidden)
    return keras.Model(inputs, keras.layers.Dense(4)(hidden))

rng = np.random.default_rng(0)
x = rng.integers(1, 10, size=(8, 6)).astype("int32")
y = rng.integers(0, 4, size=(8, 6)).astype("int32")
w = rng.uniform(size=(8, 6)).astype("float32")
data = tf.data.Dataset.from_tensor_slices((x, y, w)).batch(4)
feature = kdtf.distillation.HiddenStates(layers={"states": "states"})

def make():
    keras.utils.set_random_seed(1)
    distiller = kdtf.Distiller(tagger(8), tagger(4), features=[feature])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile(keras.optimizers.SGD(0.5), loss)
    return distiller

def fit(distiller):
    return distiller.fit(data, shuffle=False, verbose=0)

def weights(distiller):
    return distiller.trainable_variables
"""


@pytest.mark.slow
def test_two_replicas_give_the_weights_and_logs_of_one(check_replicas):
    check_replicas(REPLICAS, rtol=1e-4)
