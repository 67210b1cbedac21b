"""Tells the two Kerases apart: Keras 3 (the house) and legacy `tf_keras`.

`tf_keras` is never imported here just to ask: a model of it can only exist
where it is loaded already.
"""

import sys
from typing import Any
from typing import Literal

import keras

Flavour = Literal["keras", "tf_keras"]


def is_keras_model(value: Any) -> bool:
    """Returns whether `value` is a Keras 3 model."""
    return isinstance(value, keras.Model)


def is_tf_keras_model(value: Any) -> bool:
    """Returns whether `value` is a legacy `tf_keras` (Keras 2) model."""
    tf_keras = sys.modules.get("tf_keras")
    return tf_keras is not None and isinstance(value, tf_keras.Model)


def flavour_of(model: Any, *, argument: str = "model") -> Flavour:
    """Returns which Keras `model` belongs to.

    Args:
        model: The value the user passed.
        argument: The name of the parameter, for the message.

    Raises:
        TypeError: `model` is no Keras model at all.
    """
    if is_keras_model(model):
        return "keras"
    if is_tf_keras_model(model):
        return "tf_keras"
    raise TypeError(
        f"`{argument}` must be a `keras.Model` (or a `tf_keras.Model`). "
        f"Received: {argument}={model!r} of type "
        f"{type(model).__module__}.{type(model).__qualname__}. "
        "Load a saved one with `keras.saving.load_model(path)`."
    )
