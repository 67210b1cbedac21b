import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from kdtf import schedules
from kdtf.distillation.features import AttentionMaps
from kdtf.distillation.features import AttentionRelations
from kdtf.distillation.features import FeatureMatcher
from kdtf.distillation.features import HiddenStates
from kdtf.distillation.features import PairwiseAngles
from kdtf.distillation.features import PairwiseDistances
from kdtf.distillation.features import padding_mask_of

TERMS = [
    HiddenStates(layers="uniform"),
    AttentionMaps(layers="uniform", loss="kl"),
    AttentionRelations(layers="last", relation_heads=4),
    PairwiseDistances(layers="last"),
    PairwiseAngles(layers="last", weight=2.0),
]


def run(matcher, teacher, student, x, training=False):
    with matcher.capture_teacher() as taught:
        teacher(x, training=False)
    with matcher.capture_student() as learned:
        student(x, training=training)
    return matcher.values(learned, taught, padding_mask=padding_mask_of(x))


def own_calls(model):
    return [v for v in model._flatten_layers() if "call" in vars(v)]


def cnn(filters, size=3):
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(filters, size, name="conv"),
            keras.layers.GlobalAveragePooling2D(name="pool"),
            keras.layers.Dense(4, name="logits"),
        ]
    )


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_values_are_per_sample_and_do_not_see_padding(family, makers, tokens):
    teacher = makers[family](num_layers=2, hidden_dim=16, num_heads=4)
    student = makers[family](num_layers=1, hidden_dim=8, num_heads=2)
    matcher = FeatureMatcher(TERMS, student=student, teacher=teacher)
    x = tokens(family)
    values = run(matcher, teacher, student, x)
    assert list(values) == [
        "hidden_states",
        "attention_maps",
        "attention_relations",
        "pairwise_distances",
        "pairwise_angles",
    ]
    other = {**x, "token_ids": x["token_ids"].copy()}
    other["token_ids"][:, 4:] = 1
    repeated = run(matcher, teacher, student, other)
    changed = run(
        matcher, teacher, student, {**x, "token_ids": x["token_ids"] % 7}
    )
    for name, value in values.items():
        assert value.shape == (3,) and value.dtype == tf.float32
        assert (np.array(value) > 0).all()
        # Padding is behind a mask of -1e9 in half of the models.
        np.testing.assert_allclose(
            value, repeated[name], rtol=1e-4, atol=1e-7, err_msg=name
        )
        assert np.abs(value - changed[name]).max() > 1e-6
    assert own_calls(student) == own_calls(teacher) == []


