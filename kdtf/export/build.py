"""Which route a model takes to its file."""

import dataclasses
from typing import Any

from kdtf.export import converter
from kdtf.export.embeddings import rewrite_embeddings
from kdtf.export.errors import ExportError
from kdtf.export.inputs import Inputs
from kdtf.export.interface import Interface
from kdtf.export.quantizer import to_dynamic_int8
from kdtf.export.signatures import name_signature
from kdtf.export.sparsity import SparseFile
from kdtf.export.sparsity import store_sparse
from kdtf.export.targets import Target
from kdtf.flatbuffer import dtype_name
from kdtf.flatbuffer import operator_name
from kdtf.flatbuffer import read_model

# Calibrating a file with one of these aborts the whole process.
_CONTROL_FLOW = {"WHILE", "IF", "CALL_ONCE"}
# TensorFlow 2.21's quantizer is not deterministic: of the same unrolled LSTM
# it leaves a SPLIT in float in about one of four conversions.
_NUM_TRIES = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Build:
    """A converted model, not yet trusted.

    Args:
        content: The bytes of the file.
        baseline: The bytes of the float32 file; None if `content` is it.
        target: The device it is for.
        mode: How it was quantized.
        interface: The model's inputs, with fixed shapes.
        kernels: Elements of each kernel the model's graph reads, by path.
        sparse: What of `content` is stored sparse; None if it was not asked
            for.
        dense: The same file before that; None likewise.
    """

    content: bytes
    baseline: bytes | None
    target: Target
    mode: str | None
    interface: Interface
    kernels: dict[str, int]
    sparse: SparseFile | None = None
    dense: bytes | None = None


def build_file(
    model: Any,
    inputs: Inputs,
    *,
    target: Target,
    mode: str | None,
    sparse: bool = False,
) -> Build:
    """Returns the converted model, not yet verified.

    Args:
        model: A built model of either Keras.
        inputs: How it is called.
        target: The device the file is for.
        mode: How to quantize.
        sparse: Whether weights that are zero in blocks are stored sparse.

    Raises:
        ExportError: A step of the conversion failed.
    """
    unroll = mode == "int8"
    with converter.traced(model, inputs.interface, unroll=unroll) as traced:
        floats = converter.to_float32(traced)
        if mode == "float16":
            content = converter.to_float16(traced)
        elif mode == "dynamic_int8":
            content = to_dynamic_int8(rewrite_embeddings(floats)[0])
        elif mode == "int8":
            content = _calibrated(traced, floats, inputs, target)
        else:
            content = floats
    names = [spec.name for spec in inputs.interface.inputs]
    outputs = traced.output_names
    build = Build(
        content=name_signature(content, names, outputs),
        baseline=name_signature(floats, names, outputs) if mode else None,
        target=target,
        mode=mode,
        interface=inputs.interface,
        kernels=traced.kernels,
    )
    return _with_sparse_weights(build) if sparse else build


def _with_sparse_weights(build: Build) -> Build:
    stored = store_sparse(build.content)
    return dataclasses.replace(
        build,
        content=stored.content,
        baseline=build.baseline or build.content,
        sparse=stored,
        dense=build.content,
    )


def _calibrated(
    traced: converter.Traced, floats: bytes, inputs: Inputs, target: Target
) -> bytes:
    found = _CONTROL_FLOW & {name for name, _ in _operators(floats)}
    if found or inputs.calibration is None:
        raise ExportError(
            "A model must be free of loops and branches to be calibrated for "
            f"int8. Received: {sorted(found)} in its graph. Unroll them, or "
            "use `quantize='dynamic_int8'`."
        )
    for _ in range(_NUM_TRIES):
        content = converter.to_int8(
            traced,
            inputs.calibration,
            integer_io=target.integer_only,
            dense_per_tensor=target.dense_per_tensor,
        )
        if ("SPLIT", "FLOAT32") not in _operators(content):
            break
    return content


def _operators(content: bytes) -> set[tuple[str, str]]:
    """Gives the name and output type of each operator in a file."""
    model = read_model(content)
    return {
        (
            operator_name(model, operator),
            dtype_name(subgraph.tensors[operator.outputs[0]]),
        )
        for subgraph in model.subgraphs
        for operator in subgraph.operators or []
        if len(operator.outputs)
    }
