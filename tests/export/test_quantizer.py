"""Integer weights, float activations: widths, blocks, and kept grids."""

import keras
import numpy as np
import pytest

from kdtf.export import ExportError
from kdtf.export import converter
from kdtf.export.embeddings import rewrite_embeddings
from kdtf.export.interface import interface_of
from kdtf.export.quantizer import to_dynamic
from kdtf.export.weights import float_values
from kdtf.export.weights import weights_of
from kdtf.flatbuffer import dtype_name
from kdtf.flatbuffer import read_model
from kdtf.litert import Runner
from kdtf.transforms.deployment import KernelGrid

pytestmark = pytest.mark.slow


def float_file(model):
    interface = interface_of(model, None).fixed(None)
    with converter.traced(model, interface) as traced:
        return rewrite_embeddings(converter.to_float32(traced))[0]


def grids_of(model, num_bits, block_size=None):
    return [
        KernelGrid(
            path=kernel.path,
            values=kernel.numpy(),
            num_bits=num_bits,
            block_size=block_size,
        )
        for kernel in model.trainable_variables
        if len(kernel.shape) > 1
    ]


def dtypes(content):
    return [dtype_name(w.tensor) for w in weights_of(read_model(content))]


def values_in(content):
    file = read_model(content)
    return [float_values(file, weight.tensor) for weight in weights_of(file)]


def assert_same_values(before, after):
    for expected, found in zip(
        values_in(before), values_in(after), strict=True
    ):
        error = np.abs(found - expected).max()
        assert error <= 1e-6 * np.abs(expected).max()


def decibels(model, content, x, tmp_path):
    """The ratio that is left when weights are exact: int8 activations."""
    path = tmp_path / "m.tflite"
    path.write_bytes(content)
    outputs = Runner(path)({converter.INPUT.format(0): x})
    expected = np.asarray(model(x))
    (found,) = outputs.values()
    noise = np.mean((found - expected) ** 2)
    return 10 * np.log10(np.mean(expected**2) / noise)


@pytest.fixture
def dense():
    inputs = keras.Input((64,))
    hidden = keras.layers.Dense(32, activation="relu")(inputs)
    return keras.Model(inputs, keras.layers.Dense(8)(hidden))


@pytest.mark.parametrize(
    "num_bits, levels, axes",
    [
        (8, 127, (1,)),
        (8, 100, (1,)),
        (4, 7, (1,)),
        (4, 5, (1,)),
        (4, 7, ()),
        (2, 1, (1,)),
    ],
)
def test_grids_keep_their_values(
    dense, on_grid, rng, tmp_path, num_bits, levels, axes
):
    for layer in dense.layers[1:]:
        layer.kernel.assign(on_grid(layer.kernel.shape, levels, axes=axes))
    before = float_file(dense)
    stored = to_dynamic(before, grids=grids_of(dense, num_bits))
    assert stored.notes == ()
    assert dtypes(stored.content) == [f"INT{num_bits}"] * 2
    assert_same_values(before, stored.content)
    x = rng.normal(size=(20, 64)).astype("float32")
    assert decibels(dense, stored.content, x, tmp_path) > 35


@pytest.mark.parametrize("num_bits, octaves", [(8, 7), (4, 3)])
def test_powers_of_two_keep_their_values(dense, rng, num_bits, octaves):
    for layer in dense.layers[1:]:
        shape = layer.kernel.shape
        signs = rng.choice([-0.01, 0.01], size=shape)
        layer.kernel.assign(signs * 2.0 ** rng.integers(0, octaves, shape))
    before = float_file(dense)
    stored = to_dynamic(before, grids=grids_of(dense, num_bits))
    assert_same_values(before, stored.content)


def test_minimum_and_maximum_alone_would_move_the_grid(dense, on_grid):
    for layer in dense.layers[1:]:
        layer.kernel.assign(on_grid(layer.kernel.shape, 5))
    before = float_file(dense)
    moved = to_dynamic(before, num_bits=4).content
    errors = [
        np.abs(found - expected).max() / np.abs(expected).max()
        for expected, found in zip(
            values_in(before), values_in(moved), strict=True
        )
    ]
    assert max(errors) > 0.05


