"""Transformer blocks of `keras_nlp`: what each axis of their weights counts."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kdtf.backbones import backbone_of
from kdtf.backbones import resized
from kdtf.pruning.calibration import Calibration
from kdtf.pruning.calibration import watching

__all__ = ["axes_of", "block_influence"]

# Enough to tell axes apart; the tables of large vocabularies cost memory.
_PROBE = {"num_layers": 1, "vocabulary_size": 8}


def axes_of(
    backbone: Any, changes: dict[str, int]
) -> dict[int, tuple[int, int]]:
    """Returns which axes of a block's weights follow a configuration.

    Two blocks that differ in nothing else are compared, so that sizes that
    happen to be equal are not confused.

    Args:
        backbone: A `keras_nlp` backbone.
        changes: Other values of the configuration's entries.

    Returns:
        A weight's position in the block to its axis and its size now.

    Raises:
        ValueError: More than one axis of a weight follows it.
    """
    now, then = (
        resized(backbone, _PROBE | some).transformer_layers[0].weights
        for some in ({}, changes)
    )
    found = {}
    for position, (old, new) in enumerate(zip(now, then, strict=True)):
        differing = [
            axis
            for axis, sizes in enumerate(zip(old.shape, new.shape, strict=True))
            if sizes[0] != sizes[1]
        ]
        if len(differing) > 1:
            raise ValueError(
                f"One axis of {old.path!r} at most may follow {list(changes)}. "
                f"Received: shapes {tuple(old.shape)} and {tuple(new.shape)}."
            )
        if differing:
            found[position] = differing[0], old.shape[differing[0]]
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
        mask = _mask(batch.x, next(iter(seen.values())))
        sums = [tf.reduce_sum(seen[id(block)] * mask) for block in blocks]
        return [*sums, tf.reduce_sum(mask)]

    *sums, count = calibration.total(measure)
    return 1.0 - np.array([float(value) for value in sums]) / float(count)


def _cosines(first: Any, second: Any) -> Any:
    first, second = (tf.cast(value, "float32") for value in (first, second))
    lengths = tf.norm(first, axis=-1) * tf.norm(second, axis=-1)
    return tf.math.divide_no_nan(tf.reduce_sum(first * second, -1), lengths)


def _mask(x: Any, like: Any) -> Any:
    mask = x.get("padding_mask") if isinstance(x, dict) else None
    return tf.ones_like(like) if mask is None else tf.cast(mask, "float32")
