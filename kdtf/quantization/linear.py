"""Linear quantization: values on a grid of equal steps.

    integer = round(value / scale) + zero_point
    value'  = (integer - zero_point) * scale

Integers are signed, as LiteRT stores them. A symmetric grid has no zero point
and as many levels below 0 as above, so that 0 is one of them and a negated
kernel has the negated integers: -127..127 for 8 bits. Arrays in, arrays out;
NumPy arrays and tensors are both taken.
"""

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

__all__ = [
    "check_num_bits",
    "dequantize",
    "fake_quantize",
    "fake_quantize_range",
    "integer_bounds",
    "max_integer",
    "quantize",
    "scale_and_zero_point",
    "straight_through",
    "symmetric_scale",
]

# Below this a float32 scale has no inverse.
_TINY = float(np.finfo("float32").tiny)


def check_num_bits(num_bits: Any) -> None:
    """Refuses what is no width of a linear grid.

    Raises:
        ValueError: It is no integer in [2, 8].
    """
    is_integer = isinstance(num_bits, int) and not isinstance(num_bits, bool)
    if not is_integer or not 2 <= num_bits <= 8:
        raise ValueError(
            "`num_bits` must be an integer from 2 to 8; devices store 8, 4 "
            f"and 2. Received: num_bits={num_bits!r}. For a table of freely "
            "placed values use `Codebook`."
        )


def max_integer(num_bits: int) -> int:
    """Returns the highest integer of a symmetric grid.

    Example:
        >>> max_integer(8), max_integer(4), max_integer(2)
        (127, 7, 1)
    """
    return int(2 ** (num_bits - 1)) - 1


def integer_bounds(num_bits: int, *, symmetric: bool) -> tuple[int, int]:
    """Returns the lowest and the highest integer of a grid.

    Example:
        >>> integer_bounds(4, symmetric=True)
        (-7, 7)
        >>> integer_bounds(4, symmetric=False)
        (-8, 7)
    """
    high = max_integer(num_bits)
    return (-high if symmetric else -high - 1), high


def symmetric_scale(max_abs: Any, *, num_bits: int) -> Any:
    """Returns the step of a symmetric grid that reaches just to `max_abs`.

    Args:
        max_abs: Non-negative; 0 gives a step of 1, so that all is 0.
        num_bits: In [2, 8].

    Example:
        >>> float(symmetric_scale(np.float32(12.7), num_bits=8))
        0.10000000149011612
    """
    scale = ops.cast(max_abs, "float32") / max_integer(num_bits)
    return ops.where(scale > _TINY, scale, ops.ones_like(scale))


def scale_and_zero_point(low: Any, high: Any, *, num_bits: int) -> Any:
    """Returns the step and zero point of an asymmetric grid over a range.

    The range is widened to hold 0, and moved so that 0 falls on a level, as
    TensorFlow's fake quantization does.

    Args:
        low: Lower end, a float or an array.
        high: Upper end.
        num_bits: In [2, 8].

    Returns:
        Scale, float32, and zero point, int32, in the signed range.

    Example:
        >>> scale, zero_point = scale_and_zero_point(0.0, 25.5, num_bits=8)
        >>> round(float(scale), 6), int(zero_point)
        (0.1, -128)
    """
    low = np.minimum(np.asarray(low, "float32"), 0.0)
    high = np.maximum(np.asarray(high, "float32"), 0.0)
    lowest, highest = integer_bounds(num_bits, symmetric=False)
    scale = (high - low) / np.float32(highest - lowest)
    scale = np.where(scale > _TINY, scale, np.float32(1.0))
    # Half goes away from 0 in the unsigned form, as std::round does there.
    unsigned = np.floor(-low / scale + np.float32(0.5))
    zero_point = np.clip(unsigned + lowest, lowest, highest)
    return scale.astype("float32"), zero_point.astype("int32")


