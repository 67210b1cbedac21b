"""Groups that go together, in families that share widths; and their cost."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from kdtf.pruning.shrinking.tracing import Setting
from kdtf.pruning.shrinking.tracing import Trace

__all__ = ["COSTS", "Costs", "Family", "families_of"]

COSTS = ("macs", "parameters")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Family:
    """Groups that are counted by the same settings.

    Attributes:
        settings: The configurations that count them.
        groups: Their names: each one's smallest atom, ascending.
        kind: "width", "heads" or "depth".
    """

    settings: tuple[Setting, ...]
    groups: np.ndarray
    kind: str


def families_of(
    trace: Trace, roots: np.ndarray, what: Sequence[str]
) -> list[Family]:
    """Returns the families that may be made smaller.

    Args:
        trace: A model's.
        roots: `trace.atoms.roots()`.
        what: Of "width" and "heads".
    """
    counted: dict[int, list[int]] = {}
    for index, setting in enumerate(trace.settings):
        for group in np.unique(roots[setting.atoms]):
            counted.setdefault(int(group), []).append(index)
    members: dict[tuple[int, ...], list[int]] = {}
    for group, indices in counted.items():
        if group != roots[0]:
            members.setdefault(tuple(indices), []).append(group)
    found = []
    for shared, groups in members.items():
        settings = tuple(trace.settings[index] for index in shared)
        kinds = {setting.kind for setting in settings}
        kind = "heads" if "heads" in kinds else "width"
        # Settings of a shape only repeat a width that another layer makes.
        makes = any(s.index is None for s in settings)
        if kind in what and makes:
            found.append(
                Family(
                    settings=settings,
                    groups=np.sort(np.array(groups)),
                    kind=kind,
                )
            )
    return found


class Costs:
    """What a model costs with some of its groups kept.

    Args:
        trace: The model's.
        roots: `trace.atoms.roots()`.
        num_parameters: All its weights' elements.
    """

    def __init__(
        self, trace: Trace, roots: np.ndarray, num_parameters: int
    ) -> None:
        """Takes what is needed to count."""
        self._weights = [
            (
                [roots[atoms] for atoms in slicing.axes.values()],
                math.prod(
                    size
                    for axis, size in enumerate(slicing.shape)
                    if axis not in slicing.axes
                ),
                slicing.uses,
            )
            for slicing in trace.slicings
        ]
        sliced = sum(math.prod(s.shape) for s in trace.slicings)
        self._others = num_parameters - sliced

    def __call__(self, by: str, kept: np.ndarray) -> int:
        """Returns the cost.

        Args:
            by: Of `COSTS`.
            kept: bool, for each group's name whether it is kept.
        """
        total = self._others if by == "parameters" else 0
        for axes, others, uses in self._weights:
            size = others * math.prod(int(kept[g].sum()) for g in axes)
            total += size if by == "parameters" else uses * size
        return total
