"""Shrinking models of `keras_nlp`: all blocks alike, by their configuration."""

import dataclasses
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from kdtf.backbones import backbone_of
from kdtf.backbones import spaced
from kdtf.pruning.shrinking.backbone_removal import KEYS
from kdtf.pruning.shrinking.backbone_removal import BackboneCosts
from kdtf.pruning.shrinking.backbone_removal import BackboneRemoval
from kdtf.pruning.shrinking.backbone_removal import Sized
from kdtf.pruning.shrinking.balance import balanced
from kdtf.pruning.shrinking.blocks import axes_of
from kdtf.pruning.shrinking.blocks import block_influence
from kdtf.pruning.shrinking.choosing import counts_allowed
from kdtf.pruning.shrinking.importance import kernel_scores
from kdtf.pruning.shrinking.plan import ShrinkPlan
from kdtf.pruning.shrinking.plan import Width

__all__ = ["plan_backbone"]

_NAMES = {
    "width": "feed-forward of each block",
    "heads": "key and value heads of each block",
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
    sized = _sized(model, criterion, data, what)
    if not sized and "depth" not in what:
        raise ValueError(
            "`what` must name something that the model's configuration can "
            f"make smaller. Received: what={list(what)} for "
            f"{type(backbone).__name__}, where heads go only if its "
            "configuration has a `head_dim`. Use 'width' or 'depth'."
        )
    ranked = None
    if "depth" in what and data is not None:
        ranked = np.argsort(-block_influence(model, data), kind="stable")
    sizes = {part.kind: part.parts for part in sized}
    if "depth" in what:
        sizes["depth"] = num_blocks

    def removal(counts: Sequence[int]) -> BackboneRemoval:
        numbers = dict(zip(sizes, counts, strict=True))
        number = numbers.get("depth", num_blocks)
        blocks = (
            spaced(num_blocks, number)
            if ranked is None
            else sorted(ranked[:number].tolist())
        )
        pairs = tuple((part, numbers[part.kind]) for part in sized)
        return BackboneRemoval(blocks=blocks, sized=pairs)

    costs = BackboneCosts(model)

    def cost(counts: Sequence[int]) -> float:
        if isinstance(by, str):
            return costs(by, removal(counts))
        return float(by(removal(counts).build(model)))

    everything = tuple(sizes.values())
    before = cost(everything)
    kept = balanced(
        [counts_allowed(size, kind, round_to) for kind, size in sizes.items()],
        cost,
        target=keep * before,
    )
    ends = removal(everything), removal(kept)
    return ShrinkPlan(
        model=model,
        widths=tuple(
            Width(
                layers=(f"{backbone.name}: {_NAMES[kind]}",),
                before=size,
                after=count,
                kind=kind,
            )
            for (kind, size), count in zip(sizes.items(), kept, strict=True)
        ),
        held={},
        parameters=(costs("parameters", ends[0]), costs("parameters", ends[1])),
        macs=(costs("macs", ends[0]), costs("macs", ends[1])),
        removal=ends[1],
        cost=(before, cost(kept)),
        keep=keep,
    )


def _sized(
    model: keras.Model, criterion: Any, data: Any, what: Sequence[str]
) -> list[Sized]:
    backbone = backbone_of(model)
    config = backbone.get_config()
    scores = None
    found = []
    for kind, key in KEYS.items():
        if kind not in what or not config.get(key):
            continue
        size = config[key]
        changes = {key: 2 * size}
        if kind == "heads":
            if not config.get("head_dim"):
                continue
            changes["num_query_heads"] = 2 * config["num_query_heads"]
        axes = axes_of(backbone, changes)
        if scores is None:
            scores = kernel_scores(model, criterion, data)
        sized = Sized(kind=kind, size=size, axes=axes, order=np.zeros((0, 0)))
        order = [
            np.argsort(-_part_scores(block, sized, scores), kind="stable")
            for block in backbone.transformer_layers
        ]
        found.append(dataclasses.replace(sized, order=np.stack(order)))
    return found


def _part_scores(
    block: Any, sized: Sized, scores: dict[int, np.ndarray]
) -> np.ndarray:
    """Returns sqrt(sum of s^2) of what goes with each part of a block."""
    totals = np.zeros(sized.parts)
    for position, (axis, _) in sized.axes.items():
        values = scores.get(id(block.weights[position]))
        if values is not None:
            rows = np.moveaxis(values**2, axis, 0)
            totals += rows.reshape(sized.parts, -1).sum(1)
    return np.sqrt(totals)
