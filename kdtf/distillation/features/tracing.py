"""Runs a model without data, to see the sizes of what its layers give."""

from typing import Any

import keras
import tensorflow as tf

from kdtf.distillation.features.capture import Capture
from kdtf.distillation.features.capture import Record
from kdtf.distillation.teachers import accepts_training

__all__ = ["trace"]


def trace(model: Any, taps: list[str]) -> dict[str, Record]:
    """Returns records of a run without data: outputs with static shapes.

    Args:
        model: A built Keras 3 model with symbolic inputs.
        taps: Paths of the layers to record.

    Raises:
        ValueError: The shape of its inputs is not known, or a layer gives
            several tensors.

    Example:
        >>> dense = keras.layers.Dense(2, name="head")
        >>> model = keras.Sequential([keras.Input((3,)), dense])
        >>> tuple(trace(model, ["head"])["head"].output.shape)
        (None, 2)
    """
    specs = keras.tree.map_structure(
        lambda x: tf.TensorSpec(x.shape, x.dtype), _inputs(model)
    )
    kwargs = {"training": False} if accepts_training(model) else {}
    with Capture(model, taps) as records:
        tf.function(
            lambda x: model(x, **kwargs), autograph=False
        ).get_concrete_function(specs)
    for path, record in records.items():
        if not hasattr(record.output, "shape"):
            raise ValueError(
                "Features are taken from layers that give one tensor. "
                f"Received: {path!r} of {model.name!r}, which gives "
                f"{type(record.output).__name__}. Name another layer."
            )
    return records


def _inputs(model: Any) -> Any:
    """Returns a model's symbolic inputs, as a dict if it takes a dict."""
    if isinstance(model, keras.Sequential):
        return model.inputs[0]
    if not getattr(model, "inputs", None):
        raise ValueError(
            "Features need models that know the shape of their inputs. "
            f"Received: {model.name!r} of type {type(model).__name__}. Make "
            "it a functional model: `keras.Model(inputs, model(inputs))`."
        )
    return model.input
