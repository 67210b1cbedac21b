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
    keep: float,
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
    backbone = backbone_of(model)
    num_blocks = len(backbone.transformer_layers)
    held = _held(backbone, what)
    sized = sized_parts(
        model, criterion, data, [kind for kind in what if kind not in held]
    )
    if not sized and "depth" not in what:
        raise ValueError(
            "`what` must name something that the model's configuration can "
            f"make smaller. Received: what={list(what)} for "
            f"{type(backbone).__name__}: {held}. Use 'width' or 'depth'."
        )
    ranked = ratios = None
    if "depth" in what and data is not None:
        ranked = np.argsort(-block_influence(model, data), kind="stable")
    for part in sized:
        if part.is_channels and data is not None:
            ratios = energies(model, part, data)
    # What the parts of a kind are counted by: the first of them.
    parts = {part.kind: part for part in reversed(sized)}
    parts = {kind: parts[kind] for kind in _NAMES if kind in parts}
    allowed = {
        kind: counts_allowed(part.steps, "width", round_to)
        if kind != "heads" and part.steps == part.parts
        else np.arange(1, part.steps + 1)
        for kind, part in parts.items()
    }
    if "depth" in what:
        allowed["depth"] = np.arange(1, num_blocks + 1)

    def removal(counts: Sequence[int]) -> BackboneRemoval:
        steps = dict(zip(allowed, counts, strict=True))
        number = steps.get("depth", num_blocks)
        blocks = (
            spaced(num_blocks, number)
            if ranked is None
            else sorted(ranked[:number].tolist())
        )
        pairs = tuple((part, part.number(steps[part.kind])) for part in sized)
        return BackboneRemoval(blocks=blocks, sized=pairs, energies=ratios)

    costs = BackboneCosts(model)

    def cost(counts: Sequence[int]) -> float:
        if isinstance(by, str):
            return costs(by, removal(counts))
        return float(by(removal(counts).build(model)))

    everything = tuple(int(counts[-1]) for counts in allowed.values())
    before = cost(everything)
    kept = balanced(list(allowed.values()), cost, target=keep * before)
    ends = removal(everything), removal(kept)

    def width(kind: str, count: int) -> Width:
        part = parts.get(kind)
        return Width(
            layers=(f"{backbone.name}: {_NAMES[kind]}",),
            before=part.parts if part else num_blocks,
            after=part.number(count) if part else count,
            kind=kind,
        )

    return ShrinkPlan(
        model=model,
        widths=tuple(map(width, allowed, kept)),
        held=held,
        parameters=(costs("parameters", ends[0]), costs("parameters", ends[1])),
        macs=(costs("macs", ends[0]), costs("macs", ends[1])),
        removal=ends[1],
        cost=(before, cost(kept)),
        keep=keep,
    )


def _held(backbone: Any, what: Sequence[str]) -> dict[str, str]:
    """Returns what of `what` cannot go, with the reason."""
    config = backbone.get_config()
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
