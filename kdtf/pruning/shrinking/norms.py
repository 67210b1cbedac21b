"""Norms that see fewer channels: their gains, fitted to what is left.

A norm divides by the root of the channels' mean square (or variance). With
other channels that mean is another one, and all that follows would be larger
or smaller; a factor on the gain makes up for it. Where the channels that go
are 0, RMS norms give then what they gave.
"""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kdtf.backbones import backbone_of
from kdtf.pruning.calibration import Calibration
from kdtf.pruning.calibration import watching
from kdtf.pruning.shrinking.blocks import mask_of
from kdtf.pruning.shrinking.blocks import outside_of
from kdtf.pruning.shrinking.sized import Sized

__all__ = ["energies", "fit_gain", "norms_of", "scale_gain"]

_GAINS = ("gamma", "scale")


def norms_of(model: Any, channels: Sized) -> list[list[Any]]:
    """Returns the norms over the channels: of each block, then the others.

    Args:
        model: A `keras_nlp` backbone, or a task with one in it.
        channels: Which weights have them.
    """
    blocks = backbone_of(model).transformer_layers
    found = [
        _norms(block, block.weights, channels.block.keys()) for block in blocks
    ]
    inside = {id(norm) for norms in found for norm in norms}
    others = _norms(model, outside_of(model), channels.outside.keys())
    return [*found, [norm for norm in others if id(norm) not in inside]]


def _norms(layer: Any, weights: Any, positions: Any) -> list[Any]:
    following = {id(weights[position]) for position in positions}
    return [
        inner
        for inner in layer._flatten_layers(include_self=False)
        if "norm" in type(inner).__name__.lower()
        and any(id(weight) in following for weight in inner.weights)
    ]


def energies(model: Any, channels: Sized, data: Any) -> list[np.ndarray]:
    """Returns each channel's mean square after each norm, gains left out.

    All positions count the same, however large they are: some tokens of
    language models are a thousand times larger than others.

    Args:
        model: A `keras_nlp` backbone, or a task with one in it.
        channels: What the norms are over.
        data: Typical inputs.

    Returns:
        For each block, and for what is outside of them, `(norms, channels)`,
        each row with the mean 1.
    """
    groups = norms_of(model, channels)
    norms = [norm for group in groups for norm in group]
    calibration = Calibration(model, data, needs_labels=False)

    def measure(batch: Any) -> list[Any]:
        seen: dict[int, Any] = {}

        def see(norm: Any, entering: Any, leaving: Any) -> None:
            del leaving
            x = tf.cast(entering, "float32")
            if _is_centered(norm):
                x -= tf.reduce_mean(x, -1, keepdims=True)
            square = x**2
            mean = tf.reduce_mean(square, -1, keepdims=True)
            relative = tf.math.divide_no_nan(square, mean)
            mask = mask_of(batch.x, relative[..., 0])
            seen[id(norm)] = tf.einsum("btc,bt->c", relative, mask)

        with watching(norms, see):
            model(batch.x, training=False)
        return [seen[id(norm)] for norm in norms]

    sums = [
        np.asarray(total, "float64") for total in calibration.total(measure)
    ]
    means = iter([total / total.mean() for total in sums])
    return [np.stack([next(means) for _ in group]) for group in groups]


def fit_gain(norm: Any, energy: np.ndarray, kept: np.ndarray) -> None:
    """Multiplies a new norm's gain so that what it gives is as large as it was.

    Args:
        norm: With the gains that are kept.
        energy: The channels' mean squares before.
        kept: The numbers of those that are left.
    """
    scale_gain(norm, float(np.sqrt(energy[kept].mean() / energy.mean())))


def scale_gain(norm: Any, factor: float) -> None:
    """Multiplies what a norm multiplies with."""
    for weight in norm.weights:
        if weight.path.split("/")[-1] in _GAINS:
            start = _gain_at_zero(norm, weight)
            weight.assign((start + weight.numpy()) * factor - start)


def _is_centered(norm: Any) -> bool:
    """Returns whether a norm subtracts the mean: not those by RMS."""
    is_layer_norm = isinstance(norm, keras.layers.LayerNormalization)
    return is_layer_norm and not getattr(norm, "rms_scaling", False)


def _gain_at_zero(norm: Any, gain: Any) -> float:
    """Returns what a norm multiplies with where its weight is 0.

    That of Gemma multiplies with 1 + the weight.
    """
    kept = gain.numpy()
    gain.assign(np.zeros_like(kept))
    ramp = np.arange(kept.size, dtype="float32")[None, None]
    follows = np.asarray(norm(ramp)) != np.asarray(norm(-ramp))
    gain.assign(kept)
    return float(follows.any())
