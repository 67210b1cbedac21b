"""The silent traps of conversion, each with a check.

A converter that goes wrong mostly writes a file all the same. Each check gets
the evidence and returns the problem in words, or None. The lists at the end
say which are applied, in the order of the message. (A `.litertlm` bundle has a
trap of its own, its cache layout; bundles are not written here.)
"""

import collections
import dataclasses
from collections.abc import Callable
from collections.abc import Iterable

import numpy as np

from kdtf.export.converter import SIGNATURE
from kdtf.export.float_reasons import FloatOperator
from kdtf.export.interface import Interface
from kdtf.export.targets import MODES
from kdtf.export.targets import Target
from kdtf.flatbuffer import FileDescription
from kdtf.flatbuffer import TensorDescription

# Operators that read the weights of Keras layers; float16 ones pass through
# a DEQUANTIZE first.
WEIGHT_OPERATORS = frozenset(
    """
    BATCH_MATMUL CONV_2D CONV_3D CONV_3D_TRANSPOSE DEPTHWISE_CONV_2D DEQUANTIZE
    EMBEDDING_LOOKUP FULLY_CONNECTED GATHER SVDF TRANSPOSE_CONV
    UNIDIRECTIONAL_SEQUENCE_LSTM
    """.split()
)
_VARIABLE_OPERATORS = {"VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE"}
# Of GRU and LSTM.
_NUM_GATES = (3, 4)
_FLOATS = ("FLOAT32", "FLOAT16", "FLOAT64", "BFLOAT16")
# Of weights: below it the tables of the graph decide the size.
_SMALL_BYTES = 64 * 1024
# A softmax mask of -1e9 gives 3.9e6; ranges of trained networks stay under.
MAX_ACTIVATION_SCALE = 1e3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evidence:
    """What is known of an exported file before it runs.

    Args:
        description: The file.
        baseline: The float32 file of the same model; the file itself if it
            is not quantized.
        target: The device it is for.
        mode: How it was quantized.
        interface: The model's inputs, with fixed shapes.
        reference: The Keras model's outputs by name, `(samples, ...)`.
        kernels: Elements of each kernel the model's graph reads, by path.
        weights: Constants that the `WEIGHT_OPERATORS` of the file read.
        kept_float: Names of those that stay float on purpose.
        float_reasons: Operators of an int8 file that stayed float, and why.
    """

    description: FileDescription
    baseline: FileDescription
    target: Target
    mode: str | None
    interface: Interface
    reference: dict[str, np.ndarray]
    kernels: dict[str, int]
    weights: tuple[TensorDescription, ...]
    kept_float: frozenset[str] = frozenset()
    float_reasons: tuple[FloatOperator, ...] = ()


def check_variables_are_frozen(evidence: Evidence) -> str | None:
    """Finds weights that stayed outside the file as variables."""
    found = _VARIABLE_OPERATORS & set(evidence.description.operators)
    if not found:
        return None
    return (
        "the weights are not in the file: they are still variables "
        f"({_listed(found)}), which start empty on the device. This is the "
        "mark of a conversion that lost track of them"
    )


