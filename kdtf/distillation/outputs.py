"""Tells logits from probabilities, so that nothing is softmaxed twice.

A model's graph says which activation made its output. Where there is no
Keras graph (subclassed models), the TensorFlow op that made the tensor says.
"""

import dataclasses
from typing import Any
from typing import Literal

import tensorflow as tf
from keras import ops

__all__ = [
    "OutputKind",
    "find_activation",
    "last_activation",
    "made_by",
    "output_shape",
    "to_logits",
]

Values = Literal["logits", "probabilities"]

# Operations that hand values on, possibly reshaped: look behind them.
_TRANSPARENT = {
    "Cast",
    "Dropout",
    "ExpandDims",
    "Flatten",
    "Identity",
    "Permute",
    "Reshape",
    "Squeeze",
}
_TRANSPARENT_OPS = {
    "Cast",
    "ExpandDims",
    "Identity",
    "Reshape",
    "Squeeze",
    "StopGradient",
}
# Activations of Keras by what they make; a function not listed is unknown.
_KNOWN_ACTIVATIONS = {
    "softmax": "softmax",
    "sigmoid": "sigmoid",
    **dict.fromkeys(
        ("linear", "relu", "tanh", "gelu", "elu", "selu", "silu"), "linear"
    ),
}
# A compiled function hides the op that made its result.
_OPAQUE_OPS = {"PartitionedCall", "StatefulPartitionedCall"}
# Smallest probability whose reciprocal float32 still holds.
_TINY = 1e-30
# Half the distance from 1.0 to the next smaller float32.
_HALF_STEP = 2.0**-25


def last_activation(model: Any) -> str | None:
    """Returns what a model's output passes through last, by its Keras graph.

    Args:
        model: A Keras 3 or `tf_keras` model.

    Returns:
        "softmax", "sigmoid" or "linear" (which here means any activation that
        makes no probabilities); None if the graph does not tell.

    Example:
        >>> import keras
        >>> layers = [keras.Input((4,)), keras.layers.Dense(3)]
        >>> last_activation(keras.Sequential(layers))
        'linear'
        >>> layers.append(keras.layers.Softmax())
        >>> last_activation(keras.Sequential(layers))
        'softmax'
    """
    outputs = getattr(model, "outputs", None)
    if not outputs or len(outputs) != 1:
        return None
    return _activation_behind(outputs[0])


def _activation_behind(tensor: Any) -> str | None:
    history = getattr(tensor, "_keras_history", None)
    if history is None:
        return None
    # Keras 3 calls the maker an operation, tf_keras a layer.
    maker = history[0]
    kind = type(maker).__name__
    if getattr(maker, "outputs", None):
        return _activation_behind(maker.outputs[history.tensor_index])
    if kind in ("Softmax", "Sigmoid"):
        return kind.lower()
    activation = getattr(getattr(maker, "activation", None), "__name__", None)
    if kind in _TRANSPARENT or (kind, activation) == ("Activation", "linear"):
        node = maker._inbound_nodes[history.node_index]
        parents = getattr(node, "keras_inputs", None) or node.input_tensors
        return _activation_behind(parents[0])
    return _KNOWN_ACTIVATIONS.get(activation or "")


def made_by(tensor: Any) -> str | None:
    """Returns the activation that made a tensor of a `tf.function`.

    Args:
        tensor: A symbolic tensor.

    Returns:
        "softmax", "sigmoid" or "linear"; None if the op that made it is
        hidden inside a compiled function.
    """
    op = tensor.op
    while op.type in _TRANSPARENT_OPS:
        op = op.inputs[0].op
    if op.type in _OPAQUE_OPS:
        return None
    return {"Softmax": "softmax", "Sigmoid": "sigmoid"}.get(op.type, "linear")


def find_activation(model: Any, x: Any, outputs: Any) -> str | None:
    """Returns what a model's output passes through last, by running it.

    Args:
        model: The model.
        x: Its inputs.
        outputs: What it gave for them, eager or symbolic.

    Returns:
        As `made_by`.
    """
    if not tf.executing_eagerly():
        return made_by(outputs)
    found = []

    @tf.function
    def trace() -> None:
        found.append(made_by(model(x)))

    trace.get_concrete_function()
    return found[0]


def output_shape(model: Any) -> tuple[int | None, ...] | None:
    """Returns the shape of a model's one output, or None if unknown.

    Args:
        model: A Keras 3 or `tf_keras` model.

    Raises:
        ValueError: The model has several outputs.
    """
    outputs = getattr(model, "outputs", None)
    if not outputs:
        return None
    if len(outputs) > 1:
        shapes = [tuple(output.shape) for output in outputs]
        raise ValueError(
            "Distillation needs models with one output. Received: "
            f"{model.name!r} with outputs of shapes {shapes}. Wrap the one "
            "that matters: `keras.Model(model.inputs, model.outputs[0])`."
        )
    return tuple(outputs[0].shape)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OutputKind:
    """What a model's numbers mean: their `values`, and the `head` they form."""

    values: Values
    head: Literal["softmax", "sigmoid"]


def to_logits(outputs: Any, kind: OutputKind) -> Any:
    """Gives logits for a model's outputs, whichever it returns.

    Keras keeps the logits behind its softmax and sigmoid; they are used where
    they are there, since a logarithm of rounded probabilities loses digits.

    Args:
        outputs: Shape `(..., classes)`, any float dtype.
        kind: What they are.

    Returns:
        A tensor of the same shape. For softmax they are the logits up to a
        constant, which no softmax sees.

    Example:
        >>> kind = OutputKind(values="probabilities", head="sigmoid")
        >>> round(float(to_logits(ops.array([0.75]), kind)[0]), 4)  # log 3
        1.0986
    """
    if kind.values == "logits":
        return outputs
    noted = getattr(outputs, "_keras_logits", None)
    if noted is not None:
        return noted
    p = ops.cast(outputs, "float32")
    log_p = ops.log(ops.maximum(p, _TINY))
    if kind.head == "softmax":
        return log_p
    return log_p - ops.log(ops.maximum(1.0 - p, _HALF_STEP))
