"""Models that say what they were quantized for, and what becomes of them."""

import keras
import numpy as np
import pytest

from kdtf.export import ExportError
from kdtf.export import export_tflite
from kdtf.export import static_grids
from kdtf.export.plan import Plan
from kdtf.export.plan import plan_of
from kdtf.export.targets import get_target
from kdtf.export.weights import float_values
from kdtf.export.weights import weights_of
from kdtf.flatbuffer import describe
from kdtf.flatbuffer import read_model
from kdtf.transforms.deployment import Deployment

pytestmark = pytest.mark.slow


class Ranged(keras.layers.Layer):
    """Simulates int8 activations within a range."""

    def __init__(self, low, high):
        super().__init__()
        self.low = low
        self.high = high

    def call(self, inputs):
        import tensorflow as tf

        fake = tf.quantization.fake_quant_with_min_max_vars
        return fake(inputs, self.low, self.high)


@pytest.fixture
def simulated(rng):
    """A network with the ranges of all its activations."""
    inputs = keras.Input((8, 8, 2), name="image")
    hidden = inputs
    for layer in (
        Ranged(-4.0, 4.0),
        keras.layers.Conv2D(8, 3, use_bias=False),
        keras.layers.BatchNormalization(),
        keras.layers.ReLU(),
        Ranged(0.0, 6.0),
        keras.layers.DepthwiseConv2D(3, activation="relu"),
        Ranged(0.0, 3.0),
        keras.layers.Flatten(),
        keras.layers.Dense(16, activation="relu"),
        Ranged(0.0, 3.0),
        keras.layers.Dense(4),
        Ranged(-3.0, 3.0),
    ):
        hidden = layer(hidden)
    model = keras.Model(inputs, hidden)
    for weight in model.weights:
        if "kernel" not in weight.path:
            # Batch norm that does something, also with negative factors.
            drawn = rng.uniform(0.5, 1.5, size=weight.shape)
            signs = rng.choice([-1, 1], size=weight.shape)
            weight.assign(drawn * signs if weight.name == "gamma" else drawn)
    return model


@pytest.fixture
def pictures(rng):
    return rng.normal(size=(40, 8, 8, 2)).astype("float32")


def rounded(model, *, levels=127, dense_per_tensor=False):
    """Gives each kernel's values on a grid whose top level is `levels`."""
    found = []
    for kernel in model.trainable_variables:
        if "kernel" in kernel.path:
            values = kernel.numpy()
            last = 2 if "depthwise" in kernel.path else 1
            is_whole = dense_per_tensor and values.ndim == 2
            axes = tuple(range(values.ndim - (0 if is_whole else last)))
            steps = np.abs(values).max(axis=axes, keepdims=True) / levels
            steps = steps.astype("float32")
            found.append((kernel, np.rint(values / steps) * steps, 8))
    return found


def assert_weights_are_as_before(model, before):
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("target", ["iot", "android"])
@pytest.mark.parametrize("has_data", [False, True])
@pytest.mark.parametrize("levels", [127, 100])
def test_a_simulated_model_computes_the_same_in_int8(
    simulated, pictures, quantize_by_hand, tmp_path, target, has_data, levels
):
    grids = rounded(simulated, levels=levels)
    quantize_by_hand(simulated, "int8", grids, notes=("from its notes",))
    before = simulated.get_weights()
    result = export_tflite(
        simulated,
        tmp_path / "m.tflite",
        target=target,
        representative_data=pictures if has_data else None,
        verify_data=pictures,
    )
    assert_weights_are_as_before(simulated, before)
    assert result.quantize == "int8"
    assert result.within_one_step == 1.0
    assert "within one int8 step 100.0%" in str(result)
    kinds = {dtype for _, dtype in describe(result.path).operator_dtypes}
    assert kinds == ({"INT8"} if target == "iot" else {"INT8", "FLOAT32"})
    assert result.float_reasons == ()
    arena = (
        "2 dense kernels have one scale for each output: TensorFlow Lite "
        "Micro needs a larger arena for them (4.5 times in one case) than "
        "for one scale in all"
    )
    expected = ("from its notes", arena)
    assert result.warnings == (expected if target == "iot" else expected[:1])


