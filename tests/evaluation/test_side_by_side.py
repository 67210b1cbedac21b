import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from kdtf.evaluation import compare


@pytest.fixture(scope="module")
def small_model(small_model_path):
    return keras.saving.load_model(small_model_path)


def test_a_model_and_its_exported_file_agree(
    small_model, tiny_tflite, small_data
):
    comparison = compare(
        {"model": small_model, "file": tiny_tflite},
        small_data,
        metrics=["accuracy", "sparse_categorical_crossentropy"],
        latency_runs=3,
    )
    model, file = comparison
    assert (model.kind, file.kind) == ("keras", "tflite")
    assert file.agreement == 1.0
    # Another runtime adds in another order.
    assert file.metrics == pytest.approx(model.metrics, abs=1e-5)
    assert model.num_parameters == file.num_parameters == 40 + 580
    assert model.size_bytes == 4 * 620
    assert file.size_bytes == tiny_tflite.stat().st_size
    assert comparison.num_examples == 70
    assert comparison.directions["accuracy"] == "higher"


def test_every_row_is_timed_alike(small_model, tiny_tflite, small_data):
    comparison = compare(
        {"model": small_model, "file": tiny_tflite},
        small_data,
        num_threads=2,
        latency_runs=4,
    )
    for row in comparison:
        assert row.latency.num_runs == 4
        assert row.latency.num_threads == 2
        assert row.latency.batch_size == 1
        assert row.latency_ms_p50 <= row.latency_ms_p90


def test_metrics_equal_those_of_evaluate(small_model, small_data):
    images, labels = small_data
    weights = np.linspace(0, 2, len(labels)).astype("float32")
    metrics = [
        keras.metrics.SparseCategoricalAccuracy(name="right"),
        keras.metrics.SparseCategoricalCrossentropy(from_logits=True),
    ]
    small_model.compile(
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        weighted_metrics=metrics,
    )
    expected = small_model.evaluate(
        images, labels, sample_weight=weights, verbose=0, return_dict=True
    )
    row = compare(
        {"model": small_model},
        (images, labels, weights),
        metrics=metrics,
        latency_runs=0,
    )["model"]
    del expected["loss"]
    assert row.metrics == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("labels", "num_units", "loss"),
    [
        ("sparse", 4, "sparse_categorical_crossentropy"),
        ("one_hot", 4, "categorical_crossentropy"),
        ("binary", 1, "binary_crossentropy"),
    ],
)
def test_accuracy_is_what_compile_makes_of_it(
    small_data, labels, num_units, loss
):
    images, classes = small_data
    y = {
        "sparse": classes,
        "one_hot": np.eye(4)[classes],
        "binary": (classes > 1)[:, None].astype("float32"),
    }[labels]
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(num_units),
        ]
    )
    model.compile(loss=loss, metrics=["accuracy"])
    expected = model.evaluate(images, y, verbose=0, return_dict=True)
    row = compare(
        {"model": model}, (images, y), metrics=["accuracy"], latency_runs=0
    )["model"]
    assert row.metrics["accuracy"] == pytest.approx(expected["accuracy"])


def test_a_masking_model_is_measured_as_evaluate_does():
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, 9, (40, 6)).astype("int32")
    tokens[::2, 3:] = 0
    labels = rng.integers(0, 3, (40, 6)).astype("int32")
    model = keras.Sequential(
        [
            keras.Input((6,), dtype="int32"),
            keras.layers.Embedding(9, 4, mask_zero=True),
            keras.layers.Dense(3),
        ]
    )
    model.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    expected = model.evaluate(tokens, labels, verbose=0, return_dict=True)
    row = compare(
        {"model": model}, (tokens, labels), metrics=["accuracy"], latency_runs=0
    )["model"]
    assert row.metrics["accuracy"] == pytest.approx(expected["accuracy"])
    by_hand = (model.predict(tokens, verbose=0).argmax(-1) == labels)[
        tokens > 0
    ]
    assert row.metrics["accuracy"] == pytest.approx(by_hand.mean())


