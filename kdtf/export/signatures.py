"""Names and order of a file's inputs and outputs, set in the flatbuffer.

The converter sorts names, mangles some, and orders positions as it likes.
"""

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from kdtf.export.converter import INPUT
from kdtf.export.converter import OUTPUT
from kdtf.flatbuffer import read_model
from kdtf.flatbuffer import write_model


def name_signature(
    content: bytes, input_names: Sequence[str], output_names: Sequence[str]
) -> bytes:
    """Returns the file with the model's names, in the model's order.

    Files without a signature come back as they are; the checks refuse them.

    Args:
        content: A file of the converter.
        input_names: The model's inputs in order.
        output_names: The model's outputs in order.
    """
    model = read_model(content)
    inputs = {INPUT.format(i): name for i, name in enumerate(input_names)}
    outputs = {OUTPUT.format(i): name for i, name in enumerate(output_names)}
    for entry in model.signatureDefs or []:
        subgraph = model.subgraphs[entry.subgraphIndex]
        order = _rename(entry.inputs, inputs)
        subgraph.inputs = _ordered(order, subgraph.inputs)
        order = _rename(entry.outputs, outputs)
        subgraph.outputs = _ordered(order, subgraph.outputs)
    return write_model(model)


def _rename(items: Any, names: Mapping[str, str]) -> list[int]:
    """Gives the tensors in the order of `names`, and names them so."""
    places = {name: place for place, name in enumerate(names)}
    found = sorted(
        (item for item in items or [] if item.name.decode() in names),
        key=lambda item: places[item.name.decode()],
    )
    for item in found:
        item.name = names[item.name.decode()].encode()
    return [item.tensorIndex for item in found]


def _ordered(first: list[int], present: Any) -> list[int]:
    present = list(present)
    return [i for i in first if i in present] + [
        i for i in present if i not in first
    ]
