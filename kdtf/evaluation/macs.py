"""How much a file computes: its multiply-accumulates, counted from it."""

import math
import os
import pathlib
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any
from typing import NamedTuple

import numpy as np

from kdtf.flatbuffer import dtype_name
from kdtf.flatbuffer import operator_name
from kdtf.flatbuffer import read_model

__all__ = [
    "Execution",
    "executed_operators",
    "macs_of_execution",
    "macs_of_file",
    "shape_of",
]

# Multiply, or run operators that do, in ways that are not read here.
_REFUSED = frozenset(
    """
    BIDIRECTIONAL_SEQUENCE_LSTM BIDIRECTIONAL_SEQUENCE_RNN CALL
    CONV_3D_TRANSPOSE IF LSTM RNN STABLEHLO_COMPOSITE SVDF
    UNIDIRECTIONAL_SEQUENCE_RNN
    """.split()
)
# Kernels of the four gates for inputs and states, and the projection.
_LSTM_KERNELS = (*range(1, 9), 16)


class Execution(NamedTuple):
    """An operator as one call of the file runs it.

    Attributes:
        name: The operator's name.
        operator: Its entry in the file (`OperatorT`).
        tensors: The tensors that it numbers its inputs and outputs by.
        num_times: How often it runs: more than once in a loop.
    """

    name: str
    operator: Any
    tensors: Any
    num_times: int

    def input(self, position: int) -> Any:
        """Returns an input's tensor, None if it is left out."""
        inputs = self.operator.inputs
        if position >= len(inputs) or inputs[position] < 0:
            return None
        return self.tensors[inputs[position]]

    def outputs(self) -> list[Any]:
        """Returns the tensors it writes."""
        return [self.tensors[i] for i in self.operator.outputs if i >= 0]


def macs_of_file(path: str | os.PathLike[str]) -> int:
    """Returns the multiply-accumulates of one call of a `.tflite` file.

    Counted are CONV_2D, CONV_3D, DEPTHWISE_CONV_2D, TRANSPOSE_CONV,
    FULLY_CONNECTED, BATCH_MATMUL and UNIDIRECTIONAL_SEQUENCE_LSTM; what
    stands in a loop as often as the loop runs it. As usual zeros are counted
    too, those of padding and those of pruned weights. Not counted are biases,
    operators on single elements (ADD, MUL, SOFTMAX, ...), pooling, FFTs and
    custom operators. Of a file with several signatures the first one's graph
    is counted.

    Args:
        path: The file.

    Raises:
        ValueError: It is no `.tflite` file, a shape that is needed is not
            fixed, a loop's length is not, or an operator multiplies in a
            way that is not known here.

    Example:
        >>> import keras, os, tempfile
        >>> from kdtf.export import export_tflite
        >>> layers = [keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3)]
        >>> path = os.path.join(tempfile.mkdtemp(), "conv.tflite")
        >>> _ = export_tflite(keras.Sequential(layers), path)
        >>> macs_of_file(path) == (6 * 6 * 4) * (3 * 3 * 3)
        True
    """
    name = os.fspath(path)
    model = read_model(pathlib.Path(path).read_bytes(), name=name)
    return sum(
        macs_of_execution(execution, name=name)
        for execution in executed_operators(model, name=name)
    )


def macs_of_execution(execution: Execution, *, name: str = "model") -> int:
    """Returns the multiply-accumulates of an operator in one call of a file.

    Args:
        execution: What `executed_operators` gave.
        name: What to call the file in messages.

    Raises:
        ValueError: A shape is not fixed.
    """
    count = _COUNTS.get(execution.name)
    if count is None:
        return 0
    for index in (*execution.operator.inputs, *execution.operator.outputs):
        if index >= 0:
            _check_fixed(execution.tensors[index], execution.name, name)
    return count(execution) * execution.num_times


def executed_operators(
    model: Any, *, name: str = "model"
) -> Iterator[Execution]:
    """Gives the operators that one call of a file runs, each as `Execution`.

    Args:
        model: What `kdtf.flatbuffer.read_model` gave.
        name: What to call the file in messages.

    Raises:
        ValueError: How often one runs, or how much it does, is not known.
    """
    entries = model.signatureDefs or []
    first = entries[0].subgraphIndex if entries else 0
    return _walk(model, first, 1, name)


def _walk(
    model: Any, index: int, num_times: int, file: str
) -> Iterator[Execution]:
    graph = model.subgraphs[index]
    for operator in graph.operators or []:
        name = operator_name(model, operator)
        if name in _REFUSED:
            raise ValueError(
                f"The work of {name} is not counted. Received: path={file!r}, "
                "which has it. Build the model without, or measure its "
                "latency instead."
            )
        yield Execution(name, operator, graph.tensors, num_times)
        if name == "WHILE":
            body = operator.builtinOptions.bodySubgraphIndex
            rounds = _num_rounds(model, graph, operator, file)
            yield from _walk(model, body, num_times * rounds, file)


