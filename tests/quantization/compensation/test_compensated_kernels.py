"""Whole models whose kernels are put on grids by what data show."""

import types

import keras
import numpy as np
import pytest

from kdtf.quantization.compensation.compensated_kernels import METHODS
from kdtf.quantization.compensation.compensated_kernels import error_compensated
from kdtf.quantization.compensation.error_compensation import (
    compensated_rounding,
)
from kdtf.quantization.compensation.error_compensation import second_moment
from kdtf.quantization.compensation.symmetric_grid import clipped_steps
from kdtf.transforms.layout import layout_of
from kdtf.transforms.selection import select_kernels

layers = keras.layers


def grid(num_bits=4, group_size=None):
    return types.SimpleNamespace(num_bits=num_bits, group_size=group_size)


def compensated(model, data, *, select=None, num_bits=4, **kwargs):
    kernels = select_kernels(model, select).taken
    found = error_compensated(
        model,
        kernels,
        data,
        grids=[grid(num_bits)] * len(kernels),
        verbose=0,
        **kwargs,
    )
    return kernels, found


def assign(kernels, found):
    for kernel, result in zip(kernels, found, strict=True):
        kernel.variable.assign(result.values)


def error_of(model, inputs, wanted):
    return float(np.square(np.asarray(model(inputs)) - wanted).sum())


@pytest.fixture
def data(rng):
    """Tokens that a tiny transformer takes."""
    tokens = rng.integers(0, 32, size=(16, 12))
    return {"token_ids": tokens, "padding_mask": np.ones_like(tokens)}


@pytest.fixture
def strong(tiny_transformer, rng):
    """A transformer with random weights, some of its inputs strong."""
    for variable in tiny_transformer.weights:
        if variable.name == "kernel":
            value = rng.normal(size=variable.shape)
            variable.assign(value * 8**-0.5)
        if variable.name == "gamma":
            variable.assign(rng.lognormal(size=variable.shape))
    return tiny_transformer


@pytest.mark.parametrize("method", METHODS)
def test_values_are_on_their_grids(strong, data, method):
    kernels, found = compensated(strong, data, method=method)
    for kernel, result in zip(kernels, found, strict=True):
        layout = layout_of(kernel.layer, kernel.variable)
        matrix = np.asarray(layout.to_matrix(result.values))
        integers = np.rint(matrix / result.steps)
        assert result.path == kernel.path
        assert result.values.shape == kernel.shape
        assert result.steps.shape == (1, layout.num_outputs)
        assert np.abs(integers).max() <= 7
        np.testing.assert_array_equal(
            integers.astype("float32") * result.steps, matrix
        )


def test_one_layer_equals_the_pure_functions(rng):
    model = keras.Sequential([keras.Input((6,)), layers.Dense(4)])
    inputs = rng.normal(size=(40, 3)) @ rng.normal(size=(3, 6))
    inputs = inputs.astype("float32")
    (kernel,), (found,) = compensated(model, inputs, damping=0.1)
    hessian = second_moment(inputs)
    steps = clipped_steps(kernel.variable, num_bits=4, second_moments=hessian)
    wanted = compensated_rounding(
        kernel.variable,
        hessian.astype("float32"),
        steps,
        num_bits=4,
        damping=0.1,
    )
    np.testing.assert_array_equal(found.steps, steps)
    np.testing.assert_array_equal(found.values, wanted)


@pytest.mark.parametrize("method", METHODS)
def test_function_of_the_model_stays(strong, data, method):
    before = np.asarray(strong(data))
    weights = strong.get_weights()
    compensated(strong, data, method=method, num_passes=2)
    # float32 rounding in two layers.
    np.testing.assert_allclose(strong(data), before, rtol=1e-4, atol=1e-4)
    same = [
        np.array_equal(old, new)
        for old, new in zip(weights, strong.get_weights(), strict=True)
    ]
    # Only scaling touches the weights.
    assert all(same) == (method == "gptq")


def test_outputs_err_less_than_with_nearest_rounding(strong, data):
    wanted = np.asarray(strong(data))
    start = strong.get_weights()
    kernels = select_kernels(strong).taken
    for kernel in kernels:
        layout = layout_of(kernel.layer, kernel.variable)
        matrix = np.asarray(layout.to_matrix(kernel.variable))
        steps = clipped_steps(matrix, num_bits=4, grid=(1.0,))
        integers = np.clip(np.rint(matrix / steps), -7, 7)
        kernel.variable.assign(layout.from_matrix(integers * steps))
    nearest = error_of(strong, data, wanted)
    errors = {}
    for method in ("awq", "awq+gptq"):
        strong.set_weights(start)
        assign(*compensated(strong, data, method=method))
        errors[method] = error_of(strong, data, wanted)
    # The gains spread the inputs' strengths, which scaling evens out.
    assert max(errors.values()) < 0.5 * nearest