def test_samples_do_not_mix_but_in_pairs(makers, tokens):
    teacher, student = (makers["bert"](num_layers=1) for _ in range(2))
    matcher = FeatureMatcher(TERMS[:3], student=student, teacher=teacher)
    x = tokens("bert")
    values = run(matcher, teacher, student, x)
    alone = run(
        matcher, teacher, student, {name: v[:1] for name, v in x.items()}
    )
    for name, value in values.items():
        np.testing.assert_allclose(value[:1], alone[name], rtol=1e-4, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize(
    "jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)]
)
def test_gradients_reach_student_and_projections_alone(
    jit_compile, makers, tokens
):
    teacher = makers["bert"](num_layers=1, hidden_dim=16, num_heads=4)
    student = makers["bert"](num_layers=1, dropout=0.1)
    matcher = FeatureMatcher(TERMS, student=student, teacher=teacher)
    x = {name: tf.constant(value) for name, value in tokens("bert").items()}
    kernels = [layer.kernel for layer in matcher.projections]
    assert [tuple(kernel.shape) for kernel in kernels] == [(8, 16)]
    block = student.backbone.get_layer("transformer_layer_0")
    sources = [
        *kernels,
        block._feedforward_output_dense.kernel,
        block._self_attention_layer.query_dense.kernel,
        student.backbone.token_embedding.embeddings,
    ]
    sources += teacher.trainable_variables

    @tf.function(jit_compile=jit_compile)
    def step(x):
        with tf.GradientTape() as tape:
            values = run(matcher, teacher, student, x, training=True)
            loss = tf.add_n([tf.reduce_mean(v) for v in values.values()])
        return loss, tape.gradient(loss, [v.value for v in sources])

    loss, gradients = step(x)
    assert np.isfinite(loss)
    for gradient in gradients[:4]:
        array = np.array(tf.convert_to_tensor(gradient))
        assert np.isfinite(array).all() and np.abs(array).max() > 0
    assert all(gradient is None for gradient in gradients[4:])
    assert own_calls(student) == own_calls(teacher) == []


def test_a_student_that_is_its_teacher_has_nothing_to_learn(makers, tokens):
    teacher, student = (makers["llama"](num_layers=1) for _ in range(2))
    student.set_weights(teacher.get_weights())
    matcher = FeatureMatcher(TERMS, student=student, teacher=teacher)
    assert matcher.projections == []
    for value in run(matcher, teacher, student, tokens("llama")).values():
        np.testing.assert_allclose(value, np.zeros(3), atol=1e-6)


def test_hidden_states_are_the_mean_over_pairs(makers, tokens):
    teacher, student = makers["gpt2"](), makers["gpt2"](num_layers=1)
    pairs = [(0, 0), (0, 1)]
    terms = [HiddenStates(layers=[pair]) for pair in pairs]
    terms.append(HiddenStates(layers=pairs))
    matcher = FeatureMatcher(terms, student=student, teacher=teacher)
    x = tokens("gpt2")
    values = run(matcher, teacher, student, x)
    assert list(values) == [
        "hidden_states",
        "hidden_states_2",
        "hidden_states_3",
    ]
    one, two, both = values.values()
    np.testing.assert_allclose(both, (one + two) / 2, rtol=1e-6)
    # By hand, from two sub-models.
    sub_models = [
        keras.Model(m.backbone.input, m.backbone.get_layer(name).output)
        for m, name in (
            (teacher, "transformer_layer_0"),
            (student, "transformer_layer_0"),
        )
    ]
    t, s = (np.array(m(x), "float64") for m in sub_models)
    real = x["padding_mask"].astype(bool)
    expected = [((t[i] - s[i])[real[i]] ** 2).mean() for i in range(len(real))]
    np.testing.assert_allclose(one, expected, rtol=1e-4)


def test_models_of_other_families_teach_relations(makers, tokens):
    teacher = makers["bert"](num_layers=1, hidden_dim=16, num_heads=4)
    student = makers["gpt2"](num_layers=1, hidden_dim=8, num_heads=2)
    term = AttentionRelations(relation_heads=4)
    matcher = FeatureMatcher([term], student=student, teacher=teacher)
    x = tokens("bert")
    with matcher.capture_teacher() as taught:
        teacher(x)
    with matcher.capture_student() as learned:
        student({k: x[k] for k in ("token_ids", "padding_mask")})
    mask = padding_mask_of(x)
    (value,) = matcher.values(learned, taught, padding_mask=mask).values()
    assert (np.array(value) > 0).all()


def test_shuffled_teacher_heads_shuffle_nothing_they_should_not(makers, tokens):
    """Heads in another order are the same attention: its output stays."""
    teacher, student = (
        makers["bert"](num_layers=1, num_heads=heads) for heads in (4, 2)
    )
    terms = [
        AttentionMaps(layers="last", loss="mse"),
        HiddenStates(layers="last"),
        AttentionRelations(relation_heads=1),
    ]
    matcher = FeatureMatcher(terms, student=student, teacher=teacher)
    x = tokens("bert")
    before = run(matcher, teacher, student, x)
    block = teacher.backbone.get_layer("transformer_layer_0")
    mixer, order = block._self_attention_layer, [2, 0, 3, 1]
    for dense in (mixer.query_dense, mixer.key_dense, mixer.value_dense):
        dense.kernel.assign(np.array(dense.kernel)[:, order])
        dense.bias.assign(np.array(dense.bias)[order])
    kernel = mixer.output_dense.kernel
    kernel.assign(np.array(kernel)[order])
    after = run(matcher, teacher, student, x)
    for name, value in before.items():
        np.testing.assert_allclose(value, after[name], rtol=1e-4, atol=1e-7)


def test_images_get_a_projection_and_keep_their_places(batch):
    images, _ = batch
    teacher, student = cnn(6), cnn(3)
    terms = [
        HiddenStates(layers={"conv": "conv"}),
        PairwiseDistances(layers={"pool": "pool"}),
    ]
    matcher = FeatureMatcher(terms, student=student, teacher=teacher)
    (projection,) = matcher.projections
    values = run(matcher, teacher, student, images)
    t, s = (np.array(m.get_layer("conv")(images)) for m in (teacher, student))
    error = (t - s @ np.array(projection.kernel)) ** 2
    np.testing.assert_allclose(
        values["hidden_states"], error.mean((1, 2, 3)), rtol=1e-4
    )
    assert values["pairwise_distances"].shape == (16,)
    with pytest.raises(ValueError, match=r"\(None, 6, 6, 6\).*4, 4, 3"):
        FeatureMatcher(terms, student=cnn(3, size=5), teacher=teacher)


def test_projections_start_the_same_each_time():
    kernels = []
    for seed in (1, 2):
        keras.utils.set_random_seed(seed)
        matcher = FeatureMatcher(
            [HiddenStates(layers={"conv": "conv"})],
            student=cnn(3),
            teacher=cnn(6),
        )
        (projection,) = matcher.projections
        kernels.append(np.array(projection.kernel))
    np.testing.assert_array_equal(*kernels)
    assert not projection.use_bias and projection.dtype == "float32"


def test_a_loaded_matcher_has_its_projections_before_its_teacher(
    makers, tokens
):
    size = {"num_layers": 2, "hidden_dim": 16, "num_heads": 4}
    teacher, student = makers["bert"](**size), makers["bert"](num_layers=1)
    matcher = FeatureMatcher(TERMS, student=student, teacher=teacher)
    for layer in matcher.projections:
        layer.kernel.assign(layer.kernel * 2.0)
    config = json.loads(json.dumps(matcher.get_config()))
    loaded = FeatureMatcher.from_config(config, student=student)
    assert loaded.terms == matcher.terms
    names = [layer.name for layer in matcher.projections]
    assert [layer.name for layer in loaded.projections] == names
    for layer, old in zip(loaded.projections, matcher.projections, strict=True):
        layer.set_weights(old.get_weights())
    with pytest.raises(ValueError, match="Call `set_teacher"):
        loaded.capture_student()
    with pytest.raises(ValueError, match="Call `set_teacher"):
        loaded.capture_teacher()
    assert loaded.get_config() == matcher.get_config()

    # Another model of the same sizes, whose layers Keras gave other names.
    again = makers["bert"](**size)
    again.set_weights(teacher.get_weights())
    before = loaded.projections
    loaded.set_teacher(again)
    assert loaded.projections == before
    x = tokens("bert")
    expected = run(matcher, teacher, student, x)
    for name, value in run(loaded, again, student, x).items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-5)


