"""Logits to the numbers that are kept, and back to a Distiller's targets."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from kdtf.distillation.cache.records import CacheError
from kdtf.distillation.cache.records import RowFormat

__all__ = ["Encoder", "targets_of", "uniforms"]

# Constants of SplitMix64.
_GAMMA = 0x9E3779B97F4A7C15
_MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))


class Encoder:
    """Turns a batch's logits into rows of a cache.

    Args:
        rows: What is kept.
    """

    def __init__(self, rows: RowFormat) -> None:
        self._rows = rows
        # Compiled once: the last batch may be smaller.
        self._work = tf.function(
            functools.partial(_WORK[rows.settings.kind], rows=rows),
            reduce_retracing=True,
        )

    def __call__(self, logits: Any, ids: Any, content: Any) -> np.ndarray:
        """Returns structures of `rows.payload`, shape `(batch,)`.

        Args:
            logits: Shape `(batch, ..., classes)`.
            ids: What the rows are called, int64 of shape `(batch,)`.
            content: Fingerprints of their inputs, the same shape.

        Raises:
            CacheError: A number is nan, or too large for the dtype.
            ValueError: The logits have another shape.
        """
        rows = self._rows
        if tuple(logits.shape)[1:] != rows.output_shape:
            raise ValueError(
                "All batches must give outputs of one shape. Received: "
                f"{tuple(logits.shape)} after {(None, *rows.output_shape)}. "
                "Pad them to one length."
            )
        payload = np.zeros(len(ids), rows.payload)
        payload["key"] = ids
        if rows.has_ids:
            payload["content"] = content
        flat = (-1, rows.positions, rows.output_shape[-1])
        tensors = [tf.reshape(tf.convert_to_tensor(logits), flat)]
        if rows.settings.kind == "samples":
            count = rows.positions * rows.slots
            numbers = uniforms(ids, rows.settings.seed, count)
            tensors.append(numbers.reshape(-1, rows.positions, rows.slots))
        fields = {k: v.numpy() for k, v in self._work(*tensors).items()}
        if rows.settings.kind == "samples":
            fields = _count(**fields)
        for name, values in fields.items():
            shape = payload[name].shape
            payload[name] = self._store(values).reshape(shape)
        return payload

    def _store(self, values: np.ndarray) -> np.ndarray:
        if values.dtype != np.float32:
            return values
        # -inf is a class that is ruled out, and float16 has it.
        if np.isnan(values).any() or np.isposinf(values).any():
            raise CacheError(
                "The teacher's outputs must be numbers. Received: nan or inf. "
                "Look at the teacher, or at what it was given."
            )
        with np.errstate(over="ignore"):
            stored = values.astype(self._rows.settings.dtype)
        if (np.isinf(stored) & np.isfinite(values)).any():
            largest = float(np.abs(values[np.isfinite(values)]).max())
            raise CacheError(
                "The teacher's outputs do not fit float16, whose largest "
                f"number is 65504. Received: {largest:.6g}. Cache with "
                "`dtype='float32'`."
            )
        return stored


def targets_of(payload: np.ndarray, rows: RowFormat) -> dict[str, np.ndarray]:
    """Gives what a Distiller learns from: see `kdtf.distillation.targets`.

    Args:
        payload: Structures of `rows.payload`, shape `(batch,)`.
        rows: Their format.
    """
    kind = rows.settings.kind
    if kind == "dense":
        return {"logits": payload["logits"]}
    targets = {
        "ids": payload["ids"].astype(np.int32),
        "log_probs": payload["log_probs"],
    }
    if kind == "top_k":
        targets["log_rest"] = payload["log_rest"]
    else:
        draws = np.float32(rows.slots)
        targets["weights"] = payload["counts"].astype(np.float32) / draws
    return targets


def uniforms(keys: Any, seed: int, count: int) -> np.ndarray:
    """Gives each row random numbers that depend on its key and the seed only.

    Neither the batch a row is in nor what was drawn before plays a part, so
    that a resumed run, or another machine, draws the same.

    Args:
        keys: int64 of shape `(batch,)`.
        seed: A whole number.
        count: Numbers per row.

    Returns:
        float64 of shape `(batch, count)`, in [0, 1).

    Reference:
        Steele et al. 2014 (SplitMix), https://doi.org/10.1145/2660193.2660195
    """
    start = np.asarray(keys, np.int64).view(np.uint64)
    start = _mixed(start + _splitmix(np.array([seed], np.uint64), 1)[:, 0])
    # 53 bits are what a float64 holds.
    return (_splitmix(start, count) >> np.uint64(11)) * 2.0**-53


def _splitmix(start: np.ndarray, count: int) -> np.ndarray:
    steps = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_GAMMA)
    return _mixed(start[:, None] + steps)


def _mixed(bits: np.ndarray) -> np.ndarray:
    for shift, factor in _MIX:
        bits = (bits ^ (bits >> np.uint64(shift))) * np.uint64(factor)
    return bits ^ (bits >> np.uint64(31))


def _as_float32(logits: Any, *, rows: RowFormat) -> dict[str, Any]:
    del rows
    return {"logits": tf.cast(logits, tf.float32)}


def _top_k(logits: Any, *, rows: RowFormat) -> dict[str, Any]:
    k = rows.slots
    logits = tf.cast(logits, tf.float32) / rows.settings.temperature
    classes = logits.shape[-1]
    logits = tf.reshape(logits, (-1, classes))
    total = tf.reduce_logsumexp(logits, axis=-1, keepdims=True)
    top, ids = tf.math.top_k(logits, k)
    # Summed over the tail itself: 1 - sum(top) loses a small one's digits.
    row = tf.repeat(tf.range(tf.shape(logits)[0]), k)
    places = tf.stack([row, tf.reshape(ids, [-1])], axis=-1)
    nothing = tf.fill([tf.size(row)], -np.inf)
    tail = tf.tensor_scatter_nd_update(logits, places, nothing)
    rest = tf.reduce_logsumexp(tail, axis=-1, keepdims=True)
    return {"ids": ids, "log_probs": top - total, "log_rest": rest - total}


def _draws(logits: Any, numbers: Any, *, rows: RowFormat) -> dict[str, Any]:
    """Draws classes by inverting the distribution function, row by row.

    In float64: a float32 sum over a vocabulary loses the rare tokens. One row
    at a time, so that the sum needs little memory.
    """

    def draw(arguments: Any) -> Any:
        row, uniform = arguments
        row = tf.cast(row, tf.float32) / rows.settings.temperature
        log_probs = tf.nn.log_softmax(row)
        below = tf.cumsum(tf.exp(tf.cast(log_probs, tf.float64)), axis=-1)
        ids = tf.searchsorted(below, uniform * below[:, -1:], side="right")
        ids = tf.sort(tf.minimum(ids, row.shape[-1] - 1))
        return ids, tf.gather(log_probs, ids, batch_dims=1)

    ids, log_probs = tf.map_fn(
        draw,
        (logits, numbers),
        fn_output_signature=(tf.int32, tf.float32),
        parallel_iterations=2,
    )
    return {"ids": ids, "log_probs": log_probs}


_WORK: dict[str, Callable[..., dict[str, Any]]] = {
    "dense": _as_float32,
    "top_k": _top_k,
    "samples": _draws,
}


def _count(ids: np.ndarray, log_probs: np.ndarray) -> dict[str, np.ndarray]:
    """Joins equal draws, which lie side by side, into one slot each."""
    slots = ids.shape[-1]
    ids, log_probs = ids.reshape(-1, slots), log_probs.reshape(-1, slots)
    is_new = np.diff(ids, axis=-1, prepend=-1) != 0
    slot = np.cumsum(is_new, axis=-1) - 1
    fields = {
        "ids": np.zeros_like(ids),
        "log_probs": np.zeros_like(log_probs),
    }
    np.put_along_axis(fields["ids"], slot, ids, axis=-1)
    np.put_along_axis(fields["log_probs"], slot, log_probs, axis=-1)
    places = slot + np.arange(len(slot))[:, None] * slots
    counts = np.bincount(places.ravel(), minlength=ids.size)
    return {**fields, "counts": counts}
