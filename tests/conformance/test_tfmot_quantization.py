"""The same values as TensorFlow's fake quantization and tfmot's quantizers.

The per-tensor kernel of `tf.quantization` divides by the step, as ours do; the
per-channel one multiplies by its inverse. A value at a tie, to the last bit,
may then be a level off: of random tensors one in a million, so up to 3 of
10,000 are let pass there, each by just one step.
"""

import numpy as np
import pytest
import tensorflow as tf

from kdtf.quantization import linear
from kdtf.quantization.activations import RangeQuantizer
from kdtf.transforms.tfmot_models import load_tfmot

WIDTHS = range(2, 9)
fake = tf.quantization.fake_quant_with_min_max_vars
fake_per_channel = tf.quantization.fake_quant_with_min_max_vars_per_channel


def tensor(seed, shape=(100, 100)):
    values = np.random.default_rng(seed).normal(size=shape)
    return tf.constant(values, tf.float32)


def assert_equal_but_for_ties(got, expected, steps):
    got, expected = np.asarray(got), np.asarray(expected)
    steps = np.broadcast_to(steps, got.shape)
    # The inverse of a step has rounding errors of its own, in the last bit.
    off = np.abs(got - expected) > 1e-5 * steps
    assert off.sum() <= 3
    np.testing.assert_allclose(
        np.abs(got - expected)[off], steps[off], rtol=1e-4
    )


@pytest.mark.parametrize("num_bits", WIDTHS)
def test_symmetric_kernels_are_equal_bit_for_bit(num_bits):
    values = tensor(num_bits)
    peak = np.abs(values).max()
    scale = linear.symmetric_scale(peak, num_bits=num_bits)
    got = linear.fake_quantize(values, scale, num_bits=num_bits)
    expected = fake(values, -peak, peak, num_bits=num_bits, narrow_range=True)
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("num_bits", WIDTHS)
@pytest.mark.parametrize("ends", [(-3.1, 2.2), (0.0, 2.7), (-1.9, 0.0)])
def test_asymmetric_grids_are_equal_bit_for_bit(num_bits, ends):
    values = tensor(num_bits)
    grid = linear.scale_and_zero_point(*ends, num_bits=num_bits)
    got = linear.fake_quantize(values, *grid, num_bits=num_bits)
    expected = fake(values, *ends, num_bits=num_bits)
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("narrow_range", [False, True])
@pytest.mark.parametrize("num_bits", WIDTHS)
def test_activations_are_equal_bit_for_bit(num_bits, narrow_range):
    values = tensor(num_bits)
    options = {"num_bits": num_bits, "narrow_range": narrow_range}
    for low, high in ((-3.1, 2.2), (0.0, 1.3), (-0.7, 0.0)):
        got = linear.fake_quantize_range(values, low, high, **options)
        expected = fake(values, low, high, **options)
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("num_bits", WIDTHS)
def test_steps_per_channel_are_equal_but_for_ties(num_bits):
    values = tensor(num_bits)
    peak = np.abs(values).max(axis=0)
    scale = np.asarray(linear.symmetric_scale(peak, num_bits=num_bits))
    got = linear.fake_quantize(values, scale, num_bits=num_bits)
    expected = fake_per_channel(
        values, -peak, peak, num_bits=num_bits, narrow_range=True
    )
    assert_equal_but_for_ties(got, expected, scale)


@pytest.mark.parametrize("num_bits", WIDTHS)
def test_the_gradient_of_activations_is_tensorflows(num_bits):
    values = tf.constant(tensor(num_bits))
    slopes = []
    for function in (linear.fake_quantize_range, fake):
        with tf.GradientTape() as tape:
            tape.watch(values)
            outputs = function(values, -0.7, 1.1, num_bits=num_bits)
        slopes.append(tape.gradient(outputs, values))
    np.testing.assert_array_equal(*slopes)


# tfmot ---------------------------------------------------------------------


class Host:
    """Takes the weights of a tfmot quantizer as a layer would."""

    def add_weight(self, name, initializer, trainable, shape=()):
        value = initializer(shape, dtype=tf.float32)
        return tf.Variable(value, trainable=trainable)


def built(quantizer, shape):
    return quantizer, quantizer.build(tf.TensorShape(shape), "w", Host())


def quantizers():
    return load_tfmot().quantization.keras.quantizers


