"""Ranges and kernels from a few examples, without training."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kdtf
from kdtf.quantization import Activations
from kdtf.quantization import Codebook
from kdtf.quantization import Linear
from kdtf.quantization import PowerOfTwo
from kdtf.quantization import Scheme
from kdtf.transforms import attach

K = keras.layers


def identity_net():
    """Two layers whose activations are its inputs, and their negatives."""
    model = keras.Sequential(
        [
            keras.Input((2,)),
            K.Dense(2, use_bias=False, name="same"),
            K.Dense(2, use_bias=False, name="negative"),
        ],
        name="net",
    )
    model.set_weights([np.eye(2), -np.eye(2)])
    return model


def mlp():
    layers = [
        keras.Input((32,)),
        K.Dense(16, "relu", name="hidden"),
        K.Dense(3, name="head"),
    ]
    return keras.Sequential(layers, name="mlp")


def ranges_of(model):
    state = attach.recall(model, "kdtf_quantization")
    return {q.site_path: q.constants() for q in state.ranges()}


def is_plain(model):
    layers = model._flatten_layers()
    return all(
        "call" not in vars(layer) and not hasattr(layer, "_kdtf_quantization")
        for layer in layers
    )


@pytest.mark.parametrize("scheme", ["int8", "int8_iot"])
def test_min_max_of_all_batches(scheme):
    # 40 examples are two batches; the extremes are in different ones.
    x = np.zeros((40, 2), "float32")
    x[3], x[37] = (-1.0, 0.5), (0.0, 4.0)
    model = kdtf.quantize(identity_net(), scheme, x)
    assert ranges_of(model) == {
        "input_0": (-1.0, 4.0),
        "same/output": (-1.0, 4.0),
        "negative/output": (-4.0, 1.0),
    }


def test_percentiles_are_of_all_values():
    x = np.linspace(-100.0, 100.0, 20_000).reshape(-1, 2).astype("float32")
    scheme = Scheme(
        weights=Linear(), activations=Activations(range="percentile")
    )
    data = tf.data.Dataset.from_tensor_slices(x).batch(2500)
    found = ranges_of(kdtf.quantize(identity_net(), scheme, data))
    # One value of 10,000 at each end, so 0.0001 of the way of 200.
    for low, high in found.values():
        np.testing.assert_allclose((low, high), (-99.98, 99.98), rtol=1e-5)


def test_least_squares_gives_an_outlier_up():
    x = np.append(np.linspace(0.0, 1.0, 29_999), 3.0).reshape(-1, 2)
    scheme = Scheme(
        weights=Linear(), activations=Activations(range="mean_squared_error")
    )
    data = tf.data.Dataset.from_tensor_slices(x).batch(5000)
    found = ranges_of(kdtf.quantize(identity_net(), scheme, data))
    from kdtf.quantization.ranges import mean_squared_error

    expected = mean_squared_error(x.astype("float32"))
    np.testing.assert_allclose(found["input_0"], expected, rtol=1e-6)
    assert 0.5 < found["input_0"][1] < 3.0
    np.testing.assert_allclose(
        found["negative/output"], [-expected[1], 0.0], rtol=1e-6
    )


def test_outputs_are_on_the_grids_of_weights_and_activations(rng):
    x = rng.normal(size=(64, 32)).astype("float32")
    model = mlp()
    plain = model(x).numpy()
    kernels = [w.copy() for w in model.get_weights()]
    kdtf.quantize(model, "int8", x)

    def grid(values, low, high):
        step = np.float32((high - low) / 255)
        zero = np.round(low / step)
        integers = np.clip(np.round(values / step) - zero, 0, 255)
        return (integers + zero) * step

    found = ranges_of(model)
    y = grid(x, *found["input_0"])
    for i, name in ((0, "hidden/output"), (2, "head/output")):
        step = np.abs(kernels[i]).max(axis=0) / 127
        y = y @ (np.round(kernels[i] / step) * step) + kernels[i + 1]
        y = np.maximum(y, 0) if i == 0 else y
        y = grid(y, *found[name])
    got = model.predict(x, verbose=0)
    # Sums in another order may cross a tie.
    step = (found["head/output"][1] - found["head/output"][0]) / 255
    assert np.mean(np.abs(got - y) > 0.1 * step) < 0.02
    np.testing.assert_allclose(got, y, atol=1.1 * step)
    assert 0 < np.abs(got - plain).max() < 0.1
    for a, b in zip(model.get_weights(), kernels, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (None, "`data`.*data=None"),
        (np.zeros((0, 2), "float32"), "at least one example"),
        (np.float32([[np.nan, 1.0]]), "first at 'input_0'"),
        (np.float32([[1.0, -np.inf]]), "first at 'input_0'"),
    ],
    ids=["none", "empty", "nan", "inf"],
)
def test_missing_empty_and_nan_data_leave_the_model_as_it_was(data, match):
    model = identity_net()
    with pytest.raises(ValueError, match=match):
        kdtf.quantize(model, "int8", data)
    assert is_plain(model)
    kdtf.quantize(model, "int8", np.ones((2, 2), "float32"))


def test_a_failed_calibration_keeps_the_masks():
    model = kdtf.prune(mlp(), 0.5)
    with pytest.raises(ValueError, match="data=None"):
        kdtf.quantize(model, "int8")
    assert attach.recall(model, "kdtf_pruning") is not None
    assert len(list(attach.attachments(model))) == 2


def test_weights_alone_need_no_data():
    model = kdtf.quantize(mlp(), "int4")
    kdtf.strip(model)
    kernel = model.get_weights()[0]
    integers = kernel / (np.abs(kernel).max(axis=0) / 7)
    np.testing.assert_allclose(integers, np.round(integers), atol=1e-5)


@pytest.mark.parametrize("method", ["gptq", "awq", "awq+gptq"])
def test_methods_that_measure_need_data(method):
    model = mlp()
    with pytest.raises(
        ValueError, match=f"{method}.*data=None".replace("+", ".")
    ):
        kdtf.quantize(model, "int4", method=method)
    assert is_plain(model)


@pytest.mark.parametrize(
    "scheme",
    [
        Codebook(),
        PowerOfTwo(),
        Linear(num_bits=4, granularity="per_tensor"),
        "int8_iot",
    ],
    ids=str,
)
def test_gptq_is_for_linear_weights(scheme, rng):
    model = mlp()
    before = model.get_weights()
    with pytest.raises(ValueError, match="gptq.*'hidden/kernel'"):
        kdtf.quantize(model, scheme, rng.normal(size=(8, 32)), method="gptq")
    assert is_plain(model)
    for a, b in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_unknown_methods_and_models_are_refused():
    with pytest.raises(ValueError, match="awq.gptq.*method='best'"):
        kdtf.quantize(mlp(), method="best")
    with pytest.raises(TypeError, match="model"):
        kdtf.quantize("mlp", "int4")


def test_gptq_has_less_error_on_the_outputs_than_nearest(rng):
    """Inputs are correlated: errors of one weight can make up for another's."""
    x = rng.normal(size=(512, 4)) @ rng.normal(size=(4, 32))
    x = x.astype("float32") / 2
    errors = {}
    for method in ("nearest", "gptq"):
        keras.utils.set_random_seed(1)
        model = mlp()
        exact = model(x).numpy()
        kdtf.quantize(model, "int4", x, method=method)
        errors[method] = np.mean((model(x).numpy() - exact) ** 2)
        # What it rounded to is what is read and what is baked in.
        simulated = model.predict(x, verbose=0)
        kdtf.strip(model)
        np.testing.assert_allclose(
            model.predict(x, verbose=0), simulated, rtol=1e-4, atol=1e-5
        )
    assert errors["gptq"] < 0.6 * errors["nearest"]


