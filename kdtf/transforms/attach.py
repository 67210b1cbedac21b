"""Puts what changes a weight on the weight itself, finds it and takes it off.

Keras calls a variable's constraint after each optimizer update, in graph:
there a technique acts in `fit`, in a custom loop and under a `Distiller`,
without a wrapper layer or a callback.
"""

from collections.abc import Iterator
from typing import Any

import keras

from kdtf.layers import walk_layers

__all__ = [
    "Attachment",
    "State",
    "attachments",
    "forget",
    "recall",
    "remember",
    "stamp",
]

_STATE = "_kdtf_state"


class Attachment(keras.constraints.Constraint):
    """A constraint that kdtf put on a variable, over the user's own.

    Args:
        inner: The constraint that was there before, or None.
    """

    def __init__(self, inner: Any = None) -> None:
        self.inner = inner

    def bake(self, variable: Any) -> None:
        """Makes the effect on the variable's value last."""
        raise NotImplementedError


class State(keras.losses.Loss):
    """What a technique must remember of a model, saved with its weights.

    Of the kinds of object whose state Keras saves with a model, a loss is the
    one that it neither trains, nor counts among the weights, nor resets.
    """

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Is never a loss."""
        raise NotImplementedError

    def save_own_variables(self, store: Any) -> None:
        """Writes arrays into `store`, a mapping."""
        raise NotImplementedError

    def load_own_variables(self, store: Any) -> None:
        """Reads them back; an empty `store` comes from another model."""
        raise NotImplementedError


def attachments(model: Any) -> Iterator[tuple[Any, Attachment]]:
    """Gives each variable of a model that carries one, with it."""
    for variable in model.weights:
        constraint = getattr(variable, "constraint", None)
        if isinstance(constraint, Attachment):
            yield variable, constraint


def remember(model: Any, state: State) -> None:
    """Hangs state on a model, to be saved with it, and retraces its steps."""
    setattr(model, _STATE, state)
    _forget_compiled(model)


def recall(model: Any) -> Any:
    """Returns the state of a model, or None."""
    return getattr(model, _STATE, None)


def forget(model: Any) -> None:
    """Takes the state off a model and off the models inside it."""
    for _, layer in [("", model), *walk_layers(model)]:
        if recall(layer) is not None:
            delattr(layer, _STATE)
    _forget_compiled(model)


def stamp(model: Any) -> tuple[int, ...]:
    """Returns what changes when attachments do; compiled steps depend on it."""
    return tuple(id(attachment) for _, attachment in attachments(model))


def _forget_compiled(model: Any) -> None:
    # A step that `fit` has compiled knows the constraints of its time only.
    for _, layer in [("", model), *walk_layers(model)]:
        if isinstance(layer, keras.Model):
            layer.train_function = None
