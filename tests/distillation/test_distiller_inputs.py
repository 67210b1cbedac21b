"""What fit accepts: heads, labels, weights, masks, dtypes, model kinds."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kdtf

# For its time; CI runs it.
pytestmark = pytest.mark.slow

SparseCE = keras.losses.SparseCategoricalCrossentropy
BinaryCE = keras.losses.BinaryCrossentropy


def mlp(width, classes=3, activation=None, **kwargs):
    return keras.Sequential(
        [
            keras.Input((5,)),
            keras.layers.Dense(width, activation="relu", **kwargs),
            keras.layers.Dense(classes, activation=activation, **kwargs),
        ]
    )


def frozen():
    return keras.optimizers.SGD(0.0)


def with_probabilities(model, activation):
    return keras.Sequential([model, keras.layers.Activation(activation)])


@pytest.fixture
def x(rng):
    return rng.normal(size=(8, 5)).astype("float32")


@pytest.fixture
def y(rng):
    return rng.integers(0, 3, size=8).astype("int32")


def losses_of(distiller, *args, loss, **kwargs):
    distiller.compile(frozen(), loss)
    history = distiller.fit(*args, batch_size=64, verbose=0, **kwargs).history
    return history["hard_loss"][0], history["soft_loss"][0]


@pytest.mark.parametrize("eager", [False, True])
@pytest.mark.parametrize("teacher_ends", ["logits", "softmax"])
@pytest.mark.parametrize("student_ends", ["logits", "softmax"])
def test_softmax_or_logits_give_the_same_losses(
    teacher_ends, student_ends, eager, x, y
):
    teacher, student = mlp(16), mlp(4)
    expected = losses_of(
        kdtf.Distiller(teacher, student),
        x,
        y,
        loss=SparseCE(from_logits=True),
    )
    if teacher_ends == "softmax":
        teacher = with_probabilities(teacher, "softmax")
    if student_ends == "softmax":
        student = with_probabilities(student, "softmax")
    distiller = kdtf.Distiller(teacher, student)
    distiller.compile(
        frozen(),
        SparseCE(from_logits=student_ends == "logits"),
        run_eagerly=eager,
    )
    logs = distiller.fit(x, y, batch_size=64, verbose=0).history
    np.testing.assert_allclose(logs["hard_loss"][0], expected[0], rtol=1e-5)
    np.testing.assert_allclose(logs["soft_loss"][0], expected[1], rtol=1e-4)


class Subclassed(keras.Model):
    """No Keras graph to look at; may end in a TensorFlow softmax."""

    def __init__(self, width, classes=3, softmax=False):
        super().__init__()
        self.hidden = keras.layers.Dense(width, activation="relu")
        self.out = keras.layers.Dense(classes)
        self.softmax = softmax

    def call(self, inputs):  # takes no `training` argument
        z = self.out(self.hidden(inputs))
        return tf.nn.softmax(z) if self.softmax else z


@pytest.mark.parametrize("eager", [False, True])
def test_subclassed_models_are_told_apart_by_their_ops(eager, x, y):
    teacher, student = Subclassed(16), Subclassed(4)
    teacher(x), student(x)
    expected = losses_of(
        kdtf.Distiller(teacher, student), x, y, loss=SparseCE(from_logits=True)
    )
    teacher.softmax = True
    distiller = kdtf.Distiller(teacher, student)
    distiller.compile(frozen(), SparseCE(from_logits=True), run_eagerly=eager)
    logs = distiller.fit(x, y, batch_size=64, verbose=0).history
    np.testing.assert_allclose(logs["soft_loss"][0], expected[1], rtol=1e-4)


def test_subclassed_student_with_a_wrong_hard_loss_is_refused_in_fit(x, y):
    teacher, student = Subclassed(16), Subclassed(4)
    teacher(x), student(x)
    distiller = kdtf.Distiller(teacher, student)
    distiller.compile("sgd", SparseCE(from_logits=False))
    with pytest.raises(ValueError, match="from_logits=True"):
        distiller.fit(x, y, verbose=0)


def test_subclassed_class_counts_are_checked_when_they_are_known(x, y):
    teacher, student = Subclassed(16, classes=4), Subclassed(4)
    teacher(x), student(x)
    distiller = kdtf.Distiller(teacher, student)
    distiller.compile("sgd", SparseCE(from_logits=True))
    with pytest.raises(ValueError, match=r"same shape.*\(8, 4\).*\(8, 3\)"):
        distiller.fit(x, y, batch_size=8, verbose=0)


def test_output_of_a_compiled_function_asks_for_outputs(x, y):
    student = Subclassed(4)
    student(x)
    softmax = tf.function(tf.nn.softmax)
    student.call = lambda inputs: softmax(student.out(student.hidden(inputs)))
    teacher = Subclassed(16)
    teacher(x)
    distiller = kdtf.Distiller(teacher, student)
    distiller.compile("sgd", SparseCE())
    with pytest.raises(ValueError, match="student returns.*outputs='logits'"):
        distiller.fit(x, y, verbose=0)
    told = kdtf.Distiller(teacher, student, outputs=("auto", "probabilities"))
    told.compile("sgd", SparseCE())
    assert np.isfinite(told.fit(x, y, verbose=0).history["loss"][0])


def test_one_hot_and_soft_labels(x, y):
    teacher, student = mlp(16), mlp(4)
    distiller = kdtf.Distiller(teacher, student)
    sparse = losses_of(distiller, x, y, loss=SparseCE(from_logits=True))
    categorical = keras.losses.CategoricalCrossentropy(from_logits=True)
    one_hot = keras.ops.convert_to_numpy(keras.ops.one_hot(y, 3))
    hot = losses_of(distiller, x, one_hot, loss=categorical)
    np.testing.assert_allclose(hot, sparse, rtol=1e-5)
    soft = losses_of(distiller, x, 0.5 * one_hot + 0.5 / 3, loss=categorical)
    log_p = np.asarray(keras.ops.log_softmax(student(x)))
    expected = -((0.5 * one_hot + 0.5 / 3) * log_p).sum(-1).mean()
    np.testing.assert_allclose(soft, [expected, sparse[1]], rtol=1e-5)


def bernoulli_soft_loss(teacher, student, x, temperature):
    p, q = (
        1 / (1 + np.exp(-np.asarray(m(x), "float64") / temperature))
        for m in (teacher, student)
    )
    kl = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    return temperature**2 * kl.mean()


def test_one_sigmoid_logit_is_binary(x, y):
    teacher, student = mlp(16, 1), mlp(4, 1)
    distiller = kdtf.Distiller(teacher, student, temperature=3.0)
    labels = (y > 0).astype("float32")
    _, soft = losses_of(
        distiller, x, labels[:, None], loss=BinaryCE(from_logits=True)
    )
    expected = bernoulli_soft_loss(teacher, student, x, 3.0)
    assert expected > 1e-3
    np.testing.assert_allclose(soft, expected, rtol=1e-4)


@pytest.mark.parametrize("ends", ["logits", "sigmoid", "told"])
def test_multi_label_heads_are_taken_label_by_label(ends, x, rng):
    teacher, student = mlp(16, 4), mlp(4, 4)
    expected = bernoulli_soft_loss(teacher, student, x, 3.0)
    head = "auto"
    if ends == "sigmoid":
        teacher, student = (
            with_probabilities(m, "sigmoid") for m in (teacher, student)
        )
    loss = BinaryCE(from_logits=ends != "sigmoid")
    if ends == "told":
        loss, head = keras.losses.MeanSquaredError(), "sigmoid"
    distiller = kdtf.Distiller(teacher, student, temperature=3.0, head=head)
    labels = rng.integers(0, 2, size=(8, 4)).astype("float32")
    _, soft = losses_of(distiller, x, labels, loss=loss)
    np.testing.assert_allclose(soft, expected, rtol=1e-4)


def test_softmax_teacher_and_sigmoid_student_contradict(x, y):
    distiller = kdtf.Distiller(mlp(16, 3, "softmax"), mlp(4, 3, "sigmoid"))
    distiller.compile("sgd", "mse")
    labels = np.eye(3, dtype="float32")[y]
    with pytest.raises(ValueError, match="teacher ends in softmax.*`head="):
        distiller.fit(x, labels, verbose=0)


def test_sample_weights_weigh_both_losses(x, y):
    teacher, student = mlp(16), mlp(4)
    distiller = kdtf.Distiller(teacher, student)
    loss = SparseCE(from_logits=True)
    each = [
        losses_of(distiller, x[i : i + 1], y[i : i + 1], loss=loss)
        for i in range(8)
    ]
    weight = np.arange(8, dtype="float32") / 4
    weighted = losses_of(distiller, x, y, loss=loss, sample_weight=weight)
    expected = (np.array(each) * weight[:, None]).mean(0)
    np.testing.assert_allclose(weighted, expected, rtol=1e-4)


def test_class_weights_weigh_both_losses(x, y):
    distiller = kdtf.Distiller(mlp(16), mlp(4))
    loss = SparseCE(from_logits=True)
    table = {0: 0.5, 1: 2.0, 2: 0.0}
    weight = np.array([table[label] for label in y], "float32")
    np.testing.assert_allclose(
        losses_of(distiller, x, y, loss=loss, class_weight=table),
        losses_of(distiller, x, y, loss=loss, sample_weight=weight),
        rtol=1e-6,
    )


def test_zero_weights_move_nothing(x, y):
    student = mlp(4)
    before = student.get_weights()
    distiller = kdtf.Distiller(mlp(16), student)
    distiller.compile("sgd", SparseCE(from_logits=True))
    distiller.fit(x, y, sample_weight=np.zeros(8, "float32"), verbose=0)
    for a, b in zip(before, student.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("reduction", ["sum", "mean_with_sample_weight"])
def test_soft_loss_is_reduced_as_the_hard_one(reduction, x, y):
    distiller = kdtf.Distiller(mlp(16), mlp(4))
    mean = losses_of(distiller, x[:4], y[:4], loss=SparseCE(from_logits=True))
    reduced = losses_of(
        distiller,
        x,
        y,
        loss=SparseCE(from_logits=True, reduction=reduction),
        sample_weight=np.repeat([1.0, 0.0], 4).astype("float32"),
    )
    factor = 4 if reduction == "sum" else 1
    np.testing.assert_allclose(reduced, np.array(mean) * factor, rtol=1e-5)


def tagger(width, seed):
    """Token ids `(batch, 6)`, 0 = padding, to logits `(batch, 6, 4)`."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((6,), dtype="int32")
    hidden = keras.layers.Embedding(10, width, mask_zero=True)(inputs)
    return keras.Model(inputs, keras.layers.Dense(4)(hidden))


