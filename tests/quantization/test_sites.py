"""Where activations are quantized, by hand for the blocks of real networks."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kdtf.quantization.activations import FIXED_RANGES
from kdtf.quantization.declared import as_functional
from kdtf.quantization.sites import find_sites

K = keras.layers
IMAGE = (8, 8, 3)


def sites_of(model, inputs=None):
    """Gives {path: "in inside out"} and the number of float inputs."""
    if inputs is None:
        inputs = keras.tree.map_structure(
            lambda x: tf.TensorSpec(x.shape, x.dtype),
            as_functional(model).input,
        )
    before = [dict(vars(layer)) for layer in model._flatten_layers()]
    found, count = find_sites(model, inputs)
    # Watching leaves nothing behind.
    for layer, attributes in zip(model._flatten_layers(), before, strict=True):
        assert ("call" in vars(layer)) == ("call" in attributes)
    said = {}
    for site in found:
        parts = ("inputs", "inside", "output")
        said[site.path] = " ".join(p for p in parts if getattr(site, p))
    return said, count


def functional(make, shape=IMAGE):
    inputs = keras.Input(shape, name="image")
    return keras.Model(inputs, make(inputs))


def test_a_dense_layer_gives_a_quantized_output():
    model = keras.Sequential([keras.Input((4,)), K.Dense(2, name="d")])
    assert sites_of(model) == ({"d": "output"}, 1)


def test_convolution_norm_and_relu_are_one(tiny_cnn):
    assert sites_of(tiny_cnn) == (
        {"relu": "output", "pool": "output", "logits": "output"},
        1,
    )


@pytest.mark.parametrize(
    ("activation", "expected"),
    [
        (K.ReLU(6.0, name="act"), {"act": "output"}),
        (K.Activation("relu6", name="act"), {"act": "output"}),
        # No clamp that LiteRT fuses.
        (
            K.ReLU(4.0, name="act"),
            {"conv": "output", "act": "output"},
        ),
        (
            K.LeakyReLU(name="act"),
            {"conv": "output", "act": "output"},
        ),
        (
            K.Activation("swish", name="act"),
            {"conv": "output", "act": "output"},
        ),
    ],
)
def test_only_clamps_are_fused(activation, expected):
    activation = type(activation).from_config(activation.get_config())
    model = keras.Sequential(
        [keras.Input(IMAGE), K.Conv2D(4, 3, name="conv"), activation]
    )
    assert sites_of(model) == (expected, 1)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("relu", "output"),
        ("relu6", "output"),
        ("linear", "output"),
        ("gelu", "inside output"),
        ("softmax", "inside output"),
        ("sigmoid", "inside output"),
        ("tanh", "inside output"),
    ],
)
def test_what_goes_into_a_curve_is_quantized(name, expected):
    layers = [keras.Input((4,)), K.Dense(3, name, name="d")]
    model = keras.Sequential(layers)
    assert sites_of(model) == ({"d": expected}, 1)
    found, _ = find_sites(model, tf.TensorSpec((None, 4)))
    assert found[0].fixed == FIXED_RANGES.get(name)


def test_a_softmax_layer_has_the_range_that_is_prescribed():
    layers = [keras.Input((4,)), K.Dense(3, name="d"), K.Softmax(name="s")]
    model = keras.Sequential(layers)
    assert sites_of(model) == ({"d": "output", "s": "output"}, 1)
    found, _ = find_sites(model, tf.TensorSpec((None, 4)))
    assert [site.fixed for site in found] == [None, (0.0, 255 / 256)]


def test_a_residual_sum_is_fused_with_its_relu():
    def make(x):
        x = K.Conv2D(4, 3, padding="same", name="stem")(x)
        y = K.Conv2D(4, 3, padding="same", use_bias=False, name="conv")(x)
        y = K.BatchNormalization(name="norm")(y)
        return K.ReLU(name="relu")(K.Add(name="add")([x, y]))

    # The norm is folded, its output is an operand of the sum.
    assert sites_of(functional(make)) == (
        {"stem": "output", "norm": "output", "relu": "output"},
        1,
    )


def test_a_tensor_used_twice_is_rounded():
    def make(x):
        x = K.Conv2D(4, 3, padding="same", name="conv")(x)
        return K.Add(name="add")([x, K.ReLU(name="relu")(x)])

    assert sites_of(functional(make)) == (
        {"conv": "output", "relu": "output", "add": "output"},
        1,
    )


def test_an_output_of_the_model_is_rounded_also_inside():
    inputs = keras.Input(IMAGE)
    x = K.Conv2D(4, 3, name="conv")(inputs)
    model = keras.Model(inputs, [x, K.ReLU(name="relu")(x)])
    assert sites_of(model) == ({"conv": "output", "relu": "output"}, 1)


def test_concatenated_parts_and_their_whole_are_rounded():
    def make(x):
        parts = [K.Conv2D(2, 1, name=name)(x) for name in ("a", "b")]
        return K.Concatenate(name="whole")(parts)

    assert sites_of(functional(make)) == (
        {"a": "output", "b": "output", "whole": "output"},
        1,
    )


def test_an_inverted_residual_block():
    def make(x):
        y = K.Conv2D(6, 1, use_bias=False, name="expand")(x)
        y = K.BatchNormalization(name="expand_norm")(y)
        y = K.ReLU(6.0, name="expand_relu")(y)
        y = K.ZeroPadding2D(1, name="pad")(y)
        y = K.DepthwiseConv2D(3, use_bias=False, name="depthwise")(y)
        y = K.BatchNormalization(name="depthwise_norm")(y)
        y = K.ReLU(6.0, name="depthwise_relu")(y)
        y = K.Conv2D(3, 1, use_bias=False, name="project")(y)
        y = K.BatchNormalization(name="project_norm")(y)
        return K.Add(name="add")([x, y])

    assert sites_of(functional(make)) == (
        {
            "expand_relu": "output",
            "depthwise_relu": "output",
            "project_norm": "output",
            "add": "output",
        },
        1,
    )


def test_what_only_moves_values_has_no_range_of_its_own():
    model = keras.Sequential(
        [
            keras.Input(IMAGE),
            K.ZeroPadding2D(name="pad"),
            K.Conv2D(4, 3, activation="relu", name="conv"),
            K.MaxPooling2D(name="max"),
            K.AveragePooling2D(2, name="mean"),
            K.SpatialDropout2D(0.2, name="drop"),
            K.Flatten(name="flat"),
            K.Dropout(0.5, name="drop2"),
            K.Reshape((2, -1), name="shape"),
            K.Dense(4, name="d"),
        ]
    )
    assert sites_of(model) == ({"conv": "output", "d": "output"}, 1)


def test_a_dropout_between_convolution_and_relu_is_not_there():
    model = keras.Sequential(
        [
            keras.Input(IMAGE),
            K.Conv2D(4, 3, name="conv"),
            K.Dropout(0.5, name="drop"),
            K.ReLU(name="relu"),
        ]
    )
    assert sites_of(model) == ({"relu": "output"}, 1)


def test_a_norm_of_its_own_is_rounded():
    def make(x):
        x = K.MaxPooling2D(name="pool")(x)
        return K.BatchNormalization(name="norm")(x)

    assert sites_of(functional(make)) == ({"norm": "output"}, 1)


def test_a_relu_that_is_shared_is_rounded_for_both():
    def make(x):
        relu = K.ReLU(name="relu")
        x = relu(K.Conv2D(4, 3, name="a")(x))
        return relu(K.Conv2D(4, 3, name="b")(x))

    assert sites_of(functional(make)) == ({"relu": "output"}, 1)


def test_a_convolution_that_is_shared_is_rounded_where_any_use_needs_it():
    def make(x):
        conv = K.Conv2D(3, 3, padding="same", name="conv")
        return conv(K.ReLU(name="relu")(conv(x)))

    # Its second output is the model's.
    assert sites_of(functional(make)) == (
        {"conv": "output", "relu": "output"},
        1,
    )


def test_nested_models_are_seen_through():
    inner = keras.Sequential(
        [keras.Input(IMAGE), K.Conv2D(4, 3, name="conv")], name="inner"
    )
    model = functional(lambda x: K.ReLU(name="relu")(inner(x)))
    assert sites_of(model) == ({"relu": "output"}, 1)


def test_what_functions_between_layers_give_is_rounded_at_the_next():
    class Scaled(keras.Model):
        def __init__(self):
            super().__init__()
            self.first = K.Dense(4, "relu", name="first")
            self.second = K.Dense(2, name="second")

        def call(self, inputs):
            return self.second(2.0 * self.first(inputs))

    model = Scaled()
    x = tf.zeros((2, 3))
    model(x)
    # LiteRT's multiplication has an output of its own.
    assert sites_of(model, x) == (
        {"first": "output", "second": "inputs output"},
        1,
    )


def test_a_table_gives_rounded_rows():
    model = keras.Sequential(
        [
            keras.Input((5,), dtype="int32"),
            K.Embedding(7, 3, name="table"),
            K.Flatten(name="flat"),
            K.Dense(2, name="d"),
        ]
    )
    assert sites_of(model) == ({"table": "output", "d": "output"}, 0)


def test_inputs_are_counted_in_any_structure():
    inputs = {
        "a": keras.Input((3,), name="a"),
        "b": keras.Input((2,), name="b", dtype="int32"),
    }
    b = K.Embedding(4, 3, name="table")(inputs["b"])
    b = K.GlobalAveragePooling1D(name="pool")(b)
    model = keras.Model(inputs, K.Add(name="add")([inputs["a"], b]))
    assert sites_of(model) == (
        {"table": "output", "pool": "output", "add": "output"},
        1,
    )


def test_a_recurrent_layer_is_one():
    model = keras.Sequential(
        [keras.Input((4, 3)), K.LSTM(2, name="lstm"), K.Dense(1, name="d")]
    )
    found, count = sites_of(model)
    assert (found, count) == ({"lstm": "output", "d": "output"}, 1)


def test_an_error_leaves_the_layers_as_they_were(tiny_cnn):
    with pytest.raises(ValueError, match="incompatible"):
        find_sites(tiny_cnn, np.zeros((2, 7), "float32"))
    for layer in tiny_cnn._flatten_layers():
        assert "call" not in vars(layer)
