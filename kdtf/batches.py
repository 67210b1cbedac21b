"""Walks over data, whatever form it came in."""

import dataclasses
from collections.abc import Iterator
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np


@dataclasses.dataclass(frozen=True)
class Batch:
    """A few examples.

    Attributes:
        x: What a model is called with: an array, or a tuple or dict of them.
        y: The labels, or None.
        sample_weight: Weights of shape `(batch,)` or, for sequences,
            `(batch, time)`; or None.
    """

    x: Any
    y: Any = None
    sample_weight: Any = None


def iterate_batches(data: Any, *, batch_size: int = 32) -> Iterator[Batch]:
    """Gives the data batch by batch, as NumPy arrays.

    Args:
        data: `(x,)`, `(x, y)` or `(x, y, sample_weight)` of arrays, where
            `x` may be a tuple or dict of arrays; or a finite
            `tf.data.Dataset` of such batches.
        batch_size: Examples per batch, for arrays; a dataset has its own.

    Raises:
        TypeError: `data` has another form.
        ValueError: There are no examples, their numbers differ, or the
            dataset never ends.

    Example:
        >>> import numpy as np
        >>> data = (np.zeros((5, 2)), np.ones(5))
        >>> [len(batch.y) for batch in iterate_batches(data, batch_size=2)]
        [2, 2, 1]
    """
    parts: Iterator[Batch]
    if is_dataset(data):
        _check_finite(data)
        parts = (_from_element(element) for element in data)
    else:
        parts = _slices(Batch(*_as_tuple(data)), batch_size)
    is_empty = True
    for batch in parts:
        is_empty = False
        yield batch
    if is_empty:
        raise ValueError(
            "`data` must hold at least one example. Received: none."
        )


def first_examples(data: Any, num_examples: int) -> Any:
    """Gives the inputs of the first examples, without reading the others.

    Args:
        data: As for `iterate_batches`.
        num_examples: At most so many; fewer if the first batch has fewer.
    """
    batch = next(iterate_batches(data, batch_size=num_examples))
    return _rows(batch.x, slice(0, num_examples))


def to_tensors(batch: Batch) -> Batch:
    """Gives a batch with tensors in place of arrays, to be run in a graph.

    Example:
        >>> batch = to_tensors(Batch(x={"a": np.zeros((2, 3))}))
        >>> tuple(batch.x["a"].shape), batch.y is None
        ((2, 3), True)
    """

    def convert(part: Any) -> Any:
        if part is None:
            return None
        return keras.tree.map_structure(keras.ops.convert_to_tensor, part)

    return Batch(
        convert(batch.x), convert(batch.y), convert(batch.sample_weight)
    )


def num_examples_of(x: Any) -> int:
    """Gives the number of examples in the inputs of a batch.

    Raises:
        ValueError: The arrays differ in it, or have none.
    """
    shapes = [np.shape(array) for array in keras.tree.flatten(x)]
    sizes = {shape[0] if shape else None for shape in shapes}
    if len(sizes) != 1 or None in sizes:
        raise ValueError(
            "All arrays in `data` must have the same number of examples as "
            f"their first dimension. Received: shapes={shapes}."
        )
    return int(sizes.pop() or 0)


def is_dataset(data: Any) -> bool:
    """Returns whether `data` is a `tf.data.Dataset`, without TensorFlow."""
    return hasattr(data, "element_spec") and hasattr(data, "cardinality")


def _as_tuple(data: Any) -> tuple[Any, ...]:
    # Tensors are arrays, too.
    if isinstance(data, Mapping) or hasattr(data, "__array__"):
        return (data,)
    if isinstance(data, tuple | list) and 1 <= len(data) <= 3:
        return tuple(data)
    raise TypeError(
        "`data` must be (x, y) or (x, y, sample_weight) arrays, or a "
        f"tf.data.Dataset of such batches. Received: type={type(data)}. "
        "Turn a generator into a dataset with "
        "`tf.data.Dataset.from_generator`."
    )


def _check_finite(dataset: Any) -> None:
    # -1 is tf.data.INFINITE_CARDINALITY.
    if int(dataset.cardinality()) == -1:
        raise ValueError(
            "`data` must end. Received: a tf.data.Dataset that repeats "
            "forever. Limit it with `.take(num_batches)`."
        )


def _from_element(element: Any) -> Batch:
    return Batch(*keras.tree.map_structure(np.asarray, _as_tuple(element)))


def _slices(data: Batch, batch_size: int) -> Iterator[Batch]:
    arrays = [data.x, data.y, data.sample_weight]
    arrays = [
        None if part is None else keras.tree.map_structure(np.asarray, part)
        for part in arrays
    ]
    total = num_examples_of([part for part in arrays if part is not None])
    for start in range(0, total, batch_size):
        rows = slice(start, start + batch_size)
        yield Batch(*(_rows(part, rows) for part in arrays))


def _rows(part: Any, rows: slice) -> Any:
    if part is None:
        return None
    return keras.tree.map_structure(lambda array: array[rows], part)
