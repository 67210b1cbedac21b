"""What all blocks of a `keras_nlp` model have alike: neurons, heads, channels.

A configuration counts them; weights are sliced by importance.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from kdtf.backbones import backbone_of
from kdtf.pruning.shrinking.blocks import Axes
from kdtf.pruning.shrinking.blocks import axes_of
from kdtf.pruning.shrinking.blocks import outside_of
from kdtf.pruning.shrinking.importance import kernel_scores

__all__ = ["Sized", "sized_parts"]

_HEADS = ("num_heads", "num_query_heads", "num_key_value_heads")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Sized:
    """Parts that all blocks have alike.

    Attributes:
        kind: "width", "heads" or "hidden".
        keys: Entries of the configuration that count them, with their values.
        parts: How many there are: neurons, channels, or groups of heads with
            the same keys and values. Gemma has half the neurons it says.
        steps: In how many steps they go, the same for all of a kind.
        block: Axes of each block's weights that hold them in order, one or
            several numbers for each part.
        outside: Axes of weights outside of the blocks.
        order: For each block its parts, the most important first,
            `(blocks, parts)`; equal rows of what the blocks share.
    """

    kind: str
    keys: dict[str, int]
    parts: int
    steps: int
    block: Axes
    outside: Axes = dataclasses.field(default_factory=dict)
    order: np.ndarray

    @property
    def is_channels(self) -> bool:
        """Whether they are the channels that blocks add to."""
        return "hidden_dim" in self.keys

    def number(self, steps: int) -> int:
        """Returns how many parts there are in so many steps."""
        return steps * (self.parts // self.steps)

    def changes(self, number: int) -> dict[str, int]:
        """Returns the configuration's entries for so many parts."""
        return {k: size * number // self.parts for k, size in self.keys.items()}

    def cut(
        self, value: np.ndarray, axes: Sequence[int], block: int, number: int
    ) -> np.ndarray:
        """Returns a weight with a block's first parts, in their old order."""
        kept = np.sort(self.order[block, :number])
        for axis in axes:
            each = value.shape[axis] // self.parts
            # All heads that share keys and values follow each other.
            indices = (kept[:, None] * each + np.arange(each)).ravel()
            value = np.take(value, indices, axis)
        return value


def sized_parts(
    model: keras.Model, criterion: Any, data: Any, what: Sequence[str]
) -> list[Sized]:
    """Returns what may go of a model besides its blocks, in order.

    Args:
        model: A `keras_nlp` backbone, or a task with one in it.
        criterion: As for `kdtf.prune`.
        data: Typical inputs, or None.
        what: Of "width", "heads" and "hidden".
    """
    finders = {"width": _neurons, "heads": _heads, "hidden": _channels}
    found = [
        sized
        for kind, find in finders.items()
        if kind in what
        for sized in find(model, backbone_of(model).get_config())
    ]
    if not found:
        return []
    scores = kernel_scores(model, criterion, data)
    return [
        dataclasses.replace(sized, order=_order(model, sized, scores))
        for sized in found
    ]


def _neurons(model: Any, config: dict[str, Any]) -> list[Sized]:
    key = "intermediate_dim"
    axes = axes_of(model, {key: 2 * config[key]})
    weights = backbone_of(model).transformer_layers[0].weights
    parts = min(weights[p].shape[axis] for p, (axis,) in axes.block.items())
    return [_sized("width", {key: config[key]}, parts, axes.block)]


def _heads(model: Any, config: dict[str, Any]) -> list[Sized]:
    keys = {key: config[key] for key in _HEADS if config.get(key)}
    axes = axes_of(model, {key: 2 * size for key, size in keys.items()})
    return [_sized("heads", keys, min(keys.values()), axes.block)]


def _channels(model: Any, config: dict[str, Any]) -> list[Sized]:
    """Finds what is added up from block to block.

    Without a `head_dim` a head has its share of the channels, and is left
    whole: as many channels go as heads.
    """
    channels = {"hidden_dim": config["hidden_dim"]}
    size = channels["hidden_dim"]
    wide = axes_of(model, {"hidden_dim": 2 * size})
    if config.get("head_dim"):
        return [_sized("hidden", channels, size, wide.block, wide.outside)]
    heads = {key: config[key] for key in _HEADS if config.get(key)}
    groups = min(heads.values())
    changes = {key: 2 * value for key, value in (channels | heads).items()}
    both = axes_of(model, changes)
    # With twice the channels heads are wider, and not with twice the heads.
    block = _common(both.block, wide.block)
    outside = _common(both.outside, wide.outside)
    rest = {
        position: others
        for position, axes in both.block.items()
        if (
            others := tuple(a for a in axes if a not in block.get(position, ()))
        )
    }
    return [
        _sized("hidden", channels, size, block, outside, steps=groups),
        _sized("hidden", heads, groups, rest),
    ]


def _common(first: Axes, second: Axes) -> Axes:
    pairs = (
        (p, set(axes) & set(second.get(p, ()))) for p, axes in first.items()
    )
    return {position: tuple(sorted(axes)) for position, axes in pairs if axes}


def _sized(
    kind: str,
    keys: dict[str, int],
    parts: int,
    block: Axes,
    outside: Axes | None = None,
    *,
    steps: int | None = None,
) -> Sized:
    return Sized(
        kind=kind,
        keys=keys,
        parts=parts,
        steps=steps or parts,
        block=block,
        outside=outside or {},
        order=np.zeros((0, parts), int),
    )


def _order(
    model: Any, sized: Sized, scores: dict[int, np.ndarray]
) -> np.ndarray:
    """Returns each block's parts by sqrt(sum of s^2) of what goes with them."""
    blocks = backbone_of(model).transformer_layers
    squares = np.stack(
        [_squares(b.weights, sized.block, sized.parts, scores) for b in blocks]
    )
    if sized.outside:
        # Of what all blocks share one order.
        rest = outside_of(model)
        total = squares.sum(0)
        total += _squares(rest, sized.outside, sized.parts, scores)
        squares = np.broadcast_to(total, squares.shape)
    return np.argsort(-squares, axis=1, kind="stable")


def _squares(
    weights: Sequence[Any],
    followers: Axes,
    parts: int,
    scores: dict[int, np.ndarray],
) -> np.ndarray:
    totals = np.zeros(parts)
    for position, axes in followers.items():
        values = scores.get(id(weights[position]))
        if values is None:
            continue
        for axis in axes:
            rows = np.moveaxis(values**2, axis, 0)
            totals += rows.reshape(parts, -1).sum(1)
    return totals
