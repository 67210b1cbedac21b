"""Criteria by gradient: how much the loss depends on a weight."""

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from kdtf.batches import Batch
from kdtf.pruning import scores
from kdtf.pruning.calibration import gradients
from kdtf.pruning.criterion import MeasuredCriterion
from kdtf.transforms.selection import Candidate

__all__ = ["SNIP", "Movement", "Taylor"]


class _ByGradient(MeasuredCriterion):
    """Scores from the gradient of the loss.

    Args:
        loss: A `keras.losses.Loss`, a loss function or a name. Defaults to
            the loss the model was compiled with.
    """

    needs_labels = True

    def __init__(self, loss: Any = None) -> None:
        self._loss = None if loss is None else _as_loss(loss)

    def prepare(self, model: Any) -> None:
        """Takes the model's own loss where none was given.

        Raises:
            ValueError: The model was not compiled with one single loss.
        """
        if self._loss is not None:
            return
        loss = getattr(model, "loss", None)
        if not isinstance(loss, str) and not callable(loss):
            raise ValueError(
                "A criterion by gradient needs the loss. Received: the model "
                f"{model.name!r} with loss={loss!r}. Compile it with one loss "
                "before, or give it: `criterion=kdtf.pruning.Taylor(loss=...)`."
            )
        self._loss = _as_loss(loss)

    def _gradients(
        self, kernels: Sequence[Candidate], calibration: Any, batch: Batch
    ) -> list[Any]:
        variables = [kernel.variable for kernel in kernels]
        return gradients(calibration, batch, self._loss, variables)


class Taylor(_ByGradient):
    """Weights the loss hardly depends on go: mean |w * dL/dw| over batches."""

    def measure(
        self, kernels: Sequence[Candidate], calibration: Any, batch: Batch
    ) -> list[Any]:
        """Returns |w * dL/dw| of the batch."""
        found = self._gradients(kernels, calibration, batch)
        return [
            scores.taylor(kernel.variable, gradient)
            for kernel, gradient in zip(kernels, found, strict=True)
        ]

    def finish(
        self, kernels: Sequence[Candidate], calibration: Any, totals: list[Any]
    ) -> list[Any]:
        """Returns the mean over batches."""
        del kernels
        return [total / len(calibration.batches) for total in totals]


class SNIP(_ByGradient):
    """Weights the loss is least sensitive to go, by the whole data's gradient.

    Meant for one shot before training, and for `allocation="global"`.
    """

    def measure(
        self, kernels: Sequence[Candidate], calibration: Any, batch: Batch
    ) -> list[Any]:
        """Returns the batch's gradient, as often as it has examples."""
        found = self._gradients(kernels, calibration, batch)
        # The loss is a mean over the batch; the last may be shorter.
        size = ops.shape(keras.tree.flatten(batch.x)[0])[0]
        return [ops.cast(size, "float32") * gradient for gradient in found]

    def finish(
        self, kernels: Sequence[Candidate], calibration: Any, totals: list[Any]
    ) -> list[Any]:
        """Returns the sensitivities under the mean gradient."""
        mean = [total / sum(calibration.sizes) for total in totals]
        return scores.snip([k.variable for k in kernels], mean)


class Movement(_ByGradient):
    """Weights on their way to 0 go: -w * dL/dw, summed over all updates.

    Meant for a schedule while fine-tuning: each update adds one pass over the
    data to what the former ones have found, so `frequency` should be small.
    The paper adds up the training's own gradients, which no constraint sees.
    Scores may be negative. A pruned weight keeps its own, and comes back if
    others fall below it.
    """

    accumulates = True

    def __call__(
        self, kernels: Sequence[Candidate], calibration: Any, before: list[Any]
    ) -> list[Any]:
        """Returns what was found before, and what one more pass adds."""
        new = super().__call__(kernels, calibration, before)
        return [old + more for old, more in zip(before, new, strict=True)]

    def measure(
        self, kernels: Sequence[Candidate], calibration: Any, batch: Batch
    ) -> list[Any]:
        """Returns -w * dL/dw of the batch."""
        found = self._gradients(kernels, calibration, batch)
        return [
            scores.movement(0.0, kernel.variable, gradient)
            for kernel, gradient in zip(kernels, found, strict=True)
        ]

    def finish(
        self, kernels: Sequence[Candidate], calibration: Any, totals: list[Any]
    ) -> list[Any]:
        """Returns the sum over batches."""
        del kernels, calibration
        return totals


class _FunctionLoss(keras.losses.Loss):
    """Averages and weighs a loss function's values, as `compile` does."""

    def __init__(self, function: Callable[[Any, Any], Any]) -> None:
        # A scope in TensorFlow must not start with "_", as the class does.
        super().__init__(name="function_loss")
        self._function = function

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Returns the function's values."""
        return self._function(y_true, y_pred)


def _as_loss(loss: Any) -> keras.losses.Loss:
    found = keras.losses.get(loss)
    is_loss = isinstance(found, keras.losses.Loss)
    return found if is_loss else _FunctionLoss(found)
