"""Files whose block-sparse weights are stored sparse."""

import keras
import numpy as np
import pytest

from kdtf.cli import main
from kdtf.evaluation import inspect_model
from kdtf.export import export_tflite
from kdtf.export import run_checks
from kdtf.export.graph import output_steps
from kdtf.export.parity import compare
from kdtf.export.sparsity import store_sparse
from kdtf.export.targets import MODES
from kdtf.flatbuffer import operator_name
from kdtf.flatbuffer import read_model
from kdtf.litert import Runner
from kdtf.litert import describe

pytestmark = pytest.mark.slow


def prune_blocks(kernel, block, *, keep, rng):
    """Zeroes whole blocks along the inputs of a kernel `(inputs, outputs)`."""
    blocks = kernel.shape[0] // block
    mask = rng.random((blocks, kernel.shape[1])) < keep
    return (kernel * np.repeat(mask, block, axis=0)).astype("float32")


def whole_numbers(rng, *shape):
    """Small enough for sums without rounding, in any order of adding."""
    return rng.integers(-8, 9, size=shape).astype("float32")


def dense_model(kernel, *, rows=None):
    shape = (kernel.shape[0],) if rows is None else (rows, kernel.shape[0])
    layer = keras.layers.Dense(kernel.shape[1], activation="relu")
    model = keras.Sequential([keras.Input(shape), layer])
    layer.kernel.assign(kernel)
    return model


@pytest.fixture
def both(tmp_path):
    """Exports a model dense and sparse; gives the results."""

    def export(model, **arguments):
        names = (("dense.tflite", False), ("sparse.tflite", True))
        return [
            export_tflite(model, tmp_path / name, sparse=sparse, **arguments)
            for name, sparse in names
        ]

    return export


def run_without_delegates(path, x):
    """Runs LiteRT's own kernels only, one row at a time."""
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_litert.interpreter import OpResolverType

    plain = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    runner = Interpreter(
        str(path), experimental_op_resolver_type=plain
    ).get_signature_runner()
    return np.concatenate(
        [runner(input_0=row)["output_0"] for row in x[:, None]]
    )


def weights_of(path):
    """Gives version and weight tensor of each FULLY_CONNECTED."""
    model = read_model(path.read_bytes())
    (subgraph,) = model.subgraphs
    return [
        (
            model.operatorCodes[operator.opcodeIndex].version,
            subgraph.tensors[operator.inputs[1]],
        )
        for operator in subgraph.operators
        if operator_name(model, operator) == "FULLY_CONNECTED"
    ]


@pytest.mark.filterwarnings("ignore:Statistics for quantized inputs")
@pytest.mark.parametrize("dtype, block", [("float32", 4), ("int8", 16)])
def test_the_encoding_is_the_converters_own(rng, dtype, block, tmp_path):
    import tensorflow as tf

    kernel = rng.normal(size=(32 * block, 24))
    model = dense_model(prune_blocks(kernel, block, keep=0.2, rng=rng))
    x = rng.normal(size=(8, 1, 32 * block)).astype("float32")
    contents = []
    for optimizations in ([], [tf.lite.Optimize.EXPERIMENTAL_SPARSITY]):
        converter = tf.lite.TFLiteConverter.from_keras_model(model)
        converter.optimizations = optimizations
        if dtype == "int8":
            converter.optimizations += [tf.lite.Optimize.DEFAULT]
            converter.representative_dataset = lambda: ([row] for row in x)
        contents.append(converter.convert())
    paths = [tmp_path / "own.tflite", tmp_path / "converter.tflite"]
    paths[0].write_bytes(store_sparse(contents[0]).content)
    paths[1].write_bytes(contents[1])
    found = []
    for path in paths:
        ((version, tensor),) = weights_of(path)
        columns = tensor.sparsity.dimMetadata[1]
        buffer = read_model(path.read_bytes()).buffers[tensor.buffer]
        found.append(
            (
                version,
                bytes(buffer.data),
                list(tensor.sparsity.traversalOrder),
                list(tensor.sparsity.blockMap),
                [(d.format, d.denseSize) for d in tensor.sparsity.dimMetadata],
                (columns.arraySegmentsType, columns.arrayIndicesType),
                list(columns.arraySegments.values),
                list(columns.arrayIndices.values),
            )
        )
    assert found[0] == found[1]
    assert found[0][0] == 8


