"""Which axes of a kernel are summed over, and which are outputs.

A kernel of any rank is a matrix `(contraction, output)` to the runtime, which
is what blocks, N:M groups, units and per-channel scales are counted along.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

__all__ = ["Layout", "is_elementwise", "layout_of"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """The axes of a kernel by role.

    Args:
        shape: The kernel's shape.
        contraction: Axes that a product sums over, the innermost last.
        output: The other axes: one entry for each output unit.

    Raises:
        ValueError: The axes are not each of the shape's, once.

    Example:
        >>> conv = Layout(shape=(3, 3, 8, 16), contraction=(0, 1, 2),
        ...               output=(3,))
        >>> conv.num_inputs, conv.num_outputs
        (72, 16)
    """

    shape: tuple[int, ...]
    contraction: tuple[int, ...]
    output: tuple[int, ...]

    def __post_init__(self) -> None:
        """Checks that the axes are all there."""
        axes = sorted(self.contraction + self.output)
        if axes != list(range(len(self.shape))) or not self.contraction:
            raise ValueError(
                "`contraction` and `output` must name each axis of the kernel "
                "once, and at least one must be summed over. Received: "
                f"shape={self.shape}, contraction={self.contraction}, "
                f"output={self.output}."
            )

    @property
    def num_inputs(self) -> int:
        """Weights that each output sums over."""
        return math.prod(self.shape[axis] for axis in self.contraction)

    @property
    def num_outputs(self) -> int:
        """Output units."""
        return math.prod(self.shape[axis] for axis in self.output)

    @property
    def size(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)

    def to_matrix(self, kernel: Any) -> Any:
        """Returns the kernel as `(num_inputs, num_outputs)`.

        Example:
            >>> import numpy as np
            >>> layout = Layout(shape=(1, 2, 2), contraction=(2,),
            ...                 output=(0, 1))
            >>> kernel = np.array([[[1.0, 2.0], [3.0, 4.0]]])
            >>> np.asarray(layout.to_matrix(kernel)).tolist()
            [[1.0, 3.0], [2.0, 4.0]]
        """
        ordered = ops.transpose(kernel, self.contraction + self.output)
        return ops.reshape(ordered, (self.num_inputs, self.num_outputs))

    def from_matrix(self, matrix: Any) -> Any:
        """Returns the kernel that `to_matrix` made the matrix from."""
        order = self.contraction + self.output
        wide = ops.reshape(matrix, [self.shape[axis] for axis in order])
        return ops.transpose(wide, [order.index(i) for i in range(len(order))])


def layout_of(layer: Any, variable: Any) -> Layout:
    """Returns the layout of one of a Keras 3 layer's kernels.

    Dense: `(input, output)`; convolutions sum over space and input channels;
    EinsumDense goes by its equation; of an embedding, which is read row by
    row, the row is the contraction (as where it is tied to the output). An
    unknown layer's last axis is taken as its output.

    Args:
        layer: The layer that owns the kernel.
        variable: The kernel, of rank 2 or more.

    Example:
        >>> layer = keras.layers.EinsumDense("abc,cde->abde", (None, 2, 3))
        >>> layer.build((None, 5, 4))
        >>> layout = layout_of(layer, layer.kernel)
        >>> layout.contraction, layout.output
        ((0,), (1, 2))
    """
    shape = tuple(int(dim) for dim in variable.shape)
    last = len(shape) - 1
    contraction: Sequence[int] = range(last)
    if isinstance(layer, keras.layers.EinsumDense):
        # One that only scales has none: then as for an unknown layer.
        contraction = _einsum_contraction(layer.equation) or contraction
    elif isinstance(layer, keras.layers.Embedding):
        contraction = (0,) if variable.name.startswith("reverse") else (1,)
    elif _is_transposed(layer):
        contraction = (*range(last - 1), last)
    elif "depthwise" in variable.name or _is_depthwise(layer):
        # One filter for each input channel: it is an output, too.
        contraction = range(last - 1)
    taken = tuple(contraction)
    output = tuple(axis for axis in range(last + 1) if axis not in taken)
    return Layout(shape=shape, contraction=taken, output=output)


def is_elementwise(layer: Any) -> bool:
    """Returns whether a layer's kernel scales its inputs, without a sum.

    Example:
        >>> scale = keras.layers.EinsumDense("abc,bc->abc", (3, 4))
        >>> is_elementwise(scale)
        True
    """
    is_einsum = isinstance(layer, keras.layers.EinsumDense)
    return is_einsum and not _einsum_contraction(layer.equation)


def _einsum_contraction(equation: str) -> tuple[int, ...]:
    left, output = equation.replace(" ", "").split("->")
    kernel = left.split(",")[1]
    return tuple(i for i, label in enumerate(kernel) if label not in output)


def _is_transposed(layer: Any) -> bool:
    layers = keras.layers
    kinds = ("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose")
    known = tuple(getattr(layers, kind) for kind in kinds)
    return isinstance(layer, known)


def _is_depthwise(layer: Any) -> bool:
    layers = keras.layers
    return isinstance(layer, (layers.DepthwiseConv1D, layers.DepthwiseConv2D))
