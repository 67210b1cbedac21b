"""Integers from one scale to another, without floats in between.

Where an operator's range was measured and its neighbour's is in the graph,
the converter writes DEQUANTIZE and QUANTIZE between them, which no integer-only
runtime takes. QUANTIZE alone does the same from int8 to int8.
"""

from typing import Any

from kdtf.flatbuffer import dtype_name
from kdtf.flatbuffer import operator_name
from kdtf.flatbuffer import read_model
from kdtf.flatbuffer import write_model


def join_requantization(content: bytes) -> bytes:
    """Returns the file with each DEQUANTIZE joined to the QUANTIZE after it.

    Args:
        content: A file of the converter.
    """
    model = read_model(content)
    # A list, so that no subgraph is left out after the first change.
    if any([_join(model, subgraph) for subgraph in model.subgraphs]):
        return write_model(model)
    return content


def _join(model: Any, subgraph: Any) -> bool:
    operators = list(subgraph.operators or [])
    sources = {
        int(operator.outputs[0]): int(operator.inputs[0])
        for operator in operators
        if operator_name(model, operator) == "DEQUANTIZE"
        and dtype_name(subgraph.tensors[operator.inputs[0]]) == "INT8"
    }
    joined = [
        operator
        for operator in operators
        if operator_name(model, operator) == "QUANTIZE"
        and int(operator.inputs[0]) in sources
        and dtype_name(subgraph.tensors[operator.outputs[0]]) == "INT8"
    ]
    freed = {int(operator.inputs[0]) for operator in joined}
    for operator in joined:
        operator.inputs = [sources[int(operator.inputs[0])]]
    used = {int(i) for operator in operators for i in operator.inputs}
    used |= {int(i) for i in subgraph.outputs}
    subgraph.operators = [
        operator
        for operator in operators
        if not (freed - used) & {int(i) for i in operator.outputs}
    ]
    return bool(joined)