def test_a_sparse_float_file_gives_the_dense_files_outputs(both, rng):
    kernel = prune_blocks(whole_numbers(rng, 64, 48), 4, keep=0.2, rng=rng)
    dense, sparse = both(dense_model(kernel))
    x = whole_numbers(rng, 20, 64)
    expected = Runner(dense.path)(x)["output_0"]
    np.testing.assert_array_equal(Runner(sparse.path)(x)["output_0"], expected)
    np.testing.assert_array_equal(expected, np.maximum(x @ kernel, 0))
    threads = Runner(sparse.path, num_threads=2)
    np.testing.assert_array_equal(threads(x)["output_0"], expected)

    (tensor,) = sparse.sparse_tensors
    assert (tensor.shape, tensor.block) == ((48, 64), 4)
    assert tensor.dense_bytes == 4 * 64 * 48
    num_blocks = np.any(kernel.T.reshape(48, 16, 4), axis=-1).sum()
    # Each block and its index, and the start of each row and of the last.
    assert tensor.sparse_bytes == num_blocks * 17 + 49 * (
        1 + (num_blocks > 255)
    )
    assert tensor.zero_share == 1 - num_blocks / (16 * 48)
    assert sparse.size_bytes < dense.size_bytes - 4 * 64 * 48 / 2
    assert (dense.sparse_tensors, dense.left_dense) == ((), {})
    line = f"[48, 64], {tensor.zero_share:.1%} of 1x4 blocks zero, 12,288 -> "
    assert line in str(sparse)
    assert "sparse:" not in str(dense)


@pytest.mark.slow
def test_a_sparse_int8_file_gives_the_dense_files_outputs(both, rng):
    kernel = rng.normal(size=(160, 40))
    model = dense_model(prune_blocks(kernel, 16, keep=0.2, rng=rng))
    x = (0.5 + rng.normal(size=(20, 160))).astype("float32")
    dense, sparse = both(model, quantize="int8", representative_data=x)
    # The same kernels' rounding: no difference at all.
    np.testing.assert_array_equal(
        run_without_delegates(sparse.path, x),
        run_without_delegates(dense.path, x),
    )
    # XNNPACK, which runs the dense file, rounds ties another way.
    expected = Runner(dense.path)(x)["output_0"]
    outputs = Runner(sparse.path)(x)["output_0"]
    step = output_steps(dense.path.read_bytes())["output_0"]
    assert np.abs(outputs - expected).max() <= 1.01 * step
    (tensor,) = sparse.sparse_tensors
    assert (tensor.block, tensor.dense_bytes) == (16, 160 * 40)
    assert sparse.size_bytes < dense.size_bytes - 160 * 40 / 2


@pytest.mark.slow
def test_an_einsum_dense_of_one_row_is_stored_sparse(both, rng):
    layer = keras.layers.EinsumDense("abc,cde->abde", (None, 4, 16))
    model = keras.Sequential([keras.Input((1, 32)), layer])
    kernel = prune_blocks(whole_numbers(rng, 32, 64), 4, keep=0.2, rng=rng)
    layer.kernel.assign(kernel.reshape(32, 4, 16))
    x = whole_numbers(rng, 10, 1, 32)
    dense, sparse = both(model, verify_data=x)
    assert [t.shape for t in sparse.sparse_tensors] == [(64, 32)]
    outputs = Runner(sparse.path)(x)["output_0"]
    np.testing.assert_array_equal(outputs, (x @ kernel).reshape(10, 1, 4, 16))
    assert sparse.size_bytes < dense.size_bytes


@pytest.mark.slow
def test_only_what_the_kernels_read_is_sparse(both, rng):
    image = keras.Input((6, 6, 8), name="image")
    conv = keras.layers.Conv2D(16, 3)
    head = keras.layers.Dense(24)
    last = keras.layers.Dense(8)
    model = keras.Model(image, last(head(keras.layers.Flatten()(conv(image)))))
    kernel = prune_blocks(rng.normal(size=(72, 16)), 4, keep=0.2, rng=rng)
    conv.kernel.assign(kernel.reshape(3, 3, 8, 16))
    kernel = rng.normal(size=(256, 24))
    head.kernel.assign(prune_blocks(kernel, 4, keep=0.2, rng=rng))
    dense, sparse = both(model)
    assert sparse.operators == dense.operators
    assert "DENSIFY" not in sparse.operators
    assert [t.shape for t in sparse.sparse_tensors] == [(24, 256)]
    reason = (
        "under half of its 1x4 blocks are zero: prune with structure='litert'"
    )
    assert sparse.left_dense == {reason: 1}
    assert f"left dense: {reason} (1 weight)" in str(sparse)
    (first, second) = weights_of(sparse.path)
    # XNNPACK takes any version but 8.
    assert first[0] == 8 and first[1].sparsity is not None
    assert second[0] != 8 and second[1].sparsity is None


@pytest.mark.slow
def test_a_layer_used_twice_is_stored_once(both, rng):
    layer = keras.layers.Dense(32)
    x = keras.Input((32,))
    model = keras.Model(x, layer(keras.ops.relu(layer(x))))
    kernel = prune_blocks(whole_numbers(rng, 32, 32), 4, keep=0.2, rng=rng)
    layer.kernel.assign(kernel)
    _, sparse = both(model)
    assert len(sparse.sparse_tensors) == 1
    assert [version for version, _ in weights_of(sparse.path)] == [8, 8]


