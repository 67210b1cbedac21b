"""A student that learns from a cache, as it would from the live teacher."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kdtf
from kdtf.distillation import losses

SparseCE = keras.losses.SparseCategoricalCrossentropy
CLASSES, TIME = 6, 5


def tagger(width, classes=CLASSES, activation=None, masked=False):
    inputs = keras.Input((TIME,), dtype="int32")
    hidden = keras.layers.Embedding(12, width, mask_zero=masked)(inputs)
    hidden = keras.layers.Dense(width, "tanh")(hidden)
    out = keras.layers.Dense(classes, activation=activation)(hidden)
    model = keras.Model(inputs, out)
    rng = np.random.default_rng(width)
    model.set_weights([rng.normal(size=w.shape) for w in model.get_weights()])
    return model


def classifier(width, activation=None, classes=4):
    model = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(width, "tanh"),
            keras.layers.Dense(classes, activation),
        ]
    )
    rng = np.random.default_rng(width)
    model.set_weights([rng.normal(size=w.shape) for w in model.get_weights()])
    return model


@pytest.fixture
def data(rng):
    """Eight rows of tokens, their labels and weights, all different."""
    x = rng.integers(1, 12, (8, TIME)).astype("int32")
    x[:, 0] = np.arange(8)
    y = rng.integers(0, CLASSES, (8, TIME)).astype("int32")
    return x, y, rng.uniform(size=(8, TIME)).astype("float32")


def batches(*parts):
    return tf.data.Dataset.from_tensor_slices(parts).batch(4)


def cached(teacher, data, folder, **kwargs):
    settings = {"dtype": "float32", "verbose": 0, "batch_size": 4, **kwargs}
    return kdtf.cache_teacher(teacher, data, folder, **settings)


def train(
    teacher,
    dataset,
    student=None,
    loss=None,
    compiled=None,
    fitted=None,
    **kwargs,
):
    """Trains a student that always starts alike; gives it and the logs."""
    student = student or tagger(4)
    distiller = kdtf.Distiller(teacher, student, **{"alpha": 0.3, **kwargs})
    compiled = {"run_eagerly": True, **(compiled or {})}
    loss = loss or SparseCE(from_logits=True)
    distiller.compile(keras.optimizers.SGD(0.5), loss, **compiled)
    fitted = {"epochs": 2, **(fitted or {})}
    logs = distiller.fit(dataset, verbose=0, shuffle=False, **fitted).history
    return distiller, logs


def assert_same(one, other, atol=0.0):
    """Compares weights and logs; 0 means bit for bit."""
    (a, logs_a), (b, logs_b) = one, other
    pairs = zip(a.student.get_weights(), b.student.get_weights(), strict=True)
    for v, w in pairs:
        np.testing.assert_allclose(v, w, rtol=0, atol=atol)
    assert sorted(logs_a) == sorted(logs_b)
    for name, values in logs_a.items():
        np.testing.assert_allclose(
            values, logs_b[name], rtol=1e-5, atol=1e-6, err_msg=name
        )
        # It moved, so that equal weights say something.
        assert values[0] != values[-1]


def test_dense_float32_cache_is_the_live_teacher(data, tmp_path):
    teacher = tagger(8)
    live = train(teacher, batches(*data))
    cache = cached(teacher, data, tmp_path)
    assert_same(train(cache, cache.attach(batches(*data))), live)


@pytest.mark.slow
def test_so_it_is_when_compiled_to_a_graph(data, tmp_path):
    teacher, graph = tagger(8), {"compiled": {"run_eagerly": False}}
    live = train(teacher, batches(*data), **graph)
    cache = cached(teacher, data, tmp_path)
    attached = cache.attach(batches(*data))
    # Fused by TensorFlow in another order.
    assert_same(train(cache, attached, **graph), live, atol=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_all_classes_kept_is_the_live_teacher(temperature, data, tmp_path):
    teacher = tagger(8)
    live = train(teacher, batches(*data), temperature=temperature)
    cache = cached(
        teacher, data, tmp_path, top_k=CLASSES, temperature=temperature
    )
    found = train(cache, cache.attach(batches(*data)), temperature=temperature)
    assert_same(found, live, atol=1e-6)


@pytest.mark.parametrize("kind", [{}, {"top_k": 2}, {"samples": 3}])
def test_shuffled_batches_find_their_rows(kind, data, tmp_path):
    teacher = tagger(8)
    cache = cached(teacher, data, tmp_path, shard_megabytes=1e-4, **kind)
    order = np.array([5, 2, 7, 0, 3, 6, 1, 4])
    shuffled = [part[order] for part in data]
    fresh = cached(teacher, tuple(shuffled), tmp_path / "other", **kind)
    one = train(cache, cache.attach(batches(*shuffled)), temperature=1.0)
    other = train(fresh, fresh.attach(batches(*shuffled)), temperature=1.0)
    assert_same(one, other)


def test_top_k_loss_is_the_numpy_formula(data, tmp_path):
    teacher, student = tagger(8), tagger(4)
    x, y, weight = data
    cache = cached(teacher, data, tmp_path, top_k=2, temperature=2.0)
    t, s = (np.asarray(m(x), "float64") / 2.0 for m in (teacher, student))
    p, q = (np.exp(z) / np.exp(z).sum(-1, keepdims=True) for z in (t, s))
    ids = np.argsort(-p, -1)[..., :2]

    def merged(r):
        top = np.take_along_axis(r, ids, -1)
        return np.concatenate([top, 1 - top.sum(-1, keepdims=True)], -1)

    p, q = merged(p), merged(q)
    expected = 4.0 * ((p * np.log(p / q)).sum(-1) * weight).mean()
    dataset = tf.data.Dataset.from_tensors(tuple(data))
    _, logs = train(
        cache, cache.attach(dataset), temperature=2.0, fitted={"epochs": 1}
    )
    np.testing.assert_allclose(logs["soft_loss"], [expected], rtol=1e-5)


def test_samples_average_to_the_divergence(data, tmp_path):
    teacher = tagger(8)
    whole = train(teacher, batches(*data), temperature=1.0)[1]["soft_loss"][0]
    settings = {"samples": 200, "temperature": 1.0}
    cache = cached(teacher, data, tmp_path, **settings)
    found = train(cache, cache.attach(batches(*data)), temperature=1.0)[1]
    # 40 tokens of 200 draws: a deviation of about 2 / sqrt(8000).
    np.testing.assert_allclose(found["soft_loss"][0], whole, atol=0.15)


@pytest.mark.parametrize("name", ["jensen_shannon", "skew_kl"])
def test_other_divergences_of_all_classes_kept(name, data, tmp_path):
    teacher, settings = tagger(8), {"temperature": 2.0, "soft_loss": name}
    live = train(teacher, batches(*data), **settings)
    cache = cached(teacher, data, tmp_path, top_k=CLASSES, temperature=2.0)
    found = train(cache, cache.attach(batches(*data)), **settings)
    assert_same(found, live, atol=1e-5)


def test_total_variation_of_all_classes_kept(data, tmp_path):
    teacher, settings = tagger(8), {"temperature": 2.0, "soft_loss": "tvd"}
    live = train(teacher, batches(*data), **settings)
    cache = cached(teacher, data, tmp_path, top_k=CLASSES, temperature=2.0)
    found = train(cache, cache.attach(batches(*data)), **settings)
    assert_same(found, live, atol=1e-5)


@pytest.mark.parametrize("kind", [{}, {"top_k": CLASSES}])
def test_masks_and_weights(kind, data, tmp_path):
    x, y, weight = data
    x[::2, 3:] = 0
    teacher = tagger(8)
    settings = {"temperature": 1.0}
    live = train(
        teacher, batches(x, y, weight), tagger(4, masked=True), **settings
    )
    cache = cached(teacher, data, tmp_path, **kind)
    attached = cache.attach(batches(x, y, weight))
    found = train(cache, attached, tagger(4, masked=True), **settings)
    assert_same(found, live, atol=1e-6)
    # And padding has no part: other labels there change nothing.
    y[x == 0] = (y[x == 0] + 1) % CLASSES
    again = train(
        cache,
        cache.attach(batches(x, y, weight)),
        tagger(4, masked=True),
        **settings,
    )
    assert_same(again, found)


def test_class_weights(rng, tmp_path):
    x = rng.normal(size=(8, 3)).astype("float32")
    y = (np.arange(8) % 4).astype("int32")
    teacher = classifier(8)
    fitted = {"class_weight": {0: 2.0, 1: 0.0, 2: 1.0, 3: 0.5}}
    live = train(teacher, batches(x, y), classifier(4), fitted=fitted)
    cache = cached(teacher, (x, y), tmp_path)
    found = train(
        cache, cache.attach(batches(x, y)), classifier(4), fitted=fitted
    )
    assert_same(found, live, atol=1e-6)
    plain = train(cache, cache.attach(batches(x, y)), classifier(4))
    assert abs(plain[1]["soft_loss"][0] - found[1]["soft_loss"][0]) > 1e-3


def test_a_teacher_of_probabilities(rng, tmp_path):
    x = rng.normal(size=(8, 3)).astype("float32")
    y = (np.arange(8) % 4).astype("int32")
    teacher = classifier(8, "softmax")
    live = train(teacher, batches(x, y), classifier(4))
    cache = cached(teacher, (x, y), tmp_path)
    found = train(cache, cache.attach(batches(x, y)), classifier(4))
    assert_same(found, live, atol=1e-6)


def binary(rng):
    x = rng.normal(size=(8, 3)).astype("float32")
    return x, rng.integers(0, 2, (8, 4)).astype("float32")


def test_labels_each_for_itself(rng, tmp_path):
    x, y = binary(rng)
    teacher = classifier(8)
    settings = {"loss": keras.losses.BinaryCrossentropy(from_logits=True)}
    live = train(teacher, batches(x, y), classifier(4), **settings)
    cache = cached(teacher, (x, y), tmp_path, head="sigmoid")
    assert cache.head == "sigmoid"
    found = train(cache, cache.attach(batches(x, y)), classifier(4), **settings)
    assert_same(found, live, atol=1e-6)


def test_labels_each_for_itself_are_told_by_the_hard_loss(rng, tmp_path):
    """As for the live teacher; or it is refused, which would do as well."""
    x, y = binary(rng)
    teacher = classifier(8)
    settings = {"loss": keras.losses.BinaryCrossentropy(from_logits=True)}
    live = train(teacher, batches(x, y), classifier(4), **settings)
    cache = cached(teacher, (x, y), tmp_path)
    try:
        found = train(
            cache, cache.attach(batches(x, y)), classifier(4), **settings
        )
    except ValueError as error:
        assert "head" in str(error)
    else:
        assert_same(found, live, atol=1e-6)


def test_another_head_than_the_caches_is_refused(rng, tmp_path):
    x, y = binary(rng)
    cache = cached(classifier(8, "softmax"), (x, y), tmp_path)
    assert cache.head == "softmax"
    with pytest.raises(ValueError, match="head"):
        train(
            cache,
            cache.attach(batches(x, y)),
            classifier(4, "sigmoid"),
            loss=keras.losses.BinaryCrossentropy(),
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    "compiled", [{"steps_per_execution": 2}, {"jit_compile": True}]
)
@pytest.mark.parametrize("kind", [{}, {"top_k": CLASSES}])
def test_ways_of_running_a_step(compiled, kind, data, tmp_path):
    teacher = tagger(8)
    live = train(teacher, batches(*data), temperature=1.0)
    cache = cached(teacher, data, tmp_path, **kind)
    found = train(
        cache,
        cache.attach(batches(*data)),
        temperature=1.0,
        compiled={"run_eagerly": False, **compiled},
    )
    assert_same(found, live, atol=1e-5)


@pytest.mark.parametrize("kind", [{}, {"top_k": 3}, {"samples": 4}])
def test_mixed_float16_and_a_float16_cache(kind, data, tmp_path):
    teacher = tagger(8)
    cache = cached(teacher, data, tmp_path, dtype="float16", **kind)
    whole = train(cache, cache.attach(batches(*data)), temperature=1.0)[1]
    keras.config.set_dtype_policy("mixed_float16")
    try:
        student = tagger(4)
    finally:
        keras.config.set_dtype_policy("float32")
    assert student.compute_dtype == "float16"
    distiller, logs = train(
        cache, cache.attach(batches(*data)), student, temperature=1.0
    )
    assert type(distiller.optimizer).__name__ == "LossScaleOptimizer"
    for name in whole:
        np.testing.assert_allclose(
            logs[name], whole[name], rtol=2e-2, atol=2e-2, err_msg=name
        )


def test_evaluate_and_predict_on_both_kinds_of_dataset(data, tmp_path):
    cache = cached(tagger(8), data, tmp_path, top_k=2)
    plain = batches(*data)
    attached = cache.attach(plain)
    distiller, _ = train(
        cache,
        attached,
        temperature=1.0,
        compiled={"weighted_metrics": ["accuracy"]},
    )
    student = distiller.student
    student.compile(
        loss=SparseCE(from_logits=True), weighted_metrics=["accuracy"]
    )
    own = student.evaluate(plain, verbose=0, return_dict=True)
    for dataset in (plain, attached):
        found = distiller.evaluate(dataset, verbose=0, return_dict=True)
        assert sorted(found) == ["accuracy", "hard_loss", "loss"]
        for name in own:
            np.testing.assert_allclose(found[name], own[name], rtol=1e-6)
        np.testing.assert_array_equal(
            distiller.predict(dataset, verbose=0),
            student.predict(data[0], batch_size=4, verbose=0),
        )


@pytest.mark.parametrize("attach_it", [True, False])
def test_validation_data_of_both_kinds(attach_it, data, tmp_path):
    cache = cached(tagger(8), data, tmp_path)
    plain = batches(*data)
    validation = cache.attach(plain) if attach_it else plain
    distiller, logs = train(
        cache, cache.attach(plain), fitted={"validation_data": validation}
    )
    assert sorted(logs) == [
        "hard_loss",
        "loss",
        "soft_loss",
        "val_hard_loss",
        "val_loss",
    ]
    last = distiller.evaluate(plain, verbose=0, return_dict=True)
    np.testing.assert_allclose(logs["val_loss"][-1], last["loss"], rtol=1e-6)


def test_without_labels(data, tmp_path):
    teacher = tagger(8)
    x = data[0]
    live = train(teacher, batches(x), alpha=0.0)
    cache = cached(teacher, (x,), tmp_path)
    found = train(cache, cache.attach(batches(x)), alpha=0.0)
    for _, logs in (found, live):
        assert logs.pop("hard_loss") == [0.0, 0.0]
    assert_same(found, live)
    assert sorted(found[1]) == ["loss", "soft_loss"]


@pytest.mark.parametrize("kind", [{}, {"top_k": 2}, {"samples": 2}])
def test_fit_without_attach_is_refused(kind, data, tmp_path):
    cache = cached(tagger(8), data, tmp_path, **kind)
    with pytest.raises(ValueError, match=r"cache\.attach\(dataset\)"):
        train(cache, batches(*data), temperature=1.0)


def test_a_live_teacher_does_not_look_at_what_is_attached(data, tmp_path):
    teacher, other = tagger(8), tagger(10)
    live = train(teacher, batches(*data))
    cache = cached(other, data, tmp_path)
    assert_same(train(teacher, cache.attach(batches(*data))), live)


@pytest.mark.parametrize("kind", [{"top_k": 2}, {"samples": 2}])
@pytest.mark.parametrize(
    "temperature",
    [4.0, kdtf.PolynomialSchedule(initial=2.0, final=4.0, end_step=9)],
)
def test_another_temperature_is_refused(kind, temperature, data, tmp_path):
    cache = cached(tagger(8), data, tmp_path, temperature=2.0, **kind)
    with pytest.raises(ValueError, match="`temperature` must be the cache's"):
        kdtf.Distiller(cache, tagger(4), temperature=temperature)
    distiller = kdtf.Distiller(cache, tagger(4), temperature=2.0)
    assert distiller.teacher is cache


def test_a_dense_cache_is_for_any_temperature(data, tmp_path):
    teacher, warm = tagger(8), {"temperature": 7.0}
    cache = cached(teacher, data, tmp_path)
    live = train(teacher, batches(*data), **warm)
    assert_same(train(cache, cache.attach(batches(*data)), **warm), live)


@pytest.mark.parametrize("name", ["mse", "dkd", "dist", "uld"])
def test_losses_that_need_all_logits_are_refused(name, data, tmp_path):
    cache = cached(tagger(8), data, tmp_path, top_k=2)
    with pytest.raises(ValueError, match="needs all logits.*soft_loss="):
        kdtf.Distiller(cache, tagger(4), temperature=1.0, soft_loss=name)
    dense = cached(tagger(8), data, tmp_path / "dense")
    assert kdtf.Distiller(dense, tagger(4), soft_loss=name).teacher is dense


@pytest.mark.parametrize("name", sorted(set(losses.LOSSES) - {"kl"}))
def test_samples_are_for_the_forward_kl(name, data, tmp_path):
    cache = cached(tagger(8), data, tmp_path, samples=2)
    with pytest.raises(ValueError, match="cache of samples.*soft_loss="):
        kdtf.Distiller(cache, tagger(4), temperature=1.0, soft_loss=name)


@pytest.mark.parametrize("name", ["dkd", "dist", "uld", "mse"])
def test_losses_of_all_logits_from_a_dense_cache(name, data, tmp_path):
    teacher, settings = tagger(8), {"soft_loss": name, "temperature": 2.0}
    live = train(teacher, batches(*data), **settings)
    cache = cached(teacher, data, tmp_path)
    found = train(cache, cache.attach(batches(*data)), **settings)
    assert_same(found, live)


def test_what_is_for_models_is_refused(data, tmp_path):
    cache = cached(tagger(8), data, tmp_path)
    for settings in ({"teacher_inputs": lambda x: x}, {"teacher_weights": [1]}):
        with pytest.raises(ValueError, match="for models; a cache"):
            kdtf.Distiller(cache, tagger(4), **settings)
    with pytest.raises(ValueError, match="same shape|vocabulary"):
        kdtf.Distiller(cache, tagger(4, classes=CLASSES + 1))


@pytest.mark.slow
def test_saved_and_loaded_it_goes_on_as_if_never_interrupted(data, tmp_path):
    cache = cached(tagger(8), data, tmp_path / "cache", top_k=3)
    attached = cache.attach(batches(*data))

    def new():
        made = kdtf.Distiller(cache, tagger(4), alpha=0.3, temperature=1.0)
        loss = SparseCE(from_logits=True)
        made.compile(keras.optimizers.Adam(0.1), loss, run_eagerly=True)
        return made

    def fit(model):
        model.fit(attached, epochs=2, verbose=0, shuffle=False)

    whole, first = new(), new()
    fit(whole), fit(whole), fit(first)
    first.save(tmp_path / "d.keras")
    loaded = keras.saving.load_model(tmp_path / "d.keras")
    assert loaded.teacher is None
    with pytest.raises(ValueError, match="set_teacher"):
        fit(loaded)
    loaded.set_teacher(cache)
    loaded.run_eagerly = True
    fit(loaded)
    pairs = zip(
        whole.student.get_weights(), loaded.student.get_weights(), strict=True
    )
    for v, w in pairs:
        np.testing.assert_allclose(v, w, atol=1e-6)


def test_a_loaded_one_refuses_a_cache_at_another_temperature(data, tmp_path):
    cache = cached(tagger(8), data, tmp_path, top_k=3, temperature=2.0)
    distiller = kdtf.Distiller(None, tagger(4), temperature=4.0)
    with pytest.raises(ValueError, match="`temperature` must be the cache's"):
        distiller.set_teacher(cache)
    assert distiller.teacher is None


def test_a_tf_keras_student_learns_from_a_cache(rng, tmp_path):
    import tf_keras

    x = rng.normal(size=(8, 3)).astype("float32")
    y = (np.arange(8) % 4).astype("int32")
    cache = cached(classifier(8), (x, y), tmp_path)
    modern = classifier(4)
    student = tf_keras.Sequential(
        [
            tf_keras.layers.InputLayer((3,)),
            tf_keras.layers.Dense(4, "tanh"),
            tf_keras.layers.Dense(4),
        ]
    )
    student.set_weights(modern.get_weights())
    distiller = kdtf.Distiller(cache, student, alpha=0.3)
    distiller.compile(
        tf_keras.optimizers.SGD(0.5),
        tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        run_eagerly=True,
    )
    attached = cache.attach(batches(x, y))
    logs = distiller.fit(attached, epochs=2, verbose=0, shuffle=False).history
    _, expected = train(cache, attached, modern)
    for name in expected:
        np.testing.assert_allclose(logs[name], expected[name], rtol=1e-5)
    for v, w in zip(student.get_weights(), modern.get_weights(), strict=True):
        np.testing.assert_allclose(v, w, atol=1e-6)
    own = distiller.evaluate(attached, verbose=0, return_dict=True)
    plain = distiller.evaluate(batches(x, y), verbose=0, return_dict=True)
    assert own == plain


REPLICAS = """
def tagger(width):
    inputs = keras.Input((6,), dtype="int32")
    hidden = keras.layers.Embedding(10, width, mask_zero=True)(inputs)
    return keras.Model(inputs, keras.layers.Dense(4)(hidden))

rng = np.random.default_rng(0)
x = rng.integers(1, 10, size=(8, 6)).astype("int32")
x[::3, 4:] = 0
y = rng.integers(0, 4, size=(8, 6)).astype("int32")
data = tf.data.Dataset.from_tensor_slices((x, y)).batch(4)
keras.utils.set_random_seed(0)
cache = kdtf.cache_teacher(
    tagger(8), data, tempfile.mkdtemp(), top_k=3, verbose=0
)

def make():
    keras.utils.set_random_seed(1)
    distiller = kdtf.Distiller(cache, tagger(4), temperature=1.0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile(keras.optimizers.SGD(0.5), loss)
    return distiller

def fit(distiller):
    return distiller.fit(cache.attach(data), shuffle=False, verbose=0)

def weights(distiller):
    return distiller.student.weights
"""


@pytest.mark.slow
def test_two_replicas_give_the_weights_and_logs_of_one(check_replicas):
    check_replicas(REPLICAS, rtol=1e-4)
