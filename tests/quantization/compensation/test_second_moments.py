"""What layers are called with, summed up over data."""

import keras
import numpy as np
import pytest

from kdtf.batches import Batch
from kdtf.quantization.compensation.second_moments import Moments
from kdtf.quantization.compensation.second_moments import gather_moments
from kdtf.quantization.compensation.second_moments import size_bytes_of_moments


def test_sums_over_batches_by_hand():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    batches = [Batch(np.array([[1.0, -2.0]])), Batch(np.array([[3.0, 0.0]]))]
    (found,) = gather_moments(model, model.layers, batches)
    assert found.hessian.tolist() == [[10.0, -2.0], [-2.0, 4.0]]
    assert found.magnitudes.tolist() == [2.0, 1.0]
    assert found.second_moments.tolist() == [10.0, 4.0]
    assert found.hessian.dtype == np.float32


def test_equals_numpy_inside_a_transformer(tiny_transformer, rng):
    tokens = rng.integers(0, 32, size=(6, 12))
    inputs = {"token_ids": tokens, "padding_mask": np.ones_like(tokens)}
    decoder = tiny_transformer.backbone.transformer_layers[0]
    query = decoder._self_attention_layer._query_dense
    dense = decoder._feedforward_output_dense
    seen = {}
    for layer in (query, dense):
        original = layer.call

        def call(x, layer=layer, original=original, **kwargs):
            seen[layer.name] = np.asarray(x, "float64")
            return original(x, **kwargs)

        object.__setattr__(layer, "call", call)
    tiny_transformer(inputs)
    for layer in (query, dense):
        object.__delattr__(layer, "call")
    halves = [
        Batch({key: value[part] for key, value in inputs.items()})
        for part in (slice(0, 4), slice(4, 6))
    ]
    found = gather_moments(tiny_transformer, [query, dense], halves)
    for layer, moments in zip((query, dense), found, strict=True):
        rows = seen[layer.name].reshape(-1, seen[layer.name].shape[-1])
        # float32 sums of 72 rows.
        np.testing.assert_allclose(
            moments.hessian, rows.T @ rows, rtol=1e-5, atol=1e-5
        )
        np.testing.assert_allclose(
            moments.magnitudes, np.abs(rows).mean(axis=0), rtol=1e-5
        )


def test_a_layer_that_is_called_twice_has_seen_both():
    dense = keras.layers.Dense(2)
    first, second = keras.Input((2,)), keras.Input((2,))
    model = keras.Model([first, second], [dense(first), dense(second)])
    x = [np.array([[1.0, 0.0]]), np.array([[0.0, 3.0]])]
    (found,) = gather_moments(model, [dense], [Batch(x)])
    assert found.hessian.tolist() == [[1.0, 0.0], [0.0, 9.0]]
    assert found.magnitudes.tolist() == [0.5, 1.5]


def test_moments_of_divided_inputs(rng):
    x = rng.normal(size=(9, 3))
    scales = np.array([2.0, 1.0, 0.25])

    def moments(rows):
        return Moments(
            hessian=rows.T @ rows, magnitudes=np.abs(rows).mean(axis=0)
        )

    ours, theirs = moments(x).divided(scales), moments(x / scales)
    np.testing.assert_allclose(ours.hessian, theirs.hessian)
    np.testing.assert_allclose(ours.magnitudes, theirs.magnitudes)


def test_the_layers_are_left_as_they_were(tiny_cnn, batch):
    conv = tiny_cnn.get_layer("conv")
    before = tiny_cnn.get_weights()
    gather_moments(tiny_cnn, [conv], [Batch(batch[0])])
    assert "call" not in vars(conv)
    with pytest.raises(ValueError, match="finite.*'logits'"):
        gather_moments(
            tiny_cnn,
            [tiny_cnn.get_layer("logits")],
            [Batch(np.full((1, 8, 8, 1), np.nan, "float32"))],
        )
    assert "call" not in vars(tiny_cnn.get_layer("logits"))
    for a, b in zip(before, tiny_cnn.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_layer_that_is_not_called_is_named(tiny_cnn, batch):
    other = keras.layers.Dense(2, name="other")
    other.build((None, 3))
    with pytest.raises(ValueError, match="must be called.*'other'"):
        gather_moments(tiny_cnn, [other], [Batch(batch[0])])


def test_size_of_moments(tiny_cnn):
    # A 3x3 convolution of one channel: nine inputs, 81 float32 numbers.
    assert size_bytes_of_moments(tiny_cnn.get_layer("conv")) == 324
