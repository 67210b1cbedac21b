"""The parts of a model that hold weights, and what their values could take."""

import dataclasses
import math
import os
import pathlib
from typing import Any

import numpy as np

from kdtf.flatbuffer import buffer_size
from kdtf.flatbuffer import dtype_name
from kdtf.flatbuffer import read_model
from kdtf.sparse_tensors import decode


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """One layer of a Keras model with its own weights, or one file tensor.

    Attributes:
        name: A layer's path from the model down, or a tensor's name.
        type: A layer's class, or "weight".
        dtype: What its weights are stored as; several joined with "/".
        shape: A tensor's shape, or that of a layer's largest weight.
        num_parameters: Elements.
        num_bytes: Their bytes as stored, nothing compressed; the index of
            a sparse tensor counts.
        sparsity: The fraction of zeros in [0, 1]; None if not looked at.
        num_unique: Different values in the largest weight; None if not
            looked at.
        bits_per_weight: What one weight takes, in bits; see
            `bits_per_weight`.
    """

    name: str
    type: str
    dtype: str
    shape: tuple[int, ...]
    num_parameters: int
    num_bytes: int
    sparsity: float | None = None
    num_unique: int | None = None
    bits_per_weight: float


def bits_per_weight(weights: np.ndarray) -> float:
    """Gives the bits one weight takes: as stored, or less by a codebook.

    A codebook of the different values and an index for each weight is what
    few values can shrink to. Scales are not looked for: weights on a grid
    with one scale per channel count as many values.

    Args:
        weights: Any shape.

    Example:
        >>> import numpy as np
        >>> bits_per_weight(np.tile([0.5, 1.5], 320).astype("float32"))
        1.1
    """
    stored = 8.0 * weights.itemsize
    if not weights.size:
        return stored
    num_unique = count_unique(weights)
    index_bits = math.ceil(math.log2(num_unique)) if num_unique > 1 else 0
    return min(stored, index_bits + num_unique * stored / weights.size)


def count_unique(weights: np.ndarray) -> int:
    """Counts the different values of an array, of any numeric dtype."""
    if weights.dtype.kind == "V" or weights.dtype.name == "bfloat16":
        # NumPy does not sort it; float32 holds each of its values.
        weights = weights.astype("float32")
    return int(np.unique(weights).size)


def weight_parts(path: str | os.PathLike[str]) -> list[Part]:
    """Gives the weights of a `.tflite` file, the largest first.

    Shapes, axes and ids are constants, too, but no weights. A buffer that
    several tensors share is given once.

    Args:
        path: The file.

    Raises:
        ValueError: It is no `.tflite` file, or damaged.
    """
    path = pathlib.Path(path)
    model = read_model(path.read_bytes(), name=str(path))
    parts = {
        tensor.buffer: _tensor_part(model, tensor)
        for subgraph in model.subgraphs
        for tensor in subgraph.tensors
        if buffer_size(model, tensor) and _is_weight(tensor)
    }
    return sorted(parts.values(), key=lambda part: -part.num_bytes)


def _is_weight(tensor: Any) -> bool:
    is_index = dtype_name(tensor) in ("INT16", "INT32", "INT64", "BOOL")
    quantization = tensor.quantization
    scale = None if quantization is None else quantization.scale
    return not is_index or (scale is not None and len(scale) > 0)


def _tensor_part(model: Any, tensor: Any) -> Part:
    shape = tuple(int(n) for n in tensor.shape)
    num_parameters = math.prod(shape)
    num_bytes = buffer_size(model, tensor)
    values = _values(model, tensor)
    return Part(
        name=tensor.name.decode(),
        type="weight",
        dtype=dtype_name(tensor).lower(),
        shape=shape,
        num_parameters=num_parameters,
        num_bytes=num_bytes,
        sparsity=None if values is None else float(np.mean(values == 0)),
        num_unique=None if values is None else count_unique(values),
        bits_per_weight=8 * num_bytes / max(1, num_parameters),
    )


def _values(model: Any, tensor: Any) -> np.ndarray | None:
    """Gives the values less their zero point; None if NumPy has no such."""
    try:
        dtype = np.dtype(dtype_name(tensor).lower())
    except TypeError:
        # Four bits and fewer, bfloat16.
        return None
    data = bytes(model.buffers[tensor.buffer].data)
    values = np.frombuffer(data, dtype)
    if tensor.sparsity is not None:
        values = decode(values, tensor.sparsity, tuple(tensor.shape))
    zero = getattr(tensor.quantization, "zeroPoint", None)
    if zero is None or not len(zero) or not int(zero[0]):
        return values
    return values.astype("int64") - int(zero[0])
