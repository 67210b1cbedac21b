"""Kernels of all kinds of layers on all kinds of grids."""

import keras
import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf

import kdtf
from kdtf.quantization import SCHEMES
from kdtf.quantization import Codebook
from kdtf.quantization import Linear
from kdtf.quantization import NormalFloat4
from kdtf.quantization import PowerOfTwo
from kdtf.quantization.kernels import quantizer_of
from kdtf.transforms.layout import layout_of
from kdtf.transforms.selection import Candidate

K = keras.layers
GROUPED = Linear(num_bits=4, granularity="per_group", group_size=32)
LEARNED = Linear(num_bits=4, learn_step=True)

# The kernel's name, and the axes that one output sums over, by hand.
LAYERS = {
    "dense": (K.Dense(6), (None, 64), "kernel", (0,)),
    "einsum": (
        K.EinsumDense("abc,cde->abde", (None, 3, 2)),
        (None, 5, 64),
        "kernel",
        (0,),
    ),
    "einsum_out": (
        K.EinsumDense("abcd,cde->abe", (None, 5)),
        (None, 4, 2, 32),
        "kernel",
        (0, 1),
    ),
    "conv": (K.Conv2D(5, (2, 4)), (None, 8, 8, 8), "kernel", (0, 1, 2)),
    "depthwise": (
        K.DepthwiseConv2D((8, 8), depth_multiplier=2),
        (None, 9, 9, 3),
        "kernel",
        (0, 1),
    ),
    "transposed": (
        K.Conv2DTranspose(3, (4, 2)),
        (None, 8, 8, 8),
        "kernel",
        (0, 1, 3),
    ),
    "embedding": (K.Embedding(7, 64), (None, 4), "embeddings", (1,)),
}


@pytest.fixture(params=LAYERS)
def case(request, rng):
    """A kernel, its values as a matrix of `(inputs, outputs)`, its axes."""
    layer, shape, name, axes = LAYERS[request.param]
    layer = type(layer).from_config(layer.get_config())
    layer.build(shape)
    variable = getattr(layer, "kernel", None)
    variable = getattr(layer, name) if variable is None else variable
    values = rng.normal(size=variable.shape).astype("float32")
    variable.assign(values)
    kernel = Candidate(
        path=f"{request.param}/k", layer=layer, variable=variable
    )
    return kernel, values, axes


def matrix_of(values, axes):
    others = [a for a in range(values.ndim) if a not in axes]
    inputs = int(np.prod([values.shape[a] for a in axes]))
    return values.transpose(*axes, *others).reshape(inputs, -1)


def read(kernel, weights, values=None, **call):
    quantizer = quantizer_of(kernel, weights)
    values = np.asarray(kernel.variable) if values is None else values
    return np.asarray(quantizer(tf.constant(values), **call))


def on_grid(values, peak, num_bits):
    """Nearest of the levels that end at the peak, in float64."""
    high = 2 ** (num_bits - 1) - 1
    step = np.asarray(peak, "float64") / high
    integers = np.clip(np.floor(values / step + 0.5), -high, high)
    return integers * step


def test_by_hand():
    layer = K.Dense(2, use_bias=False)
    layer.build((None, 3))
    layer.kernel.assign([[0.7, 7.0], [-0.26, 2.4], [0.05, -0.5]])
    kernel = Candidate(path="k", layer=layer, variable=layer.kernel)
    # Steps 0.1 and 1; -0.5 is in the middle, and goes up.
    np.testing.assert_allclose(
        read(kernel, Linear(num_bits=4)),
        [[0.7, 7.0], [-0.3, 2.0], [0.1, 0.0]],
        atol=1e-7,
    )
    got = read(kernel, Linear(num_bits=4, granularity="per_tensor"))
    assert got.tolist() == [[1.0, 7.0], [0.0, 2.0], [0.0, 0.0]]


@pytest.mark.parametrize("num_bits", [2, 4, 8])
def test_each_output_has_its_own_step(case, num_bits):
    kernel, values, axes = case
    peak = np.abs(values).max(axis=axes, keepdims=True)
    got = read(kernel, Linear(num_bits=num_bits))
    # float32 against float64: to the last digits.
    np.testing.assert_allclose(
        got, on_grid(values, peak, num_bits), rtol=1e-5, atol=1e-6
    )