def test_padding_has_no_part_and_the_mean_is_over_real_tokens(rng):
    teacher, student = tagger(8, 1), tagger(4, 2)
    tokens = rng.integers(1, 10, size=(3, 6)).astype("int32")
    tokens[0, 2:] = tokens[1, 5:] = 0
    labels = rng.integers(0, 4, size=(3, 6)).astype("int32")
    distiller = kdtf.Distiller(teacher, student, temperature=2.0)
    found = losses_of(
        distiller, tokens, labels, loss=SparseCE(from_logits=True)
    )
    real = tokens != 0
    log_s = np.asarray(keras.ops.log_softmax(student(tokens)))
    hard = -np.take_along_axis(log_s, labels[..., None], -1)[..., 0]
    soft = np.asarray(
        kdtf.distillation.kl_divergence(
            teacher(tokens), student(tokens), temperature=2.0
        )
    )
    np.testing.assert_allclose(
        found, [hard[real].mean(), soft[real].mean()], rtol=1e-4
    )
    # Whatever the teacher says about padding changes nothing.
    table = teacher.layers[1].embeddings
    table.assign(keras.ops.concatenate([table[:1] + 9.0, table[1:]]))
    again = losses_of(
        distiller, tokens, labels, loss=SparseCE(from_logits=True)
    )
    np.testing.assert_allclose(again, found, rtol=1e-6)


