"""Walks over the layers of a model, nested ones included."""

from collections.abc import Iterator
from typing import Any

__all__ = ["own_weights", "walk_layers"]


def walk_layers(model: Any) -> Iterator[tuple[str, Any]]:
    """Gives every layer below a model with its path, each layer once.

    Args:
        model: A `keras.Model` or a `tf_keras.Model`.

    Example:
        >>> import keras
        >>> inner = keras.Sequential([keras.layers.ReLU(name="relu")], name="a")
        >>> [path for path, _ in walk_layers(keras.Sequential([inner]))]
        ['a', 'a/relu']
    """
    seen = {id(model)}

    def walk(layer: Any, prefix: str) -> Iterator[tuple[str, Any]]:
        # Both Kerases have it; `layers` misses those in attributes.
        for child in layer._flatten_layers(recursive=False, include_self=False):
            if id(child) not in seen:
                seen.add(id(child))
                path = f"{prefix}{child.name}"
                yield path, child
                yield from walk(child, f"{path}/")

    yield from walk(model, "")


def own_weights(layer: Any) -> list[Any]:
    """Gives the weights of a layer that none of its inner layers holds.

    Args:
        layer: A layer or a model of either Keras.

    Example:
        >>> import keras
        >>> dense = keras.layers.Dense(2, name="head")
        >>> model = keras.Sequential([keras.Input((3,)), dense])
        >>> [weight.name for weight in own_weights(dense)], own_weights(model)
        (['kernel', 'bias'], [])
    """
    children = layer._flatten_layers(recursive=False, include_self=False)
    inner = {id(weight) for child in children for weight in child.weights}
    return [weight for weight in layer.weights if id(weight) not in inner]
