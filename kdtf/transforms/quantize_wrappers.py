"""The wrappers in which tfmot simulates int8 in `tf_keras` models.

Read here by their own attributes, without tfmot.
"""

from typing import Any

import numpy as np
import tf_keras

from kdtf.transforms import tf_keras_graphs

__all__ = ["check_ranges", "left_in_float", "quantize_wrappers", "unwrapped"]

_WRAPPER = "QuantizeWrapper"
_INPUT = "QuantizeLayer"


def quantize_wrappers(model: Any) -> list[Any]:
    """Returns the layers of a model that tfmot has wrapped to simulate int8.

    Args:
        model: A flat `tf_keras` model.

    Example:
        >>> quantize_wrappers(tf_keras.Sequential([tf_keras.layers.ReLU()]))
        []
    """
    return [layer for layer in model.layers if _is_a(layer, _WRAPPER)]


def left_in_float(model: Any) -> dict[str, str]:
    """Returns what is not simulated in int8, with the reason, by layer name.

    Args:
        model: What `quantize_aware` gave for a `tf_keras` model.

    Example:
        >>> left_in_float(tf_keras.Sequential([tf_keras.layers.LSTM(2)]))
        {'lstm': 'tfmot knows no LSTM with these inputs'}
    """
    found = {}
    for layer in model.layers:
        if isinstance(layer, tf_keras.layers.InputLayer) or _is_a(
            layer, _INPUT
        ):
            continue
        if not _is_a(layer, _WRAPPER):
            kind = type(layer).__name__
            found[layer.name] = f"tfmot knows no {kind} with these inputs"
        elif layer.layer.weights and not layer._weight_vars:
            kind = type(layer.layer).__name__
            # Folded into the layer before it.
            if kind not in ("BatchNormalization", "SyncBatchNormalization"):
                found[layer.layer.name] = (
                    f"the {kind} computes in float; only its output is int8"
                )
    return found


def check_ranges(model: Any) -> None:
    """Refuses a model that has seen no data to take its int8 ranges from.

    Args:
        model: A flat `tf_keras` model that tfmot has wrapped.

    Raises:
        ValueError: It was never trained.
    """
    for layer in model.layers:
        if _is_a(layer, _INPUT) and layer.quantizer:
            low, high = layer.quantizer_vars.values()
            if float(low) == float(high):
                raise ValueError(
                    "The model must be trained for a step at least: its int8 "
                    "ranges are those of the data it saw. Received: model="
                    f"{model.name!r} with the range (0, 0) of its input. Call "
                    "`model.fit` first."
                )


def unwrapped(model: Any) -> Any:
    """Returns a plain copy with the kernels on the grid of int8.

    The ranges of the activations are gone with the wrappers.

    Args:
        model: A flat `tf_keras` model that tfmot has wrapped.
    """
    made: list[tuple[Any, Any]] = []

    def replace(layer: Any) -> Any:
        if _is_a(layer, _INPUT):
            return None
        new = _plain(layer)
        made.append((layer, new))
        return new

    plain = tf_keras_graphs.rewritten(model, replace)
    for layer, new in made:
        new.set_weights(_values(layer, new))
    return plain


def _plain(layer: Any) -> Any:
    if not _is_a(layer, _WRAPPER):
        return tf_keras_graphs.fresh(layer)
    inner = layer.layer
    activation = getattr(inner, "activation", None)
    if type(activation).__name__ == "QuantizeAwareActivation":
        activation = activation.activation
    if type(activation).__name__ == "NoOpActivation":
        activation = tf_keras.activations.linear
    if activation is getattr(inner, "activation", None):
        return tf_keras_graphs.fresh(inner)
    return tf_keras_graphs.fresh(
        inner, activation=tf_keras.activations.serialize(activation)
    )


def _values(layer: Any, new: Any) -> list[np.ndarray]:
    """Gives the weights for a new layer, in its order."""
    if not _is_a(layer, _WRAPPER):
        return layer.get_weights()
    if not layer._weight_vars:
        return layer.layer.get_weights()
    # tfmot has put tensors where the layer's own variables were.
    values = {_last(variable): variable for variable in layer.weights}
    for variable, quantizer, weights in layer._weight_vars:
        values[_last(variable)] = quantizer(variable, False, weights=weights)
    return [np.asarray(values[_last(variable)]) for variable in new.weights]


def _last(variable: Any) -> str:
    return variable.name.rpartition("/")[-1]


def _is_a(value: Any, name: str) -> bool:
    return any(base.__name__ == name for base in type(value).__mro__)
