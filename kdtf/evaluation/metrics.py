"""Turns what a user calls a metric into a fresh Keras metric."""

from collections.abc import Sequence
from typing import Any
from typing import Literal

import keras
import numpy as np

Direction = Literal["higher", "lower"]
_LOWER_IS_BETTER = (
    "loss",
    "error",
    "perplexity",
    "entropy",
    "divergence",
    "hinge",
    "poisson",
    "logcosh",
    "false_",
    "edit_distance",
)


def check_metrics(metrics: Sequence[Any]) -> None:
    """Refuses what is no Keras metric before any model has run.

    Raises:
        TypeError: One is neither a name, a metric nor a function; or a
            legacy `tf_keras` one.
        ValueError: Keras knows no metric of a name, or two share one.
    """
    names = []
    for metric in metrics:
        if not isinstance(metric, str | keras.metrics.Metric) and (
            "tf_keras" in type(metric).__module__ or not callable(metric)
        ):
            raise TypeError(
                "`metrics` must hold names, `keras.metrics.Metric` objects "
                f"or functions. Received: metric={metric!r}. Keras 3 "
                "metrics serve `tf_keras` models, too."
            )
        if isinstance(metric, str) and not _is_accuracy(metric):
            _metric_of_name(metric)
        names.append(metric_name(metric))
    if len(set(names)) < len(names):
        raise ValueError(
            "`metrics` must have different names. Received: "
            f"names={names}. Give one another with its `name=` argument."
        )


def resolve_metric(identifier: Any, labels: Any, outputs: Any) -> Any:
    """Makes a fresh metric, choosing "accuracy" by shape as `compile` does.

    Args:
        identifier: A name, a metric (its configuration is copied, its state
            is not), or a function `(labels, outputs) -> values`.
        labels: The first batch's labels.
        outputs: The first batch's predictions.

    Example:
        >>> import numpy as np
        >>> labels, logits = np.array([2, 0]), np.zeros((2, 3))
        >>> type(resolve_metric("accuracy", labels, logits)).__name__
        'SparseCategoricalAccuracy'
    """
    if isinstance(identifier, keras.metrics.Metric):
        return type(identifier).from_config(identifier.get_config())
    if not isinstance(identifier, str):
        name = metric_name(identifier)
        return keras.metrics.MeanMetricWrapper(identifier, name=name)
    if not _is_accuracy(identifier):
        return _metric_of_name(identifier)
    if outputs.ndim == 1 or outputs.shape[-1] == 1:
        return keras.metrics.BinaryAccuracy(name=identifier)
    is_sparse = labels.ndim < outputs.ndim or labels.shape[-1] == 1
    if is_sparse:
        return keras.metrics.SparseCategoricalAccuracy(name=identifier)
    return keras.metrics.CategoricalAccuracy(name=identifier)


def metric_direction(metric: Any) -> Direction:
    """Tells whether higher or lower values of a metric are better.

    Args:
        metric: A name or a `keras.metrics.Metric`.

    Example:
        >>> metric_direction("accuracy"), metric_direction("perplexity")
        ('higher', 'lower')
    """
    # Keras's own metrics say it; there is no public name for it.
    known = getattr(metric, "_direction", None)
    if known in ("up", "down"):
        return "higher" if known == "up" else "lower"
    words = metric_name(metric)
    if not isinstance(metric, str):
        words = f"{words} {type(metric).__name__}"
    lower = any(part in words.lower() for part in _LOWER_IS_BETTER)
    return "lower" if lower else "higher"


def value_of(metric: Any) -> float:
    """Gives a metric's result as one number.

    Raises:
        ValueError: The metric gives several, as an unaveraged F1 score does.
    """
    value = np.asarray(metric.result())
    if value.size != 1:
        raise ValueError(
            "`metrics` must give one number each. Received: "
            f"metric={metric.name!r} with a result of shape {value.shape}. "
            "Ask it for an average, like `average='macro'`."
        )
    return float(value.reshape(()))


def metric_name(metric: Any) -> str:
    """Gives the name under which a metric is reported.

    Args:
        metric: A name, a `keras.metrics.Metric`, or a function.
    """
    if isinstance(metric, str):
        return metric
    name = getattr(metric, "name", None) or getattr(metric, "__name__", None)
    return str(name or type(metric).__name__)


def _is_accuracy(identifier: str) -> bool:
    return identifier.lower() in ("accuracy", "acc")


def _metric_of_name(name: str) -> Any:
    try:
        metric = keras.metrics.get(name)
    except ValueError as error:
        raise ValueError(
            "`metrics` must name metrics of Keras, like 'accuracy' or "
            f"'mean_squared_error'. Received: metric={name!r}."
        ) from error
    if not isinstance(metric, keras.metrics.Metric):
        metric = keras.metrics.MeanMetricWrapper(metric)
    metric.name = name
    return metric
