"""How far a student's outputs are from its teacher's: pure functions.

All take logits of shape `(..., classes)`, teacher first, and return float32
of shape `(...)`: one number per sample (or token), not yet weighted, masked
or averaged. They compute in float32 and in log space, whatever the dtype of
the logits, and let a nan through rather than hide it.

Each divergence carries the factor T^2: gradients of softened targets shrink
with 1/T^2, so the factor keeps the balance with the hard loss when T changes
(Hinton et al. 2015, section 2).
"""

import dataclasses
from collections.abc import Callable
from typing import Any
from typing import Literal

import keras
from keras import ops

__all__ = [
    "LOSSES",
    "JensenShannonDivergence",
    "binary_to_two_class",
    "get",
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
    teacher, student = _soften(teacher_logits, student_logits, temperature)
    return temperature**2 * _softmax_kl(teacher, student)


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
    teacher, student = _soften(teacher_logits, student_logits, temperature)
    return temperature**2 * _softmax_kl(student, teacher)


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
        ops.log_softmax(logits, axis=-1)
        for logits in _soften(teacher_logits, student_logits, temperature)
    )
    mixture = ops.logaddexp(
        teacher + ops.log(beta), student + ops.log(1.0 - beta)
    )
    return temperature**2 * (
        beta * _kl(teacher, mixture) + (1.0 - beta) * _kl(student, mixture)
    )


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


@keras.saving.register_keras_serializable("kdtf")
@dataclasses.dataclass(frozen=True, kw_only=True)
class JensenShannonDivergence:
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

    def __post_init__(self) -> None:
        """Checks `beta`."""
        _check_beta(self.beta)

    def __call__(
        self, teacher_logits: Any, student_logits: Any, *, temperature: Any
    ) -> Any:
        """Returns the divergence, float32 of shape `(...)`."""
        return jensen_shannon_divergence(
            teacher_logits,
            student_logits,
            temperature=temperature,
            beta=self.beta,
        )

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "JensenShannonDivergence":
        """Returns the loss that `get_config` described."""
        return cls(**config)


SoftLoss = Callable[..., Any]

LOSSES: dict[str, SoftLoss] = {
    "kl": kl_divergence,
    "reverse_kl": reverse_kl_divergence,
    "jensen_shannon": jensen_shannon_divergence,
    "mse": mean_squared_logits,
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

    Returns:
        A float32 tensor of shape `(...)`.

    Example:
        >>> value = per_sample(
        ...     kl_divergence, [[2.0]], [[0.0]], temperature=1.0, head="sigmoid"
        ... )
        >>> round(float(value[0]), 4)
        0.3278
    """
    # Logits are compared as they are; [z, 0] would only halve the mean.
    if head == "softmax" or loss is mean_squared_logits:
        return loss(teacher_logits, student_logits, temperature=temperature)
    values = loss(
        binary_to_two_class(teacher_logits),
        binary_to_two_class(student_logits),
        temperature=temperature,
    )
    return ops.mean(values, axis=-1)


def _soften(teacher: Any, student: Any, temperature: Any) -> tuple[Any, Any]:
    """Returns both logits in float32, divided by the temperature."""
    return (
        ops.cast(teacher, "float32") / temperature,
        ops.cast(student, "float32") / temperature,
    )


@ops.custom_gradient
def _softmax_kl(p_logits: Any, q_logits: Any) -> Any:
    """Returns KL(softmax(p) || softmax(q)) over the last axis.

    With its gradient written out: differentiating it step by step takes a
    fifth longer at a language model's vocabulary, and gives nan for classes
    masked with -inf.
    """
    log_p = ops.log_softmax(p_logits, axis=-1)
    log_q = ops.log_softmax(q_logits, axis=-1)
    p = ops.exp(log_p)
    value = _kl(log_p, log_q)

    def gradient(upstream: Any) -> tuple[Any, Any]:
        upstream = ops.expand_dims(upstream, -1)
        surprise = ops.where(p == 0, 0.0, log_p - log_q)
        by_p = p * (surprise - ops.expand_dims(value, -1))
        return upstream * by_p, upstream * (ops.exp(log_q) - p)

    return value, gradient


def _kl(log_p: Any, log_q: Any) -> Any:
    p = ops.exp(log_p)
    # 0 * log 0 = 0: a class masked with -inf has no part in the sum. Asked
    # as "equals 0", so that a nan stays a nan.
    terms = ops.where(p == 0, 0.0, p * (log_p - log_q))
    return ops.sum(terms, axis=-1)


def _check_beta(beta: float) -> None:
    if not 0.0 < beta < 1.0:
        raise ValueError(
            f"`beta` must be in (0, 1). Received: beta={beta}. For the forward "
            "KL use 'kl', for the reverse one 'reverse_kl'."
        )
