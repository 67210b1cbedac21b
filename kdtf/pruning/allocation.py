"""How much each kernel loses, given what all of them lose together."""

import dataclasses
import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

from kdtf.pruning.blocks import NM
from kdtf.pruning.structure import Structure
from kdtf.pruning.structures import PerOutput
from kdtf.transforms.layout import Layout
from kdtf.transforms.selection import Candidate
from kdtf.transforms.selection import Rules

__all__ = [
    "Allocation",
    "ByRule",
    "ErdosRenyi",
    "Global",
    "Uniform",
    "get",
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Allocation:
    """Shares the sparsity among kernels; subclasses say how."""

    def check(self, structure: Structure) -> None:
        """Refuses a structure that leaves nothing to share.

        Raises:
            ValueError: The structure fixes each kernel's sparsity.
        """
        if isinstance(structure, NM):
            raise ValueError(
                f"N:M gives every kernel the same sparsity. Received: {self}. "
                "Use `allocation='uniform'`, or another structure."
            )

    def fractions(self, layouts: Sequence[Layout], sparsity: Any) -> Any:
        """Returns each kernel's sparsity, `(kernels,)`, float32.

        Args:
            layouts: The kernels' layouts.
            sparsity: The fraction of all weights to drop, a scalar.
        """
        raise NotImplementedError

    def masks(
        self,
        scores: Sequence[Any],
        layouts: Sequence[Layout],
        structure: Structure,
        sparsity: Any,
        *,
        keep_ties: bool = True,
    ) -> list[Any]:
        """Returns the kernels' masks.

        Args:
            scores: Importance of each weight, one tensor for each kernel.
            layouts: The kernels' layouts.
            structure: What goes together.
            sparsity: The fraction of all weights to drop, a scalar.
            keep_ties: Whether all that equal the lowest kept score stay.
        """
        shares = self.fractions(layouts, sparsity)
        return [
            structure.mask(score, layout, shares[i], keep_ties=keep_ties)
            for i, (score, layout) in enumerate(
                zip(scores, layouts, strict=True)
            )
        ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Uniform(Allocation):
    """Every kernel loses the same fraction.

    Example:
        >>> layout = Layout(shape=(2, 2), contraction=(0,), output=(1,))
        >>> [float(x) for x in Uniform().fractions([layout, layout], 0.5)]
        [0.5, 0.5]
    """

    def check(self, structure: Structure) -> None:
        """Fits every structure."""

    def fractions(self, layouts: Sequence[Layout], sparsity: Any) -> Any:
        """Returns `sparsity` for each."""
        return ops.full((len(layouts),), ops.cast(sparsity, "float32"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ErdosRenyi(Allocation):
    """Large kernels lose more, as in sparse random graphs.

    The density of a kernel is proportional to (inputs + outputs) / (inputs *
    outputs), or with `kernel` to the sum of all its dimensions over their
    product, so that convolutions count their window, too. Kernels whose
    density would exceed 1 stay dense and the others make up for them.

    Args:
        kernel: Whether the window's dimensions count. Defaults to False.

    Example:
        >>> wide = Layout(shape=(8, 8), contraction=(0,), output=(1,))
        >>> thin = Layout(shape=(2, 8), contraction=(0,), output=(1,))
        >>> shares = ErdosRenyi().fractions([wide, thin], 0.5)
        >>> [round(float(x), 4) for x in shares]
        [0.6154, 0.0385]

    Reference:
        Mocanu et al. 2018, https://arxiv.org/abs/1707.04780 (methods);
        with `kernel` Evci et al. 2020, https://arxiv.org/abs/1911.11134
        (section 3)
    """

    kernel: bool = False

    def fractions(self, layouts: Sequence[Layout], sparsity: Any) -> Any:
        """Returns one minus each kernel's density."""
        sizes = np.array([layout.size for layout in layouts], "float32")
        raw = np.array([self._raw(layout) for layout in layouts], "float32")
        # Ordered by raw density, the first `i` are dense for some i: the rest
        # share what is left, and the smallest i that leaves none above 1 is it.
        order = np.argsort(-raw, kind="stable")
        dense = np.concatenate([[0], np.cumsum(sizes[order])])[:-1]
        weight = np.cumsum((sizes * raw)[order][::-1])[::-1]
        kept = (1.0 - ops.cast(sparsity, "float32")) * float(sizes.sum())
        scales = ops.maximum(kept - dense, 0.0) / weight.copy()
        fits = scales * raw[order] <= 1.0
        # Where nothing fits (sparsity 0) everything is dense.
        first = ops.argmax(ops.cast(fits, "int32"))
        scale = ops.where(ops.any(fits), ops.take(scales, first), float("inf"))
        return 1.0 - ops.minimum(scale * raw, 1.0)

    def _raw(self, layout: Layout) -> float:
        sides = layout.shape
        if not self.kernel:
            sides = (layout.num_inputs, layout.num_outputs)
        return float(sum(sides) / np.prod(sides))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ByRule(Allocation):
    """Each kernel has its own final sparsity, reached together.

    Args:
        finals: The sparsity of each kernel at the end, in [0, 1).
        final: What the schedule ends at: kernels move in proportion to it.

    Example:
        >>> layout = Layout(shape=(2, 2), contraction=(0,), output=(1,))
        >>> rule = ByRule(finals=(0.8, 0.0), final=0.5)
        >>> shares = rule.fractions([layout, layout], 0.25)
        >>> [round(float(x), 4) for x in shares]
        [0.4, 0.0]
    """

    finals: tuple[float, ...]
    final: float

    def fractions(self, layouts: Sequence[Layout], sparsity: Any) -> Any:
        """Returns each kernel's final sparsity times the way covered."""
        del layouts
        finals = ops.convert_to_tensor(self.finals, "float32")
        if not self.final:
            # Only the rules prune: they are all there is to reach.
            return finals
        return finals * (ops.cast(sparsity, "float32") / self.final)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Global(Allocation):
    """All kernels compete: one threshold, the kernels' shares follow.

    Blocks are kept from the highest score down until `round(n * (1 -
    sparsity))` of all n weights are reached. The best block of every kernel
    stays in any case, or a layer could fall silent.

    Example:
        >>> from kdtf.pruning.structures import Unstructured
        >>> layout = Layout(shape=(2, 1), contraction=(0,), output=(1,))
        >>> scores = [np.array([[4.0], [3.0]], "float32"),
        ...           np.array([[1.0], [2.0]], "float32")]
        >>> masks = Global().masks(scores, [layout] * 2, Unstructured(), 0.5)
        >>> [np.asarray(mask)[:, 0].tolist() for mask in masks]
        [[True, True], [False, True]]
    """

    def check(self, structure: Structure) -> None:
        """Refuses structures whose weights compete within a kernel.

        Raises:
            ValueError: The structure is N:M or per output.
        """
        if isinstance(structure, NM | PerOutput):
            raise ValueError(
                "`allocation='global'` lets all kernels' weights compete, but "
                f"this structure compares within a kernel. Received: "
                f"structure={structure}. Use `structure='unstructured'`, "
                "'units' or a block."
            )

    def masks(
        self,
        scores: Sequence[Any],
        layouts: Sequence[Layout],
        structure: Structure,
        sparsity: Any,
        *,
        keep_ties: bool = True,
    ) -> list[Any]:
        """Returns the kernels' masks, under one threshold."""
        pooled = [
            structure.pool(score, layout)
            for score, layout in zip(scores, layouts, strict=True)
        ]
        flat = ops.concatenate([ops.reshape(p, (-1,)) for p in pooled])
        # How many weights stand behind each block.
        sizes = np.concatenate(
            [
                np.full(int(np.prod(p.shape)), layout.size / np.prod(p.shape))
                for p, layout in zip(pooled, layouts, strict=True)
            ]
        ).astype("float64")
        total = sizes.sum()
        density = 1.0 - ops.cast(ops.cast(sparsity, "float32"), "float64")
        wanted = ops.maximum(ops.round(density * total), 1.0)
        order = ops.argsort(-flat)
        reached = ops.cumsum(ops.take(ops.convert_to_tensor(sizes), order))
        # The first block that reaches the number is the last one kept. Sums of
        # mean block sizes may end a hair below a whole number.
        is_enough = ops.cast(
            reached >= wanted - 1e-6 * total / len(sizes), "int32"
        )
        last = ops.argmax(is_enough)
        threshold = ops.take(flat, ops.take(order, last))
        # As in `keep_highest`: zeros are not kept for being equal.
        kept = ops.cond(
            ops.logical_and(keep_ties, ops.not_equal(threshold, 0.0)),
            lambda: flat >= threshold,
            lambda: ops.argsort(order) <= ops.cast(last, "int32"),
        )
        ends = np.cumsum([int(np.prod(p.shape)) for p in pooled])[:-1]
        parts = ops.split(kept, ends.tolist())
        return [
            structure.spread(ops.reshape(_with_best(part, p), p.shape), layout)
            for part, p, layout in zip(parts, pooled, layouts, strict=True)
        ]


def _with_best(kept: Any, pooled: Any) -> Any:
    """Returns `kept`, flat, with the first of the highest scores in it."""
    flat = ops.reshape(pooled, (-1,))
    places = ops.arange(flat.shape[0])
    best = ops.cast(ops.argmax(flat), places.dtype)
    return ops.logical_or(kept, ops.equal(places, best))


ALLOCATIONS: dict[str, Allocation] = {
    "uniform": Uniform(),
    "global": Global(),
    "erdos_renyi": ErdosRenyi(),
    "erdos_renyi_kernel": ErdosRenyi(kernel=True),
}


def get(
    allocation: Any, kernels: Sequence[Candidate], *, final: float
) -> Allocation:
    """Returns the allocation for a name, rules or an allocation.

    Args:
        allocation: A key of `ALLOCATIONS`, an `Allocation`, or rules as in
            `kdtf.transforms.selection` with sparsities as values; kernels
            that no rule matches get `final`.
        kernels: The kernels to prune, in order.
        final: What the schedule ends at.

    Raises:
        TypeError: A rule is of an unknown kind.
        ValueError: The name is unknown, a rule matches nothing, or its
            sparsity is outside [0, 1).
    """
    if isinstance(allocation, Allocation):
        return allocation
    if isinstance(allocation, str):
        if allocation not in ALLOCATIONS:
            raise ValueError(
                f"`allocation` must be one of {sorted(ALLOCATIONS)}, or rules "
                "such as {'*/query/kernel': 0.5}. Received: "
                f"allocation={allocation!r}."
            )
        return ALLOCATIONS[allocation]
    rules = Rules(allocation, default=None, argument="allocation")
    rules.check_used(kernels)
    found = [rules(kernel) for kernel in kernels]
    finals = tuple(final if value is None else value for value in found)
    for kernel, value in zip(kernels, finals, strict=True):
        is_number = isinstance(value, numbers.Real)
        if not is_number or not 0.0 <= value < 1.0:
            raise ValueError(
                "`allocation` rules must give a sparsity in [0, 1). Received: "
                f"{value!r} for {kernel.path!r}. 0 leaves a kernel dense."
            )
    return ByRule(finals=finals, final=final)
