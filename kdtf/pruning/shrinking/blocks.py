"""Transformer blocks of `keras_nlp`: what each axis of their weights counts."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kdtf.backbones import backbone_of
from kdtf.backbones import resized
from kdtf.pruning.calibration import Calibration
from kdtf.pruning.calibration import watching

__all__ = [
    "Axes",
    "Followers",
    "axes_of",
    "block_influence",
    "mask_of",
    "outside_of",
]

# A weight's position to those of its axes that follow something.
Axes = dict[int, tuple[int, ...]]

# Enough to tell axes apart; the tables of large vocabularies cost memory.
_PROBE = {"num_layers": 1, "vocabulary_size": 8}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Followers:
    """Which axes of weights follow a configuration.

    Attributes:
        block: Of each block's weights.
        outside: Of the weights outside of them.
    """

    block: Axes
    outside: Axes


def axes_of(model: Any, changes: dict[str, int]) -> Followers:
    """Returns which axes of a model's weights follow a configuration.

    Two models that differ in nothing else are compared, so that sizes that
    happen to be equal are not confused.

    Args:
        model: A `keras_nlp` backbone, or a task with one in it.
        changes: Other values of the configuration's entries.
    """
    now, then = (resized(model, _PROBE | some) for some in ({}, changes))
    blocks = (backbone_of(each).transformer_layers[0] for each in (now, then))
    return Followers(
        block=_differing(*(block.weights for block in blocks)),
        outside=_differing(outside_of(now), outside_of(then)),
    )


def outside_of(model: Any) -> list[Any]:
    """Returns the weights outside of the blocks."""
    blocks = backbone_of(model).transformer_layers
    inside = {id(weight) for block in blocks for weight in block.weights}
    return [weight for weight in model.weights if id(weight) not in inside]


def _differing(now: Sequence[Any], then: Sequence[Any]) -> Axes:
    found = {}
    for position, (old, new) in enumerate(zip(now, then, strict=True)):
        axes = tuple(
            axis
            for axis, sizes in enumerate(zip(old.shape, new.shape, strict=True))
            if sizes[0] != sizes[1]
        )
        if axes:
            found[position] = axes
    return found


def block_influence(model: keras.Model, data: Any) -> np.ndarray:
    """Returns 1 - the mean cosine between what enters a block and leaves it.

    A block that hardly turns its inputs can go first.

    Args:
        model: A `keras_nlp` model.
        data: Typical inputs, as `fit` takes them. Every position counts that
            `padding_mask` does not leave out.

    Returns:
        float64, `(blocks,)`, each in [0, 2].

    Reference:
        Men et al. 2024, https://arxiv.org/abs/2403.03853 (equation 1)
    """
    blocks = list(backbone_of(model).transformer_layers)
    calibration = Calibration(model, data, needs_labels=False)

    def measure(batch: Any) -> list[Any]:
        seen: dict[int, Any] = {}

        def see(block: Any, entering: Any, leaving: Any) -> None:
            leaving = keras.tree.flatten(leaving)[0]
            seen[id(block)] = _cosines(entering, leaving)

        with watching(blocks, see):
            model(batch.x, training=False)
        mask = mask_of(batch.x, next(iter(seen.values())))
        sums = [tf.reduce_sum(seen[id(block)] * mask) for block in blocks]
        return [*sums, tf.reduce_sum(mask)]

    *sums, count = calibration.total(measure)
    return 1.0 - np.array([float(value) for value in sums]) / float(count)


def _cosines(first: Any, second: Any) -> Any:
    first, second = (tf.cast(value, "float32") for value in (first, second))
    lengths = tf.norm(first, axis=-1) * tf.norm(second, axis=-1)
    return tf.math.divide_no_nan(tf.reduce_sum(first * second, -1), lengths)


def mask_of(x: Any, like: Any) -> Any:
    """Returns 1.0 where a position counts, in the shape of `like`."""
    mask = x.get("padding_mask") if isinstance(x, dict) else None
    return tf.ones_like(like) if mask is None else tf.cast(mask, "float32")
