"""Looks into a model: what is in it, and what each part takes."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import rich.box
import rich.console
import rich.table
import rich.text

from kdtf import litert
from kdtf.console import format_bytes
from kdtf.console import plain_text
from kdtf.evaluation.loading import file_kind
from kdtf.evaluation.loading import load_keras_model
from kdtf.evaluation.parts import Part
from kdtf.evaluation.parts import bits_per_weight
from kdtf.evaluation.parts import count_unique
from kdtf.evaluation.parts import weight_parts
from kdtf.evaluation.size import Size
from kdtf.evaluation.size import size_of_arrays
from kdtf.evaluation.size import size_of_file
from kdtf.evaluation.size import size_of_model
from kdtf.export.metadata import Metadata
from kdtf.export.metadata import read_metadata
from kdtf.flavours import flavour_of
from kdtf.layers import own_weights
from kdtf.layers import walk_layers


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inspection:
    """What is in a model; `print` shows it as tables.

    Attributes:
        name: The file's path, or the model's name.
        kind: "keras", "tf_keras" or "tflite".
        size: Elements, zeros and bytes of all of it.
        parts: The layers or tensors that hold weights.
        bits_per_weight: The mean over all weights.
        num_weightless: Layers without weights of their own.
        operators: A file's operators, `(name, dtype of the output)` to count.
        signatures: A file's entries, as text.
        metadata: What a file says of itself, if it does.
    """

    name: str
    kind: str
    size: Size
    parts: tuple[Part, ...]
    bits_per_weight: float
    num_weightless: int = 0
    operators: dict[tuple[str, str], int] = dataclasses.field(
        default_factory=dict
    )
    signatures: tuple[str, ...] = ()
    metadata: Metadata | None = None

    def __str__(self) -> str:
        """Gives the tables as plain text."""
        return plain_text(lambda console: _render(self, console), width=160)


def inspect_model(model: Any) -> Inspection:
    """Looks into a model or a model file.

    Args:
        model: A `keras.Model`, a `tf_keras.Model`, or a path to a `.keras`,
            `.h5` or `.tflite` file.

    Raises:
        FileNotFoundError: There is no such file.
        TypeError: `model` is nothing of the kind.
        ValueError: The file is damaged or no model, or the model not built.

    Example:
        >>> import keras
        >>> layers = [keras.Input((3,)), keras.layers.Dense(2, name="head")]
        >>> found = inspect_model(keras.Sequential(layers, name="tiny"))
        >>> [(part.name, part.num_parameters) for part in found.parts]
        [('head', 8)]
    """
    if not isinstance(model, str | os.PathLike):
        return _inspect_keras(model, name=getattr(model, "name", ""))
    if file_kind(model) == "tflite":
        return _inspect_file(model)
    return _inspect_keras(load_keras_model(model), name=os.fspath(model))


def _inspect_keras(model: Any, *, name: str) -> Inspection:
    flavour = flavour_of(model)
    size = size_of_model(model)
    parts = []
    num_weightless = 0
    for path, layer in [*walk_layers(model), ("", model)]:
        weights = [np.asarray(w) for w in own_weights(layer)]
        if weights:
            parts.append(_layer_part(path or "(model)", layer, weights))
        elif path:
            num_weightless += 1
    return Inspection(
        name=name,
        kind=flavour,
        size=size,
        parts=tuple(parts),
        bits_per_weight=_mean_bits(parts),
        num_weightless=num_weightless,
    )


def _layer_part(path: str, layer: Any, weights: Sequence[np.ndarray]) -> Part:
    size = size_of_arrays(weights)
    largest = max(weights, key=lambda weight: weight.size)
    bits = sum(bits_per_weight(w) * w.size for w in weights)
    return Part(
        name=path,
        type=type(layer).__name__,
        dtype="/".join(dict.fromkeys(w.dtype.name for w in weights)),
        shape=largest.shape,
        num_parameters=size.num_parameters,
        num_bytes=size.size_bytes,
        sparsity=size.sparsity,
        num_unique=count_unique(largest),
        bits_per_weight=bits / max(1, size.num_parameters),
    )


def _inspect_file(path: str | os.PathLike[str]) -> Inspection:
    description = litert.describe(path)
    size = size_of_file(path)
    parts = weight_parts(path)
    bits = 8 * description.weight_bytes / max(1, size.num_parameters)
    return Inspection(
        name=os.fspath(path),
        kind="tflite",
        size=size,
        parts=tuple(parts),
        bits_per_weight=bits,
        operators=description.operator_dtypes,
        signatures=tuple(
            _signature_text(signature) for signature in description.signatures
        ),
        metadata=read_metadata(path),
    )


def _signature_text(signature: litert.Signature) -> str:
    def listed(specs: Sequence[litert.TensorSpec]) -> str:
        return ", ".join(
            f"{spec.name}: {spec.dtype}"
            f"[{', '.join('?' if n is None else str(n) for n in spec.shape)}]"
            for spec in specs
        )

    inputs, outputs = listed(signature.inputs), listed(signature.outputs)
    return f"{signature.key}({inputs}) -> {outputs}"


def _mean_bits(parts: Sequence[Part]) -> float:
    total = sum(part.num_parameters for part in parts)
    bits = sum(part.bits_per_weight * part.num_parameters for part in parts)
    return bits / max(1, total)


def _render(found: Inspection, console: rich.console.Console) -> None:
    size = found.size
    console.print(
        rich.text.Text(
            f"{found.name} ({found.kind}): {size.num_parameters:,} weights, "
            f"{size.sparsity:.2f} of them 0, "
            f"{found.bits_per_weight:.2f} bits per weight, "
            f"{format_bytes(size.size_bytes)}, "
            f"gzip {format_bytes(size.gzip_size_bytes)}"
        )
    )
    for signature in found.signatures:
        console.print(rich.text.Text(f"signature {signature}"))
    if found.metadata:
        console.print(rich.text.Text(str(found.metadata)))
    if found.operators:
        console.print(_operator_table(found.operators))
    if found.parts:
        console.print(_part_table(found.parts))
    if found.num_weightless:
        console.print(f"and {found.num_weightless} layers without weights")


def _operator_table(
    operators: dict[tuple[str, str], int],
) -> rich.table.Table:
    table = _table("Operator", "Output", "Count")
    for (name, dtype), count in sorted(
        operators.items(), key=lambda item: (-item[1], item[0])
    ):
        table.add_row(name, dtype.lower(), str(count))
    return table


def _part_table(parts: Sequence[Part]) -> rich.table.Table:
    table = _table(
        "Weights",
        "Type",
        "dtype",
        "Shape",
        "Number",
        "Bytes",
        "Zeros",
        "Unique",
        "Bits",
    )
    for part in parts:
        table.add_row(
            rich.text.Text(part.name),
            part.type,
            part.dtype,
            "x".join(map(str, part.shape)),
            f"{part.num_parameters:,}",
            format_bytes(part.num_bytes),
            "-" if part.sparsity is None else f"{part.sparsity:.2f}",
            "-" if part.num_unique is None else f"{part.num_unique:,}",
            f"{part.bits_per_weight:.2f}",
        )
    return table


def _table(*titles: str) -> rich.table.Table:
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
    for title in titles:
        is_text = title in ("Operator", "Output", "Weights", "Type", "dtype")
        table.add_column(title, justify="left" if is_text else "right")
    return table