@pytest.mark.slow
def test_inspection_counts_what_a_sparse_file_holds(both, rng):
    kernel = prune_blocks(whole_numbers(rng, 64, 48), 4, keep=0.2, rng=rng)
    dense, sparse = both(dense_model(kernel))
    before, after = describe(dense.path), describe(sparse.path)
    # The bias is all zeros: the converter drops it.
    assert after.num_parameters == before.num_parameters == 64 * 48
    assert after.num_nonzero == before.num_nonzero == np.count_nonzero(kernel)
    (tensor,) = sparse.sparse_tensors
    assert after.weight_bytes == tensor.sparse_bytes
    expected, found = inspect_model(dense.path), inspect_model(sparse.path)
    part = found.parts[0]
    assert part.shape == (48, 64)
    assert part.sparsity == np.mean(kernel == 0)
    assert part.num_unique == expected.parts[0].num_unique
    assert part.num_bytes == tensor.sparse_bytes
    assert part.bits_per_weight == 8 * tensor.sparse_bytes / (64 * 48)
    assert found.size.sparsity == expected.size.sparsity


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"quantize": "dynamic_int8"}, r"\[None, 'int8'\].*'dynamic_int8'"),
        ({"quantize": "float16"}, "wrong outputs.*quantize='float16'"),
        ({"target": "iot"}, "Lite Micro.*target='iot'.*target='android'"),
        ({"target": "float", "quantize": "float16"}, "quantize='float16'"),
    ],
)
def test_pairs_that_go_wrong_are_refused_at_once(
    older, untouched, arguments, message
):
    # Before any work: this is not even a model.
    with pytest.raises(ValueError, match=message):
        export_tflite(None, older, sparse=True, **arguments)
    untouched()


def test_many_rows_are_refused(refuses, rng):
    kernel = prune_blocks(rng.normal(size=(32, 64)), 4, keep=0.2, rng=rng)
    refuses(
        dense_model(kernel, rows=64),
        r"many rows: 64 \(1 weight\).*leave `sparse` out",
        sparse=True,
    )


@pytest.mark.slow
def test_zeros_outside_blocks_are_refused(refuses, rng):
    kernel = rng.normal(size=(64, 64)) * (rng.random((64, 64)) < 0.2)
    message = r"1x4 blocks are zero.*structure='litert' \(1 weight\)"
    refuses(dense_model(kernel), message, sparse=True)
    message = "under half of its 1x16 blocks.*structure='litert_int8'"
    refuses(
        dense_model(kernel),
        message,
        sparse=True,
        quantize="int8",
        representative_data=rng.normal(size=(8, 64)),
    )


def test_inputs_that_blocks_do_not_divide_are_refused(refuses, rng):
    kernel = np.zeros((66, 64))
    message = r"66 inputs are no multiple of 4 \(1 weight\)"
    refuses(dense_model(kernel), message, sparse=True)


def test_small_weights_are_refused(refuses):
    kernel = np.zeros((8, 4))
    refuses(dense_model(kernel), "too small to gain", sparse=True)


def test_a_model_without_dense_layers_is_refused(refuses):
    model = keras.Sequential(
        [keras.Input((6, 6, 3)), keras.layers.Conv2D(4, 3)]
    )
    refuses(model, "no FULLY_CONNECTED with a constant weight", sparse=True)


def test_a_table_that_is_also_looked_up_is_refused(refuses, rng):
    import keras_nlp

    ids = keras.Input((1,), dtype="int32", name="ids")
    table = keras_nlp.layers.ReversibleEmbedding(64, 32)
    model = keras.Model(ids, table(table(ids), reverse=True))
    kernel = prune_blocks(rng.normal(size=(32, 64)), 4, keep=0.2, rng=rng)
    table.embeddings.assign(kernel.T)
    refuses(model, r"also read by GATHER \(1 weight\)", sparse=True)


@pytest.mark.parametrize(
    "latencies, warned",
    [
        ((None, None), False),
        ((1.1, 1.0), False),
        ((1.3, 1.0), True),
        # The timer's noise.
        ((0.08, 0.04), False),
    ],
)
def test_a_sparse_file_slower_than_the_dense_one_has_a_warning(
    latencies, warned
):
    outputs = {"y": np.ones((1, 1))}
    found = run_checks.RunEvidence(
        mode=None,
        limits=MODES[None],
        outputs=outputs,
        parity=compare(outputs, outputs),
        steps={},
        latency_ms=latencies[0],
        baseline_latency_ms=latencies[1],
        is_sparse=True,
    )
    warning = run_checks.warn_of_slow_sparsity(found)
    assert bool(warning) == warned
    assert warning is None or "1.30 ms against 1.00 ms" in warning
    assert run_checks.warn_of_slowness(found) is None


def test_the_command_line_stores_sparse(tmp_path, rng, capsys):
    kernel = prune_blocks(rng.normal(size=(64, 48)), 4, keep=0.2, rng=rng)
    dense_model(kernel).save(tmp_path / "m.keras")
    path = tmp_path / "m.tflite"
    argv = ["export", str(tmp_path / "m.keras"), "-o", str(path)]
    assert main([*argv, "--sparse", "--quantize", "float16"]) == 2
    assert "quantize='float16'" in capsys.readouterr().err
    assert not path.exists()
    assert main([*argv, "--sparse"]) == 0
    assert "of 1x4 blocks zero" in capsys.readouterr().out
    ((version, _),) = weights_of(path)
    assert version == 8
