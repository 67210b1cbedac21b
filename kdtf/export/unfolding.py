"""Takes factors out of kernels whose block scales have no room for them.

The converter multiplies what follows a dense layer, such as attention's
1 / sqrt(head_dim) or a batch norm, into its kernel. One scale for each output
takes the factor up; block scales have 7 bits of mantissa only, and of their
product with a factor LiteRT would drop the rest.
"""

import copy
from typing import Any

import numpy as np

from kdtf.export.additions import add_tensor
from kdtf.export.additions import operator_code
from kdtf.export.grids import Placed
from kdtf.export.weights import Weight
from kdtf.export.weights import float_values
from kdtf.export.weights import tensor_at
from kdtf.flatbuffer import operator_name
from kdtf.flatbuffer import write_model


def unfold_blocks(
    model: Any,
    weights: list[Weight],
    placed: dict[tuple[int, int], Placed],
) -> bytes | None:
    """Returns a file in which block grids are not multiplied by factors.

    `(x W f + b)` becomes `(x W + b / f) f`: a MUL more, and the kernel is on
    its grid again.

    Args:
        model: What `read_model` gave of a float file; changed in place.
        weights: Its weights.
        placed: Those of them that are on a grid, by place.

    Returns:
        None if no block grid is multiplied by anything but powers of two,
        which block scales can hold.
    """
    folded = [
        weight
        for weight in weights
        if weight.place in placed and _must_unfold(weight, placed[weight.place])
    ]
    for weight in folded:
        _unfold(model, weight, placed[weight.place])
    return write_model(model) if folded else None


def _must_unfold(weight: Weight, placed: Placed) -> bool:
    if placed.grid.block_size is None or placed.factors is None:
        return False
    mantissas, _ = np.frexp(np.abs(placed.factors))
    return (
        {name for name, _ in weight.readers} == {"FULLY_CONNECTED"}
        # A bias cannot be divided by 0.
        and bool(placed.factors.all())
        and bool((mantissas != 0.5).any())
    )


def _unfold(model: Any, weight: Weight, placed: Placed) -> None:
    factors = np.asarray(placed.factors, "float32")
    values = np.ascontiguousarray(placed.values, "float32")
    kernel = tensor_at(model, weight.place)
    model.buffers[kernel.buffer].data = np.frombuffer(
        values.tobytes(), np.uint8
    )
    subgraph = model.subgraphs[weight.place[0]]
    operators = []
    for operator in subgraph.operators:
        operators.append(operator)
        if _reads(model, operator, weight):
            operators.append(_multiply(model, subgraph, operator, factors))
    subgraph.operators = operators


def _reads(model: Any, operator: Any, weight: Weight) -> bool:
    return (
        operator_name(model, operator) == "FULLY_CONNECTED"
        and operator.inputs[1] == weight.place[1]
    )


def _multiply(
    model: Any, subgraph: Any, operator: Any, factors: np.ndarray
) -> Any:
    """Gives the MUL behind a dense layer, which then writes its input."""
    from ai_edge_litert import schema_py_generated as schema

    result = operator.outputs[0]
    name = subgraph.tensors[result].name

    def constant(suffix: bytes, values: np.ndarray) -> int:
        return add_tensor(
            model,
            subgraph,
            name + suffix,
            dtype=schema.TensorType.FLOAT32,
            shape=[len(values)],
            values=values,
        )

    if len(operator.inputs) > 2 and operator.inputs[2] >= 0:
        bias = subgraph.tensors[operator.inputs[2]]
        values = float_values(model, bias) / factors
        operator.inputs = [*operator.inputs[:2], constant(b"/bias", values)]
    unscaled = copy.copy(subgraph.tensors[result])
    unscaled.name = name + b"/unscaled"
    subgraph.tensors.append(unscaled)
    operator.outputs = [len(subgraph.tensors) - 1]
    options = schema.MulOptionsT()
    options.fusedActivationFunction = (
        operator.builtinOptions.fusedActivationFunction
    )
    operator.builtinOptions.fusedActivationFunction = (
        schema.ActivationFunctionType.NONE
    )
    multiply = schema.OperatorT()
    multiply.opcodeIndex = operator_code(model, schema.BuiltinOperator.MUL)
    is_one = bool((factors == factors[0]).all())
    scale = constant(b"/factors", factors[:1] if is_one else factors)
    multiply.inputs = [operator.outputs[0], scale]
    multiply.outputs = [result]
    multiply.builtinOptionsType = schema.BuiltinOptions.MulOptions
    multiply.builtinOptions = options
    return multiply
