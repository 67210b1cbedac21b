"""Divergences from a mixture of teacher and student, which stay bounded."""

import dataclasses
import math
from typing import Any

import keras
from keras import ops

from kdtf.distillation import softened

__all__ = [
    "JensenShannonDivergence",
    "SkewedKLDivergence",
    "SkewedReverseKLDivergence",
    "jensen_shannon_divergence",
    "skewed_kl_divergence",
    "skewed_reverse_kl_divergence",
]


def jensen_shannon_divergence(
    teacher_logits: Any,
    student_logits: Any,
    *,
    temperature: Any = 1.0,
    beta: float = 0.5,
) -> Any:
    """Gives T^2 * (beta * KL(P || M) + (1 - beta) * KL(Q || M)).

    P is the softened teacher, Q the softened student, and
    M = beta * P + (1 - beta) * Q. Bounded, so one outlier cannot dominate.
    Divided by beta it tends to the forward KL as beta goes to 0; divided by
    1 - beta, to the reverse KL as beta goes to 1.

    Args:
        teacher_logits: Logits of shape `(..., classes)`, any float dtype.
        student_logits: Logits of the same shape.
        temperature: T > 0, a number or a scalar tensor. Defaults to 1.0.
        beta: Share of the teacher in the mixture, in (0, 1). Defaults to 0.5,
            the symmetric Jensen-Shannon divergence.

    Returns:
        A float32 tensor of shape `(...)`, in [0, T^2 * log 2] for beta 0.5.

    Raises:
        ValueError: `beta` is outside (0, 1).

    Example:
        >>> loss = jensen_shannon_divergence([[90.0, 0.0]], [[0.0, 90.0]])
        >>> round(float(loss[0]), 4)  # disjoint: log 2
        0.6931

    Reference:
        Agarwal et al. 2023 (GKD), https://arxiv.org/abs/2306.13649 (section 2)
    """
    _check_beta(beta)
    teacher, student = (
        softened.log_softmax(logits)
        for logits in softened.soften(
            teacher_logits, student_logits, temperature
        )
    )
    mixture = _mixture(teacher, student, beta)
    return temperature**2 * (
        beta * softened.kl(teacher, mixture)
        + (1.0 - beta) * softened.kl(student, mixture)
    )


def skewed_kl_divergence(
    teacher_logits: Any,
    student_logits: Any,
    *,
    temperature: Any = 1.0,
    skew: float = 0.1,
) -> Any:
    """Gives T^2 * KL(P || skew * P + (1 - skew) * Q).

    P is the softened teacher, Q the softened student. As the forward KL, but
    at most T^2 * log(1 / skew): a token the student holds for impossible no
    longer outweighs all others.

    Args:
        teacher_logits: Logits of shape `(..., classes)`, any float dtype.
        student_logits: Logits of the same shape.
        temperature: T > 0, a number or a scalar tensor. Defaults to 1.0.
        skew: Share of P in the mixture, in (0, 1). Defaults to 0.1.

    Returns:
        A float32 tensor of shape `(...)`, >= 0 up to rounding.

    Raises:
        ValueError: `skew` is outside (0, 1).

    Example:
        >>> loss = skewed_kl_divergence([[90.0, 0.0]], [[0.0, 90.0]])
        >>> round(float(loss[0]), 4)  # disjoint: log(1 / 0.1)
        2.3026

    Reference:
        Ko et al. 2024 (DistiLLM), https://arxiv.org/abs/2402.03898 (section 3)
    """
    _check_skew(skew)
    teacher, student = softened.soften(
        teacher_logits, student_logits, temperature
    )
    return temperature**2 * _skewed_kl(teacher, student, skew)