def _num_rounds(model: Any, graph: Any, loop: Any, file: str) -> int:
    """Returns how often a loop runs: the smallest bound on its counters.

    Keras's recurrent layers count from a constant to a constant by one, and
    only such loops are read: `while i < end and j < end: i += 1; j += 1`.
    """
    cond = model.subgraphs[loop.builtinOptions.condSubgraphIndex]
    bounds = [
        _bound(model, graph, loop, operator)
        for operator in cond.operators or []
        if operator_name(model, operator) != "LOGICAL_AND"
    ]
    known = [bound for bound in bounds if bound is not None]
    if not known or len(known) < len(bounds):
        raise ValueError(
            "A loop must run a number of times that stands in the file. "
            f"Received: path={file!r}, with a WHILE whose length depends on "
            "the input. Give the model's inputs fixed shapes, or measure "
            "its latency instead."
        )
    return min(known)


def _bound(model: Any, graph: Any, loop: Any, operator: Any) -> int | None:
    """Returns after how many rounds a comparison ends a loop, None if unknown.

    Args:
        model: The file.
        graph: Where the loop stands.
        loop: The WHILE operator.
        operator: One of its condition's.
    """
    cond = model.subgraphs[loop.builtinOptions.condSubgraphIndex]
    body = model.subgraphs[loop.builtinOptions.bodySubgraphIndex]
    counters = list(cond.inputs)
    if operator_name(model, operator) != "LESS":
        return None
    if operator.inputs[0] not in counters:
        return None
    place = counters.index(operator.inputs[0])
    start = _constant(model, graph, loop.inputs[place])
    end = _constant(model, cond, operator.inputs[1])
    if start is None or end is None or not _counts_up(model, body, place):
        return None
    return max(0, end - start)


def _counts_up(model: Any, body: Any, place: int) -> bool:
    """Returns whether each round adds 1 to a value of the loop."""
    counter, counted = body.inputs[place], body.outputs[place]
    return any(
        operator_name(model, operator) == "ADD"
        and operator.inputs[0] == counter
        and operator.outputs[0] == counted
        and _constant(model, body, operator.inputs[1]) == 1
        for operator in body.operators or []
    )


def _constant(model: Any, graph: Any, index: int) -> int | None:
    """Returns a whole number that stands in the file, None if it does not."""
    tensor = graph.tensors[index]
    data = model.buffers[tensor.buffer].data
    dtype = {"INT32": "<i4", "INT64": "<i8"}.get(dtype_name(tensor))
    if data is None or dtype is None:
        return None
    values = np.frombuffer(bytes(data), dtype)
    return int(values[0]) if values.size == 1 else None


def _check_fixed(tensor: Any, operator: str, file: str) -> None:
    free = tensor.shapeSignature
    if free is not None and any(size < 0 for size in free):
        raise ValueError(
            "Multiply-accumulates are counted for fixed shapes only. "
            f"Received: path={file!r}, where {operator} has a tensor of shape "
            f"{tuple(int(size) for size in free)}. Export the model with "
            "`kdtf.export_tflite`, or give its inputs fixed shapes."
        )


def shape_of(tensor: Any) -> tuple[int, ...]:
    """Returns a tensor's dimensions, 1 where they are free."""
    return tuple(map(int, [] if tensor.shape is None else tensor.shape))


def _size(tensor: Any) -> int:
    return math.prod(shape_of(tensor))


def _output_size(execution: Execution) -> int:
    return _size(execution.outputs()[0])


def _convolution(execution: Execution) -> int:
    # (out, height, width, in); with groups, in counts one group's channels.
    return _output_size(execution) * math.prod(shape_of(execution.input(1))[1:])


def _convolution_3d(execution: Execution) -> int:
    # (depth, height, width, in, out)
    return _output_size(execution) * math.prod(
        shape_of(execution.input(1))[:-1]
    )


def _depthwise(execution: Execution) -> int:
    # (1, height, width, out)
    _, height, width, _ = shape_of(execution.input(1))
    return _output_size(execution) * height * width


def _transposed(execution: Execution) -> int:
    # Each input value is spread over (out, height, width), however much of
    # that is cropped.
    kernel = shape_of(execution.input(1))
    return _size(execution.input(2)) * math.prod(kernel[:3])


def _dense(execution: Execution) -> int:
    # (out, in); the input may have any shape of a multiple of `in` values.
    return _size(execution.input(0)) * shape_of(execution.input(1))[0]


def _matmul(execution: Execution) -> int:
    left = shape_of(execution.input(0))
    is_transposed = execution.operator.builtinOptions.adjX
    return _output_size(execution) * left[-2 if is_transposed else -1]


def _lstm(execution: Execution) -> int:
    # Time and batch, in either order; then each kernel is used once a step.
    num_steps = math.prod(shape_of(execution.input(0))[:2])
    kernels = [execution.input(position) for position in _LSTM_KERNELS]
    return num_steps * sum(_size(k) for k in kernels if k is not None)


_COUNTS: dict[str, Callable[[Execution], int]] = {
    "BATCH_MATMUL": _matmul,
    "CONV_2D": _convolution,
    "CONV_3D": _convolution_3d,
    "DEPTHWISE_CONV_2D": _depthwise,
    "FULLY_CONNECTED": _dense,
    "TRANSPOSE_CONV": _transposed,
    "UNIDIRECTIONAL_SEQUENCE_LSTM": _lstm,
}
