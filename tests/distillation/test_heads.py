import keras
import keras_nlp
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

import kdtf
from kdtf.distillation import losses
from kdtf.distillation import targets
from kdtf.distillation.heads import head_of
from kdtf.distillation.heads import token_losses

VOCABULARY, TIME = 12, 5
MODELS = keras_nlp.models


def language_model(family, **kwargs):
    """Returns a tiny causal language model of keras-nlp."""
    heads = {"num_query_heads": 2, "num_key_value_heads": 2}
    if family in ("GPT2", "OPT"):
        heads = {"num_heads": 2, "max_sequence_length": 8}
    backbone = getattr(MODELS, f"{family}Backbone")(
        vocabulary_size=VOCABULARY,
        num_layers=1,
        hidden_dim=4,
        intermediate_dim=4,
        dropout=0.0,
        **heads,
        **kwargs,
    )
    model = getattr(MODELS, f"{family}CausalLM")(backbone, preprocessor=None)
    rng = np.random.default_rng(len(family))
    # A fresh one's logits are nearly zero.
    for variable in model.weights:
        variable.assign(variable + 0.3 * rng.normal(size=variable.shape))
    return model


def tokens(rng):
    ids = rng.integers(1, VOCABULARY, size=(2, TIME)).astype("int32")
    return {"token_ids": ids, "padding_mask": np.ones_like(ids)}


@pytest.fixture
def batch(rng):
    """Inputs, labels and weights of 2 x 5 tokens, one of them masked."""
    labels = rng.integers(0, VOCABULARY, size=(2, TIME)).astype("int32")
    weights = rng.uniform(size=(2, TIME)).astype("float32")
    weights[1, 2] = 0.0
    return tokens(rng), labels, weights


@pytest.fixture(scope="module")
def teacher():
    return language_model("Mistral")


def hard(labels, logits):
    return keras.losses.sparse_categorical_crossentropy(
        labels, logits, from_logits=True
    )


def soft(teacher, logits):
    return losses.kl_divergence(teacher, logits, temperature=2.0)


def mixed(values, weights):
    return tf.reduce_sum(
        weights * (0.3 * values["hard"] + 0.7 * values["soft"])
    )


def gradients_of(student, loss):
    """Returns a loss and its gradients by all weights, by their paths."""
    variables = {v.path: v.value for v in student.trainable_variables}
    with tf.GradientTape() as tape:
        value = loss()
    found = tape.gradient(value, variables)
    dense = {path: tf.convert_to_tensor(g) for path, g in found.items()}
    return {"loss": value, **dense}


def naive(student, batch, taught, soft=soft):
    x, labels, weights = batch

    def loss():
        logits = tf.cast(student(x, training=True), "float32")
        values = {
            "hard": hard(labels, logits),
            "soft": soft(taught, logits),
        }
        return mixed(values, weights)

    return gradients_of(student, loss)


def chunked(student, batch, taught, chunk=3, soft=soft):
    x, labels, weights = batch
    head = head_of(student)

    def loss():
        values = token_losses(
            head.hidden(x, training=True),
            head,
            labels=labels,
            teacher=taught,
            hard=hard,
            soft=soft,
            chunk=chunk,
        )
        return mixed(values, weights)

    return gradients_of(student, loss)


def assert_equal(found, expected, tolerance=1e-5):
    assert found.keys() == expected.keys()
    for name, other in expected.items():
        one, other = np.asarray(found[name]), np.asarray(other)
        scale = np.abs(other).max()
        # Some gradients are nothing but rounding, as of a key's bias.
        assert np.abs(one - other).max() <= tolerance * max(scale, 0.1), name


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


def pair(teacher, x):
    head = head_of(teacher, argument="teacher")
    return head.hidden(x, training=False), head


@pytest.mark.parametrize(
    "family, kwargs, read",
    [
        ("GPT2", {}, "embeddings"),
        ("Llama", {}, "reverse_embeddings"),
        ("Gemma", {"head_dim": 2, "final_logit_soft_cap": 0.5}, "embeddings"),
        slow("OPT", {}, "embeddings"),
        slow("Llama3", {"tie_word_embeddings": True}, "embeddings"),
        slow("Qwen", {}, "embeddings"),
        slow("Mistral", {}, "reverse_embeddings"),
    ],
)
def test_losses_and_gradients_of_language_models(
    batch, teacher, family, kwargs, read
):
    student = language_model(family, **kwargs)
    assert [v.name for v in head_of(student).variables] == [read]
    taught = teacher(batch[0], training=False)
    expected = naive(student, batch, taught)
    assert_equal(chunked(student, batch, pair(teacher, batch[0])), expected)


