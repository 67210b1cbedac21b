"""Groups that go together, in families that share widths; and their cost."""

import dataclasses
import math
from collections.abc import Sequence

import keras
import numpy as np

from kdtf.pruning.shrinking.tracing import Setting
from kdtf.pruning.shrinking.tracing import Trace
from kdtf.pruning.shrinking.tracing import itemsize_of

__all__ = ["COSTS", "Costs", "Family", "families_of", "num_bytes"]

COSTS = ("bytes", "latency", "macs", "parameters")


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

    @property
    def layers(self) -> tuple[str, ...]:
        """The paths of the layers that are counted by them."""
        paths = ("/".join(setting.layer) for setting in self.settings)
        return tuple(dict.fromkeys(paths))


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
        model: The model.
    """

    def __init__(
        self, trace: Trace, roots: np.ndarray, model: keras.Model
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
                {
                    "parameters": 1,
                    "bytes": slicing.itemsize,
                    "macs": slicing.uses,
                },
            )
            for slicing in trace.slicings
        ]
        sizes = [(math.prod(s.shape), s.itemsize) for s in trace.slicings]
        self._others = {
            "parameters": model.count_params() - sum(s for s, _ in sizes),
            "bytes": num_bytes(model) - sum(s * each for s, each in sizes),
            "macs": 0,
        }

    def __call__(self, by: str, kept: np.ndarray) -> int:
        """Returns the cost.

        Args:
            by: "parameters", "bytes" or "macs".
            kept: bool, for each group's name whether it is kept.
        """
        total = self._others[by]
        for axes, others, factors in self._weights:
            if factors[by]:
                kept_sizes = (int(kept[groups].sum()) for groups in axes)
                total += factors[by] * others * math.prod(kept_sizes)
        return total


def num_bytes(model: keras.Model) -> int:
    """Returns the bytes of all weights, each in its own type.

    Example:
        >>> layers = [keras.Input((3,)), keras.layers.Dense(2)]
        >>> num_bytes(keras.Sequential(layers))
        32
    """
    return sum(math.prod(w.shape) * itemsize_of(w) for w in model.weights)