def test_a_teacher_of_another_size_needs_other_projections():
    teacher, student = cnn(6), cnn(3)
    terms = [HiddenStates(layers={"conv": "conv"})]
    matcher = FeatureMatcher(terms, student=student, teacher=teacher)
    with pytest.raises(ValueError, match=r"\(3, 5\).*\(3, 6\)"):
        matcher.set_teacher(cnn(5))
    with pytest.raises(ValueError, match="Make a new"):
        matcher.set_teacher(student)
    full = FeatureMatcher.from_config(
        matcher.get_config(), student=student, teacher=teacher
    )
    assert full.get_config() == matcher.get_config()
    assert full.capture_teacher() is not None


def test_weights_follow_their_schedules():
    terms = [
        HiddenStates(
            layers={"conv": "conv"},
            weight=schedules.OneShotSchedule(final=3.0, step=5),
        ),
        PairwiseAngles(layers={"pool": "pool"}, weight=2),
    ]
    matcher = FeatureMatcher(terms, student=cnn(3), teacher=cnn(6))
    weights = [
        {name: float(w) for name, w in matcher.weights(step).items()}
        for step in (0, 5)
    ]
    assert weights == [
        {"hidden_states": 0.0, "pairwise_angles": 2.0},
        {"hidden_states": 3.0, "pairwise_angles": 2.0},
    ]


