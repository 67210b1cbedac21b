"""What makes a weight worth keeping: by weight, by activation, by gradient.

A criterion gives each kernel a score for each weight. The formulas are in
`scores`; here is what they are fed with.
"""

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from kdtf.batches import Batch
from kdtf.pruning import scores
from kdtf.pruning.calibration import activation_after
from kdtf.pruning.calibration import gradients
from kdtf.pruning.calibration import has_squared_norms
from kdtf.pruning.calibration import reduce_units
from kdtf.pruning.calibration import squared_norms
from kdtf.pruning.calibration import watching
from kdtf.transforms.layout import layout_of
from kdtf.transforms.selection import Candidate

__all__ = [
    "APoZ",
    "CRITERIA",
    "Criterion",
    "Function",
    "Magnitude",
    "MeanActivation",
    "Movement",
    "SNIP",
    "Taylor",
    "Wanda",
    "get",
]


class Criterion:
    """Scores the weights of kernels; subclasses say by what.

    Attributes:
        needs_data: Whether it measures the model on data.
        needs_labels: Whether the data must have labels.
        structure: The structure it is meant for.
    """

    needs_data = False
    needs_labels = False
    structure = "unstructured"

    def why_not(self, kernel: Candidate) -> str | None:
        """Returns why a kernel cannot be scored, or None if it can."""
        del kernel
        return None

    def prepare(self, model: Any) -> None:
        """Takes what it needs of the model, before the first scores.

        Raises:
            ValueError: The model lacks it.
        """

    def initial_state(self, kernels: Sequence[Candidate]) -> list[Any]:
        """Returns what it remembers between updates, as arrays."""
        del kernels
        return []

    def __call__(
        self,
        kernels: Sequence[Candidate],
        calibration: Any,
        state: list[Any],
    ) -> tuple[list[Any], list[Any]]:
        """Returns the scores and the new state.

        Args:
            kernels: The kernels to score.
            calibration: The `Calibration`; None if it needs no data.
            state: What the last call returned, as tensors.
        """
        raise NotImplementedError


class Magnitude(Criterion):
    """Small weights go: |w|. See `scores.magnitude`."""

    def __call__(
        self,
        kernels: Sequence[Candidate],
        calibration: Any,
        state: list[Any],
    ) -> tuple[list[Any], list[Any]]:
        """Returns |w|."""
        del calibration
        return [scores.magnitude(k.variable) for k in kernels], state


class Function(Criterion):
    """Scores by a function of the weights alone.

    Args:
        function: Weights to scores of the same shape, higher stays; must
            work on tensors.
    """

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self._function = function

    def __call__(
        self,
        kernels: Sequence[Candidate],
        calibration: Any,
        state: list[Any],
    ) -> tuple[list[Any], list[Any]]:
        """Returns what the function gives."""
        del calibration
        found = []
        for kernel in kernels:
            value = ops.convert_to_tensor(kernel.variable)
            score = ops.cast(self._function(value), "float32")
            if tuple(score.shape) != kernel.shape:
                raise ValueError(
                    "A `criterion` function must give one score for each "
                    f"weight. Received: scores of shape {tuple(score.shape)} "
                    f"for {kernel.path!r} of shape {kernel.shape}."
                )
            found.append(score)
        return found, state


class _Measured(Criterion):
    """Scores from what layers see of calibration data."""

    needs_data = True

    def __call__(
        self,
        kernels: Sequence[Candidate],
        calibration: Any,
        state: list[Any],
    ) -> tuple[list[Any], list[Any]]:
        """Returns the scores after one pass over the data."""
        totals = calibration.total(
            lambda batch: self._measure(kernels, calibration, batch)
        )
        return self._finish(kernels, calibration, totals, state)

    def _measure(
        self, kernels: Sequence[Candidate], calibration: Any, batch: Batch
    ) -> list[Any]:
        raise NotImplementedError

    def _finish(
        self,
        kernels: Sequence[Candidate],
        calibration: Any,
        totals: list[Any],
        state: list[Any],
    ) -> tuple[list[Any], list[Any]]:
        raise NotImplementedError