def check_weights_are_present(evidence: Evidence) -> str | None:
    """Finds kernels of the model that no constant of the file can hold.

    Transposed, reshaped and folded kernels keep their number of elements;
    those of recurrent layers may be split into one for each gate. Tables that
    are only read in part (position embeddings) do not, so the check asks for
    half of all elements.
    """
    held = collections.Counter(
        int(np.prod(tensor.shape))
        for tensor in evidence.description.tensors
        if tensor.is_constant
    )
    lost = {
        path: size
        for path, size in evidence.kernels.items()
        if not any(
            size % parts == 0 and held[size // parts] >= parts
            for parts in (1, *_NUM_GATES)
        )
    }
    total = sum(evidence.kernels.values())
    if 2 * sum(lost.values()) <= total:
        return None
    return (
        f"weights are missing: of {total} kernel elements the file holds "
        f"{total - sum(lost.values())}. Missing: {_listed(lost)}"
    )


def check_signature(evidence: Evidence) -> str | None:
    """Finds a missing signature, and names, shapes or types that differ."""
    signatures = evidence.description.signatures
    if [signature.key for signature in signatures] != [SIGNATURE]:
        keys = [signature.key for signature in signatures]
        return (
            f"the file must have the one signature {SIGNATURE!r}, but it has "
            f"{keys}: apps could not address its inputs by name"
        )
    wanted = {spec.name: spec.shape for spec in evidence.interface.inputs}
    found = {spec.name: spec.shape for spec in signatures[0].inputs}
    if found != wanted:
        return f"the inputs must be {wanted}, but they are {found}"
    wanted = {k: (1, *v.shape[1:]) for k, v in evidence.reference.items()}
    found = {spec.name: spec.shape for spec in signatures[0].outputs}
    if found != wanted:
        return f"the outputs must be {wanted}, but they are {found}"
    return None


def check_input_types(evidence: Evidence) -> str | None:
    """Finds float inputs or outputs on integer-only targets, or casts."""
    if not evidence.description.signatures:
        return None
    signature = evidence.description.signatures[0]
    if evidence.target.integer_only:
        specs = signature.inputs + signature.outputs
        floats = [s.name for s in specs if s.dtype.startswith("float")]
        if floats:
            return (
                f"the target {evidence.target.name!r} takes integers only, "
                f"but these are float: {_listed(floats)}"
            )
        return None
    wanted = {spec.name: spec.dtype for spec in evidence.interface.inputs}
    found = {spec.name: spec.dtype for spec in signature.inputs}
    if wanted == found:
        return None
    return f"the input types must be {wanted}, but they are {found}"


def check_operators_are_builtin(evidence: Evidence) -> str | None:
    """Finds Flex and other custom operators."""
    operators = evidence.description.operators
    found = [name for name in operators if name.startswith("CUSTOM:")]
    if not found:
        return None
    return (
        f"operators outside LiteRT's builtin ones: {_listed(found)}. They "
        "need extra libraries on the device (Flex: about 180 MB). Replace "
        "the layers that use them, or give them fixed shapes"
    )


def check_operators_fit_target(evidence: Evidence) -> str | None:
    """Finds operators the target's runtime has no kernel for."""
    allowed = evidence.target.operators
    if allowed is None:
        return None
    found = set(evidence.description.operators) - allowed
    if not found:
        return None
    return (
        "TensorFlow Lite Micro has no kernel for: "
        f"{_listed(found)}. Replace the layers that use them, or export for "
        "target='android'"
    )


def check_shapes_are_static(evidence: Evidence) -> str | None:
    """Finds tensors with free dimensions, which are slow and unplannable."""
    found = [t.name for t in evidence.description.tensors if t.is_dynamic]
    if not found:
        return None
    return (
        f"{len(found)} tensors have free dimensions: {_listed(found)}. Use "
        "operations whose output shape does not depend on values"
    )


def check_operators_are_integer(evidence: Evidence) -> str | None:
    """Finds float operators in a file that should compute in int8.

    For a phone float operators without weights (a NEG between two layers) are
    slower, not wrong, and only warned about; a float layer is not int8.
    """
    if evidence.mode != "int8":
        return None
    found = float_operators(evidence.description)
    if not evidence.target.integer_only:
        layers = WEIGHT_OPERATORS - {"DEQUANTIZE"}
        found = {n: c for n, c in found.items() if n in layers}
    if not found:
        return None
    return (
        f"these operators compute in float in an int8 file: {_counted(found)}"
        f"{_explained(evidence.float_reasons, found)}. Give the operators "
        "without a range `representative_data`, or use other layers, or "
        "`quantize='dynamic_int8'` (target='android')"
    )


def check_weights_are_quantized(evidence: Evidence) -> str | None:
    """Finds a quantizer that did nothing, or left much in float.

    A tenth may stay: constants folded into multiplications, for instance.
    """
    kernels = [
        tensor
        for tensor in evidence.weights
        if _is_kernel(tensor) and tensor.name not in evidence.kept_float
    ]
    kept = MODES[evidence.mode].weight_dtypes
    left = [t for t in kernels if t.dtype not in kept]
    total = sum(int(np.prod(t.shape)) for t in kernels)
    left_elements = sum(int(np.prod(t.shape)) for t in left)
    if 10 * left_elements <= total:
        return None
    names = [tensor.name for tensor in left]
    return (
        f"quantize={evidence.mode!r} reached only "
        f"{total - left_elements} of {total} weights; still in "
        f"{left[0].dtype}: {_listed(names)}. Use `quantize='float16'`, or "
        "'int8' with representative_data"
    )


def check_size(evidence: Evidence) -> str | None:
    """Finds weights stored twice, and a file larger than the float one."""
    before, after = evidence.baseline, evidence.description
    if after.num_parameters > 1.1 * before.num_parameters + 1024:
        return (
            f"the file holds {after.num_parameters} weights where the float "
            f"file holds {before.num_parameters}: a shared table was stored "
            "more than once"
        )
    is_large = before.weight_bytes > _SMALL_BYTES
    is_smaller = after.size_bytes < before.size_bytes
    if evidence.mode and is_large and not (is_smaller or evidence.kept_float):
        return (
            f"quantize={evidence.mode!r} made the file larger: "
            f"{before.size_bytes} bytes in float, {after.size_bytes} now"
        )
    return None


def check_activation_scales(evidence: Evidence) -> str | None:
    """Finds activations whose range drowns everything else in int8."""
    found = [
        tensor
        for tensor in evidence.description.tensors
        if not tensor.is_constant
        and tensor.scale is not None
        and tensor.scale > MAX_ACTIVATION_SCALE
    ]
    if not found:
        return None
    worst = max(found, key=lambda tensor: tensor.scale or 0.0)
    return (
        f"the activation {worst.name!r} has an int8 step of {worst.scale:.3g}"
        ": every smaller value becomes 0. The usual cause is a softmax mask "
        "of -1e9 that the model adds itself: -30 masks as well. Or use "
        "`quantize='dynamic_int8'`, which keeps activations in float"
    )


def warn_of_float_operators(evidence: Evidence) -> str | None:
    """Tells of operators that stayed float in an int8 file."""
    if evidence.mode != "int8":
        return None
    found = float_operators(evidence.description)
    # One DEQUANTIZE per output is what float outputs ask for.
    outputs = len(evidence.reference)
    if found.get("DEQUANTIZE", 0) <= outputs:
        found.pop("DEQUANTIZE", None)
    if not found:
        return None
    return f"these operators stay float: {_counted(found)}"


def float_operators(description: FileDescription) -> dict[str, int]:
    """Returns the operators whose first output is float, with their counts."""
    counts: dict[str, int] = {}
    for (name, dtype), count in description.operator_dtypes.items():
        if dtype in _FLOATS:
            counts[name] = counts.get(name, 0) + count
    return counts


CHECKS: tuple[Callable[[Evidence], str | None], ...] = (
    check_variables_are_frozen,
    check_weights_are_present,
    check_signature,
    check_input_types,
    check_operators_are_builtin,
    check_operators_fit_target,
    check_shapes_are_static,
    check_operators_are_integer,
    check_weights_are_quantized,
    check_size,
    check_activation_scales,
)
WARNINGS: tuple[Callable[[Evidence], str | None], ...] = (
    warn_of_float_operators,
)


def _is_kernel(tensor: TensorDescription) -> bool:
    """Tells weights from scalars, biases, ids and shapes."""
    num_wide = sum(dim > 1 for dim in tensor.shape)
    return num_wide > 1 and tensor.dtype in MODES[None].weight_dtypes


def _explained(
    reasons: tuple[FloatOperator, ...], found: dict[str, int]
) -> str:
    lines = [str(reason) for reason in reasons if reason.operator in found]
    return f" ({_listed(lines)})" if lines else ""


def _listed(names: Iterable[str]) -> str:
    ordered = sorted(names)
    more = f" and {len(ordered) - 4} more" if len(ordered) > 4 else ""
    return ", ".join(ordered[:4]) + more


def _counted(counts: dict[str, int]) -> str:
    return _listed(f"{name} x{count}" for name, count in counts.items())
