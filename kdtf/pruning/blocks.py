"""Structures that runtimes have kernels for: blocks, and N of every M."""

import dataclasses
from typing import Any
from typing import ClassVar

from keras import ops

from kdtf.pruning.structure import Structure
from kdtf.transforms.layout import Layout

__all__ = ["NM", "Block"]


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

    While a schedule's sparsity rises, more than N of M stay.

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

    is_exact: ClassVar[bool] = True

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
