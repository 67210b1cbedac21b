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


class MeasuredCriterion(Criterion):
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
