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
# Of other activations a layer's int8 form would need the range before them.
_FUSED = {"linear", "relu", "relu6", "softmax", "sigmoid", "tanh", "gelu"}


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
        elif reason := _reason(layer):
            found[layer.layer.name] = reason
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
    activation: Any = getattr(inner, "activation", None)
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


def _reason(wrapper: Any) -> str | None:
    inner = wrapper.layer
    kind = type(inner).__name__
    if inner.weights and not wrapper._weight_vars and not _is_folded(wrapper):
        return f"{kind} is not simulated inside, only its output is int8"
    activation: Any = getattr(inner, "activation", None)
    activation = getattr(activation, "activation", activation)
    name = getattr(activation, "__name__", "linear")
    if wrapper._weight_vars and name not in _FUSED:
        return f"the {kind} before its {name!r} computes in float"
    return None


def _is_folded(layer: Any) -> bool:
    """Returns whether a norm becomes part of the layer before it."""
    tensor = layer.inbound_nodes[0].call_args[0]
    before = getattr(tensor, "_keras_history", None)
    if before is None or not _is_a(before.layer, _WRAPPER):
        return False
    activation: Any = getattr(before.layer.layer, "activation", None)
    # tfmot marks with it what it found before a norm.
    activation = getattr(activation, "activation", activation)
    return type(activation).__name__ == "NoOpActivation"


def _last(variable: Any) -> str:
    return variable.name.rpartition("/")[-1]


def _is_a(value: Any, name: str) -> bool:
    return any(base.__name__ == name for base in type(value).__mro__)
