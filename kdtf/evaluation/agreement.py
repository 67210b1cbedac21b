"""How often two models decide alike, whatever their outputs look like."""

from typing import Any
from typing import Literal

import numpy as np

Decision = Literal["classes", "binary"]


def decision_kind(outputs: np.ndarray, labels: Any) -> Decision | None:
    """Tells what a model decides, from its outputs and the labels beside.

    Args:
        outputs: Shape `(batch, ..., classes)` or `(batch, ...)`.
        labels: The labels of the batch, or None.

    Returns:
        "classes" (the greatest of the last axis wins), "binary" (each output
        is a yes or no: a single unit, or several for multi-label heads), or
        None: a regressor decides nothing.

    Example:
        >>> import numpy as np
        >>> decision_kind(np.zeros((2, 3)), np.array([0, 2]))
        'classes'
        >>> decision_kind(np.zeros((2, 1)), np.array([0.5, 17.0])) is None
        True
    """
    has_classes = outputs.ndim > 1 and outputs.shape[-1] > 1
    if labels is None:
        return "classes" if has_classes else None
    labels = np.asarray(labels)
    if not has_classes:
        return "binary" if _are_zero_or_one(labels) else None
    if labels.shape != outputs.shape:
        return "classes" if _are_whole(labels) else None
    if np.all(labels >= 0) and np.allclose(labels.sum(-1), 1, atol=1e-3):
        return "classes"
    return "binary" if _are_zero_or_one(labels) else None


def decide(
    outputs: np.ndarray, kind: Decision, *, threshold: float = 0.5
) -> np.ndarray:
    """Gives what the outputs say: class numbers, or booleans.

    Args:
        outputs: Shape `(batch, ..., classes)`, or `(batch, ...)` for
            "binary".
        kind: What `decision_kind` found.
        threshold: A "binary" output above it says yes.

    Returns:
        For "classes" integers without the last axis; for "binary" booleans,
        a last axis of size 1 left out.
    """
    if kind == "classes":
        return outputs.argmax(axis=-1)
    decided = outputs > threshold
    if decided.ndim > 1 and decided.shape[-1] == 1:
        return decided[..., 0]
    return decided


def threshold_of(outputs: np.ndarray) -> float:
    """Gives where yes begins: 0.5 for probabilities, 0.0 for logits.

    Values that all lie in [0, 1] are taken for probabilities.

    Example:
        >>> import numpy as np
        >>> threshold_of(np.array([0.2, 0.9])), threshold_of(np.array([-3.0]))
        (0.5, 0.0)
    """
    return 0.5 if outputs.min() >= 0 and outputs.max() <= 1 else 0.0


def count_agreeing(
    decided: np.ndarray, reference: np.ndarray, weights: np.ndarray | None
) -> tuple[int, int]:
    """Counts the places where two models decide alike.

    Args:
        decided: One model's decisions.
        reference: The other's, of the same shape.
        weights: Where 0, the place is padding and left out; of the same
            shape, or of its first dimensions. None counts every place.

    Returns:
        The places that agree, and all that count.

    Example:
        >>> import numpy as np
        >>> a, b = np.array([[1, 2, 0]]), np.array([[1, 3, 0]])
        >>> count_agreeing(a, b, weights=np.array([[1, 1, 0]]))
        (1, 2)
    """
    agreeing = decided == reference
    if weights is None:
        return int(agreeing.sum()), agreeing.size
    counts = np.asarray(weights) != 0
    # A weight may come with a last axis of 1, as Keras allows.
    if counts.ndim == agreeing.ndim + 1 and counts.shape[-1] == 1:
        counts = counts[..., 0]
    missing = agreeing.ndim - counts.ndim
    counts = counts.reshape(counts.shape + (1,) * missing)
    counts = np.broadcast_to(counts, agreeing.shape)
    return int(agreeing[counts].sum()), int(counts.sum())


def _are_whole(labels: np.ndarray) -> bool:
    return bool(np.all(labels == np.floor(labels)) and np.all(labels >= 0))


def _are_zero_or_one(labels: np.ndarray) -> bool:
    return bool(np.isin(labels, (0, 1)).all())