def skewed_reverse_kl_divergence(
    teacher_logits: Any,
    student_logits: Any,
    *,
    temperature: Any = 1.0,
    skew: float = 0.1,
) -> Any:
    """Gives T^2 * KL(Q || (1 - skew) * P + skew * Q).

    P is the softened teacher, Q the softened student. As the reverse KL, but
    at most T^2 * log(1 / skew), also where the student wrote what its teacher
    holds for impossible.

    Args:
        teacher_logits: Logits of shape `(..., classes)`, any float dtype.
        student_logits: Logits of the same shape.
        temperature: T > 0, a number or a scalar tensor. Defaults to 1.0.
        skew: Share of Q in the mixture, in (0, 1). Defaults to 0.1.

    Returns:
        A float32 tensor of shape `(...)`, >= 0 up to rounding.

    Raises:
        ValueError: `skew` is outside (0, 1).

    Example:
        >>> loss = skewed_reverse_kl_divergence([[90.0, 0.0]], [[0.0, 90.0]])
        >>> round(float(loss[0]), 4)
        2.3026

    Reference:
        Ko et al. 2024 (DistiLLM), https://arxiv.org/abs/2402.03898 (section 3)
    """
    _check_skew(skew)
    teacher, student = softened.soften(
        teacher_logits, student_logits, temperature
    )
    return temperature**2 * _skewed_kl(student, teacher, skew)


@keras.saving.register_keras_serializable("kdtf")
@dataclasses.dataclass(frozen=True, kw_only=True)
class JensenShannonDivergence(softened.LossWithSettings):
    """Holds a `beta` for `jensen_shannon_divergence`, to pass as `soft_loss`.

    Args:
        beta: Share of the teacher in the mixture, in (0, 1). Defaults to 0.5.

    Raises:
        ValueError: `beta` is outside (0, 1).

    Example:
        >>> loss = JensenShannonDivergence(beta=0.5)
        >>> value = loss([[90.0, 0.0]], [[0.0, 90.0]], temperature=1.0)
        >>> round(float(value[0]), 4)
        0.6931
    """

    beta: float = 0.5
    function = staticmethod(jensen_shannon_divergence)

    def __post_init__(self) -> None:
        """Checks `beta`."""
        _check_beta(self.beta)


class _Skewed(softened.LossWithSettings):
    """Checks the `skew` that both classes hold."""

    skew: float

    def __post_init__(self) -> None:
        _check_skew(self.skew)


@keras.saving.register_keras_serializable("kdtf")
@dataclasses.dataclass(frozen=True, kw_only=True)
class SkewedKLDivergence(_Skewed):
    """Holds a `skew` for `skewed_kl_divergence`, to pass as `soft_loss`.

    Args:
        skew: Share of the teacher in the mixture, in (0, 1). Defaults to 0.1.

    Raises:
        ValueError: `skew` is outside (0, 1).

    Example:
        >>> loss = SkewedKLDivergence(skew=0.5)
        >>> value = loss([[90.0, 0.0]], [[0.0, 90.0]], temperature=1.0)
        >>> round(float(value[0]), 4)
        0.6931
    """

    skew: float = 0.1
    function = staticmethod(skewed_kl_divergence)


@keras.saving.register_keras_serializable("kdtf")
@dataclasses.dataclass(frozen=True, kw_only=True)
class SkewedReverseKLDivergence(_Skewed):
    """Holds a `skew` for `skewed_reverse_kl_divergence`.

    Args:
        skew: Share of the student in the mixture, in (0, 1). Defaults to 0.1.

    Raises:
        ValueError: `skew` is outside (0, 1).

    Example:
        >>> SkewedReverseKLDivergence(skew=0.2).get_config()
        {'skew': 0.2}
    """

    skew: float = 0.1
    function = staticmethod(skewed_reverse_kl_divergence)


def _skewed_kl(p_logits: Any, q_logits: Any, skew: float) -> Any:
    """Returns KL(p || skew * p + (1 - skew) * q)."""
    log_p = softened.log_softmax(p_logits)
    log_q = softened.log_softmax(q_logits)
    return softened.kl(log_p, _mixture(log_p, log_q, skew))


def _mixture(log_p: Any, log_q: Any, share: float) -> Any:
    """Returns log(share * p + (1 - share) * q)."""
    return ops.logaddexp(log_p + math.log(share), log_q + math.log(1.0 - share))


def _check_skew(skew: float) -> None:
    if not 0.0 < skew < 1.0:
        raise ValueError(
            f"`skew` must be in (0, 1). Received: skew={skew}. For no skew "
            "use 'kl' or 'reverse_kl'."
        )


def _check_beta(beta: float) -> None:
    if not 0.0 < beta < 1.0:
        raise ValueError(
            f"`beta` must be in (0, 1). Received: beta={beta}. For the forward "
            "KL use 'kl', for the reverse one 'reverse_kl'."
        )
