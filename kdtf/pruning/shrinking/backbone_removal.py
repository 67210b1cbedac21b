"""What stays of a `keras_nlp` model, and what that costs."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from kdtf.backbones import backbone_of
from kdtf.backbones import resized
from kdtf.pruning.shrinking.tracing import itemsize_of

__all__ = ["KEYS", "BackboneCosts", "BackboneRemoval", "Sized"]

KEYS = {"width": "intermediate_dim", "heads": "num_key_value_heads"}


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
            changes[KEYS[sized.kind]] = size
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
        self._blocks = backbone_of(model).transformer_layers
        outside = [_price(weight) for weight in _outside(model)]
        self._outside = {
            by: sum(price[by] for price in outside)
            for by in ("parameters", "bytes", "macs")
        }
        self._outside["macs"] += _output_macs(model)

    def __call__(self, by: str, removal: BackboneRemoval) -> int:
        """Returns the cost.

        Args:
            by: "parameters", "bytes" or "macs".
            removal: What stays.
        """
        total = self._outside[by]
        for source in removal.blocks:
            for position, weight in enumerate(self._blocks[source].weights):
                price = _price(weight)[by]
                for sized, number in removal.sized:
                    if position in sized.axes:
                        price = price // sized.parts * number
                total += price
        return total


def _price(weight: Any) -> dict[str, int]:
    size = math.prod(weight.shape)
    return {
        "parameters": size,
        "bytes": size * itemsize_of(weight),
        "macs": size if weight.path.split("/")[-1] == "kernel" else 0,
    }


def _output_macs(model: keras.Model) -> int:
    """Returns what it takes to score all tokens, 0 where none are."""
    import keras_nlp

    if not isinstance(model, keras_nlp.models.CausalLM):
        return 0
    table = backbone_of(model).token_embedding
    return int(table.input_dim * table.output_dim)
