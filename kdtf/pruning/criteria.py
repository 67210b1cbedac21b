"""The criteria by name: by weight, by activation, by gradient."""

import copy
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

from keras import ops

from kdtf.pruning import scores
from kdtf.pruning.by_activation import APoZ
from kdtf.pruning.by_activation import MeanActivation
from kdtf.pruning.by_activation import Wanda
from kdtf.pruning.by_gradient import SNIP
from kdtf.pruning.by_gradient import Movement
from kdtf.pruning.by_gradient import Taylor
from kdtf.pruning.criterion import Criterion
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


class Magnitude(Criterion):
    """Small weights go: |w|. See `scores.magnitude`."""

    def __call__(
        self, kernels: Sequence[Candidate], calibration: Any, before: list[Any]
    ) -> list[Any]:
        """Returns |w|."""
        del calibration, before
        return [scores.magnitude(k.variable) for k in kernels]


class Function(Criterion):
    """Scores by a function of the weights alone.

    Args:
        function: Weights to scores of the same shape, higher stays; must
            work on tensors.
    """

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self._function = function

    def __call__(
        self, kernels: Sequence[Candidate], calibration: Any, before: list[Any]
    ) -> list[Any]:
        """Returns what the function gives."""
        del calibration, before
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
        return found


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
        # It takes the loss from the model it is used on: one copy for each.
        return copy.copy(criterion)
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
