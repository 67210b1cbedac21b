"""What a layer's kernel multiplies, as the rows of a matrix.

With `Layout.to_matrix` of the kernel, a layer's output (without its bias and
activation) is rows times matrix.
"""

import math
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from kdtf.transforms.layout import layout_of
from kdtf.transforms.selection import Candidate

__all__ = ["LAST_AXIS", "form_of", "input_rows", "why_no_rows"]

# The form of a layer that sums over its input's last axis alone.
LAST_AXIS = ("axes", (-1,), ())
_CONVOLUTIONS = (keras.layers.Conv1D, keras.layers.Conv2D)
# Unfolding a convolution's input takes kernel size times its memory.
_MOST_VALUES = 2**24


def why_no_rows(kernel: Candidate) -> str | None:
    """Returns why it is not known what a kernel multiplies, or None.

    Known are the kernels of Dense, EinsumDense, Conv1D and Conv2D, of whose
    inputs each output sees all.
    """
    layer = kernel.layer
    # Behind a `kernel` property may stand a sum, as of LoRA.
    is_kernel = kernel.variable is getattr(layer, "kernel", None)
    known = (keras.layers.Dense, keras.layers.EinsumDense, *_CONVOLUTIONS)
    if not is_kernel or not isinstance(layer, known):
        kind = type(layer).__name__
        return f"what {kind}'s {kernel.variable.name} multiplies is not known"
    if getattr(layer, "groups", 1) > 1:
        return "a grouped convolution: outputs see different inputs"
    if isinstance(layer, keras.layers.EinsumDense):
        return _why_not_einsum(layer.equation)
    return None


def form_of(layer: Any) -> tuple[Any, ...]:
    """Returns what decides how a layer's input becomes rows.

    Two layers of the same form that get the same tensor have the same rows.

    Example:
        >>> form_of(keras.layers.Dense(4)) == LAST_AXIS
        True
        >>> form_of(keras.layers.EinsumDense("bquh,uhm->bqm", (None, 8)))
        ('axes', (-2, -1), ())
    """
    if isinstance(layer, _CONVOLUTIONS):
        return (
            "patches",
            tuple(layer.kernel_size),
            tuple(layer.strides),
            layer.padding,
            tuple(layer.dilation_rate),
            layer.data_format,
        )
    if not isinstance(layer, keras.layers.EinsumDense):
        return LAST_AXIS
    source, kernel, target = _operands(layer.equation)
    axes = _axes(source)
    taken = [axes[label] for label in kernel if label not in target]
    summed = [
        axis
        for label, axis in axes.items()
        if label not in kernel and label not in target
    ]
    return ("axes", tuple(taken), tuple(summed))


def input_rows(layer: Any, inputs: Any) -> Iterator[Any]:
    """Gives what a layer's kernel multiplies, in parts.

    Args:
        layer: A layer whose kernel `why_no_rows` has nothing against.
        inputs: What it is called with.

    Yields:
        float32 tensors `(rows, num_inputs)`.

    Example:
        >>> import numpy as np
        >>> layer = keras.layers.EinsumDense("bquh,uhm->bqm", (None, 1))
        >>> layer.build((None, 1, 2, 2))
        >>> inputs = np.arange(4.0).reshape(1, 1, 2, 2)
        >>> [np.asarray(part).tolist() for part in input_rows(layer, inputs)]
        [[[0.0, 1.0, 2.0, 3.0]]]
    """
    inputs = ops.cast(inputs, "float32")
    width = layout_of(layer, layer.kernel).num_inputs
    if isinstance(layer, _CONVOLUTIONS):
        each = math.prod(inputs.shape[1:]) * math.prod(layer.kernel_size)
        together = max(1, _MOST_VALUES // max(1, each))
        for start in range(0, inputs.shape[0], together):
            patches = _patches(layer, inputs[start : start + together])
            yield ops.reshape(patches, (-1, width))
        return
    _, taken, summed = form_of(layer)
    if summed:
        inputs = ops.sum(inputs, axis=summed, keepdims=True)
    last = tuple(range(-len(taken), 0))
    if taken != last:
        inputs = ops.moveaxis(inputs, taken, last)
    yield ops.reshape(inputs, (-1, width))


def _patches(layer: Any, inputs: Any) -> Any:
    if layer.data_format == "channels_first":
        inputs = ops.moveaxis(inputs, 1, -1)
    kernel, strides = list(layer.kernel_size), list(layer.strides)
    dilation, padding = list(layer.dilation_rate), layer.padding
    if isinstance(layer, keras.layers.Conv1D):
        if padding == "causal":
            past = dilation[0] * (kernel[0] - 1)
            inputs = ops.pad(inputs, ((0, 0), (past, 0), (0, 0)))
            padding = "valid"
        # An image one pixel high.
        inputs = ops.expand_dims(inputs, 1)
        kernel, strides = [1, *kernel], [1, *strides]
        dilation = [1, *dilation]
    return tf.image.extract_patches(
        inputs,
        sizes=[1, *kernel, 1],
        strides=[1, *strides, 1],
        rates=[1, *dilation, 1],
        padding=padding.upper(),
    )


def _why_not_einsum(equation: str) -> str | None:
    source, kernel, target = _operands(equation)
    taken = [label for label in kernel if label not in target]
    if not taken:
        return "scales its inputs one by one"
    if any(label in source for label in kernel if label in target):
        return f"outputs see different inputs ({equation})"
    if any(label not in source for label in taken):
        return f"sums over its kernel alone ({equation})"
    return None


def _operands(equation: str) -> tuple[str, str, str]:
    left, target = equation.replace(" ", "").split("->")
    source, kernel = left.split(",")
    return source, kernel, target


def _axes(source: str) -> dict[str, int]:
    """Returns each label's axis; from the end, unless before an ellipsis."""
    before, dots, after = source.rpartition("...")
    axes = {label: i - len(after) for i, label in enumerate(after)}
    if dots:
        axes |= {label: i for i, label in enumerate(before)}
    return axes