def test_dense_kernels_have_one_scale_where_they_were_trained_so(
    simulated, pictures, quantize_by_hand, tmp_path
):
    grids = rounded(simulated, dense_per_tensor=True)
    quantize_by_hand(simulated, "int8", grids, dense_per_tensor=True)
    result = export_tflite(
        simulated, tmp_path / "m.tflite", target="iot", verify_data=pictures
    )
    assert result.warnings == ()
    assert result.within_one_step == 1.0
    file = read_model(result.path.read_bytes())
    scales = [
        len(weight.tensor.quantization.scale)
        for weight in weights_of(file)
        if weight.readers[0][0] == "FULLY_CONNECTED"
    ]
    assert scales == [1, 1]
    values = [float_values(file, w.tensor) for w in weights_of(file)][-1]
    error = np.abs(values - grids[-1][1].T).max()
    assert error <= 1e-6 * np.abs(grids[-1][1]).max()


def test_a_grid_that_int8_files_cannot_hold_is_refused(
    simulated, pictures, quantize_by_hand, refuses
):
    grids = rounded(simulated)
    kernel, values, _ = grids[-1]
    values = values * np.linspace(1, 2, len(values))[:, None]
    quantize_by_hand(simulated, "int8", [(kernel, values, 8)])
    error = refuses(simulated, "one scale for each output, or one in all")
    assert kernel.path in str(error)


@pytest.mark.slow
def test_an_operator_without_a_range_is_explained(
    quantize_by_hand, refuses, rng
):
    model = keras.Sequential(
        [
            keras.Input((6,)),
            Ranged(-4.0, 4.0),
            keras.layers.Dense(8, name="first"),
            keras.layers.Dense(8, name="second"),
            Ranged(-4.0, 4.0),
        ]
    )
    quantize_by_hand(model, "int8")
    error = refuses(model, "compute in float in an int8 file", target="iot")
    assert "no range is known of what it" in str(error)
    assert "`representative_data`" in str(error)


@pytest.mark.slow
def test_data_gives_the_ranges_that_are_missing(
    quantize_by_hand, rng, tmp_path
):
    model = keras.Sequential(
        [
            keras.Input((6,)),
            Ranged(-4.0, 4.0),
            keras.layers.Dense(8),
            keras.layers.Dense(8),
            Ranged(-4.0, 4.0),
        ]
    )
    quantize_by_hand(model, "int8")
    data = rng.normal(size=(50, 6)).astype("float32")
    result = export_tflite(
        model, tmp_path / "m.tflite", target="iot", representative_data=data
    )
    assert result.float_operators == {}
    assert result.sqnr_db > 25


@pytest.mark.parametrize(
    "mode, bits, dtype",
    [("dynamic_int8", 8, "INT8"), ("int4", 4, "INT4")],
)
def test_weights_on_a_grid_are_stored_as_they_are(
    rng, on_grid, quantize_by_hand, tmp_path, mode, bits, dtype
):
    model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(32)])
    kernel = model.layers[0].kernel
    values = on_grid((64, 32), 5)
    quantize_by_hand(model, mode, [(kernel, values, bits)])
    before = model.get_weights()
    result = export_tflite(model, tmp_path / "m.tflite")
    assert_weights_are_as_before(model, before)
    assert result.quantize == mode
    assert result.sqnr_db > 30
    assert result.warnings == ()
    file = read_model(result.path.read_bytes())
    (weight,) = weights_of(file)
    np.testing.assert_allclose(
        float_values(file, weight.tensor), values.T, rtol=1e-6
    )
    (tensor,) = (
        t for t in describe(result.path).tensors if t.shape == (32, 64)
    )
    assert (tensor.dtype, tensor.num_bytes) == (dtype, 64 * 32 * bits // 8)


def test_a_codebook_is_stored_in_float(rng, quantize_by_hand, tmp_path):
    model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(32)])
    values = rng.choice([0.1, 0.25, -0.7], size=(64, 32))
    kernel = model.layers[0].kernel
    notes = ("only the compressed size shrinks",)
    quantize_by_hand(model, None, [(kernel, values, None)], notes=notes)
    result = export_tflite(model, tmp_path / "m.tflite")
    assert result.quantize is None
    assert result.warnings == notes
    # Two bits of 32 carry something.
    assert result.gzip_size_bytes < result.size_bytes / 5


