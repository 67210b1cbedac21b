"""How far a student's outputs are from its teacher's: pure functions.

All take logits of shape `(..., classes)`, teacher first, and return float32
of shape `(...)`: one number per sample (or token), not yet weighted, masked
or averaged. They compute in float32 and in log space, whatever the dtype of
the logits, and let a nan through rather than hide it.

Each divergence carries the factor T^2: gradients of softened targets shrink
with 1/T^2, so the factor keeps the balance with the hard loss when T changes
(Hinton et al. 2015, section 2).

A loss, one of yours too, says by an attribute that is True what it needs:
    needs_labels    to be called with `labels=`, class ids of shape `(...)`
    any_vocabulary  nothing of teacher and student but logits: their classes
                    and lengths may differ
    across_batch    the whole batch at once, not chunk by chunk
    softmax_only    classes that exclude each other
"""

from collections.abc import Callable
from typing import Any
from typing import Literal

from keras import ops

from kdtf.distillation import absolute
from kdtf.distillation import bounded
from kdtf.distillation import decoupled
from kdtf.distillation import relational
from kdtf.distillation import softened
from kdtf.distillation.bounded import JensenShannonDivergence
from kdtf.distillation.bounded import jensen_shannon_divergence

__all__ = [
    "LOSSES",
    "JensenShannonDivergence",
    "binary_to_two_class",
    "get",
    "has_trait",
    "jensen_shannon_divergence",
    "kl_divergence",
    "mean_squared_logits",
    "per_sample",
    "reverse_kl_divergence",
]

Head = Literal["softmax", "sigmoid"]


def kl_divergence(
    teacher_logits: Any, student_logits: Any, *, temperature: Any = 1.0
) -> Any:
    """Gives T^2 * KL(softmax(teacher/T) || softmax(student/T)).

    The forward KL of classic distillation. It is "mean-seeking": the student
    is punished wherever the teacher has mass and the student has none.

    Args:
        teacher_logits: Logits of shape `(..., classes)`, any float dtype.
        student_logits: Logits of the same shape.
        temperature: T > 0, a number or a scalar tensor. Defaults to 1.0.

    Returns:
        A float32 tensor of shape `(...)`, >= 0 up to rounding.

    Example:
        >>> loss = kl_divergence([[-1.0, -2.0, -3.0]], [[-3.0, -2.0, -1.0]])
        >>> round(float(loss[0]), 4)
        1.1504

    Reference:
        Hinton et al. 2015, https://arxiv.org/abs/1503.02531 (section 2)
    """
    teacher, student = softened.soften(
        teacher_logits, student_logits, temperature
    )
    return temperature**2 * softened.softmax_kl(teacher, student)


def reverse_kl_divergence(
    teacher_logits: Any, student_logits: Any, *, temperature: Any = 1.0
) -> Any:
    """Gives T^2 * KL(softmax(student/T) || softmax(teacher/T)).

    "Mode-seeking": a small student spends its capacity on what the teacher
    finds likely, instead of covering all of its tail.

    Args:
        teacher_logits: Logits of shape `(..., classes)`, any float dtype.
        student_logits: Logits of the same shape.
        temperature: T > 0, a number or a scalar tensor. Defaults to 1.0.

    Returns:
        A float32 tensor of shape `(...)`, >= 0 up to rounding.

    Example:
        >>> loss = reverse_kl_divergence([[0.0, 0.0]], [[2.0, 0.0]])
        >>> round(float(loss[0]), 4)
        0.3278

    Reference:
        Gu et al. 2023 (MiniLLM), https://arxiv.org/abs/2306.08543 (equation 1)
    """
    teacher, student = softened.soften(
        teacher_logits, student_logits, temperature
    )
    return temperature**2 * softened.softmax_kl(student, teacher)


def mean_squared_logits(
    teacher_logits: Any, student_logits: Any, *, temperature: Any = 1.0
) -> Any:
    """Gives the mean over classes of (teacher - student)^2, on raw logits.

    What the KL becomes for very high temperatures and centred logits. It also
    matches the logits' offset, which no softmax sees.

    Args:
        teacher_logits: Logits of shape `(..., classes)`, any float dtype.
        student_logits: Logits of the same shape.
        temperature: Ignored: T^2 and the division by T cancel.

    Returns:
        A float32 tensor of shape `(...)`, >= 0.

    Example:
        >>> float(mean_squared_logits([[1.0, 2.0]], [[0.0, 4.0]])[0])
        2.5

    Reference:
        Ba & Caruana 2014, https://arxiv.org/abs/1312.6184 (equation 1)
    """
    del temperature
    teacher = ops.cast(teacher_logits, "float32")
    student = ops.cast(student_logits, "float32")
    return ops.mean(ops.square(teacher - student), axis=-1)


SoftLoss = Callable[..., Any]

LOSSES: dict[str, SoftLoss] = {
    "kl": kl_divergence,
    "reverse_kl": reverse_kl_divergence,
    "jensen_shannon": jensen_shannon_divergence,
    "mse": mean_squared_logits,
    "dkd": decoupled.decoupled_kl_divergence,
    "dist": relational.relational_distance,
    "skew_kl": bounded.skewed_kl_divergence,
    "skew_reverse_kl": bounded.skewed_reverse_kl_divergence,
    "tvd": absolute.total_variation_distance,
    "uld": absolute.universal_logit_distance,
}


