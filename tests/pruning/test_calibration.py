import keras
import numpy as np
import pytest
import tensorflow as tf

from kdtf.pruning.calibration import Calibration
from kdtf.pruning.calibration import activation_after
from kdtf.pruning.calibration import reduce_units
from kdtf.pruning.calibration import squared_norms
from kdtf.pruning.calibration import watching
from kdtf.transforms.layout import Layout
from kdtf.transforms.layout import layout_of


def norms_of(layer, x):
    layer(x)
    layout = layout_of(layer, layer.kernel)
    norms = np.asarray(squared_norms(layer, x, layout))
    return np.broadcast_to(norms, layer.kernel.shape)


def test_dense_norms_are_over_all_rows_and_positions(rng):
    x = rng.normal(size=(4, 3, 5)).astype("float32")
    expected = (x.reshape(-1, 5) ** 2).sum(0)
    got = norms_of(keras.layers.Dense(2), x)
    np.testing.assert_allclose(got, np.stack([expected] * 2, -1), rtol=1e-5)


def test_einsum_norms_follow_the_equation(rng):
    x = rng.normal(size=(2, 3, 4, 5)).astype("float32")
    layer = keras.layers.EinsumDense("abde,dec->abc", (None, 7))
    expected = (x.reshape(-1, 4, 5) ** 2).sum(0)[..., None]
    got = norms_of(layer, x)
    np.testing.assert_allclose(
        got, np.broadcast_to(expected, (4, 5, 7)), rtol=1e-5
    )
    # A kernel axis that is no sum keeps its own inputs apart.
    layer = keras.layers.EinsumDense("abc,bcd->abd", (3, 6))
    # Trailing axes may be left open.
    open_end = keras.layers.EinsumDense("ab...,bc->ac...", (7, None, None))
    expected = (x**2).sum((0, 2, 3))[:, None]
    got = np.asarray(
        squared_norms(
            open_end,
            x,
            Layout(shape=(3, 7), contraction=(0,), output=(1,)),
        )
    )
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    x = x[:, :, :, 0]
    expected = np.broadcast_to((x**2).sum(0)[..., None], (3, 4, 6))
    np.testing.assert_allclose(norms_of(layer, x), expected, rtol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"padding": "same"},
        {"padding": "same", "strides": 2},
        {"dilation_rate": 2},
        {"groups": 2},
    ],
)
def test_convolution_norms_equal_those_of_patches(options, rng):
    x = rng.normal(size=(3, 7, 6, 4)).astype("float32")
    layer = keras.layers.Conv2D(6, (3, 2), use_bias=False, **options)
    got = norms_of(layer, x)
    # By definition: the inputs a weight multiplies are the outputs of a
    # filter with a 1 in its place and 0 elsewhere.
    expected = np.zeros(layer.kernel.shape)
    for place in np.ndindex(*layer.kernel.shape):
        kernel = np.zeros(layer.kernel.shape, "float32")
        kernel[place] = 1.0
        layer.kernel.assign(kernel)
        expected[place] = (np.asarray(layer(x)) ** 2).sum()
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_causal_convolutions_are_known(rng):
    x = rng.normal(size=(2, 5, 1)).astype("float32")
    got = norms_of(keras.layers.Conv1D(1, 2, padding="causal"), x)
    first, second = (x[:, :-1] ** 2).sum(), (x**2).sum()
    np.testing.assert_allclose(got[:, 0, 0], [first, second], rtol=1e-5)


def test_half_precision_squares_do_not_overflow():
    layer = keras.layers.Dense(1, dtype="mixed_float16")
    x = np.full((2, 3), 300.0, "float16")
    np.testing.assert_allclose(norms_of(layer, x)[:, 0], [180000.0] * 3)


def test_units_are_summed_over_everything_else(rng):
    values = rng.normal(size=(2, 3, 4, 5)).astype("float32")
    layer = keras.layers.EinsumDense("abc,cde->abde", (None, 4, 5))
    layer.build((None, 3, 6))
    layout = layout_of(layer, layer.kernel)
    sums, count = reduce_units(layer, values, layout)
    np.testing.assert_allclose(sums, values.sum((0, 1)).ravel(), rtol=1e-5)
    assert float(count) == 6.0
    conv = keras.layers.Conv2D(5, 1)
    conv.build((None, 3, 4, 2))
    sums, count = reduce_units(conv, values, layout_of(conv, conv.kernel))
    np.testing.assert_allclose(sums, values.sum((0, 1, 2)), rtol=1e-5)
    assert float(count) == 24.0


