"""What TensorFlow Lite Micro sees of a file: its entry, and whether it fits."""

import dataclasses
import math
import os
import pathlib
from typing import Any

from kdtf.export import checks
from kdtf.export.errors import ExportError
from kdtf.export.interface import Interface
from kdtf.export.micro.sources import CTYPES
from kdtf.export.targets import get_target
from kdtf.flatbuffer import FileDescription
from kdtf.flatbuffer import Signature
from kdtf.flatbuffer import TensorSpec
from kdtf.flatbuffer import dtype_name
from kdtf.flatbuffer import read_model

__all__ = ["check_file", "read_entry"]

# Those that need no Keras model to compare with.
_CHECKS = (
    checks.check_variables_are_frozen,
    checks.check_input_types,
    checks.check_operators_are_builtin,
    checks.check_operators_fit_target,
    checks.check_operators_are_integer,
    checks.check_activation_scales,
)


def read_entry(path: str | os.PathLike[str]) -> Signature:
    """Returns the inputs and outputs in the order Micro counts them.

    Micro runs the first graph of the file and knows positions only. The names
    are those of its signature, or the tensors' own in a file without one.

    Raises:
        ValueError: The file is no `.tflite`, or a part of it is missing.
        ExportError: It has several signatures.
    """
    content = pathlib.Path(path).read_bytes()
    model = read_model(content, name=os.fspath(path))
    signatures = model.signatureDefs or []
    if len(signatures) > 1:
        keys = sorted(_text(entry.signatureKey) for entry in signatures)
        raise ExportError(
            "TensorFlow Lite Micro runs one entry of a file. Received: "
            f"path={os.fspath(path)!r} with the signatures {keys}. Export a "
            "file for each."
        )
    try:
        return _entry(model.subgraphs[0], signatures)
    # What points outside the file.
    except (IndexError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            "A .tflite file must be whole. Received: "
            f"path={os.fspath(path)!r}, whose inputs or outputs are not in "
            "it. Export or download it again."
        ) from error


def check_file(description: FileDescription, entry: Signature) -> None:
    """Refuses a file that Micro cannot run, or not in integers.

    Args:
        description: The file.
        entry: What `read_entry` gave.

    Raises:
        ExportError: It is not all integer, not static, not for one sample,
            or has an operator without a kernel.
    """
    evidence = checks.Evidence(
        # A file without signatures has inputs all the same.
        description=dataclasses.replace(description, signatures=(entry,)),
        baseline=description,
        target=get_target("iot"),
        mode="int8",
        interface=Interface(inputs=entry.inputs, pack=tuple),
        reference={},
        kernels={},
        weights=(),
    )
    found = [check(evidence) for check in _CHECKS]
    found += [_check_types(entry), _check_shapes(entry)]
    problems = [problem for problem in found if problem]
    if problems:
        listed = "\n".join(f"- {problem}." for problem in problems)
        raise ExportError(
            "A file for a microcontroller must be all integer, with fixed "
            "shapes and operators of TensorFlow Lite Micro. Received: "
            f"path={os.fspath(description.path)!r}:\n{listed}\nExport the "
            "Keras model itself with `export_microcontroller`."
        )


def _check_types(entry: Signature) -> str | None:
    if not entry.inputs or not entry.outputs:
        return "it must have inputs and outputs"
    found = {
        spec.name: f"{spec.dtype}, scale {spec.scale}"
        for spec in entry.inputs + entry.outputs
        # Floats have been told of.
        if spec.dtype not in {*CTYPES, "float32", "float16"}
        or not (spec.scale is None or 0 < spec.scale < math.inf)
    }
    if not found:
        return None
    return f"inputs and outputs must be integers of C, but are: {found}"


def _check_shapes(entry: Signature) -> str | None:
    found = {
        spec.name: spec.shape
        for spec in entry.inputs + entry.outputs
        if spec.shape[:1] != (1,) or None in spec.shape or 0 in spec.shape
    }
    if not found:
        return None
    return f"inputs and outputs must be fixed, of one sample, but are: {found}"


def _entry(graph: Any, signatures: list[Any]) -> Signature:
    maps = [
        item
        for entry in signatures
        for item in [*(entry.inputs or []), *(entry.outputs or [])]
    ]
    names = {item.tensorIndex: _text(item.name) for item in maps}
    inputs, outputs = (
        tuple(_spec(graph.tensors[i], names.get(i)) for i in indices)
        for indices in (graph.inputs, graph.outputs)
    )
    key = _text(signatures[0].signatureKey) if signatures else ""
    return Signature(key=key, inputs=inputs, outputs=outputs)


def _spec(tensor: Any, name: str | None) -> TensorSpec:
    quantization = tensor.quantization
    scales = getattr(quantization, "scale", None)
    points = getattr(quantization, "zeroPoint", None)
    return TensorSpec(
        name=_text(tensor.name) if name is None else name,
        dtype=dtype_name(tensor).lower(),
        shape=_shape(tensor),
        scale=None if scales is None or not len(scales) else float(scales[0]),
        zero_point=0 if points is None or not len(points) else int(points[0]),
    )


def _shape(tensor: Any) -> tuple[int | None, ...]:
    """Gives the shape with None where it is free, but for the batch.

    Micro knows no free dimensions: it takes the sizes that stand beside them,
    and for the batch that is one sample.
    """
    sizes = () if tensor.shape is None else tensor.shape
    signature = tensor.shapeSignature
    free = [] if signature is None else list(signature)
    return tuple(
        None if place and free[place : place + 1] == [-1] else int(size)
        for place, size in enumerate(sizes)
    )


def _text(value: bytes | str | None) -> str:
    return value.decode() if isinstance(value, bytes) else value or ""
