"""Puts what changes a weight on the weight itself, finds it and takes it off.

Keras calls a variable's constraint after each optimizer update, in graph:
there a technique acts in `fit`, in a custom loop and under a `Distiller`,
without a wrapper layer or a callback.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras

from kdtf.layers import walk_layers
from kdtf.transforms.substitution import restore
from kdtf.transforms.substitution import substitutions

__all__ = [
    "Attachment",
    "State",
    "attachments",
    "forget",
    "forget_compiled",
    "recall",
    "remember",
    "scope_of",
    "stamp",
    "states",
]


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
    setattr(model, f"_{state.name}", state)
    forget_compiled(model)


def recall(model: Any, name: str) -> Any:
    """Returns the state of a model that is called `name`, or None."""
    return getattr(model, f"_{name}", None)


def states(model: Any) -> Iterator[tuple[Any, State]]:
    """Gives each state that hangs on a model or a model inside it."""
    for _, layer in [("", model), *walk_layers(model)]:
        for value in list(vars(layer).values()):
            if isinstance(value, State):
                yield layer, value


def forget(model: Any) -> None:
    """Takes all substitutions and states off a model and those inside it."""
    for layer, _ in list(substitutions(model)):
        restore(layer)
    for layer, state in list(states(model)):
        delattr(layer, f"_{state.name}")
    forget_compiled(model)


def stamp(model: Any) -> tuple[int, ...]:
    """Returns what changes when attachments do; compiled steps depend on it."""
    found = [*attachments(model), *substitutions(model)]
    return tuple(id(effect) for _, effect in found)


def forget_compiled(model: Any) -> None:
    """Lets a model, and those inside it, compile their steps anew.

    What `fit` has compiled knows the attachments of its time only.
    """
    for _, layer in [("", model), *walk_layers(model)]:
        if isinstance(layer, keras.Model):
            layer.train_function = None
            layer.test_function = None
            layer.predict_function = None


def scope_of(variable: Any) -> Any:
    """Returns the scope of the strategy that a variable was made under."""
    strategy = getattr(variable.value, "distribute_strategy", None)
    return contextlib.nullcontext() if strategy is None else strategy.scope()