@pytest.mark.tfmot
@pytest.mark.parametrize("num_bits", WIDTHS)
def test_weights_are_those_of_the_last_value_quantizer(num_bits):
    values = tensor(num_bits, (40, 30))
    theirs, weights = built(
        quantizers().LastValueQuantizer(
            num_bits=num_bits,
            per_axis=False,
            symmetric=True,
            narrow_range=True,
        ),
        values.shape,
    )
    expected = theirs(values, training=True, weights=weights)
    scale = linear.symmetric_scale(np.abs(values).max(), num_bits=num_bits)
    got = linear.fake_quantize(values, scale, num_bits=num_bits)
    np.testing.assert_array_equal(got, expected)


@pytest.mark.tfmot
def test_ranges_are_those_of_the_moving_average_quantizer():
    """Ours starts with the first batch, where theirs starts with +-6."""
    decay = 0.999
    theirs, weights = built(
        quantizers().MovingAverageQuantizer(
            num_bits=8,
            per_axis=False,
            symmetric=False,
            narrow_range=False,
        ),
        (None, 30),
    )
    ours = RangeQuantizer("a", decay=decay)
    for step in range(6):
        values = tensor(step, (40, 30)) * (1 + step)
        if step == 0:
            weights["min_var"].assign(tf.reduce_min(values))
            weights["max_var"].assign(tf.reduce_max(values))
        expected = theirs(values, training=True, weights=weights)
        got = ours(values, training=True)
        # Theirs subtracts (1 - decay) of the difference: a rounding apart.
        for mine, other in (
            (ours.low, weights["min_var"]),
            (ours.high, weights["max_var"]),
        ):
            np.testing.assert_allclose(float(mine), float(other), rtol=1e-6)
        step_size = float(ours.high - ours.low) / 255
        np.testing.assert_allclose(got, expected, atol=1.01 * step_size)
        differing = np.abs(got - expected) > 0.5 * step_size
        assert differing.mean() < 1e-3


@pytest.mark.tfmot
def test_calibration_is_the_all_values_quantizer():
    from kdtf.quantization.activations import calibrating

    theirs, weights = built(
        quantizers().AllValuesQuantizer(
            num_bits=8, per_axis=False, symmetric=False, narrow_range=False
        ),
        (None, 30),
    )
    ours = RangeQuantizer("a")
    batches = [tensor(seed, (40, 30)) * 3 for seed in range(4)]
    with calibrating([ours], "min_max"):
        for values in batches:
            theirs(values, training=True, weights=weights)
            ours(values)
    assert ours.constants() == (
        float(weights["min_var"]),
        float(weights["max_var"]),
    )
    np.testing.assert_array_equal(
        ours(batches[0], training=False),
        theirs(batches[0], training=False, weights=weights),
    )


@pytest.mark.tfmot
@pytest.mark.parametrize("kind", ["dense", "conv"])
def test_kernels_are_those_of_the_8_bit_configuration(kind):
    """tfmot: Dense per tensor, convolutions per channel; "int8_iot" here."""
    import keras
    import tf_keras

    from kdtf.quantization import Linear
    from kdtf.quantization.kernels import quantizer_of
    from kdtf.transforms.selection import Candidate

    load_tfmot()
    from tensorflow_model_optimization.python.core.quantization.keras.default_8bit import (  # noqa: E501
        default_8bit_quantize_registry as registry,
    )

    def make(flavour):
        layers = flavour.layers
        layer = layers.Dense(6) if kind == "dense" else layers.Conv2D(6, 3)
        layer.build((None, 20) if kind == "dense" else (None, 8, 8, 4))
        return layer

    old, new = make(tf_keras), make(keras)
    new.kernel.assign(tensor(3, new.kernel.shape))
    old.kernel.assign(new.kernel.value)
    config = registry.Default8BitQuantizeRegistry().get_quantize_config(old)
    ((weight, quantizer),) = config.get_weights_and_quantizers(old)
    theirs, weights = built(quantizer, weight.shape)
    expected = theirs(weight, training=True, weights=weights)
    per = "per_tensor" if kind == "dense" else "per_channel"
    ours = quantizer_of(
        Candidate(path="k", layer=new, variable=new.kernel),
        Linear(granularity=per),
    )
    got = ours(np.asarray(new.kernel))
    axes = None if kind == "dense" else (0, 1, 2)
    steps = np.abs(np.asarray(new.kernel)).max(axis=axes) / 127
    if kind == "dense":
        np.testing.assert_array_equal(got, expected)
    else:
        assert_equal_but_for_ties(got, expected, steps)