def test_keras_masks_stand_in_for_a_padding_mask():
    def model(width):
        inputs = keras.Input((4,), dtype="int32")
        embedded = keras.layers.Embedding(
            9, width, mask_zero=True, name="embedding"
        )(inputs)
        pooled = keras.layers.GlobalAveragePooling1D()(embedded)
        return keras.Model(inputs, keras.layers.Dense(2)(pooled))

    teacher, student = model(3), model(3)
    matcher = FeatureMatcher(
        [HiddenStates(layers={"embedding": "embedding"})],
        student=student,
        teacher=teacher,
    )
    x = np.array([[1, 2, 0, 0]])
    (value,) = run(matcher, teacher, student, x).values()
    t, s = (
        np.array(m.get_layer("embedding").embeddings)
        for m in (teacher, student)
    )
    expected = ((t - s)[1:3] ** 2).mean()
    np.testing.assert_allclose(value, [expected], rtol=1e-5)


def test_half_precision_students_give_float32_values(makers, tokens):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        student = makers["gpt2"](num_layers=1)
    finally:
        keras.config.set_dtype_policy("float32")
    teacher = makers["gpt2"](num_layers=1, hidden_dim=16, num_heads=4)
    matcher = FeatureMatcher(TERMS, student=student, teacher=teacher)
    for value in run(matcher, teacher, student, tokens("gpt2")).values():
        assert value.dtype == tf.float32
        assert np.isfinite(value).all()


def test_students_without_gradients_are_refused():
    with keras.RematScope(mode="full"):
        student = cnn(3)
    terms = [HiddenStates(layers={"conv": "conv"})]
    with pytest.raises(ValueError, match="'conv' was made in a `keras.Remat"):
        FeatureMatcher(terms, student=student, teacher=cnn(6))


def test_wrong_things_are_refused():
    terms = [HiddenStates(layers={"conv": "conv"})]
    with pytest.raises(TypeError, match="`features` must be a list of feat"):
        FeatureMatcher(["hidden"], student=cnn(3), teacher=cnn(3))
    with pytest.raises(ValueError, match="at least one feature"):
        FeatureMatcher([], student=cnn(3), teacher=cnn(3))
    with pytest.raises(TypeError, match="Received: teacher of type builtins"):
        FeatureMatcher(terms, student=cnn(3), teacher="cnn")
    with pytest.raises(ValueError, match="teacher=None, widths=None"):
        FeatureMatcher(terms, student=cnn(3))
    with pytest.raises(ValueError, match="Near to it: 'conv'"):
        FeatureMatcher(
            [HiddenStates(layers={"conf": "conv"})],
            student=cnn(3),
            teacher=cnn(3),
        )


def test_models_without_known_inputs_are_refused():
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.conv = keras.layers.Dense(2, name="conv")

        def call(self, x):
            return self.conv(x)

    student = Model()
    student(np.ones((1, 3), "float32"))
    with pytest.raises(ValueError, match="Make it a functional model"):
        FeatureMatcher(
            [HiddenStates(layers={"conv": "conv"})],
            student=student,
            teacher=cnn(3),
        )


def test_layers_that_give_several_tensors_are_refused():
    inputs = keras.Input((4, 3))
    lstm = keras.layers.LSTM(2, return_state=True, name="lstm")
    model = keras.Model(inputs, lstm(inputs)[0])
    with pytest.raises(ValueError, match="one tensor.*'lstm'.*gives"):
        FeatureMatcher(
            [HiddenStates(layers={"lstm": "lstm"})],
            student=model,
            teacher=model,
        )


def test_layers_that_were_not_called_are_named(batch):
    teacher, student = cnn(3), cnn(3)
    matcher = FeatureMatcher(
        [HiddenStates(layers={"conv": "conv"})],
        student=student,
        teacher=teacher,
    )
    with matcher.capture_teacher() as taught:
        teacher(batch[0])
    with pytest.raises(ValueError, match="student must call.*'conv'"):
        matcher.values({}, taught)
    with pytest.raises(ValueError, match="teacher must call.*'conv'"):
        matcher.values({}, {})