@pytest.mark.parametrize(
    "quantized, arguments, message",
    [
        ("int8", {"quantize": "float16"}, "'int8'.*'float16'.*kdtf.strip"),
        ("int4", {"quantize": "int4_block32"}, "'int4'.*'int4_block32'"),
        (None, {"quantize": "dynamic_int8"}, "None.*or leave `quantize` out"),
        ("int4", {"target": "iot"}, r"'int4'.*'iot' takes \['int8'\]"),
        (None, {"target": "iot"}, r"for None.*'iot' takes \['int8'\]"),
        ("int8", {"target": "float"}, "'float' takes .*'android'"),
        ("int4", {"sparse": True}, r"`sparse=True` goes with.*'int4'"),
    ],
)
def test_other_wishes_are_refused(
    tiny_cnn, quantize_by_hand, older, untouched, quantized, arguments, message
):
    quantize_by_hand(tiny_cnn, quantized)
    with pytest.raises(ValueError, match=message):
        export_tflite(tiny_cnn, older, **arguments)
    untouched()


def test_its_own_mode_may_be_named(tiny_cnn, quantize_by_hand, tmp_path):
    quantize_by_hand(tiny_cnn, "dynamic_int8")
    path = tmp_path / "m.tflite"
    result = export_tflite(tiny_cnn, path, quantize="dynamic_int8")
    assert result.quantize == "dynamic_int8"


def test_limits_are_stricter_for_what_was_simulated():
    android = get_target("android")
    plain = Plan(target=android, mode="int8")
    deployment = Deployment(quantize="int8", grids=())
    strict = Plan(target=android, mode="int8", deployment=deployment)
    assert (plain.limits.min_sqnr_db, strict.limits.min_sqnr_db) == (10, 20)
    assert (plain.has_ranges, strict.has_ranges) == (False, True)


@pytest.mark.slow
def test_a_model_wrapped_by_tfmot_has_its_ranges(tmp_path, rng):
    import tf_keras

    from kdtf.transforms.tfmot_models import load_tfmot

    model = tf_keras.Sequential(
        [
            tf_keras.Input((8, 8, 1), name="picture"),
            tf_keras.layers.Conv2D(4, 3, activation="relu"),
            tf_keras.layers.Flatten(),
            tf_keras.layers.Dense(4),
        ]
    )
    model = load_tfmot().quantization.keras.quantize_model(model)
    data = rng.normal(size=(16, 8, 8, 1)).astype("float32")
    model.compile("sgd", "mse")
    model.fit(data, np.zeros((16, 4)), epochs=2, verbose=0)
    plan = plan_of(
        model, target=get_target("iot"), quantize=None, deployment=None
    )
    assert plan.has_ranges and plan.dense_per_tensor
    result = export_tflite(
        model, tmp_path / "m.tflite", target="iot", verify_data=data
    )
    assert result.float_operators == {}
    assert result.within_one_step > 0.9


@pytest.mark.slow
def test_a_bias_is_kept_where_the_scale_is_changed(
    quantize_by_hand, pictures, simulated, tmp_path, monkeypatch
):
    # Powers of two leave the upper half of int8 unused.
    grids = [
        (kernel, np.sign(v) * 2.0 ** np.round(np.log2(np.abs(v) + 0.02)), 8)
        for kernel, v, _ in rounded(simulated)
    ]
    quantize_by_hand(simulated, "int8", grids)
    path = tmp_path / "m.tflite"
    result = export_tflite(simulated, path, verify_data=pictures)
    assert result.within_one_step == 1.0

    def unscaled(*args):
        return None

    monkeypatch.setattr(static_grids, "_rescale_bias", unscaled)
    with pytest.raises(ExportError):
        export_tflite(simulated, path, verify_data=pictures)


@pytest.mark.tfmot
def test_a_wrapped_model_that_was_never_trained_is_refused(tmp_path):
    import tf_keras

    import kdtf

    dense = tf_keras.layers.Dense(2, input_shape=(4,))
    model = kdtf.quantize_aware(tf_keras.Sequential([dense]), "int8")
    with pytest.raises(ValueError, match="trained for a step"):
        export_tflite(model, tmp_path / "m.tflite", target="iot")