def get(identifier: str | SoftLoss) -> SoftLoss:
    """Returns the soft loss for a name, or the function itself.

    Args:
        identifier: A key of `LOSSES`, or a function
            `(teacher_logits, student_logits, *, temperature) -> (...)`.

    Raises:
        ValueError: No loss has that name.

    Example:
        >>> get("mse").__name__
        'mean_squared_logits'
    """
    if callable(identifier):
        return identifier
    if identifier not in LOSSES:
        raise ValueError(
            f"`soft_loss` must be one of {sorted(LOSSES)} or a function "
            "`(teacher_logits, student_logits, *, temperature)`. Received: "
            f"soft_loss={identifier!r}."
        )
    return LOSSES[identifier]


def has_trait(loss: SoftLoss, trait: str) -> bool:
    """Returns whether a soft loss has one of the attributes listed above.

    Looks through `functools.partial`, which hides its function's.

    Example:
        >>> has_trait(get("dkd"), "needs_labels"), has_trait(get("kl"), "x")
        (True, False)
    """
    return bool(getattr(getattr(loss, "func", loss), trait, False))


def binary_to_two_class(logits: Any) -> Any:
    """Gives each sigmoid logit z as the two-class logits [z, 0].

    sigmoid(z) = softmax([z, 0])[0], so every divergence of two softmaxes is
    then the one of the two Bernoulli distributions, temperature included.

    Args:
        logits: Shape `(..., labels)`, any float dtype.

    Returns:
        A float32 tensor of shape `(..., labels, 2)`.

    Example:
        >>> [float(z) for z in binary_to_two_class([3.0])[0]]
        [3.0, 0.0]
    """
    logits = ops.cast(logits, "float32")
    return ops.stack([logits, ops.zeros_like(logits)], axis=-1)


def per_sample(
    loss: SoftLoss,
    teacher_logits: Any,
    student_logits: Any,
    *,
    temperature: Any,
    head: Head,
    labels: Any = None,
) -> Any:
    """Applies a soft loss to a softmax head, or label by label to a sigmoid.

    Args:
        loss: One of `LOSSES` or a function of the same form.
        teacher_logits: Shape `(..., classes)`.
        student_logits: The same shape.
        temperature: T > 0.
        head: "softmax" (classes exclude each other) or "sigmoid" (each label
            stands alone: binary and multi-label); then the mean over labels
            is taken, as `keras.losses.BinaryCrossentropy` does.
        labels: What a loss that `needs_labels` needs, as `fit` gets them. Of
            a softmax: class ids of shape `(...)` or `(..., 1)`, or one-hot.
            Of a sigmoid: 0 or 1 for each label.

    Returns:
        A float32 tensor of shape `(...)`.

    Raises:
        ValueError: The loss needs labels and there are none, or it is not
            for a sigmoid.

    Example:
        >>> value = per_sample(
        ...     kl_divergence, [[2.0]], [[0.0]], temperature=1.0, head="sigmoid"
        ... )
        >>> round(float(value[0]), 4)
        0.3278
    """
    arguments = {"temperature": temperature}
    if has_trait(loss, "needs_labels"):
        if labels is None:
            raise ValueError(
                "This `soft_loss` needs the labels. Received: labels=None, "
                f"soft_loss={loss!r}. Call `fit` with `y`, or use 'kl'."
            )
        arguments["labels"] = _class_ids(labels, student_logits, head)
    # Logits are compared as they are; [z, 0] would only halve the mean.
    if head == "softmax" or loss is mean_squared_logits:
        return loss(teacher_logits, student_logits, **arguments)
    if has_trait(loss, "softmax_only"):
        raise ValueError(
            "This `soft_loss` compares classes that exclude each other; it "
            f"says nothing of single labels. Received: head={head!r}, "
            f"soft_loss={loss!r}. Use 'kl'."
        )
    values = loss(
        binary_to_two_class(teacher_logits),
        binary_to_two_class(student_logits),
        **arguments,
    )
    return ops.mean(values, axis=-1)


def _class_ids(labels: Any, logits: Any, head: Head) -> Any:
    """Returns labels as class ids of the logits, or of [z, 0] for a sigmoid."""
    labels, logits = (ops.convert_to_tensor(x) for x in (labels, logits))
    if head == "sigmoid":
        # One label may come without its dimension. z stands before 0.
        labels = ops.reshape(labels, ops.shape(logits))
        return ops.where(ops.cast(labels, "float32") < 0.5, 1, 0)
    rank = len(logits.shape)
    if len(labels.shape) == rank and labels.shape[-1] == 1:
        labels = ops.squeeze(labels, axis=-1)
    elif len(labels.shape) == rank:
        labels = ops.argmax(labels, axis=-1)
    if len(labels.shape) != rank - 1:
        raise ValueError(
            "`labels` must be class ids or one-hot, one for each row of "
            f"logits. Received: labels of shape {tuple(labels.shape)}, logits "
            f"of shape {tuple(logits.shape)}."
        )
    return ops.cast(labels, "int32")
