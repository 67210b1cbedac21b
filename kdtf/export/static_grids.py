"""Keeps the grids of kernels in files that compute in int8 throughout."""

import copy
from collections.abc import Iterable
from typing import Any

import numpy as np

from kdtf.export.errors import ExportError
from kdtf.export.grids import TOLERANCE
from kdtf.export.grids import Placed
from kdtf.export.grids import steps_of
from kdtf.export.recovery import check_equal
from kdtf.export.recovery import notes_on_missing
from kdtf.export.recovery import placed_grids
from kdtf.export.weights import Weight
from kdtf.export.weights import float_values
from kdtf.export.weights import from_rows
from kdtf.export.weights import rows_of
from kdtf.export.weights import tensor_at
from kdtf.export.weights import weights_of
from kdtf.flatbuffer import dtype_name
from kdtf.flatbuffer import operator_name
from kdtf.flatbuffer import read_model
from kdtf.flatbuffer import write_model
from kdtf.transforms.deployment import KernelGrid

# Where an operator's bias is among its inputs. Others (lookups) pass the
# scale of their table on to activations, where it cannot be changed.
_BIASES = {
    "CONV_2D": 2,
    "DEPTHWISE_CONV_2D": 2,
    "FULLY_CONNECTED": 2,
    "TRANSPOSE_CONV": 3,
}


def keep_static_grids(
    content: bytes, floats: bytes, grids: Iterable[KernelGrid]
) -> tuple[bytes, tuple[str, ...]]:
    """Returns an int8 file whose kernels are on their grids, and notes.

    TFLiteConverter takes each scale from the largest weight. Where that is
    the grid's last level nothing moves; elsewhere integers, scale and bias
    are written anew.

    Args:
        content: The int8 file.
        floats: The float32 file of the same graph.
        grids: What the Keras model holds on grids.

    Raises:
        ExportError: A grid is in none of the file's kernels.
    """
    grids = tuple(grids)
    before, model = read_model(floats), read_model(content)
    weights = weights_of(before)
    placed = placed_grids(before, weights, grids)
    notes = notes_on_missing(before, weights, placed, grids)
    left = weights_of(model)
    moved: list[tuple[str, Weight, np.ndarray]] = []
    for weight in weights:
        if weight.place not in placed:
            continue
        found = placed[weight.place]
        values = float_values(before, weight.tensor)
        if values is None:
            continue
        twin = _twin(model, left, values, found)
        if twin is not None:
            left.remove(twin)
            moved.append((found.grid.path, twin, values))
    for path, twin, values in moved:
        if not _is_equal(float_values(model, twin.tensor), values):
            _rewrite(model, twin, values, path=path)
    after = write_model(model)
    _check(after, moved)
    return after, tuple(notes)


def _check(content: bytes, moved: list[tuple[str, Weight, np.ndarray]]) -> None:
    model = read_model(content)
    for path, twin, values in moved:
        found = float_values(model, tensor_at(model, twin.place))
        check_equal(path, values, found)


def _twin(
    model: Any, weights: list[Weight], values: np.ndarray, found: Placed
) -> Weight | None:
    """Gives the int8 weight that was rounded from `values`."""
    same = [weight for weight in weights if weight.shape == values.shape]
    for weight in same:
        if dtype_name(weight.tensor) != "INT8":
            continue
        step = np.max(weight.tensor.quantization.scale)
        rounded = float_values(model, weight.tensor)
        # Half a step, and the float32 it is computed in.
        if rounded is not None and (
            np.abs(rounded - values).max() <= 0.51 * step
        ):
            return weight
    if any(dtype_name(weight.tensor) == "INT8" for weight in same):
        raise ExportError(
            "A quantized kernel must stand in the file with the values it has "
            f"in Keras. Received: {found.grid.path!r}, of which the converter "
            "made other values. Take it out of what is quantized."
        )
    return None


def _is_equal(found: np.ndarray | None, values: np.ndarray) -> bool:
    if found is None:
        return False
    error = np.abs(found - values).max()
    return bool(error <= TOLERANCE * np.abs(values).max())


def _rewrite(
    model: Any, weight: Weight, values: np.ndarray, *, path: str
) -> None:
    names = {name for name, _ in weight.readers}
    quantization = weight.tensor.quantization
    is_per_tensor = len(quantization.scale) == 1
    rows = values.reshape(1, -1)
    if not is_per_tensor:
        rows = rows_of(values, weight.axis)
    steps = steps_of(rows, 8)
    if np.isnan(steps).any() or not names <= set(_BIASES):
        operators = "/".join(sorted(names))
        raise ExportError(
            "In int8 a kernel has one scale for each output, or one in all. "
            f"Received: {path!r}, read by {operators}, whose grid needs more. "
            "Quantize it per channel or per tensor, as the file does."
        )
    ratios = steps / np.asarray(quantization.scale, "float32")
    integers = np.rint(rows / steps[:, None]).astype("int8")
    if not is_per_tensor:
        integers = from_rows(integers, values.shape, weight.axis)
    quantization.scale = steps
    data = np.ascontiguousarray(integers).view(np.uint8).ravel()
    model.buffers[weight.tensor.buffer].data = data
    for operator in model.subgraphs[weight.place[0]].operators:
        if _reads(operator, weight):
            _rescale_bias(model, weight.place[0], operator, ratios)


def _reads(operator: Any, weight: Weight) -> bool:
    inputs = operator.inputs
    return len(inputs) > 1 and inputs[1] == weight.place[1]


def _rescale_bias(
    model: Any, subgraph: int, operator: Any, ratios: np.ndarray
) -> None:
    """Gives an operator a bias of its own, in steps of the new scale."""
    position = _BIASES[operator_name(model, operator)]
    if len(operator.inputs) <= position or operator.inputs[position] < 0:
        return
    tensors = model.subgraphs[subgraph].tensors
    bias = copy.deepcopy(tensors[operator.inputs[position]])
    data = bytes(model.buffers[bias.buffer].data)
    old = np.frombuffer(data, "<i4").astype("float64")
    scale = np.asarray(bias.quantization.scale, "float32")
    bias.quantization.scale = (scale * ratios).astype("float32")
    buffer = copy.copy(model.buffers[bias.buffer])
    new = np.rint(old / ratios.astype("float64")).astype("<i4")
    buffer.data = new.view(np.uint8)
    model.buffers.append(buffer)
    bias.buffer = len(model.buffers) - 1
    tensors.append(bias)
    inputs = list(operator.inputs)
    inputs[position] = len(tensors) - 1
    operator.inputs = inputs
