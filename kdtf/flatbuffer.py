"""Reads a `.tflite` file: its operators, tensors, weights and signatures."""

import collections
import dataclasses
import functools
import math
import os
import pathlib
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np

from kdtf.files import gzip_bytes
from kdtf.sparse_tensors import index_bytes

_IDENTIFIER = b"TFL3"
# Bits per element of the types that a weight can have.
_WEIGHT_BITS = {
    "FLOAT64": 64,
    "FLOAT32": 32,
    "FLOAT16": 16,
    "BFLOAT16": 16,
    "FLOAT8_E4M3FN": 8,
    "FLOAT8_E5M2": 8,
    "INT8": 8,
    "UINT8": 8,
    "INT4": 4,
    "UINT4": 4,
    "INT2": 2,
}
# With a scale these are biases; without, shapes, axes and ids.
_BIAS_TYPES = {"INT16": 16, "INT32": 32, "INT64": 64}

# What the generated reader raises when offsets point outside the file.
_CORRUPT = (
    IndexError,
    KeyError,
    TypeError,
    ValueError,
    OverflowError,
    MemoryError,
    AttributeError,
    struct.error,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """One input or output of a signature.

    Args:
        name: The name the signature gives it.
        dtype: A NumPy name, such as "float32" or "int8".
        shape: Its dimensions; None where they are free.
        scale: Real value of one integer step; None if it is not quantized.
        zero_point: The integer that means 0.0.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]
    scale: float | None = None
    zero_point: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Signature:
    """A named entry of the file, with inputs in the graph's own order."""

    key: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TensorDescription:
    """One tensor of the graph.

    Args:
        name: Its name there.
        dtype: The schema's name, such as "FLOAT32".
        shape: Its dimensions; 1 where they are free.
        is_constant: Whether its values are in the file.
        num_bytes: Their size; 0 if not.
        scale: The largest quantization scale; None if it has none.
        is_dynamic: Whether a dimension is free.
        subgraph: Index of the subgraph it belongs to.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    is_constant: bool
    num_bytes: int
    scale: float | None
    is_dynamic: bool
    subgraph: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class FileDescription:
    """What stands in a `.tflite` file.

    Args:
        path: The file.
        size_bytes: Its size.
        gzip_size_bytes: Its size after gzip: what a download costs.
        num_parameters: Elements of the constants that are weights (floats,
            small integers, biases with a scale), not shapes and ids.
        num_nonzero: How many of them differ from zero.
        weight_bytes: What they take in the file; shared ones count once.
        operators: Name to count; custom ones as "CUSTOM:name".
        operator_dtypes: `(name, dtype of the first output)` to count.
        signatures: The named entries.
        tensors: All tensors of all subgraphs.
    """

    path: pathlib.Path
    size_bytes: int
    gzip_size_bytes: int
    num_parameters: int
    num_nonzero: int
    weight_bytes: int
    operators: dict[str, int]
    operator_dtypes: dict[tuple[str, str], int]
    signatures: tuple[Signature, ...]
    tensors: tuple[TensorDescription, ...]


def describe(path: str | os.PathLike[str]) -> FileDescription:
    """Returns what stands in the `.tflite` file at `path`.

    The file is only read, not run.

    Raises:
        ValueError: The file is no `.tflite`, or a part of it is missing.
        FileNotFoundError: There is no such file.
    """
    content = pathlib.Path(path).read_bytes()
    model = read_model(content, name=os.fspath(path))
    try:
        return _describe(model, content, pathlib.Path(path))
    except _CORRUPT as error:
        raise _damaged(os.fspath(path)) from error


def read_model(content: bytes, *, name: str = "model") -> Any:
    """Returns the schema's object tree (`ModelT`) of a `.tflite` file.

    Args:
        content: The bytes of the file.
        name: What to call the file in messages.

    Raises:
        ValueError: The bytes are no `.tflite`, or a part is missing.
    """
    from ai_edge_litert.tools import flatbuffer_utils

    if content[4:8] != _IDENTIFIER:
        raise ValueError(
            "A .tflite file carries the mark 'TFL3' in bytes 4 to 8. "
            f"Received: path={name!r} with {content[4:8]!r} there. Write one "
            "with `kdtf.export_tflite(model, path)`."
        )
    try:
        return flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    except _CORRUPT as error:
        raise _damaged(name) from error


def write_model(model: Any) -> bytes:
    """Returns the file content that `model` (a `ModelT`) describes."""
    from ai_edge_litert.tools import flatbuffer_utils

    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def operator_name(model: Any, operator: Any) -> str:
    """Returns the name of an operator, "CUSTOM:name" for a custom one."""
    from ai_edge_litert import schema_py_generated as schema

    code = model.operatorCodes[operator.opcodeIndex]
    number = max(code.builtinCode, code.deprecatedBuiltinCode)
    if number == schema.BuiltinOperator.CUSTOM:
        return f"CUSTOM:{_text(code.customCode)}"
    return _names_of(schema.BuiltinOperator)[number]


def dtype_name(tensor: Any) -> str:
    """Returns the schema's name of a tensor's type, such as "INT8"."""
    from ai_edge_litert import schema_py_generated as schema

    return _names_of(schema.TensorType)[tensor.type]


def buffer_size(model: Any, tensor: Any) -> int:
    """Returns the bytes of a tensor's values and their index, 0 if none."""
    data = model.buffers[tensor.buffer].data
    return 0 if data is None else len(data) + index_bytes(tensor.sparsity)


def _damaged(name: str) -> ValueError:
    return ValueError(
        f"A .tflite file must be whole. Received: path={name!r}, which was "
        "cut short or damaged. Export or download it again."
    )


def _describe(
    model: Any, content: bytes, path: pathlib.Path
) -> FileDescription:
    operator_dtypes = collections.Counter(
        (operator_name(model, operator), _output_dtype(subgraph, operator))
        for subgraph in model.subgraphs
        for operator in subgraph.operators or []
    )
    operators: collections.Counter[str] = collections.Counter()
    for (name, _), count in operator_dtypes.items():
        operators[name] += count
    weights = list(_weights(model))
    return FileDescription(
        path=path,
        size_bytes=len(content),
        gzip_size_bytes=gzip_bytes(content),
        num_parameters=sum(math.prod(_shape(t)) for t, _ in weights),
        num_nonzero=sum(_num_nonzero(t, data) for t, data in weights),
        weight_bytes=sum(buffer_size(model, t) for t, _ in weights),
        operators=dict(operators),
        operator_dtypes=dict(operator_dtypes),
        signatures=tuple(
            _signature(model, entry) for entry in model.signatureDefs or []
        ),
        tensors=tuple(
            _tensor_description(model, tensor, index)
            for index, subgraph in enumerate(model.subgraphs)
            for tensor in subgraph.tensors
        ),
    )


def _output_dtype(subgraph: Any, operator: Any) -> str:
    outputs = [i for i in operator.outputs or [] if i >= 0]
    return dtype_name(subgraph.tensors[outputs[0]]) if outputs else "-"


def _weights(model: Any) -> Iterator[tuple[Any, np.ndarray]]:
    """Gives each stored weight once, as `(tensor, bytes)`."""
    seen = set()
    for subgraph in model.subgraphs:
        for tensor in subgraph.tensors:
            size = buffer_size(model, tensor)
            if size and tensor.buffer not in seen and _is_weight(tensor):
                seen.add(tensor.buffer)
                data = model.buffers[tensor.buffer].data
                yield tensor, np.frombuffer(bytes(data), np.uint8)


def _is_weight(tensor: Any) -> bool:
    dtype = dtype_name(tensor)
    has_scale = _max_scale(tensor) is not None
    return dtype in _WEIGHT_BITS or (dtype in _BIAS_TYPES and has_scale)


def _num_nonzero(tensor: Any, data: np.ndarray) -> int:
    dtype = dtype_name(tensor)
    zero = _zero_point(tensor)
    if dtype in ("FLOAT16", "BFLOAT16"):
        # Both have the sign in the top bit; -0.0 is a zero.
        return int(np.count_nonzero(data.view(np.uint16) & 0x7FFF))
    if dtype in ("FLOAT8_E4M3FN", "FLOAT8_E5M2"):
        return int(np.count_nonzero(data & 0x7F))
    bits = _WEIGHT_BITS.get(dtype) or _BIAS_TYPES[dtype]
    if bits >= 8:
        return int(np.count_nonzero(data.view(dtype.lower()) != zero))
    parts = [data >> shift & (2**bits - 1) for shift in range(0, 8, bits)]
    values = np.stack(parts, axis=-1).ravel()[: math.prod(_shape(tensor))]
    return int(np.count_nonzero(values != zero % 2**bits))


def _signature(model: Any, entry: Any) -> Signature:
    subgraph = model.subgraphs[entry.subgraphIndex]
    return Signature(
        key=_text(entry.signatureKey),
        inputs=_specs(subgraph, entry.inputs, subgraph.inputs),
        outputs=_specs(subgraph, entry.outputs, subgraph.outputs),
    )


def _specs(subgraph: Any, maps: Any, order: Any) -> tuple[TensorSpec, ...]:
    places = {index: place for place, index in enumerate(order)}
    ranked = sorted(maps or [], key=lambda m: places.get(m.tensorIndex, 0))
    return tuple(
        _spec(_text(m.name), subgraph.tensors[m.tensorIndex]) for m in ranked
    )


def _spec(name: str, tensor: Any) -> TensorSpec:
    shape: tuple[int | None, ...] = _shape(tensor)
    if tensor.shapeSignature is not None and len(tensor.shapeSignature):
        shape = tuple(None if d < 0 else int(d) for d in tensor.shapeSignature)
    return TensorSpec(
        name=name,
        dtype=dtype_name(tensor).lower(),
        shape=shape,
        scale=_max_scale(tensor),
        zero_point=_zero_point(tensor),
    )


def _tensor_description(model: Any, tensor: Any, index: int) -> Any:
    size = buffer_size(model, tensor)
    free = tensor.shapeSignature
    return TensorDescription(
        name=_text(tensor.name),
        dtype=dtype_name(tensor),
        shape=_shape(tensor),
        is_constant=size > 0,
        num_bytes=size,
        scale=_max_scale(tensor),
        is_dynamic=free is not None and any(d < 0 for d in free),
        subgraph=index,
    )


def _shape(tensor: Any) -> tuple[int, ...]:
    return tuple(int(d) for d in ([] if tensor.shape is None else tensor.shape))


def _max_scale(tensor: Any) -> float | None:
    quantization = tensor.quantization
    if quantization is None or quantization.scale is None:
        return None
    return max(map(float, quantization.scale), default=None)


def _zero_point(tensor: Any) -> int:
    values = getattr(tensor.quantization, "zeroPoint", None)
    return 0 if values is None or not len(values) else int(values[0])


def _text(value: bytes | str | None) -> str:
    return value.decode() if isinstance(value, bytes) else value or ""


@functools.cache
def _names_of(enumeration: type) -> dict[int, str]:
    pairs = vars(enumeration).items()
    return {v: k for k, v in pairs if isinstance(v, int) and k[0] != "_"}