@pytest.mark.parametrize("chunk", [1, 10, 11])
def test_any_chunk_is_the_same(batch, rng, chunk):
    student, teacher = dense_model(), dense_model()
    x = rng.normal(size=(2, TIME, 3)).astype("float32")
    batch = (x, *batch[1:])
    expected = naive(student, batch, teacher(x))
    assert_equal(chunked(student, batch, pair(teacher, x), chunk), expected)


def test_a_tied_embedding_gets_the_gradient_of_both_its_ends(batch, teacher):
    student = language_model("GPT2")
    x, labels, _ = batch
    head = head_of(student)
    table = student.backbone.token_embedding.embeddings

    def gradient(states):
        with tf.GradientTape() as tape:
            values = token_losses(
                states(), head, labels=labels, hard=hard, chunk=3
            )
            loss = tf.reduce_sum(values["hard"])
        return tf.convert_to_tensor(tape.gradient(loss, table.value))

    whole = gradient(lambda: head.hidden(x))
    output_only = gradient(lambda: tf.stop_gradient(head.hidden(x)))
    with tf.GradientTape() as tape:
        logits = head.hidden(x) @ tf.stop_gradient(tf.transpose(table.value))
        loss = tf.reduce_sum(hard(labels, logits))
    input_only = tf.convert_to_tensor(tape.gradient(loss, table.value))
    assert np.abs(input_only).max() > 0.1
    np.testing.assert_allclose(whole, output_only + input_only, atol=1e-5)


def of_cache(kind, logits):
    log_probs = tf.nn.log_softmax(logits / 2.0)
    if kind == "dense":
        return {"logits": logits}
    top, ids = tf.math.top_k(log_probs, 3)
    if kind == "samples":
        weights = tf.constant([0.5, 0.25, 0.25]) * tf.ones_like(top)
        return {"ids": ids, "log_probs": top, "weights": weights}
    rest = tf.math.log(1.0 - tf.reduce_sum(tf.exp(top), axis=-1))
    return {"ids": ids, "log_probs": top, "log_rest": rest}


def soft_of_cache(said, logits):
    if "logits" in said:
        return soft(said["logits"], logits)
    if "weights" in said:
        return targets.per_token_from_samples(said, logits, temperature=2.0)
    # The factor T^2 is of the temperature that is in the buckets already.
    return 4.0 * losses.kl_divergence(
        *targets.buckets(said, logits, temperature=2.0)
    )


@pytest.mark.parametrize("kind", ["dense", "top_k", "samples"])
def test_targets_of_a_cache(batch, teacher, kind):
    student = language_model("GPT2")
    said = of_cache(kind, teacher(batch[0], training=False))
    expected = naive(student, batch, said, soft_of_cache)
    assert_equal(chunked(student, batch, said, soft=soft_of_cache), expected)


@pytest.mark.parametrize("dtype", ["mixed_float16", "bfloat16"])
def test_in_half_precision_losses_are_float32(batch, teacher, dtype):
    student = language_model("GPT2", dtype=dtype)
    head = head_of(student)
    assert head.hidden(batch[0]).dtype == dtype.removeprefix("mixed_")
    taught = teacher(batch[0], training=False)
    expected = naive(student, batch, taught)
    found = chunked(student, batch, pair(teacher, batch[0]))
    assert found["loss"].dtype == "float32"
    np.testing.assert_allclose(found["loss"], expected["loss"], rtol=1e-3)
    for name in expected:
        assert found[name].dtype == expected[name].dtype
    found, expected = (
        {name: tf.cast(value, "float32") for name, value in each.items()}
        for each in (found, expected)
    )
    assert_equal(found, expected, 1e-2 if dtype == "mixed_float16" else 5e-2)


def dense_model(kind="functional", **kwargs):
    logits = keras.layers.Dense(
        VOCABULARY, bias_initializer="random_normal", name="logits", **kwargs
    )
    first = keras.layers.Dense(4, activation="tanh")
    if kind == "sequential":
        return keras.Sequential([keras.Input((TIME, 3)), first, logits])
    x = keras.Input((None, 3))
    return keras.Model(x, logits(first(x)))


@pytest.mark.parametrize("kind", ["functional", "sequential"])
def test_models_that_end_in_dense(batch, rng, kind):
    student, teacher = dense_model(kind), dense_model(kind)
    x = rng.normal(size=(2, TIME, 3)).astype("float32")
    batch = (x, *batch[1:])
    taught = teacher(x)
    expected = naive(student, batch, taught)
    assert len(expected) == 5
    assert_equal(chunked(student, batch, pair(teacher, x)), expected)


def test_a_frozen_head_passes_the_gradient_on(batch, rng):
    student = dense_model()
    student.get_layer("logits").trainable = False
    x = rng.normal(size=(2, TIME, 3)).astype("float32")
    batch = (x, *batch[1:])
    taught = dense_model()(x)
    expected = naive(student, batch, taught)
    assert len(expected) == 3
    said = {"logits": taught}
    assert_equal(chunked(student, batch, said, soft=soft_of_cache), expected)


