"""Shrinking models of `keras_nlp`: all blocks alike, by their configuration."""

import dataclasses
import math
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from kdtf.backbones import backbone_of
from kdtf.backbones import resized
from kdtf.backbones import spaced
from kdtf.pruning.shrinking.blocks import axes_of
from kdtf.pruning.shrinking.blocks import block_influence
from kdtf.pruning.shrinking.choosing import choose
from kdtf.pruning.shrinking.families import Family
from kdtf.pruning.shrinking.importance import kernel_scores
from kdtf.pruning.shrinking.plan import ShrinkPlan
from kdtf.pruning.shrinking.plan import Width

__all__ = ["BackboneRemoval", "plan_backbone"]

_KEYS = {"width": "intermediate_dim", "heads": "num_key_value_heads"}


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Sized:
    """Something that all blocks have alike: neurons, or groups of heads.

    Attributes:
        kind: "width" or "heads".
        size: How many there are, as the configuration counts them.
        axes: Weight's position in a block to the axis that follows, and its
            size, a multiple or a part of `size`.
        order: For each block its parts, the most important first,
            `(blocks, parts)`.
    """

    kind: str
    size: int
    axes: dict[int, tuple[int, int]]
    order: np.ndarray

    @property
    def parts(self) -> int:
        """How many there really are: Gemma has half of what it says."""
        return min([self.size, *(size for _, size in self.axes.values())])


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class BackboneRemoval:
    """What stays of a `keras_nlp` model.

    Attributes:
        blocks: The numbers of the blocks that stay.
        sized: What else may go, with how many parts of it stay.
    """

    blocks: Sequence[int]
    sized: Sequence[tuple[Sized, int]]

    def build(self, model: keras.Model) -> keras.Model:
        """Returns the smaller model, with the weights that stay."""
        smaller = resized(model, self._changes(model))
        backbones = backbone_of(model), backbone_of(smaller)
        old, new = (list(b.transformer_layers) for b in backbones)
        for block, source in zip(new, self.blocks, strict=True):
            values = old[source].get_weights()
            for sized, number in self.sized:
                _cut(values, sized, sized.order[source], number)
            block.set_weights(values)
        pairs = zip(_outside(smaller), _outside(model), strict=True)
        for weight, value in pairs:
            weight.assign(value)
        return smaller

    def _changes(self, model: keras.Model) -> dict[str, int]:
        config = backbone_of(model).get_config()
        changes = {"num_layers": len(self.blocks)}
        for sized, number in self.sized:
            size = number * sized.size // sized.parts
            changes[_KEYS[sized.kind]] = size
            if sized.kind == "heads":
                queries = config["num_query_heads"]
                changes["num_query_heads"] = queries // sized.size * size
        return changes


def _cut(
    values: list[np.ndarray], sized: Sized, order: np.ndarray, number: int
) -> None:
    """Keeps the first parts of a block's weights, in their old order."""
    kept = np.sort(order[:number])
    for position, (axis, size) in sized.axes.items():
        each = size // sized.parts
        # All heads that share keys and values follow each other.
        indices = (kept[:, None] * each + np.arange(each)).ravel()
        values[position] = np.take(values[position], indices, axis)


def _outside(model: keras.Model) -> list[Any]:
    """Returns the weights outside of the blocks."""
    blocks = backbone_of(model).transformer_layers
    inside = {id(weight) for block in blocks for weight in block.weights}
    return [weight for weight in model.weights if id(weight) not in inside]


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
        ValueError: `by` is "macs", or nothing of `what` can go.
    """
    if by == "macs":
        raise ValueError(
            "`by` must be 'parameters' or a function for models of "
            "`keras_nlp`, whose operations depend on the length of texts. "
            f"Received: by={by!r}."
        )
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
    families, first = [], 1
    for kind, parts in [
        *((part.kind, part.parts) for part in sized),
        *([("depth", num_blocks)] if "depth" in what else []),
    ]:
        groups = np.arange(first, first + parts)
        families.append(Family(settings=(), groups=groups, kind=kind))
        first += parts

    def removal(kept: np.ndarray) -> BackboneRemoval:
        counts = [int(kept[family.groups].sum()) for family in families]
        number = counts.pop() if "depth" in what else num_blocks
        blocks = (
            spaced(num_blocks, number)
            if ranked is None
            else sorted(ranked[:number].tolist())
        )
        pairs = tuple(zip(sized, counts, strict=True))
        return BackboneRemoval(blocks=blocks, sized=pairs)

    def parameters(kept: np.ndarray) -> int:
        return _parameters(model, removal(kept))

    def cost(kept: np.ndarray) -> float:
        if callable(by):
            return float(by(removal(kept).build(model)))
        return parameters(kept)

    everything = np.ones(first, bool)
    # Parts are ranked within each block: the earlier of a family the better.
    scores = np.concatenate(
        [[0.0], *(np.arange(len(f.groups), 0, -1.0) for f in families)]
    )
    kept = choose(
        families,
        scores,
        cost,
        target=keep * cost(everything),
        uniform=True,
        round_to=round_to,
    )
    return ShrinkPlan(
        model=model,
        widths=tuple(_width(family, kept, backbone) for family in families),
        held={},
        parameters=(parameters(everything), parameters(kept)),
        macs=(0, 0),
        removal=removal(kept),
    )


def _sized(
    model: keras.Model, criterion: Any, data: Any, what: Sequence[str]
) -> list[Sized]:
    backbone = backbone_of(model)
    config = backbone.get_config()
    scores = None
    found = []
    for kind, key in _KEYS.items():
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


def _parameters(model: keras.Model, removal: BackboneRemoval) -> int:
    blocks = backbone_of(model).transformer_layers
    total = sum(math.prod(weight.shape) for weight in _outside(model))
    for source in removal.blocks:
        for position, weight in enumerate(blocks[source].weights):
            size = math.prod(weight.shape)
            for sized, number in removal.sized:
                if position in sized.axes:
                    size = size // sized.parts * number
            total += size
    return total


def _width(family: Family, kept: np.ndarray, backbone: Any) -> Width:
    names = {
        "width": "feed-forward of each block",
        "heads": "key and value heads of each block",
        "depth": "blocks",
    }
    return Width(
        layers=(f"{backbone.name}: {names[family.kind]}",),
        before=len(family.groups),
        after=int(kept[family.groups].sum()),
        kind=family.kind,
    )