def test_a_layer_with_correlated_inputs_errs_less_than_half(rng):
    model = keras.Sequential([keras.Input((24,)), layers.Dense(8)])
    inputs = rng.normal(size=(80, 6)) @ rng.normal(size=(6, 24))
    inputs = (inputs + 0.1 * rng.normal(size=inputs.shape)).astype("float32")
    wanted = np.asarray(model(inputs))
    start = model.get_weights()
    assign(*compensated(model, inputs, method="awq"))
    nearest = error_of(model, inputs, wanted)
    model.set_weights(start)
    assign(*compensated(model, inputs, method="gptq"))
    assert error_of(model, inputs, wanted) < 0.5 * nearest


def test_later_passes_see_the_rounded_kernels(rng):
    model = keras.Sequential(
        [keras.Input((8,)), layers.Dense(8), layers.Dense(8), layers.Dense(9)]
    )
    inputs = rng.normal(size=(64, 8)).astype("float32")
    start = model.get_weights()
    kernels, one = compensated(model, inputs, num_bits=2)
    _, three = compensated(model, inputs, num_bits=2, num_passes=3)
    np.testing.assert_array_equal(one[0].values, three[0].values)
    assert (one[2].steps != three[2].steps).any()
    # Little memory has the same effect as several passes.
    _, little = compensated(model, inputs, num_bits=2, max_bytes=1)
    for a, b in zip(little, three, strict=True):
        np.testing.assert_array_equal(a.values, b.values)
    # The third layer's inputs are what the first two, rounded, give.
    assign(kernels[:2], three[:2])
    seen = np.asarray(model.layers[1](model.layers[0](inputs)))
    steps = clipped_steps(
        start[4], num_bits=2, second_moments=second_moment(seen)
    )
    np.testing.assert_array_equal(steps, three[2].steps)


def test_says_what_was_not_done(tiny_transformer, data):
    _, found = compensated(
        tiny_transformer,
        data,
        method="awq",
        select=["*/embeddings", "*attention_output/kernel", "*/query/kernel"],
    )
    notes = {result.path.split("/")[-2]: result.notes for result in found}
    assert notes["attention_output"] == (
        "inputs not scaled: its inputs come from no single normalisation",
    )
    (note,) = notes["token_embedding"]
    assert note.startswith("rounded to the nearest: what ReversibleEmbedding's")


def test_zeros_stay_zeros(strong, data):
    for kernel in select_kernels(strong).taken:
        value = np.array(kernel.variable)
        value[np.abs(value) < np.median(np.abs(value))] = 0.0
        kernel.variable.assign(value)
    kernels, found = compensated(strong, data, method="awq+gptq")
    for kernel, result in zip(kernels, found, strict=True):
        zeros = np.asarray(kernel.variable) == 0.0
        assert zeros.mean() >= 0.49
        assert not result.values[zeros].any()


def test_convolutions(tiny_cnn, batch):
    kernels, found = compensated(tiny_cnn, batch)
    assert [result.path for result in found] == ["conv/kernel", "logits/kernel"]
    assert not any(result.notes for result in found)
    conv = found[0]
    # Nine inputs for each of the four outputs.
    assert conv.steps.shape == (1, 4)
    wanted = np.asarray(tiny_cnn(batch[0]))
    assign(kernels, found)
    assert error_of(tiny_cnn, batch[0], wanted) < 0.05 * np.sum(wanted**2)


def test_groups(rng):
    model = keras.Sequential([keras.Input((8,)), layers.Dense(3)])
    (kernel,) = select_kernels(model).taken
    (found,) = error_compensated(
        model,
        [kernel],
        rng.normal(size=(20, 8)),
        grids=[grid(4, 4)],
        verbose=0,
    )
    assert found.steps.shape == (2, 3)
    half = found.steps.astype("float16").astype("float32")
    np.testing.assert_array_equal(found.steps, half)


def test_progress_is_one_line(tiny_cnn, batch, capsys):
    kernels = select_kernels(tiny_cnn).taken
    error_compensated(tiny_cnn, kernels, batch, grids=[grid()] * 2)
    # One batch and two kernels.
    assert "3/3" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"method": "obq"}, "`method` must be one of .*'awq\\+gptq'"),
        ({"num_passes": 0}, "`num_passes` must be at least 1"),
    ],
)
def test_refuses(tiny_cnn, batch, change, match):
    with pytest.raises(ValueError, match=match):
        compensated(tiny_cnn, batch, **change)


def test_an_error_leaves_the_weights(rng):
    model = keras.Sequential(
        [keras.Input((4,)), layers.Dense(4), layers.Dense(4)]
    )
    model.layers[1].kernel.assign(np.full((4, 4), np.nan))
    before = model.get_weights()
    with pytest.raises(ValueError, match="`matrix` must .* finite"):
        compensated(model, rng.normal(size=(8, 4)), num_passes=2)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
