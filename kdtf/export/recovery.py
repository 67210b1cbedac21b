"""Keeps the values of kernels that are on a grid, to the last bit that counts.

A quantizer takes its step from the largest value and so moves a grid whose
top level is unused. (ai-edge-quantizer's own recovery takes it from the
smallest difference, which is 1e-5 off for 8 bits.) Here it chooses the form of
storage, and integers and scales are written anew.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from kdtf.export.errors import ExportError
from kdtf.export.grids import TOLERANCE
from kdtf.export.grids import Placed
from kdtf.export.grids import place_grid
from kdtf.export.grids import steps_of
from kdtf.export.weights import INTEGER_BITS
from kdtf.export.weights import Weight
from kdtf.export.weights import block_scales
from kdtf.export.weights import float_values
from kdtf.export.weights import from_rows
from kdtf.export.weights import packed
from kdtf.export.weights import rows_of
from kdtf.export.weights import tensor_at
from kdtf.flatbuffer import buffer_size
from kdtf.flatbuffer import dtype_name
from kdtf.flatbuffer import read_model
from kdtf.flatbuffer import write_model
from kdtf.transforms.deployment import KernelGrid


def placed_grids(
    model: Any, weights: Iterable[Weight], grids: Iterable[KernelGrid]
) -> dict[tuple[int, int], Placed]:
    """Returns the grid that each weight of a float file is on, by place.

    Args:
        model: What `read_model` gave of the float file.
        weights: Its weights.
        grids: What the Keras model holds on grids.
    """
    grids = tuple(grids)
    found = {}
    for weight in weights if grids else ():
        values = float_values(model, weight.tensor)
        placed = values is not None and place_grid(grids, values, weight.axis)
        if placed:
            found[weight.place] = placed
    return found


def notes_on_missing(
    model: Any,
    weights: Iterable[Weight],
    placed: dict[tuple[int, int], Placed],
    grids: Iterable[KernelGrid],
) -> list[str]:
    """Returns what became of grids that no operator's weight is.

    Args:
        model: What `read_model` gave of the float file.
        weights: Its weights.
        placed: Those of them that are on a grid.
        grids: What the Keras model holds on grids.

    Raises:
        ExportError: The converter changed a kernel, so that it is on its grid
            no more.
    """
    there = {id(found.grid) for found in placed.values()}
    twins = [found.grid.values for found in placed.values()]
    missing = [
        grid
        for grid in grids
        if id(grid) not in there
        # Equal kernels are found as one of them.
        and not any(_are_equal(grid.values, other) for other in twins)
    ]
    sizes = {weight.size for weight in weights if weight.place not in placed}
    lost = {grid.path for grid in missing if grid.values.size in sizes}
    lost -= _floats_in(model, missing) if lost else set()
    if lost:
        raise ExportError(
            "A quantized kernel must stand in the file with the values it has "
            f"in Keras. Received: {', '.join(sorted(lost))}, which the "
            "converter changed. Take it out of what is quantized."
        )
    return [
        f"{grid.path} is no weight of an operator that has integers: it "
        "stays float, or is unused"
        for grid in missing
    ]


def _are_equal(one: np.ndarray, other: np.ndarray) -> bool:
    """Tells whether two kernels hold the same numbers in the same order."""
    return np.array_equal(one.ravel(), other.ravel())


def _floats_in(model: Any, grids: list[KernelGrid]) -> set[str]:
    """Gives the paths of grids of which a constant holds the first rows."""
    found = set()
    for subgraph in model.subgraphs:
        for tensor in subgraph.tensors:
            if not buffer_size(model, tensor) or tensor.shape is None:
                continue
            values = float_values(model, tensor)
            if values is None or values.ndim < 2:
                continue
            for grid in grids:
                first = grid.values.ravel()[: values.size]
                if np.array_equal(first, values.ravel()):
                    found.add(grid.path)
    return found


def keep_grids(
    content: bytes,
    before: Any,
    weights: Iterable[Weight],
    placed: dict[tuple[int, int], Placed],
) -> bytes:
    """Returns a quantized file whose grids have the float file's values.

    Args:
        content: The float file with integers for weights.
        before: What `read_model` gave of the float file.
        weights: Its weights.
        placed: Those of them that are on a grid, by place.

    Raises:
        ExportError: A grid does not fit the form its kernel is stored in.
    """
    kept = [
        weight
        for weight in weights
        if weight.place in placed
        and placed[weight.place].grid.num_bits is not None
    ]
    if not kept:
        return content
    model = read_model(content)
    for weight in kept:
        values = float_values(before, weight.tensor)
        tensor = tensor_at(model, weight.place)
        _write(model, tensor, values, axis=weight.axis)
    content = write_model(model)
    after = read_model(content)
    for weight in kept:
        check_equal(
            placed[weight.place].grid.path,
            float_values(before, weight.tensor),
            float_values(after, tensor_at(after, weight.place)),
        )
    return content


def check_equal(path: str, expected: Any, found: Any) -> None:
    """Refuses a file in which a kernel has other values than in Keras.

    Args:
        path: The kernel's path in the model.
        expected: Its values.
        found: Those in the file; None if they cannot be read.

    Raises:
        ExportError: One is further away than `TOLERANCE` times the largest.
    """
    error = np.inf
    if found is not None and np.isfinite(found).all():
        largest = np.abs(expected).max() or 1.0
        error = float(np.abs(found - expected).max() / largest)
    if not error <= TOLERANCE:
        raise ExportError(
            "A quantized kernel must have the same values in the file as in "
            f"Keras. Received: {path!r}, off by {error:.2g} of its largest "
            "value. One scale must serve each output, or each block of its "
            "inputs, and for blocks be a float16 with 7 bits of mantissa."
        )


def _write(model: Any, tensor: Any, values: Any, *, axis: int) -> None:
    """Puts values into an integer constant; where there is no step, nan."""
    num_bits = INTEGER_BITS.get(dtype_name(tensor))
    if num_bits is None:
        return
    blocks = block_scales(model, tensor)
    if blocks is None:
        rows = rows_of(values, axis)
        steps = steps_of(rows, num_bits)
        tensor.quantization.scale = steps
        tensor.quantization.zeroPoint = np.zeros(len(steps), "int64")
        tensor.quantization.quantizedDimension = axis
        integers = from_rows(_integers(rows, steps), values.shape, axis)
    else:
        size, scales = blocks
        rows = values.reshape(-1, size)
        steps = steps_of(rows, num_bits, is_block=True)
        model.buffers[scales.buffer].data = steps.astype("<f2").view(np.uint8)
        integers = _integers(rows, steps)
    model.buffers[tensor.buffer].data = packed(integers, num_bits)


def _integers(rows: np.ndarray, steps: np.ndarray) -> np.ndarray:
    return np.nan_to_num(np.rint(rows / steps[:, None])).astype("int8")
