"""Adds tensors and kinds of operators to a file's object tree."""

from typing import Any

import numpy as np


def operator_code(model: Any, number: int) -> int:
    """Returns the index of a builtin operator in a file, added if need be.

    Args:
        model: What `read_model` gave.
        number: Of the schema's `BuiltinOperator`.
    """
    from ai_edge_litert import schema_py_generated as schema

    for index, code in enumerate(model.operatorCodes):
        if max(code.builtinCode, code.deprecatedBuiltinCode) == number:
            return index
    code = schema.OperatorCodeT()
    code.builtinCode = number
    # Old readers look at this byte first; 127 sends them to the other field.
    code.deprecatedBuiltinCode = min(number, 127)
    code.version = 1
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def add_tensor(
    model: Any,
    subgraph: Any,
    name: bytes,
    *,
    dtype: int,
    shape: list[int],
    values: np.ndarray | None = None,
) -> int:
    """Adds a tensor to a subgraph and returns its index there.

    Args:
        model: What `read_model` gave.
        subgraph: One of its subgraphs.
        name: Of the tensor.
        dtype: Of the schema's `TensorType`.
        shape: Its dimensions.
        values: Of a constant, in the type as it is stored. Defaults to no
            constant.
    """
    from ai_edge_litert import schema_py_generated as schema

    buffer = schema.BufferT()
    if values is not None:
        buffer.data = np.frombuffer(values.tobytes(), np.uint8)
    model.buffers.append(buffer)
    tensor = schema.TensorT()
    tensor.name = name
    tensor.type = dtype
    tensor.shape = shape
    tensor.buffer = len(model.buffers) - 1
    subgraph.tensors.append(tensor)
    return len(subgraph.tensors) - 1
