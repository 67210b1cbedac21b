"""How much each group matters: its weights' scores, taken together."""

from typing import Any

import keras
import numpy as np

from kdtf.pruning import criteria
from kdtf.pruning.calibration import Calibration
from kdtf.pruning.shrinking.tracing import Path
from kdtf.pruning.shrinking.tracing import Slicing
from kdtf.pruning.shrinking.tracing import Trace
from kdtf.transforms.selection import candidates

__all__ = ["group_scores", "kernel_scores"]


def kernel_scores(
    model: keras.Model, criterion: Any, data: Any
) -> dict[int, np.ndarray]:
    """Returns scores of all kernels that a criterion can score.

    Args:
        model: A built model.
        criterion: As `kdtf.prune` takes it.
        data: Typical inputs, with labels if the criterion asks for them.

    Returns:
        The id of a variable to scores of its shape, float32.

    Raises:
        ValueError: The criterion scores changes over training, needs data
            that is not given, or can score nothing here.
    """
    chosen = criteria.get(criterion)
    if chosen.accumulates:
        raise ValueError(
            "`criterion` must be one that needs no training: groups are "
            f"removed at once. Received: criterion={criterion!r}. Use "
            "'taylor' for scores by gradients."
        )
    kernels = [
        candidate
        for candidate in candidates(model)
        if candidate.is_matrix and chosen.why_not(candidate) is None
    ]
    if not kernels:
        raise ValueError(
            "`criterion` must be able to score a kernel of the model. "
            f"Received: criterion={criterion!r}. Use 'magnitude'."
        )
    chosen.prepare(model)
    calibration = None
    if chosen.needs_data:
        calibration = Calibration(model, data, needs_labels=chosen.needs_labels)
    scores = chosen(kernels, calibration, [])
    return {
        id(kernel.variable): np.asarray(score, "float64")
        for kernel, score in zip(kernels, scores, strict=True)
    }


def group_scores(
    slicings: list[Slicing],
    roots: np.ndarray,
    scores: dict[tuple[Path, int], np.ndarray],
) -> np.ndarray:
    """Returns sqrt(sum of s^2) over all weights that go with a group.

    With magnitudes that is the L2 norm of the group, DepGraph's importance.

    Args:
        slicings: Which weights follow which atoms.
        roots: Each atom's group.
        scores: Those of a layer's weight, in its shape; others count nothing.

    Returns:
        float64, for each group by its name; nan for groups none of whose
        weights has scores.

    Example:
        >>> import numpy as np
        >>> kernel = Slicing(
        ...     layer=("a",), weight=0, shape=(1, 2), uses=1,
        ...     axes={1: np.array([1, 2])},
        ... )
        >>> scores = {(("a",), 0): np.array([[3.0, 4.0]])}
        >>> group_scores([kernel], np.arange(3), scores).tolist()
        [nan, 3.0, 4.0]

    Reference:
        Fang et al. 2023, https://arxiv.org/abs/2301.12900 (section 3.3)
    """
    totals = np.zeros(len(roots))
    is_scored = np.zeros(len(roots), bool)
    for slicing in slicings:
        values = scores.get((slicing.layer, slicing.weight))
        if values is None:
            continue
        for axis, atoms in slicing.axes.items():
            others = tuple(a for a in range(values.ndim) if a != axis)
            np.add.at(totals, roots[atoms], (values**2).sum(others))
            is_scored[roots[atoms]] = True
    return np.where(is_scored, np.sqrt(totals), np.nan)


def scores_of(
    model: keras.Model,
    trace: Trace,
    roots: np.ndarray,
    criterion: Any,
    data: Any,
) -> np.ndarray:
    """Returns each group's score by a criterion of the pruning room."""
    by_id = kernel_scores(model, criterion, data)
    found = {}
    for slicing in trace.slicings:
        layer: Any = model
        for name in slicing.layer:
            layer = layer.get_layer(name)
        variable = layer.weights[slicing.weight]
        if id(variable) in by_id:
            found[slicing.layer, slicing.weight] = by_id[id(variable)]
    return group_scores(trace.slicings, roots, found)
