"""Computes values of many rows a few at a time, in both passes.

Where each row's way leads through something wide, as a token's through its
logits over 100,000 classes, the wide thing is most of the memory of a training
step. Here it only exists for `chunk` rows: forward it is let go once the
values are there, backward it is made again.
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

__all__ = ["chunked_map"]


def chunked_map(
    function: Callable[[Any, Any, Any], Any],
    rows: Any,
    *,
    shared: Any = (),
    constants: Any = (),
    chunk: int,
) -> Any:
    """Gives `function` of all rows, computed for `chunk` rows at a time.

    Values and gradients are those of one call with all rows, for a function
    that treats each row by itself. It runs once per chunk forward and once
    more backward. Beside what one chunk needs, memory holds the gradients of
    `rows` and `shared`: the latter summed in float32, and one chunk's share.

    Works in eager mode, in a `tf.function` and with `jit_compile`.

    Args:
        function: Maps `(rows, constants, shared)`, the first two cut to a
            chunk, to one tensor `(chunk, ...)`. Must read no trainable
            variable: pass its value in `shared`.
        rows: Structure of float tensors `(n, ...)`, with gradient.
        shared: Structure of float tensors that every chunk needs whole, with
            gradient. Defaults to none.
        constants: Structure of tensors `(n, ...)` of any dtype, without
            gradient. Defaults to none.
        chunk: Rows at a time, >= 1; `n` need not be a multiple of it.

    Returns:
        A float32 tensor of shape `(n, ...)`.

    Raises:
        TypeError: `rows` or `shared` holds a tensor that is not of floats.
        ValueError: `chunk` is below 1, there are no rows, or `rows` and
            `constants` differ in length.

    Example:
        >>> x, w = tf.constant([[1.0], [2.0], [3.0]]), tf.constant([[1.0, 4.0]])
        >>> def largest(rows, constants, shared):
        ...     return tf.reduce_max(rows @ shared, axis=-1)
        >>> chunked_map(largest, x, shared=w, chunk=2).numpy().tolist()
        [4.0, 8.0, 12.0]

    Reference:
        Hsu et al. 2024 (Liger Kernel), https://arxiv.org/abs/2410.10989
        Wijmans et al. 2024, https://arxiv.org/abs/2411.09009
    """
    if chunk < 1:
        raise ValueError(
            f"`chunk` must be at least 1. Received: chunk={chunk}."
        )
    rows, shared = _tensors(rows), _tensors(shared)
    constants = tf.nest.map_structure(tf.stop_gradient, _tensors(constants))
    _check_floats(rows=rows, shared=shared)
    chunks = _Chunks(tf.nest.flatten((rows, constants)), chunk)

    @tf.custom_gradient
    def run(*tensors: Any) -> Any:
        count = len(tf.nest.flatten(rows))
        own, common = list(tensors[:count]), list(tensors[count:])

        def call(index: Any, taken: list[Any]) -> Any:
            part = tf.nest.pack_sequence_as(rows, taken)
            whole = tf.nest.pack_sequence_as(shared, common)
            values = function(part, chunks.take(constants, index), whole)
            return tf.cast(values, "float32")

        def forward(index: Any, nothing: Any) -> Any:
            return [call(index, chunks.take(own, index))], nothing

        def gradient(upstream: Any) -> list[Any]:
            def backward(index: Any, sums: list[Any]) -> Any:
                taken = chunks.take(own, index)
                with tf.GradientTape(watch_accessed_variables=False) as tape:
                    tape.watch([taken, common])
                    values = call(index, taken)
                by_row, by_shared = tape.gradient(
                    values,
                    [taken, common],
                    output_gradients=chunks.take_new(upstream, index),
                    unconnected_gradients=tf.UnconnectedGradients.ZERO,
                )
                # In half precision a sum over many chunks would stall.
                pairs = zip(sums, by_shared, strict=True)
                return by_row, [a + tf.cast(b, a.dtype) for a, b in pairs]

            zeros = [tf.zeros(tf.shape(tensor)) for tensor in common]
            by_row, sums = chunks.loop(backward, [t.dtype for t in own], zeros)
            pairs = zip(sums, common, strict=True)
            return [*by_row, *(tf.cast(a, t.dtype) for a, t in pairs)]

        (values,), _ = chunks.loop(forward, [tf.float32], ())
        return values, gradient

    return run(*tf.nest.flatten((rows, shared)))


class _Chunks:
    """Cuts rows into chunks of one size, and puts results together again.

    The last chunk ends with the last row, and where the size does not divide
    the number of rows it begins with rows of the one before: every chunk has
    the same shape, as XLA needs it, and nothing is padded, which would copy
    all rows.
    """

    def __init__(self, tensors: list[Any], chunk: int) -> None:
        lengths = {t.shape[0] for t in tensors} - {None}
        if not tensors or len(lengths) > 1:
            raise ValueError(
                "`rows` and `constants` must hold tensors of one length. "
                f"Received: shapes {[tuple(t.shape) for t in tensors]}."
            )
        # With a known length all this is plain integers.
        if lengths:
            self.length: Any = lengths.pop()
            self.size: Any = min(chunk, self.length)
            self.count: Any = -(-self.length // max(self.size, 1)) or 1
        else:
            self.length = tf.shape(tensors[0])[0]
            self.size = tf.minimum(chunk, self.length)
            count = -(-self.length // tf.maximum(self.size, 1))
            self.count = tf.maximum(count, 1)

    def _start(self, index: Any) -> Any:
        return tf.minimum(index * self.size, self.length - self.size)

    def take(self, structure: Any, index: Any) -> Any:
        """Returns the rows of the chunk `index` of each tensor."""

        def cut(tensor: Any) -> Any:
            begin = [self._start(index)] + [0] * (tensor.shape.rank - 1)
            inner = [
                tf.shape(tensor)[axis] if dim is None else dim
                for axis, dim in enumerate(tensor.shape[1:], 1)
            ]
            # XLA needs to know the size, which it does not of `a[i:i + size]`.
            return tf.slice(tensor, begin, [self.size, *inner])

        return tf.nest.map_structure(cut, structure)

    def take_new(self, tensor: Any, index: Any) -> Any:
        """Returns a chunk's rows, with 0 for those of the chunk before."""
        taken = self.take(tensor, index)
        new = self._start(index) + tf.range(self.size) >= index * self.size
        shape = [self.size] + [1] * (tensor.shape.rank - 1)
        return tf.where(tf.reshape(new, shape), taken, 0.0)

    def loop(
        self, function: Any, dtypes: list[Any], state: Any
    ) -> tuple[list[Any], Any]:
        """Runs `function(index, state)`, which gives rows and a new state."""
        arrays = [tf.TensorArray(t, size=self.count) for t in dtypes]

        def body(index: Any, arrays: Any, state: Any) -> Any:
            parts, state = function(index, state)
            written = [
                array.write(index, part)
                for array, part in zip(arrays, parts, strict=True)
            ]
            return index + 1, written, state

        # One chunk after the other: the next one's logits must wait.
        _, arrays, state = tf.while_loop(
            lambda index, *_: index < self.count,
            body,
            (tf.constant(0), arrays, state),
            parallel_iterations=1,
        )
        return [self._join(array.stack()) for array in arrays], state

    def _join(self, stacked: Any) -> Any:
        shape = tf.shape(stacked)
        rows = tf.reshape(stacked, tf.concat([[-1], shape[2:]], 0))
        before = (self.count - 1) * self.size
        again = self.count * self.size - self.length
        joined = tf.concat([rows[:before], rows[before + again :]], 0)
        length = self.length if isinstance(self.length, int) else None
        return tf.ensure_shape(joined, [length, *stacked.shape[2:]])


def _tensors(structure: Any) -> Any:
    return tf.nest.map_structure(tf.convert_to_tensor, structure)


def _check_floats(**structures: Any) -> None:
    for name, structure in structures.items():
        for tensor in tf.nest.flatten(structure):
            if not tensor.dtype.is_floating:
                raise TypeError(
                    f"`{name}` must hold tensors of floats. Received: a tensor "
                    f"of {tensor.dtype.name}. Pass what has no gradient as "
                    "`constants`."
                )
