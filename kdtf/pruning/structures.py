"""Which weights must go together, and the mask that follows from scores.

A structure pools a kernel's scores into blocks, `(groups, blocks)`, keeps the
highest of each group and spreads the decision back over the kernel. Weights
compete within a group only: unstructured pruning has one group, Wanda one for
each output, N:M one for each M consecutive weights.
"""

import dataclasses
import re
from typing import Any

from keras import ops

from kdtf.transforms.layout import Layout

__all__ = [
    "Block",
    "NM",
    "PerOutput",
    "STRUCTURES",
    "Structure",
    "Units",
    "Unstructured",
    "get",
    "keep_highest",
]

# float32 counts whole numbers exactly up to here.
_EXACT_COUNTS = 2**24


def keep_highest(scores: Any, sparsity: Any) -> Any:
    """Returns True for the highest `round(n * (1 - sparsity))` of each row.

    At least one of each row is kept, and all that equal the lowest kept score,
    as tfmot does: with ties more may be kept than asked for.

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
    return scores >= ops.expand_dims(threshold, -1)


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
    """How a kernel's weights are grouped; subclasses say how."""

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

    def mask(self, scores: Any, layout: Layout, sparsity: Any) -> Any:
        """Returns the mask of one kernel: True where a weight stays.

        Args:
            scores: Importance of each weight, in the kernel's shape.
            layout: The kernel's layout.
            sparsity: Fraction of zeros, in [0, 1); a scalar.
        """
        kept = keep_highest(self.pool(scores, layout), sparsity)
        return self.spread(kept, layout)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unstructured(Structure):
    """Single weights, compared within a kernel.

    Example:
        >>> import numpy as np
        >>> layout = Layout(shape=(2, 2), contraction=(0,), output=(1,))
        >>> scores = np.array([[4.0, 3.0], [1.0, 2.0]], "float32")
        >>> np.asarray(Unstructured().mask(scores, layout, 0.5)).tolist()
        [[True, True], [False, False]]
    """

    def pool(self, scores: Any, layout: Layout) -> Any:
        """Returns the scores in one group."""
        del layout
        return ops.reshape(scores, (1, -1))

    def spread(self, kept: Any, layout: Layout) -> Any:
        """Returns the decisions in the kernel's shape."""
        return ops.reshape(kept, layout.shape)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PerOutput(Structure):
    """Single weights, compared within what one output unit sums over.

    Every output loses the same share of its inputs.

    Example:
        >>> import numpy as np
        >>> layout = Layout(shape=(2, 2), contraction=(0,), output=(1,))
        >>> scores = np.array([[4.0, 1.0], [3.0, 2.0]], "float32")
        >>> np.asarray(PerOutput().mask(scores, layout, 0.5)).tolist()
        [[True, False], [False, True]]

    Reference:
        Sun et al. 2023 (Wanda), https://arxiv.org/abs/2306.11695 (section 3)
    """

    def pool(self, scores: Any, layout: Layout) -> Any:
        """Returns `(outputs, inputs)`."""
        return ops.transpose(layout.to_matrix(scores))

    def spread(self, kept: Any, layout: Layout) -> Any:
        """Returns the decisions in the kernel's shape."""
        return layout.from_matrix(ops.transpose(kept))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Units(Structure):
    """All weights of an output unit (neuron, filter, head entry) at once.

    A unit's score is the mean of its weights' scores. Its weights become 0;
    its bias stays, and the layer keeps its size.

    Example:
        >>> import numpy as np
        >>> layout = Layout(shape=(2, 2), contraction=(0,), output=(1,))
        >>> scores = np.array([[4.0, 1.0], [3.0, 2.0]], "float32")
        >>> np.asarray(Units().mask(scores, layout, 0.5)).tolist()
        [[True, False], [True, False]]

    Reference:
        Li et al. 2017, https://arxiv.org/abs/1608.08710 (section 3.1)
    """

    def check(self, layout: Layout, path: str) -> None:
        """Refuses a kernel with a single output.

        Raises:
            ValueError: There is nothing to choose from.
        """
        if layout.num_outputs < 2:
            raise ValueError(
                "`structure='units'` needs kernels with two outputs or more. "
                f"Received: {path!r} of shape {layout.shape}. Leave it out "
                "with `select`."
            )

    def pool(self, scores: Any, layout: Layout) -> Any:
        """Returns the mean score of each unit, in one group."""
        return ops.mean(layout.to_matrix(scores), axis=0, keepdims=True)

    def spread(self, kept: Any, layout: Layout) -> Any:
        """Returns each unit's decision for all of its weights."""
        shape = (layout.num_inputs, layout.num_outputs)
        return layout.from_matrix(ops.broadcast_to(kept, shape))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Block(Structure):
    """Blocks of the kernel's matrix `(inputs, outputs)`, from its corner.

    A block's score is the mean over the weights it really has: at the last
    rows and columns it may be cut off. (tfmot pads such kernels on both sides
    and then prunes other blocks than it has pooled.)

    Args:
        shape: Weights along inputs and along outputs.

    Raises:
        ValueError: `shape` is no pair of positive whole numbers.

    Example:
        >>> import numpy as np
        >>> layout = Layout(shape=(4, 2), contraction=(0,), output=(1,))
        >>> scores = np.array([[1, 0], [1, 0], [0, 3], [0, 0]], "float32")
        >>> block = Block(shape=(2, 1))
        >>> np.asarray(block.mask(scores, layout, 0.5)).tolist()
        [[True, False], [True, False], [False, True], [False, True]]

    Reference:
        Narang et al. 2017, https://arxiv.org/abs/1711.02782 (section 3)
    """

    shape: tuple[int, int]

    def __post_init__(self) -> None:
        """Checks the shape."""
        shape = tuple(self.shape)
        whole = all(isinstance(side, int) and side > 0 for side in shape)
        if len(shape) != 2 or not whole:
            raise ValueError(
                "A block must be a pair of whole numbers of at least 1: "
                f"(along inputs, along outputs). Received: {self.shape!r}. "
                "(4, 1) is what LiteRT's sparse float kernels read."
            )

    def check(self, layout: Layout, path: str) -> None:
        """Refuses a kernel smaller than one block.

        Raises:
            ValueError: A side of the block is longer than the kernel's.
        """
        sides = (layout.num_inputs, layout.num_outputs)
        if self.shape[0] > sides[0] or self.shape[1] > sides[1]:
            raise ValueError(
                "A block must fit into the kernel's matrix (inputs, outputs). "
                f"Received: block {self.shape} for {path!r} of shape "
                f"{layout.shape}, as a matrix {sides}. Use a smaller block, "
                "or leave it out with `select`."
            )

    def pool(self, scores: Any, layout: Layout) -> Any:
        """Returns the mean score of each block, in one group."""
        totals = self._totals(layout.to_matrix(scores))
        ones = ops.ones((layout.num_inputs, layout.num_outputs), "float32")
        return ops.reshape(totals / self._totals(ones), (1, -1))

    def spread(self, kept: Any, layout: Layout) -> Any:
        """Returns each block's decision for all of its weights."""
        rows, columns = self._counts(layout.num_inputs, layout.num_outputs)
        wide = ops.reshape(kept, (rows, columns))
        for axis in (0, 1):
            wide = ops.repeat(wide, self.shape[axis], axis=axis)
        return layout.from_matrix(
            wide[: layout.num_inputs, : layout.num_outputs]
        )

    def _counts(self, num_inputs: int, num_outputs: int) -> tuple[int, int]:
        return -(-num_inputs // self.shape[0]), -(-num_outputs // self.shape[1])

    def _totals(self, matrix: Any) -> Any:
        height, width = self.shape
        rows, columns = self._counts(*matrix.shape)
        bottom = rows * height - matrix.shape[0]
        right = columns * width - matrix.shape[1]
        padded = ops.pad(matrix, ((0, bottom), (0, right)))
        tiles = ops.reshape(padded, (rows, height, columns, width))
        return ops.sum(tiles, axis=(1, 3))


@dataclasses.dataclass(frozen=True, kw_only=True)
class NM(Structure):
    """At most N of every M consecutive weights along the innermost input axis.

    That axis is input channels for a convolution, as in a `.tflite` file. The
    last group may be shorter and keeps at most N, too. Of equal scores the
    first stays, so that N is exact.

    Args:
        n: Weights that stay, at least 1 (tfmot counts those that go).
        m: Weights in a group, more than `n`.

    Raises:
        ValueError: Not 1 <= n < m.

    Example:
        >>> import numpy as np
        >>> layout = Layout(shape=(4, 1), contraction=(0,), output=(1,))
        >>> scores = np.array([[1.0], [4.0], [3.0], [2.0]], "float32")
        >>> two_of_four = NM(n=2, m=4)
        >>> mask = two_of_four.mask(scores, layout, two_of_four.sparsity)
        >>> np.asarray(mask)[:, 0].tolist()
        [False, True, True, False]

    Reference:
        Zhou et al. 2021, https://arxiv.org/abs/2102.04010 (section 3)
    """

    n: int
    m: int

    def __post_init__(self) -> None:
        """Checks the two numbers."""
        if not 1 <= self.n < self.m:
            raise ValueError(
                "Of every M weights N stay: 1 <= N < M. Received: "
                f"N={self.n}, M={self.m}. '2:4' keeps two of four."
            )

    @property
    def sparsity(self) -> float:
        """The fraction of zeros, 1 - N/M."""
        return 1.0 - self.n / self.m

    def check(self, layout: Layout, path: str) -> None:
        """Refuses a kernel whose innermost input axis is shorter than M.

        Raises:
            ValueError: The axis is too short.
        """
        length = layout.shape[layout.contraction[-1]]
        if length < self.m:
            raise ValueError(
                f"`structure='{self.n}:{self.m}'` needs kernels with {self.m} "
                f"or more weights along the input axis. Received: {path!r} of "
                f"shape {layout.shape}, {length} along axis "
                f"{layout.contraction[-1]}. Leave it out with `select`."
            )

    def pool(self, scores: Any, layout: Layout) -> Any:
        """Returns `(groups, M)`, short groups filled up with -inf."""
        inner = ops.moveaxis(scores, layout.contraction[-1], -1)
        length = layout.shape[layout.contraction[-1]]
        missing = -length % self.m
        pad = [(0, 0)] * (len(layout.shape) - 1) + [(0, missing)]
        padded = ops.pad(inner, pad, constant_values=float("-inf"))
        return ops.reshape(padded, (-1, self.m))

    def spread(self, kept: Any, layout: Layout) -> Any:
        """Returns the decisions in the kernel's shape."""
        axis = layout.contraction[-1]
        outer = [d for i, d in enumerate(layout.shape) if i != axis]
        padded = layout.shape[axis] + -layout.shape[axis] % self.m
        wide = ops.reshape(kept, (*outer, padded))
        return ops.moveaxis(wide[..., : layout.shape[axis]], -1, axis)

    def mask(self, scores: Any, layout: Layout, sparsity: Any) -> Any:
        """Returns the mask; while sparsity rises, more than N of M stay."""
        pooled = self.pool(scores, layout)
        num_kept = count_kept(self.m, sparsity)
        # A stable order, so that of equal scores the first has rank 0.
        order = ops.argsort(-pooled, axis=-1)
        rank = ops.argsort(order, axis=-1)
        return self.spread(rank < num_kept, layout)


# LiteRT's sparse kernels read blocks along the inputs of FULLY_CONNECTED: 4
# float weights or 16 int8 ones. A block of 16 zeros is four blocks of 4, too.
STRUCTURES: dict[str, Structure] = {
    "unstructured": Unstructured(),
    "per_output": PerOutput(),
    "units": Units(),
    "litert": Block(shape=(4, 1)),
    "litert_int8": Block(shape=(16, 1)),
}


def get(structure: Any) -> Structure:
    """Returns the structure for a name, a block, `"N:M"` or a structure.

    Args:
        structure: A key of `STRUCTURES`, a pair (along inputs, along
            outputs), a text like "2:4", or a `Structure`.

    Raises:
        TypeError: It is nothing of the kind.
        ValueError: The name is unknown, or the numbers are wrong.

    Example:
        >>> get("2:4"), get((4, 1))
        (NM(n=2, m=4), Block(shape=(4, 1)))
    """
    if isinstance(structure, Structure):
        return structure
    if isinstance(structure, tuple | list):
        return Block(shape=tuple(structure))
    if not isinstance(structure, str):
        raise TypeError(
            "`structure` must be a name, 'N:M', a pair or a `Structure`. "
            f"Received: {structure!r} of type {type(structure).__name__}."
        )
    numbers = re.fullmatch(r"(\d+):(\d+)", structure)
    if numbers:
        return NM(n=int(numbers[1]), m=int(numbers[2]))
    if structure not in STRUCTURES:
        raise ValueError(
            f"`structure` must be one of {sorted(STRUCTURES)}, 'N:M' such as "
            "'2:4', or a block such as (4, 1). Received: "
            f"structure={structure!r}."
        )
    return STRUCTURES[structure]
