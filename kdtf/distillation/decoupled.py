"""Decoupled distillation: how sure of the label, and what else might it be."""

import dataclasses
from typing import Any
from typing import ClassVar

import keras
from keras import ops

from kdtf.distillation import softened

__all__ = ["DecoupledDistillation", "decoupled_kl_divergence"]


def decoupled_kl_divergence(
    teacher_logits: Any,
    student_logits: Any,
    *,
    labels: Any,
    temperature: Any = 1.0,
    alpha: float = 1.0,
    beta: float = 8.0,
) -> Any:
    """Gives T^2 * (alpha * TCKD + beta * NCKD).

    TCKD is the KL of the two-way choice "the label or not", NCKD the KL among
    the other classes, renormalised. The forward KL is TCKD + (1 - p) * NCKD
    with p the teacher's probability of the label: where the teacher is sure,
    what it knows of the other classes is lost. Here it keeps its weight.
    With two classes NCKD is 0.

    Args:
        teacher_logits: Logits of shape `(..., classes)`, any float dtype.
        student_logits: Logits of the same shape.
        labels: Class ids, integers of shape `(...)`. Where an id is no class,
            as -1 for padding, all classes count among the others.
        temperature: T > 0, a number or a scalar tensor. Defaults to 1.0.
        alpha: Weight of TCKD, >= 0. Defaults to 1.0.
        beta: Weight of NCKD, >= 0; the authors use 1 to 10, more for a
            teacher that is surer. Defaults to 8.0.

    Returns:
        A float32 tensor of shape `(...)`, >= 0 up to rounding.

    Raises:
        ValueError: A weight is negative, or both are 0.

    Example:
        >>> loss = decoupled_kl_divergence(
        ...     [[0.0, 0.0, 0.0]], [[0.0, 2.0, 0.0]], labels=[0], alpha=0.0
        ... )
        >>> round(float(loss[0]), 4)  # 8 * KL((1/2, 1/2) || (0.88, 0.12))
        3.4702

    Reference:
        Zhao et al. 2022, https://arxiv.org/abs/2203.08679 (equation 7)
    """
    softened.check_weights(alpha=alpha, beta=beta)
    both = softened.soften(teacher_logits, student_logits, temperature)
    labels = ops.expand_dims(ops.cast(labels, "int32"), -1)
    is_label = ops.equal(ops.arange(ops.shape(both[0])[-1]), labels)
    # The floor, not -inf: where a label is the only class that is not masked,
    # the softmax of the others is then still one of numbers.
    others = [ops.where(is_label, softened.FLOOR, logits) for logits in both]
    choices = [
        ops.stack(
            [
                ops.logsumexp(
                    ops.where(is_label, logits, softened.FLOOR), axis=-1
                ),
                ops.logsumexp(rest, axis=-1),
            ],
            axis=-1,
        )
        for logits, rest in zip(both, others, strict=True)
    ]
    return temperature**2 * (
        alpha * softened.softmax_kl(*choices)
        + beta * softened.softmax_kl(*others)
    )


decoupled_kl_divergence.needs_labels = True  # type: ignore[attr-defined]


@keras.saving.register_keras_serializable("kdtf")
@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoupledDistillation(softened.LossWithSettings):
    """Holds the weights for `decoupled_kl_divergence`; needs labels.

    Args:
        alpha: Weight of "the label or not", >= 0. Defaults to 1.0.
        beta: Weight of the other classes, >= 0. Defaults to 8.0.

    Raises:
        ValueError: A weight is negative, or both are 0.

    Example:
        >>> loss = DecoupledDistillation(beta=2.0)
        >>> value = loss(
        ...     [[0.0, 0.0]], [[0.0, 0.0]], labels=[0], temperature=4.0
        ... )
        >>> float(value[0])
        0.0
    """

    alpha: float = 1.0
    beta: float = 8.0
    function = staticmethod(decoupled_kl_divergence)
    needs_labels: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Checks the weights."""
        softened.check_weights(alpha=self.alpha, beta=self.beta)
