"""What a criterion is: it gives each kernel a score for each weight.

The formulas are in `scores`; a criterion feeds them.
"""

from collections.abc import Sequence
from typing import Any

from kdtf.batches import Batch
from kdtf.transforms.selection import Candidate

__all__ = ["Criterion", "MeasuredCriterion"]


class Criterion:
    """Scores the weights of kernels; subclasses say by what.

    Attributes:
        needs_data: Whether it measures the model on data.
        needs_labels: Whether the data must have labels.
        accumulates: Whether its scores build on those of the last update.
        keeps_ties: Whether all that equal the lowest kept score stay, as in
            tfmot; else exactly so many stay as asked for.
        structure: The structure it is meant for.
    """

    needs_data = False
    needs_labels = False
    accumulates = False
    keeps_ties = True
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

    def __call__(
        self, kernels: Sequence[Candidate], calibration: Any, before: list[Any]
    ) -> list[Any]:
        """Returns each kernel's scores, in its shape, float32.

        Args:
            kernels: The kernels to score.
            calibration: The `Calibration`; None if it needs no data.
            before: The scores of the last update, zeros at first; empty if
                it does not accumulate.
        """
        raise NotImplementedError


class MeasuredCriterion(Criterion):
    """Scores from one pass over calibration data, at least 0."""

    needs_data = True
    # Silent units and weights without a gradient score 0, all of them.
    keeps_ties = False

    def __call__(
        self, kernels: Sequence[Candidate], calibration: Any, before: list[Any]
    ) -> list[Any]:
        """Returns the scores after one pass over the data."""
        del before
        totals = calibration.total(
            lambda batch: self.measure(kernels, calibration, batch)
        )
        return self.finish(kernels, calibration, totals)

    def measure(
        self, kernels: Sequence[Candidate], calibration: Any, batch: Batch
    ) -> list[Any]:
        """Returns what a batch adds to the totals."""
        raise NotImplementedError

    def finish(
        self, kernels: Sequence[Candidate], calibration: Any, totals: list[Any]
    ) -> list[Any]:
        """Returns the scores that the totals of all batches make."""
        raise NotImplementedError
