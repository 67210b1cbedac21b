"""The integers that stand for a kernel's values, and what they take."""

import dataclasses
import math
from typing import Any

import numpy as np

from kdtf.quantization import schemes
from kdtf.quantization.codebook import NORMAL_FLOAT4
from kdtf.quantization.kernel_quantizer import KernelQuantizer
from kdtf.quantization.linear import max_integer
from kdtf.quantization.linear_kernels import to_groups
from kdtf.quantization.power_of_two import additive_power_of_two_levels
from kdtf.quantization.storage import entropy_bits
from kdtf.quantization.storage import stored_size
from kdtf.transforms.layout import Layout

__all__ = ["CodeSize", "codes_of", "size_of_codes"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CodeSize:
    """What a quantized kernel takes, without the file around it.

    Attributes:
        size_bytes: Its codes in a fixed number of bits and its scales; of a
            codebook the smallest form of `kdtf.quantization.storage`.
        entropy_bytes: Its codes at the least with an entropy code of single
            codes, and its scales or codebook.
    """

    size_bytes: int
    entropy_bytes: int


def size_of_codes(values: np.ndarray, quantizer: KernelQuantizer) -> CodeSize:
    """Returns what a kernel's quantized values take.

    Args:
        values: The values, in the kernel's shape.
        quantizer: What gave them.
    """
    scheme = quantizer.scheme
    if isinstance(scheme, schemes.Codebook):
        stored = stored_size(values, np.unique(values))
        return CodeSize(
            size_bytes=stored.size_bytes, entropy_bytes=stored.entropy_bytes
        )
    codes, num_scales = codes_of(values, scheme, quantizer.layout)
    is_block = isinstance(scheme, schemes.Linear) and scheme.group_size
    # LiteRT keeps the scales of blocks in float16.
    scales = num_scales * (2 if is_block else 4)
    num_bits = getattr(scheme, "num_bits", 4)
    # Counted from 0.
    entropy = entropy_bits(codes - codes.min())
    return CodeSize(
        size_bytes=math.ceil(num_bits * codes.size / 8) + scales,
        entropy_bytes=math.ceil(entropy * codes.size / 8) + scales,
    )


def codes_of(
    values: np.ndarray, scheme: Any, layout: Layout
) -> tuple[np.ndarray, int]:
    """Returns a kernel's codes and the number of its scales.

    Args:
        values: Quantized values, in the kernel's shape.
        scheme: A `Linear`, `PowerOfTwo` or `NormalFloat4`.
        layout: The kernel's layout.

    Returns:
        int32 `(groups, weights in a group)`: integers of a linear grid, else
        indices of the levels; and the number of groups.

    Example:
        >>> layout = Layout(shape=(2, 2), contraction=(0,), output=(1,))
        >>> kernel = np.array([[0.7, -2.0], [0.1, 7.0]], "float32")
        >>> codes, num_scales = codes_of(
        ...     kernel, schemes.Linear(num_bits=4), layout)
        >>> codes.tolist(), num_scales
        ([[7, 1], [-2, 7]], 2)
    """
    rows = _rows(values, scheme, layout)
    peaks = np.abs(rows).max(axis=1, keepdims=True)
    unit = rows / np.where(peaks > 0, peaks, 1.0)
    if isinstance(scheme, schemes.Linear):
        codes = _integers(unit, max_integer(scheme.num_bits))
    else:
        levels = NORMAL_FLOAT4
        if isinstance(scheme, schemes.PowerOfTwo):
            levels = additive_power_of_two_levels(
                scheme.num_bits, scheme.num_terms
            )
        codes = np.abs(unit[..., None] - levels).argmin(-1)
    return codes.astype("int32"), len(rows)


def _rows(values: np.ndarray, scheme: Any, layout: Layout) -> np.ndarray:
    """Returns the values with what shares a scale in each row."""
    if getattr(scheme, "granularity", "") == "per_tensor":
        return values.reshape(1, -1)
    size = getattr(scheme, "group_size", None) or layout.num_inputs
    groups = np.asarray(to_groups(values, layout, size))
    return groups.transpose(0, 2, 1).reshape(-1, size)


def _integers(unit: np.ndarray, highest: int) -> np.ndarray:
    """Returns the integers of each row, whose peak need not be `highest`.

    A learned or clipped step may leave the upper integers of a row unused:
    its peak is then the one with which all its values are integers.
    """
    best = np.rint(unit * highest)
    error = np.abs(unit * highest - best).max(axis=1)
    for peak in range(highest - 1, 0, -1):
        off = error > 1e-3
        if not off.any():
            break
        tried = np.rint(unit[off] * peak)
        new = np.abs(unit[off] * peak - tried).max(axis=1)
        rows = np.flatnonzero(off)[new < error[off]]
        kept = new < error[off]
        best[rows], error[rows] = tried[kept], new[kept]
    return best
