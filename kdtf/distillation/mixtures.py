"""Several teachers as one: the mixture of what they say."""

import functools
import math
from collections.abc import Sequence
from typing import Any
from typing import Literal

from keras import ops

from kdtf.distillation import checks
from kdtf.distillation import losses

__all__ = ["Space", "check_mixture", "mix"]

Space = Literal["probabilities", "logits"]
_SPACES = ("probabilities", "logits")


def check_mixture(
    weights: Sequence[float] | None,
    num_teachers: int,
    space: str = "probabilities",
) -> tuple[float, ...]:
    """Returns the teachers' weights with sum 1, after checking them.

    Args:
        weights: One number >= 0 for each teacher; None for equal ones.
        num_teachers: At least 1.
        space: What is averaged: "probabilities" or "logits".

    Raises:
        ValueError: There are no teachers, or the weights do not fit them, or
            `space` is another word.

    Example:
        >>> check_mixture([3, 1], 2), check_mixture(None, 2)
        ((0.75, 0.25), (0.5, 0.5))
    """
    checks.check_choice("space", space, _SPACES)
    if num_teachers < 1:
        raise ValueError(
            "`teachers` must hold one model or more. Received: "
            f"{num_teachers} teachers."
        )
    if weights is None:
        weights = [1.0] * num_teachers
    numbers = [float(weight) for weight in weights]
    total = sum(numbers)
    wrong = ""
    if len(numbers) != num_teachers:
        wrong = f", for {num_teachers} teachers"
    elif all(n >= 0.0 for n in numbers) and 0.0 < total < math.inf:
        return tuple(number / total for number in numbers)
    raise ValueError(
        "`weights` must be one number >= 0 for each teacher, not all 0. "
        f"Received: weights={weights}{wrong}. Use None for equal weights."
    )


def mix(
    logits: Sequence[Any],
    weights: Any = None,
    *,
    temperature: Any = 1.0,
    space: Space = "probabilities",
    head: losses.Head = "softmax",
) -> Any:
    """Gives the logits of one teacher that says what several say together.

    In the space of probabilities softmax(result / T) is the weighted mean of
    the softened softmaxes: some teacher's second opinion stays visible. In
    the space of logits it is their renormalised geometric mean: what one
    teacher finds impossible is so for all.

    Args:
        logits: Each teacher's logits, of one shape `(..., classes)`.
        weights: Numbers as of `check_mixture`, or a tensor of shape
            `(batch, teachers)` >= 0, for each example its own; one-hot rows
            choose a teacher. Rows are divided by their sum; one of zeros
            gives nan.
        temperature: T > 0 at which the result will be softened.
        space: "probabilities" or "logits".
        head: "softmax", or "sigmoid" to mix label by label.

    Returns:
        A float32 tensor of shape `(..., classes)`.

    Raises:
        ValueError: The weights do not fit the teachers, or `space` is another
            word, or a shape differs.

    Example:
        >>> teachers = ops.log([[[0.75, 0.25]], [[0.25, 0.75]]])
        >>> mixed = mix([teachers[0], teachers[1]], [0.5, 0.5])
        >>> [round(float(p), 4) for p in ops.exp(mixed)[0]]
        [0.5, 0.5]

    Reference:
        Hinton et al. 2015, https://arxiv.org/abs/1503.02531 (section 2.1, 3)
    """
    taught = [ops.cast(one, "float32") for one in logits]
    shares = _shares(weights, taught, space)
    if space == "logits":
        # A teacher of weight 0 has no say, nor its masked class: 0 * -inf.
        terms = [
            ops.where(ops.equal(share, 0.0), 0.0, share * one)
            for share, one in zip(shares, taught, strict=True)
        ]
        return functools.reduce(ops.add, terms)
    if head == "sigmoid":
        taught = [losses.binary_to_two_class(one) for one in taught]
        shares = [ops.expand_dims(s, -1) if len(s.shape) else s for s in shares]
    log_probs = [
        ops.log(share) + ops.log_softmax(one / temperature, axis=-1)
        for share, one in zip(shares, taught, strict=True)
    ]
    mixed = temperature * functools.reduce(ops.logaddexp, log_probs)
    return mixed[..., 0] - mixed[..., 1] if head == "sigmoid" else mixed


def _shares(weights: Any, logits: list[Any], space: str) -> list[Any]:
    """Returns each teacher's share, a scalar or `(batch, 1, ...)`."""
    classes = {one.shape[-1] for one in logits}
    if len(classes) > 1:
        raise ValueError(
            "`logits` of all teachers must have the same classes. Received: "
            f"shapes {[tuple(one.shape) for one in logits]}. For other "
            "vocabularies distil from one teacher with 'uld'."
        )
    if len(getattr(weights, "shape", ())) < 2:
        shares = check_mixture(weights, len(logits), space)
        return [ops.convert_to_tensor(share, "float32") for share in shares]
    check_mixture(None, len(logits), space)
    if weights.shape[-1] != len(logits):
        raise ValueError(
            "`weights` for each example must have one column for each "
            f"teacher. Received: weights of shape {tuple(weights.shape)}, for "
            f"{len(logits)} teachers."
        )
    weights = ops.cast(weights, "float32")
    weights = weights / ops.sum(weights, axis=-1, keepdims=True)
    ones = (1,) * (len(logits[0].shape) - 1)
    return [
        ops.reshape(weights[:, index], (-1, *ones))
        for index in range(len(logits))
    ]
