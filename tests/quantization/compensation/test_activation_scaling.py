"""Scales that move from inputs to weights without changing the model."""

import keras
import numpy as np
import pytest

from kdtf.quantization.compensation.activation_scaling import activation_scales
from kdtf.quantization.compensation.activation_scaling import best_scales
from kdtf.quantization.compensation.activation_scaling import fold_scales
from kdtf.quantization.compensation.input_graph import traced_groups
from kdtf.quantization.compensation.symmetric_grid import clipped_steps
from kdtf.quantization.compensation.symmetric_grid import nearest_rounding

layers = keras.layers


def rounded(matrix, second_moments):
    del second_moments
    steps = clipped_steps(matrix, num_bits=4, grid=(1.0,))
    return nearest_rounding(matrix, steps, num_bits=4)


def test_scales_by_hand():
    # 16 and 1 to the power 0.5 are 4 and 1, of which the middle is 2.
    assert activation_scales([16.0, 1.0], 0.5).tolist() == [2.0, 0.5]
    assert activation_scales([16.0, 1.0], 0.0).tolist() == [1.0, 1.0]
    assert activation_scales([3.0], 1.0).tolist() == [1.0]


def test_scales_of_silent_inputs_are_bounded():
    # As if their mean were 1e-4 of the largest.
    found = activation_scales([1.0, 0.0], 1.0)
    np.testing.assert_allclose(found, [100.0, 0.01], rtol=1e-6)
    assert activation_scales([0.0, 0.0], 1.0).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("bad", [[np.nan, 1.0], [-1.0], [np.inf], [[1.0]]])
def test_refuses_magnitudes(bad):
    with pytest.raises(ValueError, match="`magnitudes` must be a finite"):
        activation_scales(bad, 0.5)


def test_search_by_hand():
    # Of integers, 0.4 of the input that is 10 times stronger errs 16. With
    # exponent 0.5 it becomes 0.711 and rounds to 1 / 1.778 = 0.562; the other
    # becomes 0.562 and rounds to 1 / 0.562 = 1.778.
    search = best_scales(
        [np.array([[0.4], [1.0]])],
        np.diag([100.0, 1.0]),
        [10.0, 1.0],
        rounders=[lambda matrix, _: np.rint(matrix)],
        exponents=[0.5],
    )
    assert search.exponent == 0.5
    assert search.error_unscaled == pytest.approx(16.0, rel=1e-5)
    by_hand = 100 * (0.4 - 10**-0.25) ** 2 + (1.0 - 10**0.25) ** 2
    assert search.error == pytest.approx(by_hand, rel=1e-4)


def test_search_equals_numpy_over_all_exponents(rng):
    inputs = rng.normal(size=(50, 12)) * rng.lognormal(sigma=1.5, size=12)
    matrices = [rng.normal(size=(12, n)).astype("float32") for n in (4, 7)]
    magnitudes = np.abs(inputs).mean(axis=0)
    exponents = np.linspace(0.0, 1.0, 11)
    search = best_scales(
        matrices,
        inputs.T @ inputs,
        magnitudes,
        rounders=[rounded, rounded],
        exponents=exponents,
    )
    errors = []
    for exponent in exponents:
        scales = magnitudes**exponent
        scales /= np.sqrt(scales.max() * scales.min())
        wide = scales.astype("float32")[:, None]
        errors.append(
            sum(
                np.square(inputs @ (m - rounded(m * wide, None) / wide)).sum()
                for m in matrices
            )
        )
    assert search.exponent == exponents[np.argmin(errors)] > 0.0
    # Ours is in float32.
    assert search.error == pytest.approx(min(errors), rel=1e-3)
    assert search.error_unscaled == pytest.approx(errors[0], rel=1e-3)


