"""Criteria by activation: what weights multiply, and what units give."""

from collections.abc import Sequence
from typing import Any

from keras import ops

from kdtf.batches import Batch
from kdtf.pruning import scores
from kdtf.pruning.calibration import activation_after
from kdtf.pruning.calibration import has_squared_norms
from kdtf.pruning.calibration import reduce_units
from kdtf.pruning.calibration import squared_norms
from kdtf.pruning.calibration import watching
from kdtf.pruning.criterion import MeasuredCriterion
from kdtf.transforms.layout import layout_of
from kdtf.transforms.selection import Candidate

__all__ = ["APoZ", "MeanActivation", "Wanda"]


class Wanda(MeasuredCriterion):
    """Weights that multiply weak inputs go: |w| * ||x||_2.

    Meant to compare the inputs of each output with each other
    (`structure="per_output"`). See `scores.wanda`.
    """

    structure = "per_output"

    def why_not(self, kernel: Candidate) -> str | None:
        """Takes the kernels of Dense, EinsumDense and convolutions."""
        return _why_not_watched(kernel)

    def measure(
        self, kernels: Sequence[Candidate], calibration: Any, batch: Batch
    ) -> list[Any]:
        """Returns the squared norms of the batch's inputs."""
        found: dict[int, Any] = {}

        def see(layer: Any, inputs: Any, outputs: Any) -> None:
            del outputs
            norms = squared_norms(layer, inputs, layout_of(layer, layer.kernel))
            # A layer that is called twice has seen both inputs.
            found[id(layer)] = found.get(id(layer), 0.0) + norms

        with watching([k.layer for k in kernels], see):
            calibration.model(batch.x, training=False)
        return _all_called(kernels, found)

    def finish(
        self, kernels: Sequence[Candidate], calibration: Any, totals: list[Any]
    ) -> list[Any]:
        """Returns |w| times the norms."""
        del calibration
        found = [
            scores.wanda(kernel.variable, total)
            for kernel, total in zip(kernels, totals, strict=True)
        ]
        return found


class _ByUnit(MeasuredCriterion):
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

    def measure(
        self, kernels: Sequence[Candidate], calibration: Any, batch: Batch
    ) -> list[Any]:
        """Returns each unit's sum and count, one after the other."""
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

    def finish(
        self, kernels: Sequence[Candidate], calibration: Any, totals: list[Any]
    ) -> list[Any]:
        """Returns the scores by unit."""
        del calibration
        return [
            self.score(total, count, layout_of(kernel.layer, kernel.variable))
            for kernel, total, count in zip(
                kernels, totals[::2], totals[1::2], strict=True
            )
        ]


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
