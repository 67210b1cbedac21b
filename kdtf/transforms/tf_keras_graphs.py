"""Functional `tf_keras` models written anew, with other layers.

`clone_model` keeps models in models and cannot leave a layer out.
"""

from collections.abc import Callable
from collections.abc import Iterable
from typing import Any

import tensorflow as tf
import tf_keras

from kdtf.transforms.tf_keras_layers import is_graph

__all__ = ["custom_classes", "fresh", "rewritten"]


def custom_classes(layers: Iterable[Any]) -> dict[str, type]:
    """Returns the classes of layers that are not tf_keras's own, by name.

    Args:
        layers: `tf_keras` layers.

    Example:
        >>> custom_classes([tf_keras.layers.ReLU()])
        {}
    """
    kinds = {type(layer) for layer in layers}
    return {
        kind.__name__: kind
        for kind in kinds
        if not kind.__module__.startswith("tf_keras.")
    }


def fresh(layer: Any, *, name: str | None = None, **changes: Any) -> Any:
    """Returns a layer of the same configuration, without weights.

    Args:
        layer: A `tf_keras` layer.
        name: A new name for it. Defaults to its own.
        **changes: Other values of its configuration.

    Example:
        >>> fresh(tf_keras.layers.Dense(2, "relu"), name="a", units=3).units
        3
    """
    config = {**layer.get_config(), **changes}
    if name is not None:
        config["name"] = name
    return type(layer).from_config(config)


def rewritten(model: Any, replace: Callable[[Any], Any]) -> Any:
    """Returns a flat model with other layers in the same places.

    Models in the model are written out: their layers stand in the result,
    which is a Sequential model only where it was a flat one before.

    Args:
        model: A built functional or Sequential `tf_keras` model.
        replace: Gives what stands for a layer; None leaves the layer out,
            which must have one input and an output like it. It is asked once
            for each layer.
    """
    made: dict[int, Any] = {}

    def called(layer: Any, args: Any, kwargs: Any) -> Any:
        if is_graph(layer):
            return _run(layer, tf.nest.flatten(args[0]), called)
        if id(layer) not in made:
            made[id(layer)] = replace(layer)
        new = made[id(layer)]
        return args[0] if new is None else new(*args, **kwargs)

    inputs = [
        tf_keras.Input(
            tensor.shape[1:], tensor.shape[0], name=name, dtype=tensor.dtype
        )
        for tensor, name in zip(model.inputs, model.input_names, strict=True)
    ]
    if _is_flat_sequential(model):
        layers = [replace(layer) for layer in model.layers]
        kept = [layer for layer in layers if layer is not None]
        return tf_keras.Sequential([*inputs, *kept], name=model.name)
    outputs = _run(model, inputs, called)
    packed = tf.nest.pack_sequence_as(model.input, inputs)
    return tf_keras.Model(packed, outputs, name=model.name)


def _is_flat_sequential(model: Any) -> bool:
    return isinstance(model, tf_keras.Sequential) and not any(
        is_graph(layer) for layer in model.layers
    )


def _run(
    graph: Any, values: list[Any], called: Callable[[Any, Any, Any], Any]
) -> Any:
    """Gives the outputs of a model's graph for other inputs."""
    known = dict(zip(map(id, graph.inputs), values, strict=True))

    def new(tensor: Any) -> Any:
        return known.get(id(tensor), tensor)

    # tf_keras has no public name for the order of its calls.
    for depth in sorted(graph._nodes_by_depth, reverse=True):
        for node in graph._nodes_by_depth[depth]:
            if node.is_input:
                continue
            given = (node.call_args, node.call_kwargs)
            outputs = called(node.layer, *tf.nest.map_structure(new, given))
            flat = tf.nest.flatten(node.outputs)
            new_flat = tf.nest.flatten(outputs)
            known.update(zip(map(id, flat), new_flat, strict=True))
    return tf.nest.map_structure(new, graph.output)
