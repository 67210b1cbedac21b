"""Key and value caches that a keras-nlp model fills without copying them.

`call_with_cache` takes the caches of all layers in one tensor, as [batch,
layers, 2, length, heads, dim], and gives such a tensor back: sliced,
transposed, repeated and stacked for every token, which costs more than the
weights do. `Rows` stands in for one cache while the model is traced. It keeps
the layout of LiteRT-LM, [1, heads, length, dim], and the operations that
models use on caches know it; for any other it becomes Keras's tensor.
"""

import contextlib
import dataclasses
import importlib
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

__all__ = ["Rows", "Stack", "caches_in_place"]

# `from keras import ops` and what Keras's own layers import.
_HOMES = ("keras.ops", "keras.src.ops")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """One layer's keys or values.

    Args:
        tensor: Of shape `(1, heads, length, dim)`.
        repeats: How many query heads in a row share each head.
    """

    tensor: Any
    repeats: int = 1

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of Keras's tensor: `(1, length, heads, dim)`."""
        _, heads, length, dim = self.tensor.shape
        return (1, length, heads * self.repeats, dim)

    def as_keras(self) -> Any:
        """Gives Keras's tensor."""
        rows = tf.transpose(self.tensor, [0, 2, 1, 3])
        return tf.repeat(rows, self.repeats, 2) if self.repeats > 1 else rows


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Stack:
    """Caches, or stacks of them, along dimension 1."""

    parts: tuple[Any, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of Keras's tensor."""
        batch, *rest = self.parts[0].shape
        return (batch, len(self.parts), *rest)

    def __getitem__(self, key: Any) -> Any:
        """Gives one part for `[:, i, ...]`, what Keras has for others."""
        is_part = (
            isinstance(key, tuple)
            and len(key) == 3
            and key[0] == slice(None)
            and isinstance(key[1], int)
            and key[2] is Ellipsis
        )
        return self.parts[key[1]] if is_part else self.as_keras()[key]

    def as_keras(self) -> Any:
        """Gives Keras's tensor."""
        return tf.stack([tf.convert_to_tensor(p) for p in self.parts], 1)


def _as_tensor(
    value: Any, dtype: Any = None, name: Any = None, as_ref: bool = False
) -> Any:
    return value.as_keras()


tf.register_tensor_conversion_function((Rows, Stack), _as_tensor)


@contextlib.contextmanager
def caches_in_place() -> Iterator[None]:
    """Lets Keras's operations take `Rows` and `Stack` while it lasts."""
    changed = []
    try:
        for home in _HOMES:
            module = importlib.import_module(home)
            for name, ours in _OPERATIONS.items():
                original = getattr(module, name)
                changed.append((module, name, original))
                setattr(module, name, _either(ours, original))
        yield
    finally:
        for module, name, original in changed:
            setattr(module, name, original)


def _either(
    ours: Callable[..., Any], original: Callable[..., Any]
) -> Callable[..., Any]:
    def operation(*args: Any, **kwargs: Any) -> Any:
        result = ours(*args, **kwargs)
        return original(*args, **kwargs) if result is None else result

    return operation


def _stack(x: Any, axis: int = 0) -> Any:
    if axis == 1 and all(isinstance(part, Rows | Stack) for part in x):
        return Stack(parts=tuple(x))
    return None


def _shape(x: Any) -> Any:
    return x.shape if isinstance(x, Rows | Stack) else None


def _repeat(x: Any, repeats: Any, axis: int | None = None) -> Any:
    if isinstance(x, Rows) and axis == 2 and isinstance(repeats, int):
        return Rows(tensor=x.tensor, repeats=x.repeats * repeats)
    return None


def _slice_update(inputs: Any, start_indices: Any, updates: Any) -> Any:
    if not isinstance(inputs, Rows) or inputs.repeats > 1:
        return None
    new = tf.transpose(updates, [0, 2, 1, 3])
    return Rows(tensor=_written(inputs.tensor, new, start_indices[1]))


def _written(rows: Any, new: Any, start: Any) -> Any:
    """Puts `new` into `rows` from `start` on; what is too much falls off.

    A client pads its last chunk, and the operator would move a chunk that
    does not fit to where it does, over rows that are in use.
    """
    length, count = rows.shape[2], new.shape[2]
    if count > 1:
        first = tf.minimum(start, length - count)
        old = tf.slice(rows, [0, 0, first, 0], new.shape)
        there = tf.range(count)
        shift = start - first
        source = tf.where(there < shift, there, there - shift + count)
        new = tf.gather(tf.concat([old, new], 2), source, axis=2)
        start = first
    return keras.ops.slice_update(rows, [0, 0, start, 0], new)


def _einsum(subscripts: str, *operands: Any, **kwargs: Any) -> Any:
    """Multiplies with rows as they lie; each of their heads is read once."""
    inputs, _, output = subscripts.replace(" ", "").partition("->")
    found = [isinstance(operand, Rows) for operand in operands]
    if found.count(True) != 1 or len(operands) != 2:
        return None
    place = found.index(True)
    terms = inputs.split(",")
    if len(terms[place]) != 4:
        return None
    batch, position, head, dim = tuple(terms[place])
    other, rows = terms[1 - place], operands[place]
    # Scores contract the dimension, and what comes after the positions.
    sums_dim = dim in other and position not in other
    inner, outer = (dim, position) if sums_dim else (position, dim)
    if not (
        {batch, head, inner} <= set(other)
        and outer not in other
        and set(output) == set(other) - {inner} | {outer}
    ):
        return None
    free = [name for name in other if name not in (batch, head, inner)]
    value = operands[1 - place]
    sizes = dict(zip(other, value.shape, strict=True))
    _, heads, length, size = rows.tensor.shape
    sizes[outer] = length if sums_dim else size
    order = [batch, head, *free, inner]
    value = tf.transpose(value, [other.index(name) for name in order])
    value = tf.reshape(value, [1, heads, -1, sizes[inner]])
    value = tf.matmul(value, rows.tensor, transpose_b=sums_dim)
    order[-1] = outer
    value = tf.reshape(value, [sizes[name] for name in order])
    return tf.transpose(value, [order.index(name) for name in output])


_OPERATIONS: dict[str, Callable[..., Any]] = {
    "einsum": _einsum,
    "repeat": _repeat,
    "shape": _shape,
    "slice_update": _slice_update,
    "stack": _stack,
}
