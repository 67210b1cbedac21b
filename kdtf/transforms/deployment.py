"""How a model that was trained or tuned for a device wants to be exported."""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
from keras import ops

from kdtf.transforms.attach import State
from kdtf.transforms.attach import states

__all__ = ["Deployable", "Deployment", "KernelGrid", "block_scale", "deployed"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class KernelGrid:
    """A kernel whose values lie on a grid that a file shall keep.

    Args:
        path: The kernel's path in the model.
        values: Its values on the grid, as the layer computes with them.
        num_bits: Bits in which each integer of the grid can be stored: 8, 4
            or 2; None if the values are on no uniform grid (a codebook).
        block_size: How many weights along the contraction share one scale;
            None for one scale for each output, or for all.
    """

    path: str
    values: np.ndarray
    num_bits: int | None
    block_size: int | None = None


def block_scale(scale: Any) -> Any:
    """Returns steps of blocks as LiteRT computes with them.

    It stores them as float16 and cuts them off at 7 bits after the leading
    one, as in bfloat16; a step must be a number of both.

    Args:
        scale: Positive, at most 65,504.

    Returns:
        float32, at least 2^-14: smaller ones would lose digits in float16.

    Example:
        >>> float(block_scale(np.float32(1.0 + 1.0 / 256.0)))
        1.0
    """
    scale = ops.maximum(ops.cast(scale, "float32"), 2.0**-14)
    return ops.cast(ops.cast(scale, "bfloat16"), "float32")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Deployment:
    """What a model was quantized for.

    Args:
        quantize: The mode of `export_tflite` that keeps what was simulated:
            "int8" (the ranges of activations are in the model's graph, as
            fake-quantization), "dynamic_int8", "int4", or None for float
            storage.
        grids: The kernels that are on a grid.
        dense_per_tensor: For "int8": whether each Dense kernel has one scale
            in all, not one for each output.
        notes: What the user shall know of the file, for `ExportResult`.
    """

    quantize: str | None
    grids: tuple[KernelGrid, ...]
    dense_per_tensor: bool = False
    notes: tuple[str, ...] = ()


class Deployable(State):
    """State of a technique that decides how a model is exported."""

    def deployed(
        self, model: Any
    ) -> contextlib.AbstractContextManager[Deployment]:
        """Gives a block in which the model's weights are as in the file."""
        raise NotImplementedError


@contextlib.contextmanager
def deployed(model: Any) -> Iterator[Deployment | None]:
    """Holds a model in the form it is exported in, while the block runs.

    In it each kernel holds its values on the grid, and is read as it is;
    activations are still fake-quantized in the graph. After it, the trained
    full-precision weights are back.

    Args:
        model: A Keras model of either flavour.

    Yields:
        How it wants to be exported; None for a model that does not care.

    Raises:
        ValueError: Models inside it were quantized one by one, for different
            modes.
    """
    found = [
        (layer, state)
        for layer, state in states(model)
        if isinstance(state, Deployable)
    ]
    with contextlib.ExitStack() as stack:
        parts = [
            stack.enter_context(state.deployed(layer)) for layer, state in found
        ]
        yield _merged(parts) if parts else None


def _merged(parts: list[Deployment]) -> Deployment:
    modes = {part.quantize for part in parts}
    per_tensor = {part.dense_per_tensor for part in parts}
    if len(modes) > 1 or len(per_tensor) > 1:
        raise ValueError(
            "All parts of a model must be quantized for the same mode. "
            f"Received: parts for {sorted(map(str, modes))}. Call `kdtf.strip` "
            "on one of them, or quantize the whole model at once."
        )
    return Deployment(
        quantize=parts[0].quantize,
        dense_per_tensor=parts[0].dense_per_tensor,
        grids=tuple(grid for part in parts for grid in part.grids),
        notes=tuple(note for part in parts for note in part.notes),
    )