def quantize(
    values: Any, scale: Any, zero_point: Any = None, *, num_bits: int
) -> Any:
    """Returns the integers of values on a grid.

    Half a step rounds up, and what is beyond the grid goes to its end.

    Args:
        values: Any shape.
        scale: Step, broadcastable to `values`.
        zero_point: The integer of 0; None for a symmetric grid.
        num_bits: In [2, 8].

    Returns:
        int8, of the shape of `values`.

    Example:
        >>> values = np.array([-9.0, -0.25, 0.25, 0.74, 9.0], "float32")
        >>> np.asarray(quantize(values, 0.5, num_bits=4)).tolist()
        [-7, 0, 1, 1, 7]
    """
    low, high = integer_bounds(num_bits, symmetric=zero_point is None)
    integers = ops.floor(ops.cast(values, "float32") / scale + 0.5)
    if zero_point is not None:
        integers = integers + ops.cast(zero_point, "float32")
    return ops.cast(ops.clip(integers, low, high), "int8")


def dequantize(integers: Any, scale: Any, zero_point: Any = None) -> Any:
    """Returns the values of integers, float32.

    Example:
        >>> np.asarray(dequantize(np.array([-7, 1], "int8"), 0.5)).tolist()
        [-3.5, 0.5]
    """
    integers = ops.cast(integers, "float32")
    if zero_point is not None:
        integers = integers - ops.cast(zero_point, "float32")
    return integers * scale


def fake_quantize(
    values: Any, scale: Any, zero_point: Any = None, *, num_bits: int
) -> Any:
    """Returns values moved to the nearest level, with a gradient of 1.

    The gradient passes straight through, beyond the grid's ends, too: weights
    at the very end must stay trainable.

    Args:
        values: Float tensor of any shape.
        scale: Step, broadcastable; no gradient reaches it.
        zero_point: As in `quantize`.
        num_bits: In [2, 8].

    Returns:
        float32, `(integer - zero_point) * scale` exactly.

    Example:
        >>> values = tf.constant([0.6, -0.2])
        >>> fake_quantize(values, 0.5, num_bits=4).numpy().tolist()
        [0.5, 0.0]

    Reference:
        Jacob et al. 2017, https://arxiv.org/abs/1712.05877 (section 3);
        Bengio et al. 2013, https://arxiv.org/abs/1308.3432 (straight-through)
    """
    low, high = integer_bounds(num_bits, symmetric=zero_point is None)
    shift = 0.0 if zero_point is None else ops.cast(zero_point, "float32")
    values = ops.cast(values, "float32")
    # Not through int8 and back: conversions cost as much as all the rest.
    integers = ops.floor(values / scale + 0.5)
    integers = ops.clip(integers, low - shift, high - shift)
    return straight_through(values, integers * scale)


def fake_quantize_range(
    values: Any,
    low: Any,
    high: Any,
    *,
    num_bits: int = 8,
    narrow_range: bool = False,
) -> Any:
    """Returns activations fake-quantized over a range, by TensorFlow's own op.

    It is what TFLiteConverter reads activations' ranges from, and one kernel
    forward and one backward. The gradient is 1 within the range and 0 beyond.

    Args:
        values: Float tensor of any shape.
        low: Lower end of the range, a scalar <= 0.
        high: Upper end, a scalar >= 0, above `low`.
        num_bits: In [2, 8].
        narrow_range: Whether the lowest integer is left out.

    Returns:
        A tensor of the shape and dtype of `values`.

    Example:
        >>> x = tf.constant([-1.0, 0.26, 9.0])
        >>> y = fake_quantize_range(x, 0.0, 1.5, num_bits=4)
        >>> [round(float(v), 6) for v in y]
        [0.0, 0.3, 1.5]
    """
    # The op knows float32 only.
    quantized = tf.quantization.fake_quant_with_min_max_vars(
        ops.cast(values, "float32"),
        low,
        high,
        num_bits=num_bits,
        narrow_range=narrow_range,
    )
    return ops.cast(quantized, keras.backend.standardize_dtype(values.dtype))


def straight_through(values: Any, quantized: Any) -> Any:
    """Returns `quantized`, bit for bit, with the gradient of `values`.

    Args:
        values: Finite tensor.
        quantized: A tensor of the same shape and dtype, made from it.
    """
    # The difference is an exact 0; a sum of differences would round.
    zero = values - ops.stop_gradient(values)
    return ops.stop_gradient(quantized) + zero