def test_the_teacher_gets_no_gradient(batch, teacher):
    student = language_model("GPT2")
    x, labels, _ = batch
    head = head_of(student)
    with tf.GradientTape() as tape:
        values = token_losses(
            head.hidden(x), head, teacher=pair(teacher, x), soft=soft, chunk=3
        )
    found = tape.gradient(
        values["soft"], [v.value for v in teacher.trainable_variables]
    )
    assert found == [None] * len(found)


def test_only_what_is_asked_for_by_token(batch, teacher):
    x, labels, _ = batch
    head = head_of(teacher)
    states = head.hidden(x)
    values = token_losses(states, head, labels=labels, hard=hard, chunk=4)
    assert values.keys() == {"hard"}
    expected = hard(labels, teacher(x))
    np.testing.assert_allclose(values["hard"], expected, rtol=1e-5)
    own = token_losses(states, head, teacher=(states, head), soft=soft, chunk=4)
    assert own.keys() == {"soft"}
    # From itself a model has nothing to learn.
    np.testing.assert_allclose(own["soft"], np.zeros((2, TIME)), atol=1e-6)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_compiled_step_with_open_shapes(batch, rng, jit_compile):
    student, teacher = dense_model(), dense_model()
    x = rng.normal(size=(2, TIME, 3)).astype("float32")
    student_head, teacher_head = head_of(student), head_of(teacher)
    variables = [v.value for v in student.trainable_variables]

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, None, 3]),
            tf.TensorSpec([None, None], "int32"),
            tf.TensorSpec([None, None]),
        ],
        jit_compile=jit_compile,
    )
    def step(x, labels, weights):
        with tf.GradientTape() as tape:
            values = token_losses(
                student_head.hidden(x, training=True),
                student_head,
                labels=labels,
                teacher=(teacher_head.hidden(x), teacher_head),
                hard=hard,
                soft=soft,
                chunk=3,
            )
            loss = mixed(values, weights)
        return [loss, *tape.gradient(loss, variables)]

    expected = naive(student, (x, *batch[1:]), teacher(x))
    found = step(x, *batch[1:])
    assert_equal(dict(zip(expected, found, strict=True)), expected)


@pytest.mark.slow
def test_pruned_and_quantized_students(batch, teacher):
    student = language_model("GPT2")
    kdtf.prune(student, sparsity=0.5)
    kdtf.quantize_aware(student, "int4")
    head = head_of(student)
    table = student.backbone.token_embedding.embeddings
    hidden = head.hidden(batch[0])
    # Logits are those of the coarser table.
    plain = hidden @ ops.transpose(table)
    assert np.abs(student(batch[0]) - plain).max() > 1e-3
    expected = naive(student, batch, teacher(batch[0], training=False))
    assert_equal(chunked(student, batch, pair(teacher, batch[0])), expected)


class Doubled(keras.Model):
    """A graph of layers that does more than the graph says."""

    def call(self, *args, **kwargs):
        return 2.0 * super().call(*args, **kwargs)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(VOCABULARY)

    def call(self, x):
        return self.dense(x)


def doubled():
    model = dense_model()
    return Doubled(model.inputs, model.outputs)


def two_outputs():
    model = dense_model()
    return keras.Model(model.inputs, [model.output, model.output])


def learned_ranges():
    model = dense_model()
    x = np.ones((2, TIME, 3), "float32")
    return kdtf.quantize_aware(model, "int8", data=x)


@pytest.mark.parametrize(
    "make, match",
    [
        (lambda: dense_model(activation="softmax"), "'logits'.*'softmax'"),
        (
            lambda: dense_model(activity_regularizer="l2"),
            "outputs are regularized",
        ),
        (
            lambda: keras.Sequential([dense_model(), keras.layers.ReLU()]),
            "'re_lu.*a ReLU, neither",
        ),
        (Subclassed, "no graph of layers"),
        (two_outputs, "with one output"),
        (doubled, "'logits' token by token .relative error 5.0e-01"),
        (learned_ranges, "quantizer learns"),
    ],
)
def test_what_is_no_head_is_refused(make, match):
    with pytest.raises(ValueError, match=match) as caught:
        head_of(make(), argument="teacher")
    assert "`teacher` must end in a projection" in str(caught.value)
    assert "Leave `chunk` out" in str(caught.value)


def test_a_head_of_zeros_is_a_head():
    assert head_of(dense_model(kernel_initializer="zeros")).layer.name == (
        "logits"
    )


def test_nothing_to_compute_is_refused(teacher, rng):
    states, head = pair(teacher, tokens(rng))
    with pytest.raises(ValueError, match="`hard` or `soft` must be a loss"):
        token_losses(states, head, chunk=2)