@pytest.mark.slow
def test_a_language_model_is_measured_over_real_tokens(tiny_transformer):
    keras_nlp = pytest.importorskip("keras_nlp")
    rng = np.random.default_rng(0)
    x = {
        "token_ids": rng.integers(0, 32, (6, 12)).astype("int32"),
        "padding_mask": np.ones((6, 12), "int32"),
    }
    x["padding_mask"][3:, 7:] = 0
    labels = rng.integers(0, 32, (6, 12)).astype("int32")
    weights = x["padding_mask"].astype("float32")
    comparison = compare(
        {"lm": tiny_transformer, "again": tiny_transformer},
        (x, labels, weights),
        metrics=[keras_nlp.metrics.Perplexity(from_logits=True)],
        latency_runs=2,
        batch_size=4,
    )
    logits = tiny_transformer.predict(x, verbose=0).astype("float64")
    logits -= logits.max(-1, keepdims=True)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    loss = -np.take_along_axis(log_p, labels[..., None], -1)[..., 0]
    expected = np.exp((loss * weights).sum() / weights.sum())
    row = comparison["lm"]
    assert row.metrics["perplexity"] == pytest.approx(expected, rel=1e-5)
    assert comparison["again"].agreement == 1.0
    assert row.latency is not None, row.notes


def test_a_tf_keras_model_stands_beside_a_keras_one(small_data):
    """Same weights, same outputs, one metric implementation for both."""
    made = {}
    for library in (keras, tf_keras):
        model = library.Sequential(
            [
                library.Input((8, 8, 1)),
                library.layers.Flatten(),
                library.layers.Dense(4),
            ]
        )
        kernel = np.random.default_rng(0).normal(size=(64, 4))
        model.set_weights([kernel, np.zeros(4)])
        made[library.__name__] = model
    comparison = compare(made, small_data, metrics=["accuracy"], latency_runs=2)
    new, old = comparison
    assert (new.kind, old.kind) == ("keras", "tf_keras")
    assert old.agreement == 1.0
    assert old.metrics == new.metrics
    assert old.size_bytes == new.size_bytes
    assert old.latency is not None, old.notes


def test_a_shuffled_dataset_is_the_same_for_all_rows(small_model, small_data):
    dataset = tf.data.Dataset.from_tensor_slices(small_data)
    dataset = dataset.shuffle(70).batch(16)
    comparison = compare(
        {"a": small_model, "b": small_model}, dataset, latency_runs=0
    )
    assert comparison["b"].agreement == 1.0
    assert comparison.num_examples == 70


@pytest.mark.slow
def test_a_row_that_cannot_be_timed_says_why_and_the_others_go_on(
    small_data, small_model
):
    class Opaque(keras.layers.Layer):
        def call(self, x):
            shape = (x.shape[0], 4)
            return tf.numpy_function(
                lambda a: a.reshape(len(a), -1)[:, :4], [x], tf.float32
            ) * tf.ones(shape if shape[0] else (1, 4))

        def compute_output_shape(self, shape):
            return (shape[0], 4)

    opaque = keras.Sequential([keras.Input((8, 8, 1)), Opaque()])
    comparison = compare(
        {"opaque": opaque, "small": small_model}, small_data, latency_runs=2
    )
    row = comparison["opaque"]
    assert row.latency is None
    assert row.notes[0].startswith("not timed: ")
    assert row.agreement == 1.0
    assert comparison["small"].latency is not None


def test_without_data_size_and_latency_are_measured(tiny_tflite, small_model):
    comparison = compare(
        {"file": tiny_tflite, "model": small_model}, latency_runs=2
    )
    for row in comparison:
        assert row.agreement is None
        assert row.latency is not None, row.notes
    assert comparison.num_examples == 0


@pytest.mark.slow
def test_dict_and_tuple_inputs_reach_model_and_file(tmp_path):
    left, right = (
        keras.Input((3,), name="left"),
        keras.Input((3,), name="right"),
    )
    outputs = keras.layers.Dense(2)(left - right)
    for structure in ({"left": left, "right": right}, [left, right]):
        model = keras.Model(structure, outputs)
        a, b = np.random.default_rng(0).normal(size=(2, 9, 3)).astype("float32")
        x = {"left": a, "right": b} if isinstance(structure, dict) else (a, b)
        labels = np.zeros(9, "int32")
        comparison = compare({"model": model}, (x, labels), latency_runs=2)
        assert comparison["model"].latency is not None, comparison


@pytest.mark.parametrize("models", [{}, [1], None])
def test_models_must_be_a_dict_of_some(models):
    with pytest.raises(ValueError, match="`models` must be a dict"):
        compare(models)


def test_metrics_need_data(small_model):
    with pytest.raises(ValueError, match="data=None"):
        compare({"a": small_model}, metrics=["accuracy"])


def test_a_negative_number_of_runs_is_refused(small_model):
    with pytest.raises(ValueError, match="latency_runs=-1"):
        compare({"a": small_model}, latency_runs=-1)


def test_data_a_model_cannot_take_is_refused_with_its_name(small_model):
    data = (np.ones((2, 3), "float32"), np.zeros(2))
    with pytest.raises(ValueError, match="model 'small'.*shape"):
        compare({"small": small_model}, data, latency_runs=0)
