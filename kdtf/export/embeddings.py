"""Turns GATHER on a constant table into EMBEDDING_LOOKUP, bit for bit.

Keras embeddings become GATHER, which ai-edge-quantizer leaves in float: a
language model that ties its table to its output comes out larger than before,
with one copy of each. EMBEDDING_LOOKUP it quantizes.
"""

import math
from typing import Any

import numpy as np

from kdtf.export.additions import add_tensor
from kdtf.export.additions import operator_code
from kdtf.flatbuffer import buffer_size
from kdtf.flatbuffer import operator_name
from kdtf.flatbuffer import read_model
from kdtf.flatbuffer import write_model


def rewrite_embeddings(content: bytes) -> tuple[bytes, int]:
    """Returns the file with embedding lookups, and how many there are.

    GATHER(table, ids) becomes RESHAPE(ids to one row), EMBEDDING_LOOKUP,
    RESHAPE(back), for constant float tables of two dimensions and int32 ids
    of fixed shape; others stay.

    Args:
        content: A float32 `.tflite` file.
    """
    model = read_model(content)
    count = 0
    for subgraph in model.subgraphs:
        operators = []
        for operator in subgraph.operators:
            if _is_lookup(model, subgraph, operator):
                operators += _lookup(model, subgraph, operator)
                count += 1
            else:
                operators.append(operator)
        subgraph.operators = operators
    return (write_model(model) if count else content), count


def _is_lookup(model: Any, subgraph: Any, operator: Any) -> bool:
    from ai_edge_litert import schema_py_generated as schema

    if operator_name(model, operator) != "GATHER":
        return False
    options = operator.builtinOptions
    table = subgraph.tensors[operator.inputs[0]]
    ids = subgraph.tensors[operator.inputs[1]]
    is_fixed = ids.shapeSignature is None or not len(ids.shapeSignature)
    return (
        options.axis == 0
        and options.batchDims == 0
        and buffer_size(model, table) > 0
        and table.type == schema.TensorType.FLOAT32
        and len(table.shape) == 2
        and ids.type == schema.TensorType.INT32
        # Scalars have no shape in the file at all.
        and ids.shape is not None
        and is_fixed
    )


def _lookup(model: Any, subgraph: Any, operator: Any) -> list[Any]:
    from ai_edge_litert import schema_py_generated as schema

    table_index, ids_index = operator.inputs[:2]
    ids_shape = [int(d) for d in subgraph.tensors[ids_index].shape]
    dim = int(subgraph.tensors[table_index].shape[1])
    num_ids = math.prod(ids_shape)
    name = subgraph.tensors[operator.outputs[0]].name
    types = schema.TensorType
    flat = add_tensor(
        model, subgraph, name + b"/ids", dtype=types.INT32, shape=[num_ids]
    )
    rows = add_tensor(
        model,
        subgraph,
        name + b"/rows",
        dtype=types.FLOAT32,
        shape=[num_ids, dim],
    )
    lookup = schema.OperatorT()
    lookup.opcodeIndex = operator_code(
        model, schema.BuiltinOperator.EMBEDDING_LOOKUP
    )
    lookup.inputs = [flat, table_index]
    lookup.outputs = [rows]
    out = operator.outputs[0]
    return [
        _reshape(model, subgraph, (ids_index, flat), shape=[num_ids]),
        lookup,
        _reshape(model, subgraph, (rows, out), shape=[*ids_shape, dim]),
    ]


def _reshape(
    model: Any, subgraph: Any, ends: tuple[int, int], *, shape: list[int]
) -> Any:
    from ai_edge_litert import schema_py_generated as schema

    source, destination = ends
    options = schema.ReshapeOptionsT()
    options.newShape = shape
    reshape = schema.OperatorT()
    reshape.opcodeIndex = operator_code(model, schema.BuiltinOperator.RESHAPE)
    reshape.inputs = [
        source,
        add_tensor(
            model,
            subgraph,
            subgraph.tensors[destination].name + b"/shape",
            dtype=schema.TensorType.INT32,
            shape=[len(shape)],
            values=np.asarray(shape, "<i4"),
        ),
    ]
    reshape.outputs = [destination]
    reshape.builtinOptionsType = schema.BuiltinOptions.ReshapeOptions
    reshape.builtinOptions = options
    return reshape
