"""Absolute differences of probabilities, class by class or rank by rank.

They carry the factor T, not the T^2 of the divergences: their gradient does
not shrink with the difference, only with the slope 1/T of the softmax.
"""

from typing import Any

from keras import ops

from kdtf.distillation import softened

__all__ = ["total_variation_distance", "universal_logit_distance"]


def total_variation_distance(
    teacher_logits: Any, student_logits: Any, *, temperature: Any = 1.0
) -> Any:
    """Gives T / 2 * sum over classes of |P - Q|.

    P is the softened teacher, Q the softened student. Symmetric and at most
    T, neither mean- nor mode-seeking.

    Args:
        teacher_logits: Logits of shape `(..., classes)`, any float dtype.
        student_logits: Logits of the same shape.
        temperature: T > 0, a number or a scalar tensor. Defaults to 1.0.

    Returns:
        A float32 tensor of shape `(...)`, in [0, T].

    Example:
        >>> loss = total_variation_distance([[90.0, 0.0]], [[0.0, 0.0]])
        >>> float(loss[0])
        0.5

    Reference:
        Wen et al. 2023 (f-DISTILL), https://arxiv.org/abs/2307.15190
    """
    teacher, student = softened.probabilities(
        teacher_logits, student_logits, temperature
    )
    return 0.5 * temperature * _sum_of_differences(teacher, student)


def universal_logit_distance(
    teacher_logits: Any, student_logits: Any, *, temperature: Any = 1.0
) -> Any:
    """Gives T * sum over ranks of |P's k-th largest - Q's k-th largest|.

    For models of different vocabularies (ULD): only how the probability is
    spread is compared, not over which tokens, so it wants the hard loss
    beside it. The smaller vocabulary is filled up with zeros. Of sequences of
    different lengths the positions that both have are compared one by one;
    the student's others cost 0.

    Args:
        teacher_logits: Logits of shape `(..., classes)`, any float dtype.
        student_logits: Logits of shape `(..., other classes)`. Of three
            dimensions or more the last but one, time, may differ too.
        temperature: T > 0, a number or a scalar tensor. Defaults to 1.0.

    Returns:
        A float32 tensor of the shape of `student_logits` without classes, in
        [0, 2 * T].

    Example:
        >>> loss = universal_logit_distance(
        ...     ops.log([[0.5, 0.25, 0.25]]), ops.log([[0.25, 0.75]])
        ... )
        >>> round(float(loss[0]), 4)  # |0.5 - 0.75| + 0 + |0.25 - 0|
        0.5

    Reference:
        Boizard et al. 2024, https://arxiv.org/abs/2402.12030
    """
    teacher, student = softened.probabilities(
        teacher_logits, student_logits, temperature
    )
    unmatched = None
    if len(student.shape) > 2 and not _same_length(teacher, student):
        time = ops.minimum(ops.shape(teacher)[-2], ops.shape(student)[-2])
        unmatched = ops.zeros_like(student[..., time:, 0])
        teacher, student = teacher[..., :time, :], student[..., :time, :]
    teacher, student = ops.sort(teacher), ops.sort(student)
    # Sorted upwards, the zeros that fill up come first.
    missing = teacher.shape[-1] - student.shape[-1]
    distance = temperature * _sum_of_differences(
        _fill_up(teacher, -missing), _fill_up(student, missing)
    )
    if unmatched is None:
        return distance
    return ops.concatenate([distance, unmatched], axis=-1)


universal_logit_distance.any_vocabulary = True  # type: ignore[attr-defined]
universal_logit_distance.softmax_only = True  # type: ignore[attr-defined]


def _same_length(teacher: Any, student: Any) -> bool:
    """Returns whether the lengths are known, and the same."""
    return teacher.shape[-2] == student.shape[-2] is not None


def _fill_up(probabilities: Any, count: int) -> Any:
    if count <= 0:
        return probabilities
    rank = len(probabilities.shape)
    return ops.pad(probabilities, [(0, 0)] * (rank - 1) + [(count, 0)])


def _sum_of_differences(p: Any, q: Any) -> Any:
    return ops.sum(ops.abs(p - q), axis=-1)
