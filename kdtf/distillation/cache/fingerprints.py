"""Tells rows, models and structures of inputs apart by their content."""

import hashlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

__all__ = [
    "describe_inputs",
    "differing_inputs",
    "of_arrays",
    "of_ids",
    "of_model",
    "of_rows",
    "row_keys",
]


def of_rows(x: Any) -> Any:
    """Gives every row of a batch a number that its content alone decides.

    Runs eagerly and in a graph. Names, dtypes and shapes of the arrays count
    too, so that a float 1.0 is not the integer with the same bytes.

    Args:
        x: Inputs of a batch: a tensor or array, or a tuple or dict of them.

    Returns:
        An int64 tensor of shape `(batch,)`. Among a million rows, two that
        differ share a number once in 30 million times.

    Example:
        >>> a, b, c = of_rows(np.float32([[1, 2], [1, 3], [1, 2]])).numpy()
        >>> bool(a == c), bool(a == b)
        (True, False)
    """
    parts = []
    for path, leaf in _leaves(x):
        leaf = tf.convert_to_tensor(leaf)
        shape = tf.shape(leaf, out_type=tf.int64)
        # tf.fingerprint sees bytes only.
        frame = tf.concat(
            [
                _fingerprint(tf.constant([f"{path}:{leaf.dtype.name}"])),
                _fingerprint(shape[tf.newaxis, 1:]),
            ],
            axis=1,
        )
        parts += [_fingerprint(leaf), tf.repeat(frame, shape[0], axis=0)]
    return _as_number(_fingerprint(tf.concat(parts, axis=1)))


def of_ids(ids: Any) -> Any:
    """Gives the user's ids, whole numbers or strings, as int64.

    Args:
        ids: Shape `(batch,)`: int64, uint64 (or narrower) or strings.

    Raises:
        ValueError: They are something else.
    """
    ids = tf.convert_to_tensor(ids)
    if ids.shape.rank != 1 or not (
        ids.dtype.is_integer or ids.dtype == tf.string
    ):
        raise ValueError(
            "`key` must give whole numbers or strings of shape (batch,). "
            f"Received: {ids.dtype.name} of shape {tuple(ids.shape)}."
        )
    if ids.dtype == tf.string:
        return _as_number(_fingerprint(ids))
    if ids.dtype == tf.uint64:
        return tf.bitcast(ids, tf.int64)
    return tf.cast(ids, tf.int64)


def row_keys(x: Any, key: Callable[[Any], Any] | None) -> tuple[Any, Any]:
    """Returns the ids of a batch's rows and their content's fingerprints."""
    content = of_rows(x)
    return (content if key is None else of_ids(key(x))), content


def of_model(model: Any) -> str:
    """Returns the SHA-256 of a model's weights, in order, with their shapes.

    Two models of equal weights are one teacher, whatever they are named.

    Args:
        model: A Keras 3 or `tf_keras` model.
    """
    return of_arrays(np.asarray(weight) for weight in model.weights)


def of_arrays(arrays: Any) -> str:
    """Returns the SHA-256 of arrays, with their dtypes and shapes.

    Example:
        >>> of_arrays([np.zeros(2)]) == of_arrays([np.zeros((2, 1))])
        False
    """
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def describe_inputs(x: Any) -> list[dict[str, Any]]:
    """Gives the names, dtypes and row shapes of inputs as plain data.

    Args:
        x: Arrays or tensors, or `tf.TensorSpec`s of them.

    Example:
        >>> describe_inputs({"ids": np.zeros((8, 3), "int32")})
        [{'name': 'ids', 'dtype': 'int32', 'shape': [3]}]
    """
    described = []
    for path, leaf in _leaves(x):
        if not hasattr(leaf, "shape") or isinstance(leaf, tf.RaggedTensorSpec):
            raise ValueError(
                "`dataset` must give dense arrays. Received: input "
                f"{path!r} of type {type(leaf).__name__}. Pad the rows to one "
                "length."
            )
        dtype = tf.as_dtype(leaf.dtype).name
        shape = tf.TensorShape(leaf.shape)
        if shape.rank == 0:
            raise ValueError(
                "`dataset` must give batches. Received: input "
                f"{path!r} of shape (). Call `dataset.batch(batch_size)`."
            )
        known = None if shape.rank is None else shape[1:].as_list()
        described.append({"name": path, "dtype": dtype, "shape": known})
    return described


def differing_inputs(
    cached: list[dict[str, Any]], received: list[dict[str, Any]]
) -> bool:
    """Returns whether two descriptions cannot be of the same data.

    Example:
        >>> one = {"name": "", "dtype": "int32", "shape": [3]}
        >>> differing_inputs([one], [{**one, "shape": [None]}])
        False
        >>> differing_inputs([one], [{**one, "dtype": "int64"}])
        True
    """
    return len(cached) != len(received) or any(
        (a["name"], a["dtype"]) != (b["name"], b["dtype"])
        or not tf.TensorShape(a["shape"]).is_compatible_with(b["shape"])
        for a, b in zip(cached, received, strict=True)
    )


def _leaves(x: Any) -> list[tuple[str, Any]]:
    return [
        ("/".join(map(str, path)), leaf)
        for path, leaf in keras.tree.flatten_with_path(x)
        if leaf is not None
    ]


def _fingerprint(rows: Any) -> Any:
    return tf.fingerprint(rows)


def _as_number(fingerprints: Any) -> Any:
    return tf.bitcast(fingerprints, tf.int64)
