"""What a teacher said of a batch, when it said it earlier and was kept.

A cache hands its rows to the training step inside the student's inputs: a
`Distiller` takes them apart again, and the student sees its inputs only.
"""

from typing import Any

import tensorflow as tf
from keras import ops

__all__ = [
    "buckets",
    "is_joined",
    "join",
    "per_token_from_samples",
    "split",
]

_INPUTS, _TEACHER = "kdtf_inputs", "kdtf_teacher"
# Below it float32 cannot tell a sum of probabilities from 1.
_SMALLEST_REST = 1e-7


def join(x: Any, targets: dict[str, Any]) -> dict[str, Any]:
    """Packs a student's inputs and its teacher's targets into one structure.

    Args:
        x: Inputs of a batch, any structure.
        targets: What the teacher said of them; see `TeacherCache`.

    Example:
        >>> split(join("x", {"logits": "y"}))
        ('x', {'logits': 'y'})
    """
    return {_INPUTS: x, _TEACHER: targets}


def is_joined(x: Any) -> bool:
    """Returns whether `join` made these inputs."""
    return isinstance(x, dict) and set(x) == {_INPUTS, _TEACHER}


def split(x: Any) -> tuple[Any, dict[str, Any] | None]:
    """Returns a student's inputs, and the teacher's targets or None.

    Example:
        >>> split([1, 2])
        ([1, 2], None)
    """
    return (x[_INPUTS], x[_TEACHER]) if is_joined(x) else (x, None)


def buckets(
    targets: dict[str, Any], student_logits: Any, *, temperature: Any = 1.0
) -> tuple[Any, Any]:
    """Gives two models' log-probabilities of k tokens and of all others.

    The others are one bucket of k + 1: what the teacher left to them stays
    with them. Spread over the k by renormalising, the student would be
    taught that there are no others (0.45 relative error of the gradient for
    the 64 likeliest of 50,257 tokens, 0.035 with the bucket).

    Args:
        targets: Of the kind "top_k": `ids` and `log_probs` of shape
            `(..., k)`, `log_rest` of shape `(...)`, at `temperature`.
        student_logits: Shape `(..., classes)`.
        temperature: Softens the student: T > 0.

    Returns:
        The teacher's and the student's log-probabilities, float32 of shape
        `(..., k + 1)`: logits of two distributions over the buckets. With all
        classes among the k, `(..., k)`. A student that leaves less than 1e-7
        to all others gets no gradient for their bucket.

    Example:
        >>> teacher, student = buckets(
        ...     {
        ...         "ids": [[2]],
        ...         "log_probs": ops.log([[0.5]]),
        ...         "log_rest": ops.log([0.5]),
        ...     },
        ...     ops.log([[0.25, 0.25, 0.5]]),
        ... )
        >>> bool(ops.all(ops.abs(teacher - student) < 1e-6))
        True
    """
    ids = ops.cast(targets["ids"], "int32")
    log_probs = ops.cast(targets["log_probs"], "float32")
    log_rest = ops.cast(targets["log_rest"], "float32")
    student = _log_probs_at(ids, student_logits, temperature)
    if ids.shape[-1] == student_logits.shape[-1]:
        # There are no others.
        return log_probs, student
    known = ops.sum(ops.exp(student), axis=-1, keepdims=True)
    rest = ops.log(ops.maximum(1.0 - known, _SMALLEST_REST))
    return (
        ops.concatenate([log_probs, ops.expand_dims(log_rest, -1)], axis=-1),
        ops.concatenate([student, rest], axis=-1),
    )


def per_token_from_samples(
    targets: dict[str, Any], student_logits: Any, *, temperature: Any = 1.0
) -> Any:
    """Gives an unbiased estimate of T^2 * KL(teacher || student).

    A mean over tokens drawn from the teacher, of log p - log q. Each draw
    may be negative; their mean over many is the divergence, and the same is
    true of the gradient.

    Args:
        targets: Of the kind "samples": `ids`, `log_probs` and `weights` of
            shape `(..., n)`, at `temperature`.
        student_logits: Shape `(..., classes)`.
        temperature: Softens the student: T > 0.

    Returns:
        float32 of shape `(...)`.

    Example:
        >>> value = per_token_from_samples(
        ...     {
        ...         "ids": [[0, 1]],
        ...         "log_probs": ops.log([[0.5, 0.5]]),
        ...         "weights": [[0.5, 0.5]],
        ...     },
        ...     ops.log([[0.25, 0.75]]),
        ... )
        >>> round(float(value[0]), 4)  # (log 2 + log 2/3) / 2
        0.1438

    Reference:
        Anshumann et al. 2025, https://arxiv.org/abs/2503.16870
    """
    ids = ops.cast(targets["ids"], "int32")
    log_p = ops.cast(targets["log_probs"], "float32")
    weights = ops.cast(targets["weights"], "float32")
    log_q = _log_probs_at(ids, student_logits, temperature)
    # An unused slot's log-probability may be anything.
    surprise = ops.where(weights > 0, log_p - log_q, 0.0)
    return temperature**2 * ops.sum(weights * surprise, axis=-1)


def _log_probs_at(ids: Any, logits: Any, temperature: Any) -> Any:
    """Returns log softmax(logits / T) at some classes."""
    return _log_softmax_at(ops.cast(logits, "float32") / temperature, ids)


@ops.custom_gradient
def _log_softmax_at(logits: Any, ids: Any) -> Any:
    """Returns log softmax(logits) at `ids`, `(..., classes)` to `(..., k)`.

    With its gradient written out, -softmax * sum(upstream) + upstream at
    `ids`: step by step it takes more passes over the vocabulary, which cost a
    language model's loss a fifth.
    """
    log_probs = ops.log_softmax(logits, axis=-1)
    classes = ops.shape(logits)[-1]

    def gradient(upstream: Any) -> tuple[Any, None]:
        total = ops.sum(upstream, axis=-1, keepdims=True)
        flat = ops.reshape(-ops.exp(log_probs) * total, (-1,))
        # 64 bits: a batch's tokens times a vocabulary may pass 2**31.
        places = ops.reshape(ops.cast(ids, "int64"), (-1, ids.shape[-1]))
        rows = tf.range(tf.shape(places, tf.int64)[0]) * tf.cast(
            classes, tf.int64
        )
        places = ops.reshape(places + ops.expand_dims(rows, -1), (-1, 1))
        flat = tf.tensor_scatter_nd_add(
            flat, places, ops.reshape(upstream, (-1,))
        )
        return ops.reshape(flat, ops.shape(log_probs)), None

    return ops.take_along_axis(log_probs, ids, axis=-1), gradient