def test_all_outputs_share_one_step(case):
    kernel, values, _ = case
    got = read(kernel, Linear(num_bits=4, granularity="per_tensor"))
    expected = on_grid(values, np.abs(values).max(), 4)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_each_group_of_inputs_has_a_step_of_half_precision(case):
    kernel, values, axes = case
    got = matrix_of(read(kernel, GROUPED), axes)
    matrix = matrix_of(values, axes)
    for start in range(0, len(matrix), 32):
        group = matrix[start : start + 32]
        step = (np.abs(group).max(axis=0) / 7).astype(ml_dtypes.bfloat16)
        step = step.astype("float32")
        integers = np.clip(np.floor(group / step + 0.5), -7, 7)
        np.testing.assert_array_equal(
            got[start : start + 32], (integers * step).astype("float32")
        )


def test_the_layout_of_each_layer_is_the_one_by_hand(case):
    kernel, _, axes = case
    assert layout_of(kernel.layer, kernel.variable).contraction == axes


@pytest.mark.parametrize("name", SCHEMES)
def test_zeros_of_a_mask_stay_zeros(case, name, rng):
    kernel, values, _ = case
    values = np.where(rng.random(values.shape) < 0.7, 0.0, values)
    kernel.variable.assign(values)
    for training in (False, True):
        got = read(kernel, SCHEMES[name].weights, training=training)
        assert (got[values == 0] == 0).all()
        assert np.isfinite(got).all()
    # Learned and clipped steps, too.
    for options in ({"learn_step": True}, {"range": "mean_squared_error"}):
        got = read(kernel, Linear(num_bits=4, **options))
        assert (got[values == 0] == 0).all()


@pytest.mark.parametrize(
    "weights",
    [
        *(scheme.weights for scheme in SCHEMES.values()),
        LEARNED,
        Linear(num_bits=3, range="mean_squared_error"),
        PowerOfTwo(granularity="per_tensor"),
    ],
    ids=str,
)
def test_what_is_on_the_grid_stays_there(case, weights):
    kernel, _, _ = case
    quantizer = quantizer_of(kernel, weights)
    once = quantizer(np.asarray(kernel.variable))
    twice = quantizer(once)
    np.testing.assert_allclose(twice, once, rtol=1e-6, atol=0)
    assert np.unique(np.asarray(once)).size > 2


@pytest.mark.parametrize("name", SCHEMES)
def test_a_kernel_of_zeros_stays_so(name):
    layer = K.Dense(4, kernel_initializer="zeros", use_bias=False)
    layer.build((None, 64))
    kernel = Candidate(path="k", layer=layer, variable=layer.kernel)
    for training in (False, True):
        got = read(kernel, SCHEMES[name].weights, training=training)
        np.testing.assert_array_equal(got, 0.0)


@pytest.mark.parametrize("name", SCHEMES)
def test_gradients_pass_straight_through(name, rng):
    layer = K.Dense(4, use_bias=False)
    layer.build((None, 64))
    kernel = Candidate(path="k", layer=layer, variable=layer.kernel)
    quantizer = quantizer_of(kernel, SCHEMES[name].weights)
    slope = rng.normal(size=(64, 4)).astype("float32")
    weights = tf.constant(np.asarray(layer.kernel))
    with tf.GradientTape() as tape:
        tape.watch(weights)
        total = tf.reduce_sum(slope * quantizer(weights, training=True))
    np.testing.assert_array_equal(tape.gradient(total, weights), slope)


@pytest.mark.parametrize(
    ("weights", "bits", "block"),
    [
        (Linear(), 8, None),
        (Linear(num_bits=5), 8, None),
        (Linear(num_bits=4), 4, None),
        (Linear(num_bits=3), 4, None),
        (Linear(num_bits=2), 2, None),
        (GROUPED, 4, 32),
        (LEARNED, 4, None),
        (PowerOfTwo(num_bits=4), 8, None),
        (PowerOfTwo(num_bits=3), 4, None),
        (PowerOfTwo(num_bits=5), None, None),
        (PowerOfTwo(num_bits=5, num_terms=2), 8, None),
        (Codebook(), None, None),
        (NormalFloat4(), None, None),
    ],
    ids=str,
)
def test_a_grid_says_how_a_file_stores_it(weights, bits, block):
    layer = K.Dense(3)
    layer.build((None, 64))
    kernel = Candidate(path="a/kernel", layer=layer, variable=layer.kernel)
    grid = quantizer_of(kernel, weights).grid(np.asarray(layer.kernel))
    assert (grid.path, grid.num_bits, grid.block_size) == (
        "a/kernel",
        bits,
        block,
    )
    np.testing.assert_array_equal(grid.values, read(kernel, weights))