def test_channels_first_units_are_the_second_axis(rng):
    values = rng.normal(size=(2, 5, 3, 4)).astype("float32")
    conv = keras.layers.Conv2D(5, 1, data_format="channels_first")
    conv.build((None, 2, 3, 4))
    sums, _ = reduce_units(conv, values, layout_of(conv, conv.kernel))
    np.testing.assert_allclose(sums, values.sum((0, 2, 3)), rtol=1e-5)


def test_activations_are_looked_for_behind_norms():
    layers = keras.layers
    conv, norm, relu = layers.Conv2D(2, 1), layers.BatchNormalization(), None
    relu = layers.ReLU()
    inputs = keras.Input((4, 4, 1))
    outputs = layers.GlobalAveragePooling2D()(relu(norm(conv(inputs))))
    keras.Model(inputs, outputs)
    assert activation_after(conv) is relu
    # A shared activation layer is nobody's own.
    first, second, shared = layers.Dense(2), layers.Dense(2), layers.ReLU()
    start = keras.Input((2,))
    keras.Model(start, shared(second(shared(first(start)))))
    assert activation_after(first) is first
    # Where two layers read it, its own output is what counts.
    forked = layers.Conv2D(2, 1)
    seen = forked(inputs)
    keras.Model(inputs, [layers.ReLU()(seen), layers.Flatten()(seen)])
    assert activation_after(forked) is forked


def test_watching_sees_nested_layers_and_restores(tiny_transformer):
    block = tiny_transformer.backbone.get_layer("transformer_layer_0")
    dense = next(
        layer
        for layer in block._flatten_layers()
        if layer.name == "feedforward_intermediate_dense"
    )
    seen = []
    ids = np.ones((2, 12), "int32")
    with watching([dense], lambda *call: seen.append(call)):
        tiny_transformer({"token_ids": ids, "padding_mask": ids})
    ((layer, inputs, outputs),) = seen
    assert layer is dense
    assert inputs.shape == (2, 12, 8) and outputs.shape == (2, 12, 16)
    assert "call" not in dense.__dict__


def test_watching_restores_after_an_error_and_keeps_what_was_there():
    dense = keras.layers.Dense(2)
    dense.build((None, 2))
    calls = []

    def own(inputs):
        calls.append("own")
        return inputs

    object.__setattr__(dense, "call", own)
    with pytest.raises(RuntimeError, match="stop"):
        with watching([dense], lambda *call: calls.append("seen")):
            dense(np.ones((1, 2), "float32"))
            raise RuntimeError("stop")
    assert calls == ["own", "seen"]
    assert dense.__dict__["call"] is own


def make_model():
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])


def test_total_sums_over_all_batches_and_the_rest(rng):
    x = rng.normal(size=(70, 3)).astype("float32")
    calibration = Calibration(make_model(), x, needs_labels=False)
    assert calibration.sizes == [32, 32, 6]
    (total,) = calibration.total(lambda batch: [tf.reduce_sum(batch.x, 0)])
    np.testing.assert_allclose(total, x.sum(0), rtol=1e-4)


def test_datasets_and_weights_are_taken(rng):
    x = rng.normal(size=(8, 3)).astype("float32")
    data = tf.data.Dataset.from_tensor_slices((x, x[:, 0], x[:, 1])).batch(4)
    calibration = Calibration(make_model(), data, needs_labels=True)
    (total,) = calibration.total(
        lambda batch: [tf.reduce_sum(batch.y * batch.sample_weight)]
    )
    np.testing.assert_allclose(total, (x[:, 0] * x[:, 1]).sum(), rtol=1e-5)


def test_bad_data_gets_one_clear_error():
    model = make_model()
    with pytest.raises(ValueError, match="measures the model.*data=None"):
        Calibration(model, None, needs_labels=False)
    with pytest.raises(ValueError, match="needs labels.*without y"):
        Calibration(model, np.ones((4, 3)), needs_labels=True)
    with pytest.raises(ValueError, match=r"inputs of shape \(4, 5\)"):
        Calibration(model, np.ones((4, 5)), needs_labels=False)
    with pytest.raises(TypeError, match="`data` must be"):
        Calibration(model, "images", needs_labels=False)
    endless = tf.data.Dataset.from_tensors(np.ones((4, 3))).repeat()
    with pytest.raises(ValueError, match="must end"):
        Calibration(model, endless, needs_labels=False)
