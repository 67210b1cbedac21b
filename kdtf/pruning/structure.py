"""Which weights must go together, and the mask that follows from scores.

A structure pools a kernel's scores into blocks, `(groups, blocks)`, keeps the
highest of each group and spreads the decision back over the kernel. Weights
compete within a group only: unstructured pruning has one group, Wanda one for
each output, N:M one for each M consecutive weights.
"""

import dataclasses
from typing import Any
from typing import ClassVar

from keras import ops

from kdtf.transforms.layout import Layout

__all__ = ["Structure", "count_kept", "keep_first", "keep_highest"]

# float32 counts whole numbers exactly up to here.
_EXACT_COUNTS = 2**24


def keep_highest(scores: Any, sparsity: Any) -> Any:
    """Returns True for the highest `round(n * (1 - sparsity))` of each row.

    At least one of each row is kept, and all that equal the lowest kept score,
    as tfmot does: with ties more may be kept than asked for. Only if that
    score is 0 the first stay, or a kernel with many zeros would lose them.

    Args:
        scores: `(groups, n)`, float32.
        sparsity: Fraction to drop, in [0, 1); a scalar.

    Returns:
        `(groups, n)`, bool.

    Example:
        >>> import numpy as np
        >>> scores = np.array([[0.1, 0.4, 0.3, 0.2]], "float32")
        >>> np.asarray(keep_highest(scores, 0.5)).tolist()
        [[False, True, True, False]]
    """
    scores = ops.convert_to_tensor(scores)
    num_kept = count_kept(int(scores.shape[-1]), sparsity)
    ascending = ops.sort(scores, axis=-1)
    threshold = ops.take(ascending, scores.shape[-1] - num_kept, axis=-1)
    return ops.cond(
        ops.any(ops.equal(threshold, 0.0)),
        lambda: keep_first(scores, num_kept),
        lambda: scores >= ops.expand_dims(threshold, -1),
    )


def keep_first(scores: Any, num_kept: Any) -> Any:
    """Returns True for exactly `num_kept` of each row, the highest.

    Of equal scores those that come first stay.

    Args:
        scores: `(groups, n)`, float32.
        num_kept: How many stay, a scalar.

    Returns:
        `(groups, n)`, bool.

    Example:
        >>> import numpy as np
        >>> scores = np.array([[1.0, 2.0, 2.0, 2.0]], "float32")
        >>> np.asarray(keep_first(scores, 2)).tolist()
        [[False, True, True, False]]
    """
    # Both sorts are stable: a score's rank counts those before it.
    order = ops.argsort(-ops.convert_to_tensor(scores), axis=-1)
    return ops.argsort(order, axis=-1) < num_kept


def count_kept(size: int, sparsity: Any) -> Any:
    """Returns how many of `size` stay: `round(size * (1 - sparsity))`, >= 1.

    A half is rounded to the even number, in float32 as in tfmot.

    Example:
        >>> int(count_kept(10, 0.75)), int(count_kept(10, 0.99))
        (2, 1)
    """
    dtype = "float32" if size < _EXACT_COUNTS else "float64"
    density = 1.0 - ops.cast(sparsity, "float32")
    kept = ops.round(ops.cast(density, dtype) * size)
    return ops.cast(ops.maximum(kept, 1.0), "int32")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Structure:
    """How a kernel's weights are grouped; subclasses say how.

    Attributes:
        is_exact: Whether exactly so many blocks stay as asked for, whatever
            equals the last one.
    """

    is_exact: ClassVar[bool] = False

    def check(self, layout: Layout, path: str) -> None:
        """Refuses a kernel the structure does not fit.

        Args:
            layout: The kernel's layout.
            path: Its path, for the message.

        Raises:
            ValueError: The kernel is too small.
        """

    def pool(self, scores: Any, layout: Layout) -> Any:
        """Returns the score of each block, `(groups, blocks)`."""
        raise NotImplementedError

    def spread(self, kept: Any, layout: Layout) -> Any:
        """Returns `(groups, blocks)` as a mask of the kernel's shape."""
        raise NotImplementedError

    def mask(
        self,
        scores: Any,
        layout: Layout,
        sparsity: Any,
        *,
        keep_ties: bool = True,
    ) -> Any:
        """Returns the mask of one kernel: True where a weight stays.

        Args:
            scores: Importance of each weight, in the kernel's shape.
            layout: The kernel's layout.
            sparsity: Fraction of zeros, in [0, 1); a scalar.
            keep_ties: Whether all that equal the lowest kept score stay;
                else, and where the structure is exact, of equal ones the
                first.
        """
        pooled = self.pool(scores, layout)
        if keep_ties and not self.is_exact:
            kept = keep_highest(pooled, sparsity)
        else:
            size = int(pooled.shape[-1])
            kept = keep_first(pooled, count_kept(size, sparsity))
        return self.spread(kept, layout)