class Wanda(_Measured):
    """Weights that multiply weak inputs go: |w| * ||x||_2.

    Meant to compare the inputs of each output with each other
    (`structure="per_output"`). See `scores.wanda`.
    """

    structure = "per_output"

    def why_not(self, kernel: Candidate) -> str | None:
        """Takes the kernels of Dense, EinsumDense and convolutions."""
        return _why_not_watched(kernel)

    def _measure(
        self, kernels: Sequence[Candidate], calibration: Any, batch: Batch
    ) -> list[Any]:
        found: dict[int, Any] = {}

        def see(layer: Any, inputs: Any, outputs: Any) -> None:
            del outputs
            norms = squared_norms(layer, inputs, layout_of(layer, layer.kernel))
            # A layer that is called twice has seen both inputs.
            found[id(layer)] = found.get(id(layer), 0.0) + norms

        with watching([k.layer for k in kernels], see):
            calibration.model(batch.x, training=False)
        return _all_called(kernels, found)

    def _finish(
        self,
        kernels: Sequence[Candidate],
        calibration: Any,
        totals: list[Any],
        state: list[Any],
    ) -> tuple[list[Any], list[Any]]:
        del calibration
        found = [
            scores.wanda(kernel.variable, total)
            for kernel, total in zip(kernels, totals, strict=True)
        ]
        return found, state


class _ByUnit(_Measured):
    """Scores an output unit by its activations, all its weights alike."""

    structure = "units"

    def why_not(self, kernel: Candidate) -> str | None:
        """Takes the kernels of Dense, EinsumDense and convolutions."""
        return _why_not_watched(kernel)

    def value(self, activations: Any) -> Any:
        """Returns what is summed over the data, of the activations' shape."""
        raise NotImplementedError

    def score(self, totals: Any, count: Any, layout: Any) -> Any:
        """Returns the scores in the kernel's shape."""
        raise NotImplementedError

    def _measure(
        self, kernels: Sequence[Candidate], calibration: Any, batch: Batch
    ) -> list[Any]:
        found: dict[int, list[Any]] = {}
        owners = {id(activation_after(k.layer)): k.layer for k in kernels}

        def see(layer: Any, inputs: Any, outputs: Any) -> None:
            del inputs
            owner = owners[id(layer)]
            values = self.value(ops.cast(outputs, "float32"))
            parts = reduce_units(owner, values, layout_of(owner, owner.kernel))
            before = found.get(id(owner), [0.0, 0.0])
            found[id(owner)] = [
                a + b for a, b in zip(before, parts, strict=True)
            ]

        with watching([activation_after(k.layer) for k in kernels], see):
            calibration.model(batch.x, training=False)
        pairs = _all_called(kernels, found)
        return [part for pair in pairs for part in pair]

    def _finish(
        self,
        kernels: Sequence[Candidate],
        calibration: Any,
        totals: list[Any],
        state: list[Any],
    ) -> tuple[list[Any], list[Any]]:
        del calibration
        found = [
            self.score(total, count, layout_of(kernel.layer, kernel.variable))
            for kernel, total, count in zip(
                kernels, totals[::2], totals[1::2], strict=True
            )
        ]
        return found, state


class APoZ(_ByUnit):
    """Units that are mostly silent go. See `scores.apoz`.

    Of activations that are never exactly 0 (gelu, tanh) it says nothing.
    """

    def value(self, activations: Any) -> Any:
        """Returns 1 where an activation is 0."""
        return ops.cast(ops.equal(activations, 0.0), "float32")

    def score(self, totals: Any, count: Any, layout: Any) -> Any:
        """Returns 1 - APoZ."""
        return scores.apoz(totals, count, layout)


class MeanActivation(_ByUnit):
    """Units with weak activations go. See `scores.mean_activation`."""

    def value(self, activations: Any) -> Any:
        """Returns |activation|."""
        return ops.abs(activations)

    def score(self, totals: Any, count: Any, layout: Any) -> Any:
        """Returns the mean |activation|."""
        return scores.mean_activation(totals, count, layout)


class _ByGradient(_Measured):
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

    def _measure(
        self, kernels: Sequence[Candidate], calibration: Any, batch: Batch
    ) -> list[Any]:
        found = self._gradients(kernels, calibration, batch)
        return [
            scores.taylor(kernel.variable, gradient)
            for kernel, gradient in zip(kernels, found, strict=True)
        ]

    def _finish(
        self,
        kernels: Sequence[Candidate],
        calibration: Any,
        totals: list[Any],
        state: list[Any],
    ) -> tuple[list[Any], list[Any]]:
        del kernels
        return [total / len(calibration.batches) for total in totals], state


