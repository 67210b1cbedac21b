"""What tfmot's wrappers call instead of tfmot's own quantizers.

tfmot looks its quantizers up at every call, so that a wrapped model may be
given others; files keep tfmot's classes and load without kdtf.
"""

from typing import Any

import numpy as np
import tensorflow as tf

__all__ = ["ActivationRange", "Groups", "KernelRange", "groups_of"]

# tfmot's own decay, of the long run.
_DECAY = 0.999
# int8 without -128, so that zero is in the middle.
_LEVELS = 127


class ActivationRange:
    """Simulates int8 activations, in the average range of the batches so far.

    The first batch sets the range and the k-th moves it by 1/k of the way,
    until that is 0.001. tfmot itself starts at (-6, 6) and moves by 0.001 from
    the beginning: after 1,000 steps a third of the 6 is still in it.

    Args:
        step: The wrapper's `optimizer_step`: batches seen, less one.
        last: The wrapper's last `min_var`, with which the step is counted.
    """

    def __init__(self, step: Any, last: Any) -> None:
        """Keeps the wrapper's variables."""
        self.step = step
        self.last = last

    def __call__(
        self, inputs: Any, training: bool, weights: dict[str, Any]
    ) -> Any:
        """Returns `inputs` rounded to one of 256 values.

        Args:
            inputs: The activations.
            training: Whether the batch moves the range.
            weights: The range, `min_var` and `max_var`.
        """
        low, high = weights["min_var"], weights["max_var"]
        if training:
            seen = tf.cast(self.step + 2, tf.float32)
            rate = tf.maximum(1 / seen, 1 - _DECAY)
            # An int8 range must hold zero.
            new_low = tf.minimum(tf.reduce_min(inputs), 0.0)
            new_high = tf.maximum(tf.reduce_max(inputs), 0.0)
            low.assign_add(rate * (new_low - low))
            high.assign_add(rate * (new_high - high))
            if low is self.last:
                self.step.assign_add(1)
        return tf.quantization.fake_quant_with_min_max_vars(inputs, low, high)


class Groups:
    """Which weights of a kernel are zero, and which are equal.

    Args:
        nonzero: False where a weight stays zero; None where none has to.
        cluster: The number of the value each weight shares; None where they
            are all free.
    """

    def __init__(
        self, nonzero: np.ndarray | None, cluster: np.ndarray | None
    ) -> None:
        """Keeps them as NumPy arrays, which end up as constants of a graph."""
        self.nonzero = nonzero
        self.cluster = cluster
        self.sizes = None if cluster is None else np.bincount(cluster.ravel())

    def __call__(self, kernel: Any) -> Any:
        """Returns the kernel with its zeros and its shared values.

        A value is the mean of the weights that share it, so all of them get
        the mean gradient.

        Args:
            kernel: A tensor of the shape of `nonzero` and `cluster`.
        """
        if self.cluster is not None and self.sizes is not None:
            sums = tf.math.unsorted_segment_sum(
                kernel, self.cluster, len(self.sizes)
            )
            kernel = tf.gather(sums / self.sizes, self.cluster)
        if self.nonzero is not None:
            kernel = kernel * self.nonzero
        return kernel


def groups_of(kernel: np.ndarray, *, zeros: bool, clusters: bool) -> Groups:
    """Returns the zeros and the equal weights of a kernel.

    Args:
        kernel: The weights.
        zeros: Whether weights that are zero stay zero.
        clusters: Whether weights that are equal stay equal.

    Example:
        >>> kernel = np.array([[0.0, 2.0], [2.0, 0.0]])
        >>> groups = groups_of(kernel, zeros=True, clusters=True)
        >>> groups(tf.constant([[1.0, 3.0], [5.0, 1.0]])).numpy().tolist()
        [[0.0, 4.0], [4.0, 0.0]]
    """
    cluster = np.unique(kernel, return_inverse=True)[1].reshape(kernel.shape)
    return Groups(
        (kernel != 0).astype("float32") if zeros else None,
        cluster.astype("int32") if clusters else None,
    )


class KernelRange:
    """Simulates int8 weights; the range is that of the weights right now.

    tfmot takes the range from before the last step of training. One scale per
    output channel, also for depthwise kernels (tfmot: one in all), unless
    weights share their values: only equal scales keep equal values equal.

    Args:
        kind: "per_tensor", "per_channel" (the last dimension) or "depthwise"
            (the last two).
        groups: The zeros and equal weights to keep.
    """

    def __init__(self, kind: str, groups: Groups) -> None:
        """Keeps the arguments."""
        self.kind = kind
        self.groups = groups

    def __call__(
        self, inputs: Any, training: bool, weights: dict[str, Any]
    ) -> Any:
        """Returns `inputs` rounded to one of 255 values.

        Args:
            inputs: The kernel.
            training: Unused: the range is never remembered.
            weights: Where tfmot keeps the range, for its own readers.
        """
        kernel = self.groups(tf.convert_to_tensor(inputs))
        high = self.high(kernel)
        if training:
            # Read only where a saved model is loaded by tfmot alone.
            top = tf.reduce_max(high)
            stored = weights["max_var"]
            value = high if self.kind == "per_channel" else top
            stored.assign(tf.broadcast_to(value, stored.shape))
            weights["min_var"].assign(-stored)
        if self.kind == "per_tensor":
            return tf.quantization.fake_quant_with_min_max_vars(
                kernel, -high, high, narrow_range=True
            )
        flat = kernel
        if self.kind == "depthwise":
            flat = tf.reshape(kernel, [*kernel.shape[:-2], high.shape[0]])
        rounded = tf.quantization.fake_quant_with_min_max_vars_per_channel(
            flat, -high, high, narrow_range=True
        )
        return tf.reshape(rounded, kernel.shape)

    def high(self, kernel: Any) -> Any:
        """Returns the largest absolute weight: a scalar, or one per channel.

        Args:
            kernel: The weights, zeros and equal ones already in place.
        """
        size = tf.abs(tf.stop_gradient(kernel))
        top = tf.reduce_max(size)
        if self.kind != "per_tensor":
            last = 2 if self.kind == "depthwise" else 1
            axes = list(range(len(kernel.shape) - last))
            channels = tf.reshape(tf.reduce_max(size, axes), [-1])
            top = (
                channels
                if self.groups.cluster is None
                else tf.broadcast_to(top, channels.shape)
            )
        # The scale of nothing but zeros may be any but zero.
        return tf.where(top > 0, top, tf.ones_like(top))