def block_values(rng, num_inputs, num_outputs, size, steps):
    integers = rng.integers(-7, 8, size=(num_inputs, num_outputs))
    drawn = rng.choice(steps, size=(num_inputs // size, num_outputs))
    return integers * np.repeat(drawn, size, axis=0)


@pytest.mark.parametrize("size", [32, 64, 128, 256])
def test_block_grids_keep_their_values(rng, tmp_path, size):
    model = keras.Sequential([keras.Input((256,)), keras.layers.Dense(8)])
    steps = [1 / 64, 129 / 8192, 3 / 128]
    values = block_values(rng, 256, 8, size, steps)
    model.layers[0].kernel.assign(values)
    before = float_file(model)
    stored = to_dynamic(before, grids=grids_of(model, 4, size))
    assert_same_values(before, stored.content)
    x = rng.normal(size=(20, 256)).astype("float32")
    assert decibels(model, stored.content, x, tmp_path) > 35


def test_finer_block_steps_than_the_file_has_are_refused(rng):
    model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(8)])
    model.layers[0].kernel.assign(block_values(rng, 64, 8, 32, [0.0123]))
    with pytest.raises(ExportError, match="dense.*/kernel.*7 bits of mantissa"):
        to_dynamic(float_file(model), grids=grids_of(model, 4, 32))


@pytest.mark.parametrize(
    "num_bits, size, message",
    [
        (8, 32, r"4 bits and blocks of \[32, 64, 128, 256\].*8 bits"),
        (2, 32, "4 bits and blocks of .*2 bits in blocks of 32"),
        (4, 16, "blocks of 16"),
        (4, 128, r"the block size divides.*128, stored as \(32, 64\)"),
    ],
)
def test_blocks_that_no_runtime_has_are_refused(dense, num_bits, size, message):
    with pytest.raises(ExportError, match=message):
        to_dynamic(float_file(dense), grids=grids_of(dense, num_bits, size))


def test_values_off_the_grid_are_refused_by_name(dense):
    grids = grids_of(dense, 4)
    with pytest.raises(ExportError, match="same values.*dense.*/kernel"):
        to_dynamic(float_file(dense), grids=grids)


def test_a_kernel_that_the_converter_changed_is_refused(dense, on_grid):
    values = on_grid((64, 32), 7)
    strange = KernelGrid(path="lost/kernel", values=values, num_bits=4)
    with pytest.raises(ExportError, match="lost/kernel.*converter changed"):
        to_dynamic(float_file(dense), grids=[strange])


def test_unused_kernels_are_noted(dense, on_grid):
    grid = KernelGrid(path="a/k", values=on_grid((3, 5), 7), num_bits=4)
    (note,) = to_dynamic(float_file(dense), grids=[grid]).notes
    assert note.startswith("a/k is no weight of an operator")


def test_codebooks_stay_float(dense, rng):
    first, second = dense.layers[1:]
    first.kernel.assign(rng.choice([0.1, 0.25, -0.7], size=(64, 32)))
    second.kernel.assign(rng.integers(-7, 8, size=(32, 8)) * 0.125)
    grids = [grids_of(dense, None)[0], grids_of(dense, 4)[1]]
    before = float_file(dense)
    stored = to_dynamic(before, grids=grids)
    assert dtypes(stored.content) == ["FLOAT32", "INT4"]
    assert stored.notes == ()
    assert len(stored.kept_float) == 1
    assert_same_values(before, stored.content)


@pytest.fixture
def convolutions(rng):
    inputs = keras.Input((8, 8, 4))
    hidden = inputs
    for layer in (
        keras.layers.Conv2D(8, 3, use_bias=False),
        keras.layers.BatchNormalization(),
        keras.layers.DepthwiseConv2D(3, depth_multiplier=2),
        keras.layers.BatchNormalization(),
        keras.layers.Conv2DTranspose(4, 2),
        keras.layers.Flatten(),
        keras.layers.Dense(6),
    ):
        hidden = layer(hidden)
    model = keras.Model(inputs, hidden)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            size = layer.gamma.shape
            layer.gamma.assign(rng.choice([-2.0, 0.5, 1.5], size))
            layer.moving_variance.assign(rng.uniform(0.5, 2, size))
    return model


def test_folded_and_depthwise_grids_keep_their_values(
    convolutions, on_grid, rng, tmp_path
):
    axes = {"depthwise": (2, 3), "transpose": (2,)}
    for kernel in convolutions.trainable_variables:
        if len(kernel.shape) > 1:
            chosen = [a for key, a in axes.items() if key in kernel.path]
            chosen = chosen[0] if chosen else (-1,)
            kernel.assign(on_grid(kernel.shape, 5, axes=chosen))
    before = float_file(convolutions)
    stored = to_dynamic(before, grids=grids_of(convolutions, 4))
    assert dtypes(stored.content) == ["INT4", "INT8", "INT8", "INT4"]
    assert stored.notes == (
        "144 weights of DEPTHWISE_CONV_2D are stored in 8 bits, not 4: LiteRT "
        "has no such form of it",
        "256 weights of TRANSPOSE_CONV are stored in 8 bits, not 4: LiteRT "
        "has no such form of it",
    )
    assert_same_values(before, stored.content)
    x = rng.normal(size=(8, 8, 8, 4)).astype("float32")
    assert decibels(convolutions, stored.content, x, tmp_path) > 30


