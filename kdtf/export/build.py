"""Which route a model takes to its file."""

import contextlib
import dataclasses
from typing import Any

import numpy as np

from kdtf.export import converter
from kdtf.export.compact import compact
from kdtf.export.embeddings import rewrite_embeddings
from kdtf.export.errors import ExportError
from kdtf.export.float_reasons import FloatOperator
from kdtf.export.float_reasons import float_reasons
from kdtf.export.inputs import Inputs
from kdtf.export.interface import Interface
from kdtf.export.lookups import lookups_without_select
from kdtf.export.masks import finite_masks
from kdtf.export.mixed import to_mixed
from kdtf.export.plan import Plan
from kdtf.export.quantizer import Dynamic
from kdtf.export.quantizer import to_dynamic
from kdtf.export.requantize import join_requantization
from kdtf.export.signatures import name_signature
from kdtf.export.sparsity import SparseFile
from kdtf.export.sparsity import store_sparse
from kdtf.export.static_grids import keep_static_grids
from kdtf.export.targets import MODES
from kdtf.export.weights import weights_of
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
        plan: How it was made.
        interface: The model's inputs, with fixed shapes.
        kernels: Elements of each kernel the model's graph reads, by path.
        notes: What came out other than asked.
        kept_float: Names of weights that stay float on purpose.
        float_reasons: Operators of an int8 file that stayed float, and why.
        sparse: What of `content` is stored sparse; None if it was not asked
            for.
        dense: The same file before that; None likewise.
    """

    content: bytes
    baseline: bytes | None
    plan: Plan
    interface: Interface
    kernels: dict[str, int]
    notes: tuple[str, ...] = ()
    kept_float: frozenset[str] = frozenset()
    float_reasons: tuple[FloatOperator, ...] = ()
    sparse: SparseFile | None = None
    dense: bytes | None = None


def build_file(
    model: Any, inputs: Inputs, *, plan: Plan, sparse: bool = False
) -> Build:
    """Returns the converted model, not yet verified.

    Args:
        model: A built model of either Keras, in the form it is deployed in.
        inputs: How it is called.
        plan: How to make the file.
        sparse: Whether weights that are zero in blocks are stored sparse.

    Raises:
        ExportError: A step of the conversion failed.
    """
    is_int8 = plan.mode == "int8"
    masks = finite_masks() if is_int8 else contextlib.nullcontext()
    is_micro = plan.target.operators is not None
    with (
        masks,
        lookups_without_select() if is_micro else contextlib.nullcontext(),
        converter.traced(model, inputs.interface, unroll=is_int8) as traced,
    ):
        floats = converter.to_float32(traced)
        made = _convert(traced, floats, inputs, plan)
    names = [spec.name for spec in inputs.interface.inputs]
    outputs = traced.output_names
    build = Build(
        content=name_signature(made.content, names, outputs),
        baseline=name_signature(floats, names, outputs) if plan.mode else None,
        plan=plan,
        interface=inputs.interface,
        kernels=traced.kernels,
        notes=made.notes,
        kept_float=made.kept_float,
        float_reasons=float_reasons(
            made.content, is_calibrated=inputs.calibration is not None
        )
        if is_int8
        else (),
    )
    if sparse:
        build = _with_sparse_weights(build)
    if not is_int8:
        return build
    # Last, because rewriting a file writes everything out again.
    content = compact(build.content, drop_names=plan.target.integer_only)
    return dataclasses.replace(build, content=content)


def _convert(
    traced: converter.Traced, floats: bytes, inputs: Inputs, plan: Plan
) -> Dynamic:
    """Gives the file in the form that was planned."""
    if plan.mode == "float16":
        return Dynamic(content=converter.to_float16(traced))
    if plan.mode == "int8":
        content = _static(traced, floats, inputs, plan)
        if plan.has_ranges:
            content = join_requantization(content)
        content, notes = keep_static_grids(content, floats, plan.grids)
        return Dynamic(content=content, notes=notes + _arena(content, plan))
    if plan.mode is None:
        return Dynamic(content=floats)
    if plan.kernels is not None:
        return to_mixed(rewrite_embeddings(floats)[0], plan.kernels)
    limits, deployment = MODES[plan.mode], plan.deployment
    return to_dynamic(
        rewrite_embeddings(floats)[0],
        # What a quantized model did not select, it does not squeeze.
        num_bits=8 if deployment else limits.num_bits or 8,
        block_size=None if deployment else limits.block_size,
        grids=plan.grids,
    )


def _with_sparse_weights(build: Build) -> Build:
    stored = store_sparse(build.content)
    return dataclasses.replace(
        build,
        content=stored.content,
        baseline=build.baseline or build.content,
        sparse=stored,
        dense=build.content,
    )


def _static(
    traced: converter.Traced, floats: bytes, inputs: Inputs, plan: Plan
) -> bytes:
    calibration = inputs.calibration
    found = _CONTROL_FLOW & {name for name, _ in _operators(floats)}
    if found and calibration is not None:
        raise ExportError(
            "A model must be free of loops and branches to be calibrated for "
            f"int8. Received: {sorted(found)} in its graph. Unroll them, or "
            "use `quantize='dynamic_int8'`."
        )
    for _ in range(_NUM_TRIES):
        content = converter.to_int8(
            traced,
            calibration,
            integer_io=plan.target.integer_only,
            dense_per_tensor=plan.dense_per_tensor,
        )
        if ("SPLIT", "FLOAT32") not in _operators(content):
            break
    return content


def _arena(content: bytes, plan: Plan) -> tuple[str, ...]:
    """Tells of dense kernels that cost memory on a microcontroller."""
    model = read_model(content)
    many = [
        weight.name
        for weight in weights_of(model)
        if any(name == "FULLY_CONNECTED" for name, _ in weight.readers)
        and np.size(weight.tensor.quantization.scale) > 1
    ]
    if not many or not plan.target.dense_per_tensor:
        return ()
    return (
        f"{len(many)} dense kernels have one scale for each output: "
        "TensorFlow Lite Micro needs a larger arena for them (4.5 times in "
        "one case) than for one scale in all",
    )


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
