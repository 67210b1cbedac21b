"""What every soft loss is made of: softened logits and sums over classes."""

import dataclasses
from collections.abc import Callable
from typing import Any
from typing import ClassVar
from typing import Self

from keras import ops

__all__ = [
    "FLOOR",
    "LossWithSettings",
    "check_weights",
    "kl",
    "log_softmax",
    "probabilities",
    "soften",
    "softmax_kl",
]

# Stands for a logit of -inf where a gradient has to pass: its probability is
# 0 as well, but differences of it are numbers, where inf - inf is nan.
FLOOR = -1e30


class LossWithSettings:
    """A soft loss with its settings, as a frozen dataclass with a config.

    A subclass is a dataclass whose fields are keyword arguments of `function`.
    """

    function: ClassVar[Callable[..., Any]]

    def __call__(
        self, teacher_logits: Any, student_logits: Any, **arguments: Any
    ) -> Any:
        """Returns each sample's loss, float32 of shape `(...)`.

        Args:
            teacher_logits: Logits of shape `(..., classes)`.
            student_logits: Logits of the same shape.
            **arguments: `temperature`, and `labels` where the loss needs them.
        """
        return self.function(
            teacher_logits, student_logits, **arguments, **self.get_config()
        )

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return dataclasses.asdict(self)  # type: ignore[call-overload]

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Returns the loss that `get_config` described."""
        return cls(**config)


def soften(teacher: Any, student: Any, temperature: Any) -> tuple[Any, Any]:
    """Returns both logits in float32, divided by the temperature.

    Example:
        >>> [float(logits[0]) for logits in soften([4.0], [2.0], 2.0)]
        [2.0, 1.0]
    """
    return (
        ops.cast(teacher, "float32") / temperature,
        ops.cast(student, "float32") / temperature,
    )


def log_softmax(logits: Any) -> Any:
    """Returns log-probabilities, of which none is -inf.

    Example:
        >>> bool(log_softmax([0.0, float("-inf")])[1] < -1e29)
        True
    """
    return ops.log_softmax(ops.maximum(logits, FLOOR), axis=-1)


def probabilities(teacher: Any, student: Any, temperature: Any) -> list[Any]:
    """Returns both softened softmaxes, float32.

    Not by `ops.softmax`, which warns where there is one class only.

    Example:
        >>> [p.shape for p in probabilities([[4.0]], [[2.0]], 2.0)]
        [TensorShape([1, 1]), TensorShape([1, 1])]
    """
    both = soften(teacher, student, temperature)
    return [ops.exp(log_softmax(logits)) for logits in both]


def kl(log_p: Any, log_q: Any) -> Any:
    """Returns the sum over classes of p * (log p - log q).

    Example:
        >>> log_half, log_quarters = ops.log([0.5, 0.5]), ops.log([0.75, 0.25])
        >>> round(float(kl(log_half, log_quarters)), 4)
        0.1438
    """
    p = ops.exp(log_p)
    # 0 * log 0 = 0: a class masked with -inf has no part in the sum. Asked
    # as "equals 0", so that a nan stays a nan.
    terms = ops.where(p == 0, 0.0, p * (log_p - log_q))
    return ops.sum(terms, axis=-1)


@ops.custom_gradient
def softmax_kl(p_logits: Any, q_logits: Any) -> Any:
    """Returns KL(softmax(p) || softmax(q)) over the last axis.

    With its gradient written out: differentiating it step by step takes a
    fifth longer at a language model's vocabulary, and gives nan for classes
    masked with -inf.
    """
    log_p = ops.log_softmax(p_logits, axis=-1)
    log_q = ops.log_softmax(q_logits, axis=-1)
    p = ops.exp(log_p)
    value = kl(log_p, log_q)

    def gradient(upstream: Any) -> tuple[Any, Any]:
        upstream = ops.expand_dims(upstream, -1)
        surprise = ops.where(p == 0, 0.0, log_p - log_q)
        by_p = p * (surprise - ops.expand_dims(value, -1))
        return upstream * by_p, upstream * (ops.exp(log_q) - p)

    return value, gradient


def check_weights(**weights: float) -> None:
    """Raises unless all are >= 0 and one is not 0.

    Args:
        **weights: Each weight by the name of its argument.

    Raises:
        ValueError: They are not.
    """
    for name, weight in weights.items():
        if not 0.0 <= weight < float("inf"):
            raise ValueError(
                f"`{name}` is a weight and must be a number >= 0. Received: "
                f"{name}={weight}. Use 0 to leave its term out."
            )
    if not any(weights.values()):
        names = " and ".join(f"`{name}`" for name in weights)
        raise ValueError(
            f"{names} must not both be 0: no loss would be left. Received: "
            f"{', '.join(f'{name}={w}' for name, w in weights.items())}."
        )
