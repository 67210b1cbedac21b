import threading

import keras
import numpy as np
import pytest
import tensorflow as tf

from kdtf.distillation.features import Capture
from kdtf.distillation.features import padding_mask_of
from kdtf.distillation.features.capture import remat_layer
from kdtf.layers import walk_layers
from kdtf.transforms import substitution


def mlp(**kwargs):
    return keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(4, name="first", **kwargs),
            keras.layers.Dropout(0.5, name="drop"),
            keras.layers.Dense(2, name="last"),
        ],
        name="mlp",
    )


def own_calls(model):
    return {
        path: vars(layer)[name]
        for path, layer in walk_layers(model)
        for name in ("call", "quantized_call")
        if name in vars(layer)
    }


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_records_are_what_a_sub_model_gives(family, makers, tokens):
    model = makers[family]()
    backbone = model.backbone
    blocks = ["transformer_layer_0", "transformer_layer_1"]
    taps = [f"{backbone.name}/{block}" for block in blocks]
    x = tokens(family)
    with Capture(model, taps) as records:
        outputs = model(x, training=False)
    sub_model = keras.Model(
        backbone.input, [backbone.get_layer(block).output for block in blocks]
    )
    expected = sub_model(x, training=False)
    for tap, value in zip(taps, expected, strict=True):
        np.testing.assert_array_equal(records[tap].output, value)
    np.testing.assert_array_equal(outputs, model(x, training=False))
    assert own_calls(model) == {}


@pytest.mark.slow
@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_compiled_step_runs_the_model_once(jit_compile, makers, tokens):
    model = makers["bert"](dropout=0.1)
    blocks = ["transformer_layer_0", "transformer_layer_1"]
    x = {name: tf.constant(value) for name, value in tokens("bert").items()}
    calls = []
    inner = model.backbone.get_layer("transformer_layer_0")
    original = inner._feedforward_output_dense.call
    object.__setattr__(
        inner._feedforward_output_dense,
        "call",
        lambda x, **_: calls.append(1) or original(x),
    )

    @tf.function(jit_compile=jit_compile)
    def step(x):
        with tf.GradientTape() as tape:
            with Capture(model, blocks) as records:
                outputs = model(x, training=True)
            hidden = [records[block].output for block in blocks]
            loss = tf.reduce_mean(hidden[0] ** 2) + tf.reduce_mean(outputs)
        return loss, tape.gradient(loss, model.trainable_variables), hidden

    loss, gradients, hidden = step(x)
    assert len(calls) == 1
    assert hidden[1].shape == (3, 6, 8)
    assert np.isfinite(loss)
    arrays = [tf.convert_to_tensor(g) for g in gradients if g is not None]
    used = [array for array in arrays if np.any(np.abs(array))]
    assert len(used) > 30
    assert own_calls(inner) == {
        "feedforward_output_dense": vars(inner._feedforward_output_dense)[
            "call"
        ]
    }


def test_dropout_of_the_recorded_pass_is_the_one_that_counts():
    model = mlp()
    with Capture(model, ["drop"]) as records:
        outputs = model(np.ones((64, 3), "float32"), training=True)
    dropped = records["drop"]
    np.testing.assert_array_equal(
        model.get_layer("last")(dropped.output), outputs
    )
    assert 0 < np.mean(np.array(dropped.output) == 0) < 1


def test_arguments_are_recorded_by_their_names():
    inputs = keras.Input((4, 2))
    attention = keras.layers.MultiHeadAttention(1, 2, name="mixer")
    outputs = attention(inputs, inputs, use_causal_mask=True)
    model = keras.Model(inputs, outputs)
    x = np.ones((1, 4, 2), "float32")
    with Capture(model, ["mixer"]) as records:
        model(x)
    arguments = records["mixer"].arguments
    assert arguments["use_causal_mask"] is True
    np.testing.assert_array_equal(arguments["query"], x)
    np.testing.assert_array_equal(arguments["value"], x)
    assert records["mixer"].layer is attention


def test_of_several_calls_the_last_one_counts():
    inputs = keras.Input((3,))
    twice = keras.layers.Dense(3, name="twice")
    model = keras.Model(inputs, twice(twice(inputs)))
    with Capture(model, ["twice"]) as records:
        outputs = model(np.ones((1, 3), "float32"))
    np.testing.assert_array_equal(records["twice"].output, outputs)


def test_everything_is_restored_after_an_exception():
    model = mlp()
    with pytest.raises(ZeroDivisionError):
        with Capture(model, ["first", "last"]):
            assert set(own_calls(model)) == {"first", "last"}
            raise ZeroDivisionError
    assert own_calls(model) == {}


