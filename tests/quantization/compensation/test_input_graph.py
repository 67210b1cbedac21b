"""Who multiplies what, and which norm it comes from."""

import keras
import numpy as np
import pytest

from kdtf.quantization.compensation.input_graph import gain_and_offset
from kdtf.quantization.compensation.input_graph import traced_groups

layers = keras.layers


def described(model, inputs):
    """Gives each group's kernels, norm's name and reason."""
    return [
        (
            sorted(kernel.layer_path for kernel in group.kernels),
            getattr(group.norm, "name", None),
            group.reason,
        )
        for group in traced_groups(model, inputs)
    ]


def small(make):
    """Gives a model of `make`, and its inputs."""
    x = keras.Input((4, 6))
    return keras.Model(x, make(x)), np.zeros((2, 4, 6), "float32")


def test_a_transformer_by_its_norms(tiny_transformer):
    tokens = np.zeros((2, 12), "int32")
    inputs = {"token_ids": tokens, "padding_mask": np.ones_like(tokens)}
    block = "gpt2_backbone/transformer_layer_0"
    attention = f"{block}/self_attention"
    none = "its inputs come from no single normalisation"
    assert described(tiny_transformer, inputs) == [
        (
            [f"{attention}/{name}" for name in ("key", "query", "value")],
            "self_attention_layer_norm",
            None,
        ),
        ([f"{attention}/attention_output"], None, none),
        (
            [f"{block}/feedforward_intermediate_dense"],
            "feedforward_layer_norm",
            None,
        ),
        ([f"{block}/feedforward_output_dense"], None, none),
    ]


def test_a_norm_that_also_feeds_a_sum_is_not_taken():
    def make(x):
        y = layers.LayerNormalization(name="norm")(x)
        return layers.Add()([layers.Dense(6, name="dense")(y), y])

    ((kernels, norm, reason),) = described(*small(make))
    assert kernels == ["dense"] and norm is None
    assert reason.startswith("'norm' also feeds '")


def test_a_norm_that_is_an_output_is_not_taken():
    def make(x):
        y = layers.LayerNormalization(name="norm")(x)
        return [layers.Dense(6)(y), y]

    ((_, norm, reason),) = described(*small(make))
    assert norm is None and reason == "'norm' is an output of the model"


def test_a_norm_that_feeds_a_layer_of_another_form_is_not_taken():
    def make(x):
        y = layers.LayerNormalization(name="norm")(x)
        other = layers.EinsumDense("btc,td->bcd", (None, 5), name="other")
        return [layers.Dense(6, name="dense")(y), other(y)]

    found = described(*small(make))
    assert {tuple(kernels) for kernels, _, _ in found} == {
        ("dense",),
        ("other",),
    }
    assert all(norm is None for _, norm, _ in found)


def test_a_layer_that_also_gets_something_else_is_not_scaled():
    def make(x):
        dense = layers.Dense(6, name="dense")
        return [dense(layers.LayerNormalization()(x)), dense(x)]

    ((_, norm, reason),) = described(*small(make))
    assert norm is None and "no single normalisation" in reason


def test_one_norm_for_several_calls_is_taken():
    def make(x):
        norm, dense = layers.LayerNormalization(name="norm"), layers.Dense(6)
        return dense(norm(dense(norm(x))))

    ((_, norm, _),) = described(*small(make))
    assert norm == "norm"


def test_dropout_between_them_changes_nothing():
    def make(x):
        y = layers.LayerNormalization(name="norm")(x)
        return layers.Dense(6)(layers.Dropout(0.5)(y))

    ((_, norm, _),) = described(*small(make))
    assert norm == "norm"


def test_casts_between_them_are_passed():
    policy = keras.mixed_precision.DTypePolicy("mixed_bfloat16")

    def make(x):
        y = layers.LayerNormalization(name="norm", dtype="float32")(x)
        return [layers.Dense(6, name=n, dtype=policy)(y) for n in "ab"]

    ((kernels, norm, _),) = described(*small(make))
    assert kernels == ["a", "b"] and norm == "norm"


def test_a_norm_over_another_axis_is_not_taken():
    def make(x):
        y = layers.LayerNormalization(axis=1, name="norm")(x)
        return layers.Dense(6)(y)

    ((_, norm, reason),) = described(*small(make))
    assert norm is None and reason == "'norm' is not over its 6 inputs"


class Tied(layers.Dense):
    """Multiplies by another layer's kernel."""

    def __init__(self, other):
        super().__init__(other.units, use_bias=False)
        # Not as a layer inside this one.
        self.other = lambda: other

    def build(self, shape):
        self._kernel = self.other()._kernel
        self.bias = None
        self.built = True


def test_shared_weights_are_not_scaled():
    def make(x):
        first = layers.Dense(6, name="first")
        y = first(layers.LayerNormalization()(x))
        return Tied(first)(y)

    found = {kernels[0]: why for kernels, _, why in described(*small(make))}
    assert found["first"] == "a weight is shared with another layer"


def test_layers_that_do_not_run_are_in_no_group():
    class Lazy(keras.Model):
        def __init__(self):
            super().__init__()
            self.used, self.unused = layers.Dense(6), layers.Dense(6)
            self.unused.build((None, 6))

        def call(self, x):
            return self.used(x)

    model = Lazy()
    inputs = np.zeros((2, 6), "float32")
    model(inputs)
    ((kernels, _, _),) = described(model, inputs)
    assert kernels == [model.used.name]
    assert "call" not in vars(model.used)


@pytest.mark.parametrize(
    ("norm", "names"),
    [
        (layers.LayerNormalization(), ("gamma", "beta")),
        (layers.LayerNormalization(center=False), ("gamma", None)),
        (layers.RMSNormalization(), ("scale", None)),
        (layers.BatchNormalization(), ("gamma", "beta")),
        (layers.LayerNormalization(scale=False), None),
        (layers.UnitNormalization(), None),
        (layers.Dense(2), None),
    ],
)
def test_gains_of_norms(norm, names):
    norm.build((2, 6))
    found = gain_and_offset(norm)
    if found is not None:
        found = tuple(getattr(variable, "name", None) for variable in found)
    assert found == names
