"""The weights in a file: which operators read them, and what they stand for."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from kdtf.flatbuffer import dtype_name
from kdtf.flatbuffer import operator_name

# Operators whose second input is a weight, and its dimension of outputs: one
# scale for each index along it is what their kernels can do.
_OUTPUT_AXES = {
    "CONV_2D": 0,
    "DEPTHWISE_CONV_2D": 3,
    "EMBEDDING_LOOKUP": 0,
    "FULLY_CONNECTED": 0,
    "TRANSPOSE_CONV": 0,
}
INTEGER_BITS = {"INT8": 8, "INT4": 4, "INT2": 2}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weight:
    """A constant that operators multiply with or look up in.

    Args:
        name: Of the tensor.
        place: `(subgraph, tensor)`, as indices.
        shape: Its dimensions.
        axis: The dimension of outputs.
        readers: Name of each operator that reads it, with the names of the
            tensors it writes, the form ai-edge-quantizer knows it by.
        tensor: The schema's object.
    """

    name: str
    place: tuple[int, int]
    shape: tuple[int, ...]
    axis: int
    readers: tuple[tuple[str, str], ...]
    tensor: Any

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)


def weights_of(model: Any) -> list[Weight]:
    """Returns each weight of a file once, with all that read it.

    Args:
        model: What `read_model` gave.
    """
    found: dict[tuple[int, int], Weight] = {}
    for index, subgraph in enumerate(model.subgraphs):
        for operator in subgraph.operators or []:
            name = operator_name(model, operator)
            axis = _output_axis(name, operator)
            if axis is None or len(operator.inputs) < 2:
                continue
            tensor = subgraph.tensors[operator.inputs[1]]
            data = model.buffers[tensor.buffer].data
            if data is None or tensor.shape is None or len(tensor.shape) < 2:
                continue
            place = (index, int(operator.inputs[1]))
            outputs = [subgraph.tensors[i].name for i in operator.outputs]
            reader = (name, ";".join(o.decode() for o in outputs) + ";")
            before = found.get(place)
            found[place] = Weight(
                name=tensor.name.decode(),
                place=place,
                shape=tuple(int(dim) for dim in tensor.shape),
                axis=axis % len(tensor.shape),
                readers=(*(before.readers if before else ()), reader),
                tensor=tensor,
            )
    return list(found.values())


def tensor_at(model: Any, place: tuple[int, int]) -> Any:
    """Returns the schema's object of the tensor at `(subgraph, tensor)`."""
    return model.subgraphs[place[0]].tensors[place[1]]


def float_values(model: Any, tensor: Any) -> np.ndarray | None:
    """Returns what a constant stands for in float32.

    Args:
        model: What `read_model` gave.
        tensor: A constant of it: float32, float16, or integers with a scale
            in all, one per index of a dimension, or one per block.

    Returns:
        Values of the tensor's shape; None for other types.
    """
    shape = [int(dim) for dim in tensor.shape]
    dtype = dtype_name(tensor)
    data = bytes(model.buffers[tensor.buffer].data)
    if dtype in ("FLOAT32", "FLOAT16"):
        flat = np.frombuffer(data, dtype.lower())
        return flat.astype("float32").reshape(shape)
    scales = scales_of(model, tensor)
    if dtype not in INTEGER_BITS or scales is None:
        return None
    return integers_of(model, tensor).astype("float32") * scales


def integers_of(model: Any, tensor: Any) -> np.ndarray:
    """Returns the integers of a constant, int8, in its shape."""
    bits = INTEGER_BITS[dtype_name(tensor)]
    data = np.frombuffer(bytes(model.buffers[tensor.buffer].data), np.uint8)
    shape = [int(dim) for dim in tensor.shape]
    parts = [data >> shift for shift in range(0, 8, bits)]
    raw = np.stack(parts, axis=-1).ravel()[: math.prod(shape)]
    # Shifting up and down again copies the sign into the upper bits.
    return ((raw << (8 - bits)).view(np.int8) >> (8 - bits)).reshape(shape)


def packed(integers: np.ndarray, num_bits: int) -> np.ndarray:
    """Returns the bytes that hold integers: the first in the lowest bits.

    Example:
        >>> packed(np.array([1, -1, 2]), 4).tolist()
        [241, 2]
    """
    per_byte = 8 // num_bits
    flat = integers.astype(np.int8).ravel().view(np.uint8) & (2**num_bits - 1)
    flat = np.pad(flat, (0, -len(flat) % per_byte)).reshape(-1, per_byte)
    shifts = np.arange(0, 8, num_bits, dtype=np.uint8)
    return np.bitwise_or.reduce(flat << shifts, axis=1).astype(np.uint8)


def block_scales(model: Any, tensor: Any) -> tuple[int, Any] | None:
    """Returns the block size of a constant and the tensor of its scales.

    None if its scales are no blocks'.
    """
    details = getattr(tensor.quantization, "details", None)
    if details is None or not hasattr(details, "blockSize"):
        return None
    for subgraph in model.subgraphs:
        if any(tensor is other for other in subgraph.tensors):
            return int(details.blockSize), subgraph.tensors[details.scales]
    return None


def scales_of(model: Any, tensor: Any) -> np.ndarray | None:
    """Returns the scales of a constant so that they multiply its integers."""
    shape = [int(dim) for dim in tensor.shape]
    blocks = block_scales(model, tensor)
    if blocks is not None:
        scales = float_values(model, blocks[1])
        return None if scales is None else np.repeat(scales, blocks[0], axis=1)
    scales = getattr(tensor.quantization, "scale", None)
    if scales is None or not len(scales):
        return None
    if len(scales) == 1:
        return np.asarray(scales, "float32").reshape([1] * len(shape))
    ends = [1] * len(shape)
    ends[tensor.quantization.quantizedDimension] = len(scales)
    return np.asarray(scales, "float32").reshape(ends)


def rows_of(values: np.ndarray, axis: int) -> np.ndarray:
    """Returns values as one row for each index of a dimension."""
    return np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)


def from_rows(
    rows: np.ndarray, shape: tuple[int, ...], axis: int
) -> np.ndarray:
    """Undoes `rows_of`."""
    moved = [shape[axis], *(d for i, d in enumerate(shape) if i != axis)]
    return np.moveaxis(rows.reshape(moved), 0, axis)


def arrangements(
    values: np.ndarray, shape: tuple[int, ...]
) -> Iterator[np.ndarray]:
    """Gives the orders in which a kernel's values may stand in a file.

    As they are (tables, depthwise kernels), with the last dimensions first
    (dense kernels and convolutions), or as a transposed convolution has them.

    Args:
        values: A kernel, in Keras's order.
        shape: Of the constant; as many elements.
    """
    yield values.reshape(shape)
    for split in range(1, values.ndim):
        rows = math.prod(values.shape[:split])
        yield values.reshape(rows, -1).T.reshape(shape)
    if values.ndim > 2:
        yield np.moveaxis(values, -2, 0).reshape(shape)


def _output_axis(name: str, operator: Any) -> int | None:
    if name == "BATCH_MATMUL":
        return -2 if operator.builtinOptions.adjY else -1
    return _OUTPUT_AXES.get(name)
