"""A model's inputs as it declares them, whatever form they came in."""

from collections.abc import Callable
from typing import Any

import keras

__all__ = ["as_functional", "declared_inputs"]


def as_functional(model: Any) -> Any:
    """Returns the Functional model that `model` is or runs, or None.

    Args:
        model: A model of Keras 3.

    Example:
        >>> layers = [keras.Input((3,)), keras.layers.ReLU()]
        >>> as_functional(keras.Sequential(layers)).input.shape
        (None, 3)
    """
    if isinstance(model, keras.Sequential):
        model = model._functional
    kind = keras.src.models.functional.Functional
    if not isinstance(model, kind):
        return None
    # A subclass with a `call` of its own may take anything.
    return model if type(model).call is kind.call else None


def declared_inputs(model: Any) -> Callable[[Any], Any] | None:
    """Returns what gives inputs the structure and dtypes that are declared.

    A Functional model does so in its `call`: images may come as integers, and
    a list of inputs as a dict of their names.

    Args:
        model: A model of Keras 3.

    Returns:
        A function of the inputs; None for a model that declares nothing.

    Example:
        >>> import numpy as np
        >>> inputs = [keras.Input((1,), name="b"), keras.Input((1,), name="a")]
        >>> model = keras.Model(inputs, keras.layers.Add()(inputs))
        >>> as_declared = declared_inputs(model)
        >>> given = {"a": np.array([[1]]), "b": np.array([[2]])}
        >>> [float(x[0, 0]) for x in as_declared(given)]
        [2.0, 1.0]
    """
    functional = as_functional(model)
    if functional is None:
        return None

    def declare(inputs: Any) -> Any:
        # As the model itself does, which Keras has no public way to ask for.
        flat = functional._standardize_inputs(inputs)
        return keras.tree.pack_sequence_as(functional.input, flat)

    return declare