class SNIP(_ByGradient):
    """Weights the loss is least sensitive to go, by the whole data's gradient.

    Meant for one shot before training, and for `allocation="global"`.
    """

    def _measure(
        self, kernels: Sequence[Candidate], calibration: Any, batch: Batch
    ) -> list[Any]:
        found = self._gradients(kernels, calibration, batch)
        # The loss is a mean over the batch; the last may be shorter.
        size = ops.shape(keras.tree.flatten(batch.x)[0])[0]
        return [ops.cast(size, "float32") * gradient for gradient in found]

    def _finish(
        self,
        kernels: Sequence[Candidate],
        calibration: Any,
        totals: list[Any],
        state: list[Any],
    ) -> tuple[list[Any], list[Any]]:
        mean = [total / sum(calibration.sizes) for total in totals]
        return scores.snip([k.variable for k in kernels], mean), state


class Movement(_ByGradient):
    """Weights on their way to 0 go: -w * dL/dw, summed over all updates.

    Meant for a schedule while fine-tuning: each update adds one pass over the
    data to what the former ones have found.
    """

    def initial_state(self, kernels: Sequence[Candidate]) -> list[Any]:
        """Returns zeros of the kernels' shapes."""
        return [ops.zeros(kernel.shape, "float32") for kernel in kernels]

    def _measure(
        self, kernels: Sequence[Candidate], calibration: Any, batch: Batch
    ) -> list[Any]:
        found = self._gradients(kernels, calibration, batch)
        return [
            scores.movement(0.0, kernel.variable, gradient)
            for kernel, gradient in zip(kernels, found, strict=True)
        ]

    def _finish(
        self,
        kernels: Sequence[Candidate],
        calibration: Any,
        totals: list[Any],
        state: list[Any],
    ) -> tuple[list[Any], list[Any]]:
        del kernels, calibration
        moved = [old + new for old, new in zip(state, totals, strict=True)]
        return moved, moved


CRITERIA: dict[str, type[Criterion]] = {
    "magnitude": Magnitude,
    "wanda": Wanda,
    "apoz": APoZ,
    "mean_activation": MeanActivation,
    "taylor": Taylor,
    "snip": SNIP,
    "movement": Movement,
}


def get(criterion: Any) -> Criterion:
    """Returns the criterion for a name, a function of weights or a criterion.

    Args:
        criterion: A key of `CRITERIA`, a `Criterion`, or a function from
            weights to scores.

    Raises:
        TypeError: It is none of these.
        ValueError: The name is unknown.

    Example:
        >>> type(get("wanda")).__name__
        'Wanda'
    """
    if isinstance(criterion, Criterion):
        return criterion
    if isinstance(criterion, str):
        if criterion not in CRITERIA:
            raise ValueError(
                f"`criterion` must be one of {sorted(CRITERIA)}, or a function "
                f"of weights. Received: criterion={criterion!r}."
            )
        return CRITERIA[criterion]()
    if not callable(criterion):
        raise TypeError(
            f"`criterion` must be a name, a function of weights or a "
            f"`Criterion`. Received: {criterion!r} of type "
            f"{type(criterion).__name__}."
        )
    return Function(criterion)


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


def _why_not_watched(kernel: Candidate) -> str | None:
    # Behind a `kernel` property may stand a sum, as of LoRA.
    is_kernel = kernel.variable is getattr(kernel.layer, "kernel", None)
    if is_kernel and has_squared_norms(kernel.layer):
        return None
    kind = type(kernel.layer).__name__
    return f"what {kind}'s {kernel.variable.name} multiplies is not known"


def _all_called(
    kernels: Sequence[Candidate], found: dict[int, Any]
) -> list[Any]:
    """Gives what was found for each kernel's layer, in order."""
    missing = [k.path for k in kernels if id(k.layer) not in found]
    if missing:
        raise ValueError(
            "Each kernel's layer must run when the model is called on `data`. "
            f"Received: {missing[:4]} did not. Leave them out with `select`."
        )
    return [found[id(kernel.layer)] for kernel in kernels]
