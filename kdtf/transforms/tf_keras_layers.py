"""The layers of a `tf_keras` model, and which of them the user means."""

import fnmatch
from collections.abc import Iterator
from typing import Any

from kdtf.layers import walk_layers

__all__ = [
    "check_can_be_cloned",
    "is_graph",
    "is_kernel_layer",
    "leaves",
    "matches",
    "nothing_found",
    "rules_of",
    "selected",
]


def is_graph(layer: Any) -> bool:
    """Returns whether a layer is a Sequential or functional model.

    Args:
        layer: A `tf_keras` layer or model.

    Example:
        >>> import tf_keras
        >>> is_graph(tf_keras.Sequential()), is_graph(tf_keras.layers.ReLU())
        (True, False)
    """
    # What tfmot and `clone_model` ask; tf_keras has no public name for it.
    names = {base.__name__ for base in type(layer).__mro__}
    return "Sequential" in names or bool(
        getattr(layer, "_is_graph_network", False)
    )


def check_can_be_cloned(model: Any) -> None:
    """Refuses a model of which tfmot can make no copy.

    Args:
        model: A `tf_keras` model.

    Raises:
        ValueError: It is subclassed, or not built.
    """
    if not is_graph(model):
        raise ValueError(
            "tfmot works on functional and Sequential `tf_keras` models only. "
            f"Received: model={model.name!r} of the subclass "
            f"{type(model).__name__}. Give the functional model inside (a "
            "Distiller's `student`), or use a Keras 3 model."
        )
    if not model.built:
        raise ValueError(
            "The model must be built, so that it has its weights. Received: "
            f"model={model.name!r}, which was never called. Call it on a "
            "batch first, or `model.build(input_shape)`."
        )


def selected(model: Any, select: Any) -> list[Any]:
    """Returns the layers with weights that `select` names, or all of them.

    Args:
        model: A built functional or Sequential `tf_keras` model.
        select: Layers, patterns or predicates; None for all.

    Raises:
        TypeError: `select` is made of something else.
        ValueError: A rule matches no layer with weights.

    Example:
        >>> import tf_keras
        >>> dense = tf_keras.layers.Dense(2, input_shape=(3,), name="head")
        >>> [l.name for l in selected(tf_keras.Sequential([dense]), "he*")]
        ['head']
    """
    found: list[Any] = []
    for rule in [lambda layer: True] if select is None else rules_of(select):
        hits = [
            inner
            for layer in model.layers
            if matches(rule, layer)
            for _, inner in [("", layer), *walk_layers(layer)]
            if inner.weights and not is_graph(inner)
        ]
        if not hits:
            raise ValueError(nothing_found(model, rule, select))
        found.extend(hits)
    return found


def is_kernel_layer(layer: Any) -> bool:
    """Returns False for what is no kernel on Keras 3 either, by default.

    Args:
        layer: A `tf_keras` layer.
    """
    kind = type(layer).__name__
    return kind != "Embedding" and not kind.startswith("Depthwise")


def rules_of(select: Any) -> list[Any]:
    """Returns the rules that `select` is made of.

    Args:
        select: A layer, a pattern, a predicate, or a list of these.

    Raises:
        TypeError: It is made of something else.
    """
    rules = list(select) if isinstance(select, list | tuple) else [select]
    for rule in rules:
        is_layer = hasattr(rule, "get_weights")
        if not (isinstance(rule, str) or is_layer or callable(rule)):
            raise TypeError(
                "`select` must be made of layers, patterns of their names or "
                f"predicates. Received: {rule!r} of type "
                f"{type(rule).__name__}."
            )
    return rules


def matches(rule: Any, layer: Any) -> bool:
    """Returns whether one rule names a layer.

    Args:
        rule: One of `rules_of`.
        layer: A `tf_keras` layer.
    """
    if isinstance(rule, str):
        return fnmatch.fnmatchcase(layer.name, rule)
    if hasattr(rule, "get_weights"):
        return layer is rule
    return bool(rule(layer))


def leaves(layer: Any) -> Iterator[Any]:
    """Gives a layer, or those of a nested model, that have what to train.

    Args:
        layer: A `tf_keras` layer or model.
    """
    if is_graph(layer):
        for inner in layer.layers:
            yield from leaves(inner)
    elif layer.trainable_weights:
        yield layer


def nothing_found(model: Any, rule: Any, select: Any) -> str:
    """Returns the message for a rule that matches nothing.

    Args:
        model: The model whose layers were asked.
        rule: The rule.
        select: What the user gave; None for the default.
    """
    known = [layer.name for layer in model.layers]
    if select is None:
        what, way_out = f"model={model.name!r}", "Use a Keras 3 model."
    else:
        what, way_out = f"{rule!r}", "See `[l.name for l in model.layers]`."
    return (
        "There must be a trainable layer that tfmot knows how to change. "
        f"Received: {what}, which has none among {known[:8]}"
        f"{' ...' if len(known) > 8 else ''}. {way_out}"
    )
