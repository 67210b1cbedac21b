"""DIST: the student keeps the teacher's relations, not its exact numbers."""

import dataclasses
from typing import Any
from typing import ClassVar

import keras
from keras import ops

from kdtf.distillation import softened

__all__ = ["RelationalDistillation", "relational_distance"]

# What varies by less, relative to its size, is float32's rounding.
_ROUNDING = 1e-6


def relational_distance(
    teacher_logits: Any,
    student_logits: Any,
    *,
    temperature: Any = 1.0,
    inter: float = 1.0,
    intra: float = 1.0,
) -> Any:
    """Gives T^2 * (inter * (1 - r of a sample) + intra * (1 - r of classes)).

    r is Pearson's correlation of softened probabilities: over the classes of
    one sample, and, for each class, over the samples of the batch (then the
    mean over classes, the same number for every sample). A correlation lets
    the student be less sure than a teacher that is much stronger.

    All leading dimensions together are the batch, padding included. The
    second term wants some 64 samples or more, and under a distribution
    strategy it sees one replica's. The first is blind with two classes, whose
    correlation is 1 or -1. Where a vector is constant r is undefined: the
    distance is 0 if both are, 1/2 if one is. A class masked with -inf is one
    of probability 0.

    Args:
        teacher_logits: Logits of shape `(..., classes)`, any float dtype.
        student_logits: Logits of the same shape.
        temperature: T > 0, a number or a scalar tensor. Defaults to 1.0.
        inter: Weight of the relation between classes, >= 0. Defaults to 1.0;
            the authors use 1 at T = 1 (ImageNet) and 2 at T = 4 (CIFAR).
        intra: Weight of the relation between samples, >= 0. The same.

    Returns:
        A float32 tensor of shape `(...)`, in [0, 2 * T^2 * (inter + intra)].

    Raises:
        ValueError: A weight is negative, or both are 0.

    Example:
        >>> loss = relational_distance(
        ...     ops.log([[0.5, 0.3, 0.2]]), ops.log([[0.2, 0.3, 0.5]])
        ... )
        >>> round(float(loss[0]), 4)  # r = -13/14; one sample: no intra
        1.9286

    Reference:
        Huang et al. 2022, https://arxiv.org/abs/2205.10536
    """
    softened.check_weights(inter=inter, intra=intra)
    teacher, student = softened.probabilities(
        teacher_logits, student_logits, temperature
    )
    between_classes = _pearson_distance(teacher, student, axis=-1)
    rows = (-1, ops.shape(teacher)[-1])
    between_samples = ops.mean(
        _pearson_distance(
            ops.reshape(teacher, rows), ops.reshape(student, rows), axis=0
        )
    )
    return temperature**2 * (inter * between_classes + intra * between_samples)


relational_distance.across_batch = True  # type: ignore[attr-defined]
relational_distance.softmax_only = True  # type: ignore[attr-defined]


@keras.saving.register_keras_serializable("kdtf")
@dataclasses.dataclass(frozen=True, kw_only=True)
class RelationalDistillation(softened.LossWithSettings):
    """Holds the weights for `relational_distance`, to pass as `soft_loss`.

    Args:
        inter: Weight of the relation between classes, >= 0. Defaults to 1.0.
        intra: Weight of the relation between samples, >= 0. Defaults to 1.0.

    Raises:
        ValueError: A weight is negative, or both are 0.

    Example:
        >>> RelationalDistillation(inter=2.0, intra=2.0).get_config()
        {'inter': 2.0, 'intra': 2.0}
    """

    inter: float = 1.0
    intra: float = 1.0
    function = staticmethod(relational_distance)
    across_batch: ClassVar[bool] = True
    softmax_only: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Checks the weights."""
        softened.check_weights(inter=self.inter, intra=self.intra)


def _pearson_distance(x: Any, y: Any, axis: int) -> Any:
    """Returns 1 - r along an axis.

    As half the squared distance of the two directions, which is the same, and
    exactly 0 for equal ones, where 1 - r would leave rounding.
    """
    difference = _direction(x, axis) - _direction(y, axis)
    return 0.5 * ops.sum(ops.square(difference), axis=axis)


def _direction(x: Any, axis: int) -> Any:
    """Returns x centred and of length 1; zeros where it is constant."""
    centred = x - ops.mean(x, axis=axis, keepdims=True)
    # Scaled first: squares of probabilities of 1e-20 are 0 in float32. The
    # scale has no part in the gradient, as it has none in the result.
    size, largest = (
        # Of an empty batch too: the largest of nothing is 0.
        ops.max(ops.abs(values), axis=axis, keepdims=True, initial=0.0)
        for values in (centred, x)
    )
    constant = size <= _ROUNDING * largest
    scaled = centred / ops.stop_gradient(ops.where(constant, 1.0, size))
    squares = ops.sum(ops.square(scaled), axis=axis, keepdims=True)
    # The root of 0 has no gradient, even where the result is not used.
    length = ops.sqrt(ops.where(constant, 1.0, squares))
    return ops.where(constant, 0.0, scaled / length)
