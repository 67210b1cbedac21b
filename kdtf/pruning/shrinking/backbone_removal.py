"""What stays of a `keras_nlp` model, and what that costs."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from kdtf.backbones import backbone_of
from kdtf.backbones import resized
from kdtf.pruning.shrinking.blocks import Axes
from kdtf.pruning.shrinking.blocks import outside_of
from kdtf.pruning.shrinking.norms import fit_gain
from kdtf.pruning.shrinking.norms import norms_of
from kdtf.pruning.shrinking.norms import scale_gain
from kdtf.pruning.shrinking.sized import Sized
from kdtf.pruning.shrinking.tracing import itemsize_of

__all__ = ["BackboneCosts", "BackboneRemoval"]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class BackboneRemoval:
    """What stays of a `keras_nlp` model.

    Attributes:
        blocks: The numbers of the blocks that stay.
        sized: What else may go, with how many parts of it stay.
        energies: Of the channels after each norm, as `norms.energies` gives
            them, to fit the norms' gains by; None to leave those alone.
    """

    blocks: Sequence[int]
    sized: Sequence[tuple[Sized, int]]
    energies: list[np.ndarray] | None = None

    def build(self, model: keras.Model) -> keras.Model:
        """Returns the smaller model, with the weights that stay."""
        changes = {"num_layers": len(self.blocks)}
        for sized, number in self.sized:
            changes |= sized.changes(number)
        smaller = resized(model, changes)
        backbones = backbone_of(model), backbone_of(smaller)
        old, new = (list(b.transformer_layers) for b in backbones)
        for block, source in zip(new, self.blocks, strict=True):
            values = old[source].get_weights()
            for sized, number in self.sized:
                for position, axes in sized.block.items():
                    value = values[position]
                    values[position] = sized.cut(value, axes, source, number)
            block.set_weights(values)
        self._fill_outside(model, smaller)
        for sized, number in self.sized:
            if sized.is_channels and number < sized.parts:
                self._fit_norms(smaller, sized, number)
                _keep_scale(smaller, number / sized.parts)
        return smaller

    def _fill_outside(self, model: Any, smaller: Any) -> None:
        pairs = zip(outside_of(model), outside_of(smaller), strict=True)
        for position, (weight, new) in enumerate(pairs):
            value = weight.numpy()
            for sized, number in self.sized:
                axes = sized.outside.get(position, ())
                # Outside there is one order for all blocks.
                value = sized.cut(value, axes, 0, number)
            new.assign(value)

    def _fit_norms(self, smaller: Any, channels: Sized, number: int) -> None:
        if self.energies is None:
            return
        kept = channels.order[0, :number]
        *blocks, others = self.energies
        sources = [*(blocks[source] for source in self.blocks), others]
        groups = norms_of(smaller, channels)
        for norms, rows in zip(groups, sources, strict=True):
            for norm, energy in zip(norms, rows, strict=True):
                fit_gain(norm, energy, kept)


def _keep_scale(model: Any, share: float) -> None:
    """Undoes what Gemma's factor on embeddings loses: sqrt(channels).

    A language model's outputs are scored by the same table: the last norm
    gives the less, the more the table is enlarged.
    """
    backbone = backbone_of(model)
    if not type(backbone).__name__.startswith("Gemma"):
        return
    factor = 1.0 / math.sqrt(share)
    table = backbone.token_embedding.embeddings
    table.assign(table.numpy() * factor)
    if _is_causal(model):
        scale_gain(backbone.layer_norm, 1.0 / factor)


class BackboneCosts:
    """What a `keras_nlp` model costs with some of its parts.

    Multiply-accumulates are those of kernels for one token, with the output's
    product of a causal language model; attention's own, which grow with the
    text, are not counted.

    Args:
        model: The model.
    """

    def __init__(self, model: keras.Model) -> None:
        """Counts what stays as it is."""
        backbone = backbone_of(model)
        self._blocks = [
            [_price(weight) for weight in block.weights]
            for block in backbone.transformer_layers
        ]
        self._outside = [_price(weight) for weight in outside_of(model)]
        if _is_causal(model):
            # The table scores all tokens.
            table = backbone.token_embedding.embeddings
            weights = [id(weight) for weight in outside_of(model)]
            price = self._outside[weights.index(id(table))]
            price["macs"] = price["parameters"]

    def __call__(self, by: str, removal: BackboneRemoval) -> int:
        """Returns the cost.

        Args:
            by: "parameters", "bytes" or "macs".
            removal: What stays.
        """
        blocks = [(s.block, s.parts, number) for s, number in removal.sized]
        outside = [(s.outside, s.parts, number) for s, number in removal.sized]
        return _sum(by, self._outside, outside) + sum(
            _sum(by, self._blocks[block], blocks) for block in removal.blocks
        )


def _sum(
    by: str,
    prices: Sequence[dict[str, int]],
    cuts: Sequence[tuple[Axes, int, int]],
) -> int:
    total = 0
    for position, price in enumerate(prices):
        cost = price[by]
        for followers, parts, number in cuts:
            for _ in followers.get(position, ()):
                cost = cost // parts * number
        total += cost
    return total


def _price(weight: Any) -> dict[str, int]:
    size = math.prod(weight.shape)
    return {
        "parameters": size,
        "bytes": size * itemsize_of(weight),
        "macs": size if weight.path.split("/")[-1] == "kernel" else 0,
    }


def _is_causal(model: keras.Model) -> bool:
    import keras_nlp

    return isinstance(model, keras_nlp.models.CausalLM)