@pytest.mark.parametrize("num_bits", [2, 4, 8])
def test_powers_of_two_are_powers_of_two(num_bits):
    if num_bits == 8:
        weights, unit = PowerOfTwo(num_bits=5, num_terms=2), 1 / 48
    else:
        weights, unit = PowerOfTwo(num_bits=num_bits), None
    layer = K.Dense(3)
    layer.build((None, 64))
    kernel = Candidate(path="k", layer=layer, variable=layer.kernel)
    got = read(kernel, weights)
    share = np.abs(got / np.abs(got).max(axis=0))
    if unit is None:
        logs = np.log2(share[share > 0])
        np.testing.assert_allclose(logs, np.round(logs), atol=1e-5)
        assert logs.min() >= -(2 ** (num_bits - 1) - 2)
    else:
        np.testing.assert_allclose(
            share / unit, np.round(share / unit), atol=1e-4
        )


# LSQ -----------------------------------------------------------------------


def lsq(weights, *, granularity="per_channel", group_size=None, inputs=64):
    layer = K.Dense(weights.shape[1], use_bias=False)
    layer.build((None, inputs))
    layer.kernel.assign(weights)
    kernel = Candidate(path="k", layer=layer, variable=layer.kernel)
    scheme = Linear(
        num_bits=3,
        learn_step=True,
        granularity=granularity,
        group_size=group_size,
    )
    return quantizer_of(kernel, scheme)


@pytest.mark.parametrize(
    ("granularity", "group_size", "shape"),
    [
        ("per_tensor", None, (1, 64, 5)),
        ("per_channel", None, (1, 64, 5)),
        ("per_group", 32, (2, 32, 5)),
    ],
)
def test_steps_learn_by_the_papers_gradient(
    granularity, group_size, shape, rng
):
    """Equation 3 of Esser et al., summed over what shares a step."""
    weights = rng.normal(size=(64, 5)).astype("float32") * 2
    quantizer = lsq(weights, granularity=granularity, group_size=group_size)
    # So narrow that many weights lie beyond the ends.
    quantizer.steps.assign(0.4 * quantizer.steps)
    slope = rng.normal(size=weights.shape).astype("float32")
    values = tf.constant(weights)
    with tf.GradientTape() as tape:
        tape.watch(values)
        total = tf.reduce_sum(slope * quantizer(values))
    got, through = tape.gradient(total, [quantizer.steps.value, values])

    high = 3
    steps = np.asarray(quantizer.steps)
    if group_size:
        steps = steps.astype(ml_dtypes.bfloat16).astype("float32")
    position = weights.reshape(shape) / steps[:, None]
    inside = np.abs(position) < high
    assert 0.1 < inside.mean() < 0.9
    rounded = np.floor(position + 0.5)
    slopes = np.where(inside, rounded - position, high * np.sign(position))
    slopes = slopes * slope.reshape(shape)
    per_step = weights.size / steps.size
    axes = (0, 1, 2) if granularity == "per_tensor" else 1
    expected = slopes.sum(axis=axes) / np.sqrt(per_step * high)
    np.testing.assert_allclose(
        got, np.reshape(expected, got.shape), rtol=1e-4, atol=1e-5
    )
    # And the weights' own: equation 5, through the inside only.
    np.testing.assert_allclose(
        through, np.where(inside.reshape(weights.shape), slope, 0.0), rtol=1e-5
    )


def test_learned_steps_begin_where_the_paper_says(rng):
    weights = rng.normal(size=(64, 5)).astype("float32")
    expected = 2 * np.abs(weights).mean(axis=0) / np.sqrt(3)
    got = np.asarray(lsq(weights).steps)
    assert got.shape == (1, 5)
    np.testing.assert_allclose(got[0], expected, rtol=1e-6)


