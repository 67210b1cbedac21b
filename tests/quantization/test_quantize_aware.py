"""What `quantize_aware` does to a model that is trained and saved."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kdtf
from kdtf.quantization import SCHEMES
from kdtf.quantization import Codebook
from kdtf.quantization import Linear
from kdtf.transforms import attach
from kdtf.transforms.substitution import substitutions

K = keras.layers
LEARNED = Linear(num_bits=4, learn_step=True)
CLIPPED = Linear(num_bits=4, range="mean_squared_error")
BLOCKS = Linear(
    num_bits=4, granularity="per_group", group_size=32, learn_step=True
)


def mlp(name="mlp"):
    layers = [
        keras.Input((64,)),
        K.Dense(64, "relu", name="hidden"),
        K.Dense(4, name="head"),
    ]
    return keras.Sequential(layers, name=name)


def compiled(model, optimizer=None, **options):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = optimizer or keras.optimizers.Adam(0.01)
    # By itself Keras compiles with XLA, which takes seconds each time.
    model.compile(optimizer, loss, **{"jit_compile": False, **options})
    return model


@pytest.fixture
def data(rng):
    x = rng.normal(size=(64, 64)).astype("float32")
    return x, rng.integers(0, 4, 64).astype("int32")


def state_of(model):
    return attach.recall(model, "kdtf_quantization")


def ranges_of(model):
    return {
        q.site_path: (float(q.low), float(q.high))
        for q in state_of(model).ranges()
    }


def assert_plain(model):
    """Nothing of kdtf on any layer."""
    for layer in model._flatten_layers():
        for name, value in vars(layer).items():
            assert not name.startswith("_kdtf"), (layer.name, name)
            module = type(value).__module__
            assert not module.startswith("kdtf"), (layer.name, name)
        for name in ("call", "save_own_variables", "load_own_variables"):
            assert name not in vars(layer), (layer.name, name)


def assert_on_grid(kernel, num_bits=4, axis=0):
    """Integers times a step: that of the largest weight of each output."""
    step = np.abs(kernel).max(axis=axis, keepdims=True)
    integers = kernel / (step / (2 ** (num_bits - 1) - 1))
    np.testing.assert_allclose(integers, np.round(integers), atol=1e-3)


def baked(model, clone):
    """A plain model that holds what the quantized one reads."""
    clone.set_weights(model.get_weights())
    read = {k.kernel.path: k.grid().values for k in state_of(model).kernels()}
    from kdtf.transforms.selection import candidates

    for candidate in candidates(clone):
        if candidate.path in read:
            candidate.variable.assign(read.pop(candidate.path))
    assert not read
    return clone


# Which models ---------------------------------------------------------------


def residual():
    inputs = keras.Input((8, 8, 2))
    x = K.Conv2D(4, 3, padding="same", name="stem")(inputs)
    y = K.SeparableConv2D(4, 3, padding="same", name="separable")(x)
    y = K.BatchNormalization(name="norm")(y)
    x = K.ReLU(name="relu")(K.Add(name="add")([x, y]))
    x = K.Conv2DTranspose(3, 2, name="up")(x)
    return keras.Model(inputs, K.Dense(4)(K.GlobalAveragePooling2D()(x)))


def nested():
    inner_inputs = keras.Input((64,))
    inner = keras.Model(inner_inputs, K.Dense(64, "relu")(inner_inputs))
    inputs = keras.Input((64,))
    # Used twice, and so are its weights.
    return keras.Model(inputs, K.Dense(4)(inner(inner(inputs))))


class Own(keras.Model):
    def __init__(self):
        super().__init__()
        self.hidden = K.Dense(64, "relu")
        self.heads = [K.Dense(4), K.Dense(4)]

    def call(self, inputs, training=None):
        x = self.hidden(inputs)
        return self.heads[0](x) + self.heads[1](x)


def recurrent(kind):
    return keras.Sequential(
        [
            keras.Input((5, 8)),
            K.Bidirectional(kind(32, return_sequences=True), name="both"),
            kind(32, name="one", dropout=0.2, seed=1),
            K.Dense(4),
        ]
    )


MODELS = {
    "sequential": (mlp, (64,)),
    "residual": (residual, (8, 8, 2)),
    "nested": (nested, (64,)),
    "lstm": (lambda: recurrent(K.LSTM), (5, 8)),
    "gru": (lambda: recurrent(K.GRU), (5, 8)),
}


# A loop is compiled for a long time.
SLOW_MODELS = ("lstm",)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW_MODELS))
        for name in MODELS
    ],
)
def test_outputs_are_those_of_a_plain_model_with_the_values_read(name, rng):
    make, shape = MODELS[name]
    x = rng.normal(size=(16, *shape)).astype("float32")
    y = rng.integers(0, 4, 16)
    model = kdtf.quantize_aware(make(), "int4")
    kernels = state_of(model).kernels()
    assert len(kernels) == sum(
        1 for w in model.weights if len(w.shape) > 1 and w.name != "bias"
    )
    compiled(model).fit(x, y, batch_size=8, epochs=2, verbose=0)
    got = model.predict(x, verbose=0)
    plain = make()
    read = {id(k.kernel.variable): k.grid().values for k in kernels}
    for target, weight in zip(plain.weights, model.weights, strict=True):
        target.assign(read.get(id(weight), np.asarray(weight)))
    # XLA and the loop of a cell may sum in another order.
    np.testing.assert_allclose(
        got, plain.predict(x, verbose=0), rtol=1e-4, atol=1e-5
    )
    kdtf.strip(model)
    assert_plain(model)
    np.testing.assert_allclose(
        model.predict(x, verbose=0), got, rtol=1e-4, atol=1e-5
    )


def test_int8_of_a_residual_net_learns_and_sees_each_range(rng):
    x = rng.normal(size=(16, 8, 8, 2)).astype("float32")
    y = rng.integers(0, 4, 16)
    model = compiled(kdtf.quantize_aware(residual(), "int8"))
    losses = model.fit(x, y, epochs=6, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    for path, (low, high) in ranges_of(model).items():
        assert low <= 0.0 < high, path


def test_a_subclassed_model_is_shown_by_data(data):
    model = Own()
    model(data[0])
    with pytest.raises(ValueError, match="subclassed.*data=None for 'own'"):
        kdtf.quantize_aware(model, "int8")
    assert_plain(model)
    kdtf.quantize_aware(model, "int8", data=data)
    assert len(state_of(model).kernels()) == 3
    # The range is measured on the data.
    low, high = ranges_of(model)["input_0"]
    assert (low, high) == (float(data[0].min()), float(data[0].max()))
    compiled(model).fit(*data, verbose=0)
    with pytest.raises(ValueError, match="float tensors.*0 of them, not 1"):
        model(np.ones((2, 64), "int32"))


def test_before_any_fit_int8_lets_activations_pass(data):
    model = mlp()
    x = data[0]
    kdtf.quantize_aware(model, "int8")
    got = compiled(model).predict(x, verbose=0)
    plain = baked(model, mlp())
    np.testing.assert_allclose(got, plain.predict(x, verbose=0), rtol=1e-5)
    assert np.isfinite(model.evaluate(*data, verbose=0))
    assert set(ranges_of(model).values()) == {(0.0, 0.0)}


def language_model(kind):
    import keras_nlp

    options = {
        "vocabulary_size": 20,
        "num_layers": 1,
        "num_heads": 2,
        "hidden_dim": 32,
        "intermediate_dim": 32,
        "max_sequence_length": 6,
    }
    models = keras_nlp.models
    if kind == "bert":
        backbone = models.BertBackbone(**options)
        return models.BertTextClassifier(backbone, 3, preprocessor=None)
    return models.GPT2CausalLM(
        models.GPT2Backbone(**options), preprocessor=None
    )


@pytest.mark.parametrize(
    ("kind", "scheme"),
    [
        pytest.param("bert", LEARNED, marks=pytest.mark.slow),
        ("gpt2", "int4_block32"),
    ],
    ids=str,
)
def test_language_models_of_keras_nlp(kind, scheme, rng):
    ids = rng.integers(1, 20, (8, 6)).astype("int32")
    x = {"token_ids": ids, "padding_mask": np.ones_like(ids)}
    y = ids
    if kind == "bert":
        x["segment_ids"], y = np.zeros_like(ids), ids[:, 0] % 3
    model = kdtf.quantize_aware(language_model(kind), scheme)
    before = [np.array(w) for w in model.trainable_variables]
    compiled(model).fit(x, y, batch_size=4, epochs=2, verbose=0)
    for old, new in zip(before, model.trainable_variables, strict=True):
        # A constant added to keys or to all logits changes nothing.
        if not new.path.endswith("key/bias"):
            assert np.abs(old - np.asarray(new)).max() > 0, new.path
    got = model.predict(x, verbose=0)
    kdtf.strip(model)
    assert_plain(model)
    # Embeddings, tied to the output: each row on a grid.
    table = next(w for w in model.weights if w.name == "embeddings")
    if scheme == "int4_block32":
        assert_on_grid(np.asarray(table), axis=1)
    np.testing.assert_allclose(
        model.predict(x, verbose=0), got, rtol=1e-3, atol=1e-4
    )


def test_masks_reach_the_layers_after_a_table(rng):
    ids = rng.integers(0, 5, (8, 6)).astype("int32")
    model = keras.Sequential(
        [
            keras.Input((6,), dtype="int32"),
            K.Embedding(5, 8, mask_zero=True),
            K.Dense(8, "relu"),
            K.LSTM(4),
            K.Dense(4),
        ]
    )
    kdtf.quantize_aware(model, "int8")
    compiled(model).fit(ids, ids[:, 0] % 4, verbose=0)
    padded = np.concatenate([ids, np.zeros_like(ids)], axis=1)
    np.testing.assert_allclose(model(ids), model(padded), atol=1e-6)


# How it is trained ----------------------------------------------------------


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("scheme", ["int8", LEARNED, "codebook"], ids=str)
def test_mixed_precision(policy, scheme, data):
    keras.config.set_dtype_policy(policy)
    try:
        model = kdtf.quantize_aware(mlp(), scheme)
    finally:
        keras.config.set_dtype_policy("float32")
    before = model.get_weights()
    compiled(model).fit(*data, batch_size=16, verbose=0)
    for old, new in zip(before, model.get_weights(), strict=True):
        assert new.dtype == "float32" and not np.array_equal(old, new)
    assert model(data[0]).dtype == policy.removeprefix("mixed_")


@pytest.mark.parametrize("scheme", ["int8", BLOCKS, "codebook"], ids=str)
def test_other_ways_to_run_a_step_agree(scheme, data):
    """XLA, several steps at once and eager steps."""
    results = []
    for options in (
        {},
        {"jit_compile": True},
        {"steps_per_execution": 4},
        {"run_eagerly": True},
    ):
        keras.utils.set_random_seed(1)
        model = kdtf.quantize_aware(mlp(), scheme)
        compiled(model, keras.optimizers.SGD(0.1), **options)
        model.fit(*data, batch_size=16, shuffle=False, verbose=0)
        state = [np.asarray(v) for v in state_of(model)._variables().values()]
        results.append(model.get_weights() + state)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            # A sum in another order may move a value to the next level.
            np.testing.assert_allclose(a, b, rtol=1e-2, atol=2e-3)


def test_accumulated_gradients(data):
    optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=4)
    model = kdtf.quantize_aware(mlp(), LEARNED)
    before = [np.array(w) for w in model.trainable_variables]
    compiled(model, optimizer).fit(*data, batch_size=16, verbose=0)
    for old, new in zip(before, model.trainable_variables, strict=True):
        assert not np.array_equal(old, np.asarray(new)), new.path


@pytest.mark.parametrize("scheme", [*SCHEMES, LEARNED, CLIPPED], ids=str)
def test_a_custom_loop_reaches_each_kernel(scheme, data):
    model = kdtf.quantize_aware(mlp(), scheme)
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(model(data[0], training=True) ** 2)
    gradients = tape.gradient(loss, model.trainable_variables)
    assert len(gradients) == (6 if scheme is LEARNED else 4)
    for variable, slope in zip(
        model.trainable_variables, gradients, strict=True
    ):
        assert slope is not None, variable.path
        assert np.abs(slope).max() > 0, variable.path


def test_frozen_layers_are_quantized_but_not_trained(data):
    model = mlp()
    model.get_layer("hidden").trainable = False
    kdtf.quantize_aware(model, LEARNED)
    kernels = state_of(model).kernels()
    assert [k.kernel.path for k in kernels] == ["hidden/kernel", "head/kernel"]
    before = model.get_layer("hidden").get_weights()
    steps = [np.array(k.quantizer.steps) for k in kernels]
    compiled(model).fit(*data, verbose=0)
    after = model.get_layer("hidden").get_weights()
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(kernels[0].quantizer.steps, steps[0])
    assert (np.asarray(kernels[1].quantizer.steps) != steps[1]).any()


def test_weights_of_another_scheme_are_refused(tmp_path):
    path = tmp_path / "m.weights.h5"
    kdtf.quantize_aware(mlp(), "int4").save_weights(path)
    other = kdtf.quantize_aware(mlp(), "dynamic_int8")
    with pytest.raises(ValueError, match="4 bits per channel"):
        other.load_weights(path)


def test_layers_frozen_later_keep_their_steps(data):
    model = kdtf.quantize_aware(mlp(), LEARNED)
    model.get_layer("hidden").trainable = False
    before = np.array(state_of(model).kernels()[0].quantizer.steps)
    compiled(model).fit(*data, verbose=0)
    after = np.asarray(state_of(model).kernels()[0].quantizer.steps)
    np.testing.assert_array_equal(after, before)


def test_steps_compiled_before_are_not_used_again(data):
    model = compiled(mlp())
    model.fit(*data, verbose=0)
    before = model.predict(data[0], verbose=0)
    kdtf.quantize_aware(model, "int2")
    after = model.predict(data[0], verbose=0)
    assert np.abs(before - after).max() > 0.01
    model.fit(*data, verbose=0)
    kdtf.strip(model)
    stripped = model.predict(data[0], verbose=0)
    model.fit(*data, verbose=0)
    assert np.abs(model.predict(data[0], verbose=0) - stripped).max() > 0


def test_a_distiller_that_was_fitted_before_sees_it(data):
    student = mlp("student")
    distiller = kdtf.Distiller(mlp("teacher"), student)
    compiled(distiller).fit(*data, verbose=0)
    kdtf.quantize_aware(student, "int8")
    distiller.fit(*data, verbose=0)
    for path, (low, high) in ranges_of(student).items():
        assert high > low, path
    got = student.predict(data[0], verbose=0)
    kdtf.strip(student)
    assert_plain(student)
    distiller.fit(*data, verbose=0)
    assert got.shape == (64, 4)


def test_activations_of_a_layers_own_function_are_rounded(data):
    model = keras.Sequential([keras.Input((64,)), K.Dense(4, "tanh", name="d")])
    function = model.layers[0].activation
    kdtf.quantize_aware(model, "int8")
    compiled(model).fit(*data, verbose=0)
    assert model.layers[0].activation is function
    assert set(ranges_of(model)) == {"d/inside", "d/output", "input_0"}
    got = 128 * model.predict(data[0], verbose=0)
    np.testing.assert_array_equal(got, np.round(got))
    assert np.abs(got).max() <= 128


class Parent(K.Layer):
    """Holds a kernel of its own, and a layer in its call."""

    def __init__(self):
        super().__init__(name="parent")
        self.child = K.Dense(4, "gelu", name="child")

    def build(self, shape):
        self.kernel = self.add_weight(shape=(64, 64), name="kernel")
        self.child.build(shape)

    def call(self, inputs):
        x = keras.ops.matmul(inputs, self.kernel)
        self.add_loss(0.01 * keras.ops.mean(x**2))
        return self.child(x)


@pytest.mark.parametrize("scheme", ["int8", Codebook(num_entries=4)], ids=str)
def test_layers_in_layers_remember_too(scheme, data):
    model = keras.Sequential([keras.Input((64,)), Parent()])
    kdtf.quantize_aware(model, scheme)
    before = [np.array(v) for v in state_of(model)._variables().values()]
    compiled(model, keras.optimizers.SGD(1.0))
    model.fit(*data, batch_size=16, verbose=0)
    after = [np.asarray(v) for v in state_of(model)._variables().values()]
    for old, new in zip(before, after, strict=True):
        assert not np.array_equal(old, new)
    assert len(model.losses) == 1


# With pruning ---------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("pruned_first", [True, False])
def test_zeros_stay_zeros(scheme, pruned_first, data):
    schedule = kdtf.PolynomialSchedule(final=0.75, end_step=6)
    model = mlp()
    if pruned_first:
        kdtf.prune(model, schedule=schedule, frequency=2)
    kdtf.quantize_aware(model, scheme)
    if not pruned_first:
        kdtf.prune(model, schedule=schedule, frequency=2)
    compiled(model, keras.optimizers.SGD(0.1, momentum=0.9))
    model.fit(*data, batch_size=8, verbose=0)
    zeros = [w == 0 for w in model.get_weights()]
    assert [zeros[0].mean(), zeros[2].mean()] == [0.75, 0.75]
    for kernel, mask in zip(
        state_of(model).kernels(), (zeros[0], zeros[2]), strict=True
    ):
        assert (kernel.grid().values[mask] == 0).all()
    simulated = model.predict(data[0], verbose=0)
    kdtf.strip(model)
    assert_plain(model)
    for index in (0, 2):
        assert (model.get_weights()[index][zeros[index]] == 0).all()
    if SCHEMES[scheme].activations is None:
        got = model.predict(data[0], verbose=0)
        np.testing.assert_allclose(got, simulated, rtol=1e-4, atol=1e-5)


# Saving ---------------------------------------------------------------------

REMEMBERING = ["int8", "codebook", LEARNED, CLIPPED, BLOCKS, "int4"]


def trained(scheme, data, model=None, epochs=1):
    model = model or compiled(kdtf.quantize_aware(mlp(), scheme))
    model.fit(*data, batch_size=16, epochs=epochs, shuffle=False, verbose=0)
    return model


def everything(model):
    remembered = state_of(model)._variables().values()
    values = [*model.variables, *model.optimizer.variables, *remembered]
    return [np.array(v) for v in values]


@pytest.mark.slow
@pytest.mark.parametrize("scheme", REMEMBERING, ids=str)
def test_saved_training_goes_on_bit_by_bit(scheme, data, tmp_path):
    path = tmp_path / "model.weights.h5"
    model = trained(scheme, data)
    model.save_weights(path)
    keras.utils.set_random_seed(99)
    other = compiled(kdtf.quantize_aware(mlp(), scheme))
    other.optimizer.build(other.trainable_variables)
    other.load_weights(path)
    for a, b in zip(everything(model), everything(other), strict=True):
        np.testing.assert_array_equal(a, b)
    for each in (model, other):
        trained(scheme, data, each)
    for a, b in zip(everything(model), everything(other), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("scheme", ["int8", LEARNED, "codebook"], ids=str)
def test_plain_keras_loads_the_real_weights(scheme, data, tmp_path):
    model = trained(scheme, data)
    real = [np.array(v) for v in model.variables if v.name != "steps"]
    model.save(tmp_path / "model.keras")
    # The optimizer's slots of learned steps are strange to plain Keras.
    plain = keras.models.load_model(
        tmp_path / "model.keras", compile=scheme is not LEARNED
    )
    assert_plain(plain)
    for a, b in zip(plain.get_weights(), real, strict=True):
        np.testing.assert_array_equal(a, b)
    clone = keras.models.clone_model(model)
    assert_plain(clone)
    for each in (model, clone, plain):
        each.optimizer = None
    model.save_weights(tmp_path / "model.weights.h5")
    clone.load_weights(tmp_path / "model.weights.h5")
    for a, b in zip(clone.get_weights(), real, strict=True):
        np.testing.assert_array_equal(a, b)
    # And weights of a plain model are taken.
    plain.save_weights(tmp_path / "plain.weights.h5")
    remembered = [np.array(v) for v in state_of(model)._variables().values()]
    model.load_weights(tmp_path / "plain.weights.h5")
    for a, b in zip(
        remembered, state_of(model)._variables().values(), strict=True
    ):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("saved", "other"),
    [
        ("int8", "codebook"),
        ("codebook", Codebook(num_entries=8)),
        (LEARNED, "int8"),
        (LEARNED, BLOCKS),
        (CLIPPED, "int4"),
    ],
    ids=str,
)
def test_what_was_quantized_otherwise_is_refused(saved, other, tmp_path):
    path = tmp_path / "model.weights.h5"
    kdtf.quantize_aware(mlp(), saved).save_weights(path)
    model = kdtf.quantize_aware(mlp(), other)
    with pytest.raises(ValueError, match="same arguments|of the same layers"):
        model.load_weights(path)


# Refusals and choices -------------------------------------------------------


def test_a_model_is_quantized_once():
    inner = keras.Sequential([keras.Input((8,)), K.Dense(8)], name="inner")
    model = keras.Sequential([inner, K.Dense(4, name="head")])
    model.build((None, 8))
    kdtf.quantize_aware(model, "int4")
    for part in (model, inner):
        with pytest.raises(ValueError, match="quantized once.*strip"):
            kdtf.quantize_aware(part, "int8")
    kdtf.strip(model)
    kdtf.quantize_aware(inner, "int4")
    with pytest.raises(ValueError, match="quantized once"):
        kdtf.quantize_aware(model, "int4")
    kdtf.strip(model)
    assert_plain(model)


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: "mlp", TypeError, "model"),
        (lambda: keras.Sequential([K.Dense(2)]), ValueError, "built=False"),
        (
            lambda: keras.Sequential([keras.Input((4,)), K.ReLU()]),
            ValueError,
            "no weights at all",
        ),
        (
            lambda: keras.Sequential(
                [keras.Input((4,)), K.BatchNormalization(name="norm")]
            ),
            ValueError,
            "norm/gamma.*norm",
        ),
    ],
    ids=["text", "unbuilt", "no_weights", "norm"],
)
def test_what_is_no_model_to_quantize_is_refused(make, error, match):
    with pytest.raises(error, match=match):
        kdtf.quantize_aware(make(), "int4")


def test_layers_quantized_by_keras_are_refused():
    model = mlp()
    with pytest.warns(UserWarning, match="InputLayer"):
        model.quantize("int8")
    with pytest.raises(ValueError, match="'hidden'.*'int8'"):
        kdtf.quantize_aware(model, "int4")


def test_unknown_schemes_and_selections_are_refused():
    with pytest.raises(ValueError, match="scheme='int5'"):
        kdtf.quantize_aware(mlp(), "int5")
    with pytest.raises(ValueError, match="select.*'tail'"):
        kdtf.quantize_aware(mlp(), "int4", select="tail")
    with pytest.raises(ValueError, match="scheme.*'tail'"):
        kdtf.quantize_aware(mlp(), {"tail": "int4", "*": "int2"})
    with pytest.raises(ValueError, match="float activations"):
        kdtf.quantize_aware(mlp(), {"*": "int8"})
    with pytest.raises(ValueError, match="float activations"):
        kdtf.quantize_aware(mlp(), {"hidden": "int8", "*": "int4"})
    with pytest.raises(ValueError, match="float activations"):
        kdtf.quantize_aware(mlp(), {"*": None})


def test_rules_give_each_kernel_its_own_scheme(data):
    model = kdtf.quantize_aware(mlp(), {"hidden": "int2", "*": Linear()})
    compiled(model).fit(*data, verbose=0)
    assert state_of(model).quantize == "dynamic_int8"
    kdtf.strip(model)
    weights = model.get_weights()
    assert all(len(np.unique(column)) <= 3 for column in weights[0].T)
    assert_on_grid(weights[2], num_bits=8)


def test_a_rule_of_none_leaves_a_kernel_in_float():
    model = kdtf.quantize_aware(mlp(), {"head": None, "*": "int4"})
    state = state_of(model)
    assert [k.kernel.path for k in state.kernels()] == ["hidden/kernel"]
    reasons = {c.path: why for c, why in state.skipped}
    assert "leaves it in float" in reasons["head/kernel"]


def test_select_chooses_kernels(data):
    model = kdtf.quantize_aware(mlp(), "int4", select="head")
    before = model.get_weights()[0]
    kdtf.strip(model)
    np.testing.assert_array_equal(model.get_weights()[0], before)
    assert_on_grid(model.get_weights()[2])


def test_the_model_stays_what_it_was(data):
    model = mlp()
    config, names = model.to_json(), [w.path for w in model.weights]
    kdtf.quantize_aware(model, "int8")
    assert model.to_json() == config
    assert [w.path for w in model.weights] == names
    assert len(list(substitutions(model))) == 3


def test_stripping_learned_steps_leaves_no_weight_of_them(data):
    model = trained(LEARNED, data)
    assert [w.name for w in model.weights].count("steps") == 2
    kdtf.strip(model)
    assert len(model.weights) == 4
    assert_plain(model)
    compiled(model).fit(*data, verbose=0)


# The file -------------------------------------------------------------------


@pytest.mark.slow
def test_the_file_computes_what_was_trained(rng, tmp_path):
    """At least 99.9 % of the outputs within one step of the output."""
    x = rng.normal(size=(128, 8, 8, 2)).astype("float32")
    y = rng.integers(0, 4, 128)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            K.Conv2D(4, 3, use_bias=False, name="conv"),
            K.BatchNormalization(name="norm"),
            K.ReLU(name="relu"),
            K.DepthwiseConv2D(3, activation="relu", name="depthwise"),
            K.Flatten(),
            K.Dense(4, name="head"),
        ]
    )
    kdtf.quantize_aware(model, "int8")
    compiled(model).fit(x, y, epochs=2, verbose=0)
    path = tmp_path / "model.tflite"
    kdtf.export_tflite(model, path, verify_data=x[:32])
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(str(path)).get_signature_runner()
    (name,) = runner.get_input_details()
    got = [runner(**{name: row[None]})["output_0"][0] for row in x]
    expected = model.predict(x, verbose=0)
    low, high = ranges_of(model)["head/output"]
    off = np.abs(np.array(got) - expected) / ((high - low) / 255)
    assert np.mean(off <= 1.001) >= 0.999
