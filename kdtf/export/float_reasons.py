"""Why operators of an int8 file compute in float all the same."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from kdtf.flatbuffer import buffer_size
from kdtf.flatbuffer import dtype_name
from kdtf.flatbuffer import operator_name
from kdtf.flatbuffer import read_model

# They only stand between the integer and the float part.
_BORDERS = {"DEQUANTIZE", "QUANTIZE"}
_LOOKUPS = {"GATHER", "EMBEDDING_LOOKUP"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class FloatOperator:
    """An operator that stayed float.

    Args:
        operator: Its name.
        tensor: What it writes; Keras's layer names are in it.
        reason: Why.
    """

    operator: str
    tensor: str
    reason: str

    def __str__(self) -> str:
        """Returns all in one line."""
        return f"{self.operator} {self.tensor!r}: {self.reason}"


def float_reasons(
    content: bytes, *, is_calibrated: bool
) -> tuple[FloatOperator, ...]:
    """Returns the operators of an int8 file that stayed float, and why.

    Args:
        content: The file.
        is_calibrated: Whether ranges were measured for all that have none.
    """
    model = read_model(content)
    return tuple(
        found
        for subgraph in model.subgraphs
        for found in _in_subgraph(model, subgraph, is_calibrated)
    )


def _in_subgraph(
    model: Any, subgraph: Any, is_calibrated: bool
) -> Iterator[FloatOperator]:
    makers: dict[int, str] = {}
    readers: dict[int, list[str]] = {}
    for operator in subgraph.operators or []:
        name = operator_name(model, operator)
        makers |= {int(index): name for index in operator.outputs}
        for index in operator.inputs:
            readers.setdefault(int(index), []).append(name)
    for operator in subgraph.operators or []:
        name = operator_name(model, operator)
        if not len(operator.outputs) or name in _BORDERS:
            continue
        output = int(operator.outputs[0])
        if dtype_name(subgraph.tensors[output]) != "FLOAT32":
            continue
        yield FloatOperator(
            operator=name,
            tensor=_label(subgraph, output),
            reason=_reason(
                model,
                subgraph,
                operator,
                makers=makers,
                is_ranged=is_calibrated
                or "QUANTIZE" in readers.get(output, []),
            ),
        )


def _reason(
    model: Any,
    subgraph: Any,
    operator: Any,
    *,
    makers: dict[int, str],
    is_ranged: bool,
) -> str:
    if operator_name(model, operator) in _LOOKUPS:
        return "its table stayed float"
    computed = [
        int(index)
        for index in operator.inputs
        if index >= 0
        and dtype_name(subgraph.tensors[index]) == "FLOAT32"
        and not buffer_size(model, subgraph.tensors[index])
    ]
    for index in computed:
        maker = makers.get(index, "the input")
        if maker not in _BORDERS and not is_ranged:
            return (
                f"no range is known of what it reads, "
                f"{_label(subgraph, index)!r} of {maker}"
            )
    if not is_ranged:
        return "no range is known of what it writes"
    return "the converter has no int8 form of it here"


def _label(subgraph: Any, index: int) -> str:
    """Gives a tensor's name; of fused ones the last part."""
    names = subgraph.tensors[index].name.decode().split(";")
    return [name for name in names if name][-1] if any(names) else ""