@pytest.mark.parametrize("structure", ["dict", "tuple"])
def test_structured_inputs(structure, rng):
    def model(width):
        a, b = keras.Input((2,), name="a"), keras.Input((3,), name="b")
        joined = keras.layers.Concatenate()([a, b])
        hidden = keras.layers.Dense(width)(joined)
        inputs = {"a": a, "b": b} if structure == "dict" else (a, b)
        return keras.Model(inputs, keras.layers.Dense(3)(hidden))

    a, b = rng.normal(size=(8, 2)), rng.normal(size=(8, 3))
    x = {"a": a, "b": b} if structure == "dict" else (a, b)
    y = rng.integers(0, 3, size=8)
    distiller = kdtf.Distiller(model(8), model(4))
    distiller.compile("adam", SparseCE(from_logits=True))
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(4)
    history = distiller.fit(data, epochs=2, verbose=0).history
    assert history["soft_loss"][1] < history["soft_loss"][0]
    assert distiller.predict(data, verbose=0).shape == (8, 3)


def test_teacher_may_see_other_inputs(rng):
    # The teacher takes flat rows scaled to 255, the student 2-D images.
    teacher = mlp(16)
    student = keras.Sequential(
        [
            keras.Input((1, 5)),
            keras.layers.Flatten(),
            keras.layers.Dense(3),
        ]
    )
    x = rng.normal(size=(8, 1, 5)).astype("float32")
    distiller = kdtf.Distiller(
        teacher,
        student,
        alpha=0.0,
        temperature=1.0,
        teacher_inputs=lambda image: keras.ops.reshape(image, (-1, 5)) * 255,
    )
    distiller.compile(frozen())
    found = distiller.fit(x, verbose=0).history["soft_loss"][0]
    expected = kdtf.distillation.kl_divergence(
        teacher(x.reshape(8, 5) * 255), student(x)
    )
    np.testing.assert_allclose(found, np.mean(expected), rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("teacher_policy", ["float32", "mixed_float16"])
@pytest.mark.parametrize("student_policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_trains_in_any_pair(
    teacher_policy, student_policy, x, y
):
    teacher = mlp(16, dtype=teacher_policy)
    student = mlp(16, dtype=student_policy)
    distiller = kdtf.Distiller(teacher, student, alpha=0.0, temperature=2.0)
    distiller.compile(keras.optimizers.Adam(0.02), SparseCE(from_logits=True))
    scaled = type(distiller.optimizer).__name__ == "LossScaleOptimizer"
    assert scaled == (student_policy == "mixed_float16")
    history = distiller.fit(x, y, epochs=30, verbose=0).history
    assert history["soft_loss"][-1] < 0.2 * history["soft_loss"][0]


def test_inputs_reach_the_models_in_their_own_dtype(y):
    # Under mixed_float16 Keras would cast large integers-as-floats to inf.
    student = keras.Sequential(
        [
            keras.Input((5,)),
            keras.layers.Rescaling(1e-5, dtype="float32"),
            keras.layers.Dense(3, dtype="mixed_float16"),
        ]
    )
    teacher = keras.models.clone_model(student)
    distiller = kdtf.Distiller(teacher, student)
    distiller.compile("sgd", SparseCE(from_logits=True))
    x = np.full((8, 5), 1e5, "float32")
    assert np.isfinite(distiller.fit(x, y, verbose=0).history["loss"][0])


@pytest.mark.slow
def test_keras_nlp_classifier_learns_from_a_bigger_one(rng):
    import keras_nlp

    def classifier(layers, width):
        backbone = keras_nlp.models.BertBackbone(
            vocabulary_size=20,
            num_layers=layers,
            num_heads=2,
            hidden_dim=width,
            intermediate_dim=2 * width,
            max_sequence_length=6,
            dropout=0.1,
        )
        return keras_nlp.models.BertTextClassifier(
            backbone, num_classes=3, preprocessor=None
        )

    x = {
        "token_ids": rng.integers(1, 20, size=(8, 6)).astype("int32"),
        "segment_ids": np.zeros((8, 6), "int32"),
        "padding_mask": np.ones((8, 6), "int32"),
    }
    y = rng.integers(0, 3, size=8).astype("int32")
    teacher, student = classifier(2, 16), classifier(1, 8)
    # Fresh BERT layers are so small that all outputs are nearly alike.
    for variable in teacher.trainable_variables:
        variable.assign(keras.random.normal(variable.shape, stddev=0.5))
    distiller = kdtf.Distiller(teacher, student, alpha=0.1, temperature=2.0)
    distiller.compile(keras.optimizers.Adam(0.01), SparseCE(from_logits=True))
    history = distiller.fit(x, y, epochs=20, verbose=0).history
    assert history["soft_loss"][-1] < 0.7 * history["soft_loss"][0]


def test_keras_nlp_causal_lm_is_taught_token_by_token(tiny_transformer, rng):
    student = tiny_transformer
    teacher = keras.models.clone_model(tiny_transformer)
    for variable in teacher.trainable_variables:
        variable.assign(keras.random.normal(variable.shape, stddev=0.5))
    tokens = rng.integers(0, 32, size=(4, 10)).astype("int32")
    real = np.ones_like(tokens)
    real[0, 4:] = 0
    x = {"token_ids": tokens, "padding_mask": real}
    y = np.roll(tokens, -1, axis=1)
    # keras-nlp hands padding over as sample weights.
    loss = SparseCE(from_logits=True, reduction="mean_with_sample_weight")
    distiller = kdtf.Distiller(teacher, student, temperature=2.0)
    _, soft = losses_of(
        distiller, x, y, loss=loss, sample_weight=real.astype("float32")
    )
    values = kdtf.distillation.kl_divergence(
        teacher(x), student(x), temperature=2.0
    )
    np.testing.assert_allclose(
        soft, np.asarray(values)[real == 1].mean(), rtol=1e-4
    )
