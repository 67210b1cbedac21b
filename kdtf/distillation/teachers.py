"""A model as a teacher."""

import inspect
from collections.abc import Callable
from typing import Any

import keras

from kdtf.distillation.heads import Head
from kdtf.distillation.heads import head_of

__all__ = ["ModelTeacher", "accepts_training"]


def accepts_training(model: Any) -> bool:
    """Returns whether `model.call` takes `training`."""
    parameters = inspect.signature(model.call).parameters.values()
    return any(
        p.name == "training" or p.kind is p.VAR_KEYWORD for p in parameters
    )


class ModelTeacher:
    """Runs a model as a teacher: in inference mode and without gradient.

    Not a Keras object, so that a Distiller that holds one neither tracks nor
    saves nor trains the model in it.

    Args:
        model: A built Keras 3 or `tf_keras` model.
        inputs: Maps what the student is fed to what this model is fed.
            Defaults to the same inputs.
    """

    def __init__(
        self, model: Any, *, inputs: Callable[[Any], Any] | None = None
    ) -> None:
        self.model = model
        self.inputs = inputs
        self._call_kwargs = (
            {"training": False} if accepts_training(model) else {}
        )

        self.head: Head | None = None

    def find_head(self) -> None:
        """Makes ready for `hidden`.

        Raises:
            ValueError: The model does not end in an output projection.
        """
        self.head = head_of(self.model, argument="teacher")

    def hidden(self, x: Any) -> Any:
        """Returns what the model's `head` makes its outputs of."""
        if self.inputs is not None:
            x = self.inputs(x)
        states = self.head.hidden(x, training=False)  # type: ignore[union-attr]
        return keras.ops.stop_gradient(states)

    def __call__(self, x: Any) -> Any:
        """Returns the model's outputs for the student's inputs `x`."""
        if self.inputs is not None:
            x = self.inputs(x)
        outputs = self.model(x, **self._call_kwargs)
        logits = getattr(outputs, "_keras_logits", None)
        stopped = keras.ops.stop_gradient(outputs)
        if logits is not None:
            stopped._keras_logits = keras.ops.stop_gradient(logits)
        return stopped