def test_captures_nest():
    model, x = mlp(), np.ones((1, 3), "float32")
    with Capture(model, ["first", "last"]) as outer:
        model(x)
        first = outer["first"].output
        with Capture(model, ["first"]) as inner:
            model(2 * x)
        np.testing.assert_array_equal(inner["first"].output, 2 * first)
        assert outer["first"].output is inner["first"].output
        kept = inner["first"].output
        model(3 * x)
        assert inner["first"].output is kept
        assert outer["first"].output is not kept
    assert own_calls(model) == {}


def test_a_capture_is_used_again_but_not_inside_itself():
    model, x = mlp(), np.ones((1, 3), "float32")
    capture = Capture(model, ["first"])
    with capture as before:
        model(x)
        with pytest.raises(RuntimeError, match="second `Capture`"):
            capture.__enter__()
    kept = before["first"].output
    with capture as after:
        assert after == {}
        model(x)
    assert before["first"].output is kept
    assert own_calls(model) == {}


class _Plus(substitution.Substitution):
    def after(self, outputs):
        return outputs + 100.0


def test_a_substitution_below_is_seen_and_stays():
    model, x = mlp(), np.ones((1, 3), "float32")
    plain = model.get_layer("first")(x)
    substitution.substitute(model.get_layer("first"), _Plus())
    there = own_calls(model)
    with Capture(model, ["first"]) as records:
        model(x)
    np.testing.assert_allclose(records["first"].output, plain + 100.0)
    assert own_calls(model) == there
    substitution.restore(model.get_layer("first"))
    assert own_calls(model) == {}


def test_a_substitution_made_inside_a_capture_is_seen_by_a_later_one():
    model, x = mlp(), np.ones((1, 3), "float32")
    first = model.get_layer("first")
    plain = first(x)
    with Capture(model, ["first"]) as outer:
        with substitution.substituted([(first, _Plus())]):
            with Capture(model, ["first"]) as inner:
                model(x)
    np.testing.assert_array_equal(outer["first"].output, plain)
    np.testing.assert_array_equal(inner["first"].output, plain + 100.0)
    assert own_calls(model) == {}


def test_threads_do_not_mix_their_records():
    model = mlp()
    inside, ready, go = [], threading.Barrier(2), threading.Barrier(2)

    def run(value):
        x = np.full((1, 3), value, "float32")
        with Capture(model, ["first"]) as records:
            ready.wait(timeout=30)
            model(x)
            go.wait(timeout=30)
            inside.append((value, np.array(records["first"].output)))

    threads = [threading.Thread(target=run, args=(v,)) for v in (1.0, 2.0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(inside) == 2
    for value, output in inside:
        x = np.full((1, 3), value, "float32")
        np.testing.assert_array_equal(output, model.get_layer("first")(x))
    assert own_calls(model) == {}


def test_layers_that_keras_quantized_are_recorded():
    model, x = mlp(), np.ones((1, 3), "float32")
    model.get_layer("first").quantize("int8")
    with Capture(model, ["first"]) as records:
        model(x)
    np.testing.assert_array_equal(
        records["first"].output, model.get_layer("first")(x)
    )
    assert own_calls(model) == {}


def test_the_layer_that_takes_gradients_away_is_named():
    with keras.RematScope(mode="full"):
        model = mlp()
    assert remat_layer(model, "first") == "first"
    with keras.RematScope(mode="list_of_layers", layer_names=["last"]):
        model = mlp()
    assert remat_layer(model, "first") is None
    assert remat_layer(model, "last") == "last"
    with keras.RematScope(mode="activations"):
        model = mlp(activation="relu")
    assert remat_layer(model, "first") is None
    with tf.GradientTape() as tape, Capture(model, ["first"]) as records:
        model(np.ones((1, 3), "float32"))
        loss = tf.reduce_sum(records["first"].output)
    assert tape.gradient(loss, model.get_layer("first").kernel) is not None


def test_a_layer_inside_a_rematerialized_one_is_found():
    with keras.RematScope(mode="full"):
        outer = mlp()
    model = keras.Sequential([keras.Input((3,)), outer])
    assert remat_layer(model, "mlp/first") == "mlp"


def test_unknown_layers_are_refused_with_near_names():
    with pytest.raises(ValueError, match="'frist'.*Near to it: 'first'"):
        Capture(mlp(), ["frist"])


def test_padding_masks_come_from_inputs_or_keras():
    mask = padding_mask_of({"token_ids": 0, "padding_mask": [[1, 0]]})
    assert mask.dtype == tf.bool
    np.testing.assert_array_equal(mask, [[True, False]])
    assert padding_mask_of({"token_ids": 0}) is None
    assert padding_mask_of(np.ones((1, 2))) is None
    embedded = keras.layers.Embedding(3, 2, mask_zero=True)(np.array([[1, 0]]))
    np.testing.assert_array_equal(padding_mask_of(embedded), [[True, False]])