@pytest.mark.parametrize("step", [0.0, -0.5])
def test_a_step_that_training_drives_below_zero_does_no_harm(step, rng):
    weights = rng.normal(size=(64, 5)).astype("float32")
    quantizer = lsq(weights)
    quantizer.steps.assign(np.full((1, 5), step))
    got = np.asarray(quantizer(weights))
    expected = np.clip(np.floor(weights / 0.5 + 0.5), -3, 3) * 0.5
    np.testing.assert_allclose(got, expected if step else 0.0, atol=1e-10)


def test_steps_of_groups_are_read_in_half_precision(rng):
    weights = rng.normal(size=(64, 5)).astype("float32")
    quantizer = lsq(weights, granularity="per_group", group_size=32)
    got = np.asarray(quantizer(weights)).reshape(2, 32, 5)
    steps = (
        np.asarray(quantizer.steps).astype(ml_dtypes.bfloat16).astype("float32")
    )
    integers = got / steps[:, None]
    np.testing.assert_allclose(integers, np.round(integers), atol=1e-5)


def test_clipped_steps_have_less_error_than_full_ones(rng):
    layer = K.Dense(3, use_bias=False)
    layer.build((None, 512))
    kernel = Candidate(path="k", layer=layer, variable=layer.kernel)
    values = rng.normal(size=(512, 3)).astype("float32")
    layer.kernel.assign(values)
    full, clipped = (
        np.mean((read(kernel, Linear(num_bits=3, range=name)) - values) ** 2)
        for name in ("max_abs", "mean_squared_error")
    )
    assert clipped < 0.8 * full


# Codebooks -----------------------------------------------------------------


def test_entries_move_to_the_means_of_their_members_in_training_only():
    layer = K.Dense(1, use_bias=False)
    layer.build((None, 6))
    layer.kernel.assign([[-2.0], [-1.0], [0.0], [1.0], [2.0], [3.0]])
    kernel = Candidate(path="k", layer=layer, variable=layer.kernel)
    quantizer = quantizer_of(kernel, Codebook(num_entries=3))
    quantizer.entries.assign([-1.0, 0.0, 2.0])
    # 1 is in the middle of 0 and 2, and goes to the lower.
    moved = np.float32([[-3.0], [-1.0], [0.0], [1.0], [2.5], [3.5]])
    got = quantizer(moved, training=False)
    assert got.numpy().ravel().tolist() == [-1, -1, 0, 0, 2, 2]
    assert np.asarray(quantizer.entries).tolist() == [-1.0, 0.0, 2.0]
    got = quantizer(moved, training=True)
    assert np.asarray(quantizer.entries).tolist() == [-2.0, 0.0, 3.0]
    assert got.numpy().ravel().tolist() == [-2, -2, 0, 0, 3, 3]


def test_a_codebook_without_a_kept_zero_is_centroids_alone(rng):
    layer = K.Dense(8, use_bias=False)
    layer.build((None, 32))
    kernel = Candidate(path="k", layer=layer, variable=layer.kernel)
    got = read(kernel, Codebook(num_entries=4, keep_zero=False))
    assert np.unique(got).size == 4 and not (got == 0).any()


# What is refused -----------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", SCHEMES)
def test_nan_and_infinity_are_refused_by_the_kernels_name(name, value):
    model = keras.Sequential([keras.Input((64,)), K.Dense(2, name="head")])
    kernel = model.get_weights()[0]
    kernel[3, 1] = value
    model.set_weights([kernel, np.zeros(2)])
    with pytest.raises(ValueError, match="nan or infinity in 'head/kernel'"):
        kdtf.quantize_aware(model, name)
    assert "call" not in vars(model.layers[0])


@pytest.mark.parametrize("weights", [GROUPED, NormalFloat4()], ids=str)
def test_groups_that_do_not_divide_are_refused_by_the_kernels_name(weights):
    model = keras.Sequential([keras.Input((65,)), K.Dense(2, name="head")])
    with pytest.raises(ValueError, match="'head/kernel' with 65 inputs"):
        kdtf.quantize_aware(model, weights)
    assert "call" not in vars(model.layers[0])