@pytest.mark.parametrize(
    ("scheme", "method"), [("int8", "nearest"), ("int4", "gptq")]
)
def test_fit_goes_on_from_there(scheme, method, rng):
    x = rng.normal(size=(64, 32)).astype("float32")
    y = x[:, :3]
    model = kdtf.quantize(mlp(), scheme, x, method=method)
    model.compile(keras.optimizers.Adam(0.01), "mse")
    before = model.evaluate(x, y, verbose=0)
    ranges = ranges_of(model)
    history = model.fit(x, 4 * y, epochs=3, batch_size=16, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]
    assert np.isfinite(before)
    if scheme == "int8":
        # Moved on by 12 batches of 0.99, not started anew.
        after = ranges_of(model)["head/output"]
        change = abs(after[1] - ranges["head/output"][1])
        assert 0 < change < 0.3 * ranges["head/output"][1]


@pytest.mark.parametrize("scheme", ["int8", "int8_iot"])
def test_integers_as_images_are_the_floats_they_become(scheme, rng):
    x = rng.integers(0, 256, size=(32, 2)).astype("uint8")
    first = kdtf.quantize(identity_net(), scheme, x)
    second = kdtf.quantize(identity_net(), scheme, x.astype("float32"))
    assert ranges_of(first) == ranges_of(second)
    assert ranges_of(first)["input_0"][1] == x.max()
    np.testing.assert_array_equal(
        first.predict(x, verbose=0),
        second.predict(x.astype("float32"), verbose=0),
    )


def test_several_inputs_keep_their_ranges_in_any_structure():
    inputs = [keras.Input((2,), name="b"), keras.Input((2,), name="a")]
    model = keras.Model(inputs, K.Concatenate(name="whole")(inputs))
    model = keras.Model(inputs, K.Dense(2, name="d")(model.output))
    b, a = np.full((4, 2), 5.0, "float32"), np.full((4, 2), -3.0, "float32")
    kdtf.quantize(model, "int8", ({"a": a, "b": b},))
    assert ranges_of(model)["input_0"] == (0.0, 5.0)
    assert ranges_of(model)["input_1"] == (-3.0, 0.0)
    np.testing.assert_array_equal(model([b, a]), model({"a": a, "b": b}))
