"""Refuses arguments of `compress` and `advise` before anything runs."""

from typing import Any

import keras

from kdtf.evaluation.metrics import check_metrics
from kdtf.transforms.selection import check_built

__all__ = ["check", "check_numbers"]

_TARGETS = ("android", "iot")


def check(model: Any, target: str, metric: Any, loss: Any) -> Any:
    """Refuses what cannot work, before anything does; returns the loss.

    Raises:
        TypeError: `model` is no Keras 3 model, or `metric` no metric.
        ValueError: It is not built, or an argument is unknown or missing.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(
            "`model` must be a `keras.Model` of Keras 3. Received: "
            f"type={type(model).__module__}.{type(model).__qualname__}."
        )
    check_built(model, "compress")
    if target not in _TARGETS:
        raise ValueError(
            f"`target` must be one of {list(_TARGETS)}. Received: "
            f"target={target!r}."
        )
    check_metrics([metric])
    loss = getattr(model, "loss", None) if loss is None else loss
    if loss is None or isinstance(loss, dict | list | tuple):
        raise ValueError(
            "`loss` must be the one loss of the model's one output. Received: "
            f"loss={loss!r}. Give `loss`, or compile the model with it."
        )
    return loss


def check_numbers(
    epochs: int, batch_size: int, learning_rate: float, time_budget: Any
) -> None:
    """Refuses numbers that are out of range.

    Raises:
        ValueError: One of them is.
    """
    for name, value in (("epochs", epochs), ("batch_size", batch_size)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(
                f"`{name}` must be a whole number of at least 1. Received: "
                f"{name}={value!r}."
            )
    if not learning_rate > 0:
        raise ValueError(
            "`learning_rate` must be above 0. Received: "
            f"learning_rate={learning_rate!r}."
        )
    if time_budget is not None and not time_budget > 0:
        raise ValueError(
            "`time_budget` must be a number of seconds above 0. Received: "
            f"time_budget={time_budget!r}."
        )