def test_no_scales_where_they_do_not_help():
    search = best_scales(
        [np.array([[1.0], [7.0]])],
        np.eye(2),
        [5.0, 1.0],
        rounders=[rounded],
    )
    assert search.exponent == 0.0 and search.error == 0.0
    assert search.scales.tolist() == [1.0, 1.0]


def test_rounders_get_the_moments_of_scaled_inputs():
    seen = []

    def rounder(matrix, second_moments):
        seen.append(second_moments.tolist())
        return matrix

    best_scales(
        [np.ones((2, 1))],
        np.diag([16.0, 1.0]),
        [16.0, 1.0],
        rounders=[rounder],
        exponents=[0.5],
    )
    assert seen == [[16.0, 1.0], [4.0, 4.0]]


class OnePlus(layers.Layer):
    """Normalises as Gemma does: its gain is 1 + scale."""

    def build(self, shape):
        self.scale = self.add_weight(
            name="scale", shape=(shape[-1],), initializer="zeros"
        )

    def call(self, x):
        mean = keras.ops.mean(keras.ops.square(x), axis=-1, keepdims=True)
        return x * keras.ops.rsqrt(mean + 1e-6) * (1 + self.scale)


class OnePlusNorm(OnePlus):
    """The same, by the name of a norm."""


class OddNorm(OnePlus):
    """Has a gain that is no factor."""

    def call(self, x):
        return x + self.scale


NORMS = {
    "layer": lambda: layers.LayerNormalization(name="norm"),
    "layer, no center": lambda: layers.LayerNormalization(
        center=False, name="norm"
    ),
    "rms": lambda: layers.RMSNormalization(name="norm"),
    "batch": lambda: layers.BatchNormalization(name="norm"),
    "1 + scale": lambda: OnePlusNorm(name="norm"),
}


def model_with(norm, rng):
    """Gives two layers over a norm, all with random weights, and its group."""
    x = keras.Input((4, 6))
    y = norm(x)
    heads = [
        layers.Dense(5, activation="tanh", name="dense")(y),
        layers.EinsumDense("btc,ncd->btnd", (None, 2, 3), name="heads")(y),
    ]
    model = keras.Model(x, heads)
    for variable in model.weights:
        value = rng.normal(size=variable.shape)
        is_variance = variable.name == "moving_variance"
        variable.assign(np.abs(value) + 0.1 if is_variance else value)
    inputs = rng.normal(size=(3, 4, 6)).astype("float32")
    (group,) = traced_groups(model, inputs)
    return model, inputs, group


@pytest.mark.parametrize("name", NORMS)
def test_folding_keeps_the_function(rng, name):
    model, inputs, group = model_with(NORMS[name](), rng)
    scales = rng.lognormal(size=6).astype("float32")
    before = [np.asarray(output) for output in model(inputs, training=False)]
    norm = model.get_layer("norm")
    normed = np.asarray(norm(inputs))
    kernel = np.asarray(model.get_layer("heads").kernel)
    assert fold_scales(group, scales) is None
    after = model(inputs, training=False)
    for old, new in zip(before, after, strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        norm(inputs), normed / scales, rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(
        model.get_layer("heads").kernel,
        kernel * scales[:, None],
        rtol=1e-6,
    )


def test_folding_tries_the_norm_out(rng):
    model, inputs, group = model_with(OddNorm(name="norm"), rng)
    before = model.get_weights()
    reason = fold_scales(group, np.full(6, 2.0, "float32"))
    assert reason == "'norm' does not multiply by its gain"
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_folding_in_half_precision(rng):
    policy = keras.mixed_precision.DTypePolicy("mixed_bfloat16")
    norm = layers.LayerNormalization(name="norm", dtype=policy)
    model, inputs, group = model_with(norm, rng)
    gamma = np.asarray(norm.gamma)
    scales = rng.lognormal(size=6).astype("float32")
    assert fold_scales(group, scales) is None
    # The variables are float32, and stay exact.
    np.testing.assert_allclose(norm.gamma, gamma / scales, rtol=1e-6)
