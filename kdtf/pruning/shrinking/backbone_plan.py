"""Shrinking models of `keras_nlp`: all blocks alike, by their configuration."""

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from kdtf.backbones import backbone_of
from kdtf.backbones import spaced
from kdtf.pruning.shrinking.backbone_removal import BackboneCosts
from kdtf.pruning.shrinking.backbone_removal import BackboneRemoval
from kdtf.pruning.shrinking.balance import balanced
from kdtf.pruning.shrinking.blocks import block_influence
from kdtf.pruning.shrinking.choosing import counts_allowed
from kdtf.pruning.shrinking.norms import energies
from kdtf.pruning.shrinking.plan import ShrinkPlan
from kdtf.pruning.shrinking.plan import Width
from kdtf.pruning.shrinking.shares import Shares
from kdtf.pruning.shrinking.shares import nearest
from kdtf.pruning.shrinking.sized import Sized
from kdtf.pruning.shrinking.sized import sized_parts

__all__ = ["plan_backbone"]

_NAMES = {
    "width": "feed-forward of each block",
    "heads": "key and value heads of each block",
    "hidden": "channels between the blocks",
    "depth": "blocks",
}


def plan_backbone(
    model: keras.Model,
    keep: float | Shares,
    by: str | Callable[[keras.Model], float],
    *,
    criterion: Any,
    data: Any,
    what: Sequence[str],
    round_to: int,
) -> ShrinkPlan:
    """Plans the shrinking of a `keras_nlp` model; arguments of `shrink`.

    Raises:
        ValueError: Nothing of `what` can go, or the target cannot be met.
    """
    is_told = isinstance(keep, Shares)
    if isinstance(keep, Shares):
        what = [kind for kind in _NAMES if keep(kind) < 1.0]
        keep.check_used(list(_NAMES))
    held = _held(model, what)
    sized = sized_parts(
        model, criterion, data, [kind for kind in what if kind not in held]
    )
    if held if is_told else not sized and "depth" not in what:
        raise ValueError(
            f"`{'keep' if is_told else 'what'}` must name what the model's "
            f"configuration can make smaller. Received: {list(what)} for "
            f"{type(model).__name__}: {held}. Use 'width' or 'depth'."
        )
    removals = _Removals(model, sized, data, what)
    allowed = removals.allowed(round_to)
    costs = BackboneCosts(model)

    def cost(counts: Sequence[int]) -> float:
        if isinstance(by, str):
            return costs(by, removals(counts))
        return float(by(removals(counts).build(model)))

    everything = [int(counts[-1]) for counts in allowed.values()]
    before = cost(everything)
    if isinstance(keep, Shares):
        kept = [nearest(counts, keep(kind)) for kind, counts in allowed.items()]
    else:
        kept = balanced(list(allowed.values()), cost, target=keep * before)
    ends = removals(everything), removals(kept)
    return ShrinkPlan(
        model=model,
        widths=removals.widths(kept),
        held=held,
        parameters=(costs("parameters", ends[0]), costs("parameters", ends[1])),
        macs=(costs("macs", ends[0]), costs("macs", ends[1])),
        removal=ends[1],
        cost=(before, cost(kept)),
        keep=None if isinstance(keep, Shares) else keep,
    )


class _Removals:
    """What a number of steps of each kind leaves of a model.

    Args:
        model: The model.
        sized: What may go besides blocks.
        data: Typical inputs, or None.
        what: The kinds.
    """

    def __init__(
        self,
        model: keras.Model,
        sized: Sequence[Sized],
        data: Any,
        what: Sequence[str],
    ) -> None:
        self._model, self._sized = model, sized
        self._num_blocks = len(backbone_of(model).transformer_layers)
        # What the parts of a kind are counted by: the first of them.
        self._parts = {part.kind: part for part in reversed(sized)}
        self._kinds = [
            kind
            for kind in _NAMES
            if kind in self._parts or (kind == "depth" and kind in what)
        ]
        self._ranked = self._energies = None
        if data is None:
            return
        if "depth" in what:
            influence = block_influence(model, data)
            self._ranked = np.argsort(-influence, kind="stable")
        for part in sized:
            if part.is_channels:
                self._energies = energies(model, part, data)

    def allowed(self, round_to: int) -> dict[str, np.ndarray]:
        """Returns the numbers of steps that each kind may keep, ascending."""
        return {kind: self._steps(kind, round_to) for kind in self._kinds}

    def _steps(self, kind: str, round_to: int) -> np.ndarray:
        part = self._parts.get(kind)
        if part is None or kind == "heads":
            steps = part.steps if part else self._num_blocks
            return np.arange(1, steps + 1)
        each = part.number(1)
        rounded = counts_allowed(part.parts, "width", round_to)
        # Of channels that go with heads those that are both.
        return rounded[rounded % each == 0] // each

    def __call__(self, counts: Sequence[int]) -> BackboneRemoval:
        """Returns what goes for so many steps of each kind."""
        steps = dict(zip(self._kinds, counts, strict=True))
        number = steps.get("depth", self._num_blocks)
        blocks = (
            spaced(self._num_blocks, number)
            if self._ranked is None
            else sorted(self._ranked[:number].tolist())
        )
        pairs = [(part, part.number(steps[part.kind])) for part in self._sized]
        return BackboneRemoval(
            blocks=blocks, sized=tuple(pairs), energies=self._energies
        )

    def widths(self, counts: Sequence[int]) -> tuple[Width, ...]:
        """Returns how much each kind shrinks."""
        found = []
        for kind, count in zip(self._kinds, counts, strict=True):
            part = self._parts.get(kind)
            found.append(
                Width(
                    layers=(
                        f"{backbone_of(self._model).name}: {_NAMES[kind]}",
                    ),
                    before=part.parts if part else self._num_blocks,
                    after=part.number(count) if part else count,
                    kind=kind,
                )
            )
        return tuple(found)


def _held(model: keras.Model, what: Sequence[str]) -> dict[str, str]:
    """Returns what of `what` cannot go, with the reason."""
    config = backbone_of(model).get_config()
    held = {}
    if not config.get("head_dim"):
        held["heads"] = (
            "they go only with a `head_dim` in the configuration, or as part "
            "of 'hidden'"
        )
    if config.get("query_head_dim_normalize") is False:
        reason = "queries are scaled by the channels of a head"
        held |= dict.fromkeys(("heads", "hidden"), reason)
    return {kind: held[kind] for kind in what if kind in held}
