"""What a model takes of a microcontroller's flash and RAM."""

import dataclasses
import math
import numbers
from collections.abc import Iterable
from typing import Any

from kdtf.export.errors import ExportError
from kdtf.flatbuffer import FileDescription
from kdtf.flatbuffer import TensorDescription

__all__ = ["Budget", "arena_margin"]

# The interpreter aligns everything to it.
ALIGNMENT = 16
_MIN_MARGIN = 1024
_MARGIN_SHARE = 8
_NUM_LISTED = 3
_BYTES = {"INT8": 1, "UINT8": 1, "BOOL": 1, "INT16": 2, "INT32": 4, "INT64": 8}


def arena_margin(arena_bytes: int) -> int:
    """Returns what to reserve beside a measured arena: an eighth, 1 KiB least.

    The arena is measured with TensorFlow Lite Micro's portable kernels on a
    64-bit computer. On a 32-bit chip its own structures are smaller, but
    kernels made for the chip (CMSIS-NN, ESP-NN) ask for scratch memory.

    Example:
        >>> arena_margin(4800), arena_margin(54_784)
        (1024, 6848)
    """
    wanted = max(_MIN_MARGIN, arena_bytes / _MARGIN_SHARE)
    return ALIGNMENT * math.ceil(wanted / ALIGNMENT)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Budget:
    """Bytes that there are for a model; None for no limit.

    Args:
        flash_bytes: For the file.
        ram_bytes: For the arena with its margin.
    """

    flash_bytes: int | None = None
    ram_bytes: int | None = None

    def __post_init__(self) -> None:
        """Checks both numbers."""
        for field in dataclasses.fields(self):
            _check_bytes(field.name, getattr(self, field.name))

    def check(self, description: FileDescription, arena_bytes: int) -> None:
        """Refuses a model that is larger.

        Args:
            description: Its file.
            arena_bytes: Its measured arena.

        Raises:
            ExportError: It is over a budget; with what takes how much.
        """
        margin = arena_margin(arena_bytes)
        tensors = description.tensors
        size, reserved = description.size_bytes, arena_bytes + margin
        problems = []
        if self.flash_bytes is not None and size > self.flash_bytes:
            weights = {t.name: t.num_bytes for t in tensors if t.is_constant}
            problems.append(
                f"flash: the file takes {size:,} bytes of "
                f"flash_bytes={self.flash_bytes:,}, {size - self.flash_bytes:,}"
                " too many, the interpreter's own code not counted. Largest "
                f"constants: {_largest(weights)}"
            )
        if self.ram_bytes is not None and reserved > self.ram_bytes:
            problems.append(
                f"RAM: the arena takes {reserved:,} bytes ({arena_bytes:,} "
                f"measured on this computer and {margin:,} of margin) of "
                f"ram_bytes={self.ram_bytes:,}, "
                f"{reserved - self.ram_bytes:,} too many. Largest "
                f"activations: {_largest(_activations(tensors))}"
            )
        if problems:
            listed = "\n".join(f"- {problem}." for problem in problems)
            raise ExportError(
                f"The model must fit the device. Received:\n{listed}\nNothing "
                "was written. Fewer channels shrink both; smaller inputs and "
                "earlier strides the arena; pruning alone neither."
            )


def _check_bytes(argument: str, value: Any) -> None:
    if value is None:
        return
    is_whole = isinstance(value, numbers.Integral)
    if not is_whole or isinstance(value, bool) or value < 1:
        raise ValueError(
            f"`{argument}` must be a whole number of at least 1. Received: "
            f"{argument}={value!r}. Leave it out for no limit."
        )


def _activations(tensors: Iterable[TensorDescription]) -> dict[str, int]:
    return {
        tensor.name: math.prod(tensor.shape) * _BYTES[tensor.dtype]
        for tensor in tensors
        if not tensor.is_constant and tensor.dtype in _BYTES
    }


def _largest(sizes: dict[str, int]) -> str:
    ranked = sorted(sizes.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{n!r} {size:,}" for n, size in ranked[:_NUM_LISTED])
