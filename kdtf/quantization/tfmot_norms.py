"""Batch norms that the converter leaves in float, folded before training.

After Conv2D and DepthwiseConv2D the converter folds them and keeps int8; after
the layers here it would compute layer and norm in float.
"""

from typing import Any

import numpy as np
from tf_keras import layers

__all__ = ["folded", "followers", "is_norm", "layer_before", "norm_after"]

# Which axis of the kernel the outputs lie along.
_AXES = {layers.Dense: -1, layers.Conv1D: -1, layers.Conv2DTranspose: -2}


def is_norm(layer: Any) -> bool:
    """Returns whether a layer is a batch norm.

    Args:
        layer: A `tf_keras` layer.
    """
    return isinstance(
        layer,
        layers.BatchNormalization | layers.experimental.SyncBatchNormalization,
    )


def followers(layer: Any) -> list[Any]:
    """Returns the layers that read a layer's output.

    Args:
        layer: A layer of a `tf_keras` model.
    """
    return [node.layer for node in layer.outbound_nodes]


def norm_after(layer: Any) -> Any:
    """Returns the norm that becomes part of a layer, or None.

    Args:
        layer: A layer of a `tf_keras` model.
    """
    if type(layer) not in _AXES or len(layer.inbound_nodes) != 1:
        return None
    after = followers(layer)
    is_linear = layer.activation is layers.Dense(1).activation
    if len(after) != 1 or not is_norm(after[0]) or not is_linear:
        return None
    is_last = list(after[0].axis) == [len(layer.output.shape) - 1]
    is_single = len(after[0].inbound_nodes) == 1
    return after[0] if is_last and is_single else None


def layer_before(norm: Any) -> Any:
    """Returns the layer of which a norm becomes part, or None.

    Args:
        norm: A layer of a `tf_keras` model.
    """
    if not is_norm(norm) or len(norm.inbound_nodes) != 1:
        return None
    before = norm.inbound_nodes[0].inbound_layers
    return before if norm_after(before) is norm else None


def folded(layer: Any) -> list[np.ndarray]:
    """Returns a layer's weights, with the norm after it in them.

    Args:
        layer: A layer of a `tf_keras` model. Where `norm_after` gives a norm
            the result has a bias in any case.
    """
    norm = norm_after(layer)
    values = layer.get_weights()
    if norm is None:
        return values
    scale = 1 / np.sqrt(norm.moving_variance.numpy() + norm.epsilon)
    if norm.gamma is not None:
        scale = scale * norm.gamma.numpy()
    bias = values[1] if layer.use_bias else np.zeros_like(scale)
    bias = (bias - norm.moving_mean.numpy()) * scale
    if norm.beta is not None:
        bias = bias + norm.beta.numpy()
    axis = _AXES[type(layer)]
    kernel = values[0] * (scale if axis == -1 else scale[:, None])
    return [kernel, bias]