@pytest.mark.parametrize(
    "num_bits, levels, block_size", [(8, 90, None), (4, 7, None), (4, 7, 32)]
)
def test_a_tied_table_is_stored_once(rng, num_bits, levels, block_size):
    import keras_nlp

    ids = keras.Input((8,), dtype="int32")
    table = keras_nlp.layers.ReversibleEmbedding(40, 64)
    model = keras.Model(ids, table(table(ids), reverse=True))
    # One scale for each token: its row is an input there and an output here.
    values = rng.integers(-levels, levels + 1, size=(40, 64)) / 128
    values *= 2.0 ** rng.integers(-2, 2, size=(40, 1))
    table.embeddings.assign(values)
    before = float_file(model)
    stored = to_dynamic(before, grids=grids_of(model, num_bits, block_size))
    (weight,) = weights_of(read_model(stored.content))
    names = sorted(name for name, _ in weight.readers)
    assert names == ["EMBEDDING_LOOKUP", "FULLY_CONNECTED"]
    assert dtype_name(weight.tensor) == f"INT{num_bits}"
    assert_same_values(before, stored.content)


def test_einsum_kernels_of_three_dimensions_keep_their_values(on_grid):
    inputs = keras.Input((5, 16))
    hidden = keras.layers.EinsumDense("abc,cde->abde", (5, 2, 8))(inputs)
    outputs = keras.layers.EinsumDense("abde,dec->abc", (5, 16))(hidden)
    model = keras.Model(inputs, outputs)
    first, second = model.trainable_variables
    first.assign(on_grid((16, 2, 8), 7, axes=(1, 2)))
    second.assign(on_grid((2, 8, 16), 7))
    before = float_file(model)
    stored = to_dynamic(before, grids=grids_of(model, 4))
    assert dtypes(stored.content) == ["INT4", "INT4"]
    assert_same_values(before, stored.content)


def test_weights_that_were_not_chosen_get_eight_bits(dense, on_grid):
    first = dense.layers[1].kernel
    first.assign(on_grid((64, 32), 7))
    stored = to_dynamic(float_file(dense), grids=grids_of(dense, 4)[:1])
    assert dtypes(stored.content) == ["INT4", "INT8"]


def test_rows_that_blocks_do_not_divide_get_one_scale_each(dense):
    stored = to_dynamic(float_file(dense), num_bits=4, block_size=64).content
    first, second = weights_of(read_model(stored))
    assert first.tensor.quantization.details.blockSize == 64
    assert second.tensor.quantization.details is None
    assert dtypes(stored) == ["INT4", "INT4"]


def test_factors_behind_block_grids_are_taken_out_again(rng, tmp_path):
    # Attention scales its queries by 1 / sqrt(head_dim), a batch norm each
    # channel; the converter multiplies both into the kernels, where no block
    # scale can hold them.
    inputs = keras.Input((64,))
    query = keras.layers.Dense(8, name="query")
    normed = keras.layers.Dense(8, use_bias=False, name="normed")
    norm = keras.layers.BatchNormalization()
    scaled = keras.ops.multiply(query(inputs), 32**-0.5)
    active = keras.ops.relu(norm(normed(inputs)))
    model = keras.Model(inputs, scaled + active)
    norm.moving_variance.assign(rng.uniform(0.2, 3.0, 8))
    norm.moving_mean.assign(rng.normal(size=8))
    query.bias.assign(rng.normal(size=8))
    for layer in (query, normed):
        steps = [1 / 64, 129 / 8192]
        layer.kernel.assign(block_values(rng, 64, 8, 32, steps))
    stored = to_dynamic(float_file(model), grids=grids_of(model, 4, 32)).content
    assert dtypes(stored) == ["INT4", "INT4"]
    assert {values.tobytes() for values in values_in(stored)} == {
        layer.kernel.numpy().T.tobytes() for layer in (query, normed)
    }
    x = rng.normal(size=(20, 64)).astype("float32")
    assert decibels(model, stored, x, tmp_path) > 35
