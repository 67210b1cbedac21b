"""The wrappers that tfmot puts around the layers of `tf_keras` models.

tfmot is imported on first use. Its two wrapper classes are no public names of
it, so they are told by their own.
"""

import inspect
import os
import sys
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

from kdtf.layers import walk_layers
from kdtf.transforms.tf_keras_layers import check_can_be_cloned
from kdtf.transforms.tf_keras_layers import is_graph
from kdtf.transforms.tf_keras_layers import is_kernel_layer
from kdtf.transforms.tf_keras_layers import leaves
from kdtf.transforms.tf_keras_layers import matches
from kdtf.transforms.tf_keras_layers import nothing_found
from kdtf.transforms.tf_keras_layers import rules_of

__all__ = [
    "check_plain",
    "fit_with_callbacks",
    "has_quantize_wrappers",
    "load_tfmot",
    "strip",
    "training_callbacks",
    "wrap_layers",
    "wrappers",
]

_PRUNING = "PruneLowMagnitude"
_CLUSTERING = "ClusterWeights"
_QUANTIZE = "QuantizeWrapper"


def load_tfmot() -> Any:
    """Returns tfmot, and leaves the process as it was before the import.

    tfmot sets `TF_USE_LEGACY_KERAS=1`, for child processes too, which also
    turns a `tf.keras` that nobody has used yet into `tf_keras`.
    """
    loaded = sys.modules.get("tensorflow_model_optimization")
    if loaded is not None:
        return loaded
    import tensorflow as tf

    # Any attribute makes `tf.keras` decide which Keras it is, once for all.
    _ = tf.keras.__name__, tf.keras.Model
    before = os.environ.get("TF_USE_LEGACY_KERAS")
    try:
        import tensorflow_model_optimization as tfmot
    finally:
        if before is None:
            os.environ.pop("TF_USE_LEGACY_KERAS", None)
        else:
            os.environ["TF_USE_LEGACY_KERAS"] = before
    return tfmot


def wrappers(model: Any) -> tuple[list[Any], list[Any]]:
    """Returns the pruning and the clustering wrappers in a model.

    Args:
        model: A `tf_keras` model; nested models are searched, too.

    Example:
        >>> import tf_keras
        >>> wrappers(tf_keras.Sequential([tf_keras.layers.Dense(2)]))
        ([], [])
    """
    layers = [layer for _, layer in walk_layers(model)]
    return (
        [layer for layer in layers if _is_a(layer, _PRUNING)],
        [layer for layer in layers if _is_a(layer, _CLUSTERING)],
    )


def has_quantize_wrappers(model: Any) -> bool:
    """Returns whether tfmot simulates int8 in a model.

    Args:
        model: Any model.

    Example:
        >>> import tf_keras
        >>> has_quantize_wrappers(tf_keras.Sequential())
        False
    """
    return any(_is_a(layer, _QUANTIZE) for _, layer in walk_layers(model))


def check_plain(model: Any) -> None:
    """Refuses a model in which tfmot's wrappers are already.

    Args:
        model: A `tf_keras` model.

    Raises:
        ValueError: A layer of it is wrapped.
    """
    pruning, clustering = wrappers(model)
    if has_quantize_wrappers(model):
        raise ValueError(
            "The model is already trained for int8, and tfmot's wrappers do "
            f"not stack. Received: model={model.name!r}. Call "
            "`model = kdtf.strip(model)` first."
        )
    if pruning or clustering:
        state = "pruned" if pruning else "clustered"
        raise ValueError(
            f"The model is already {state}, and tfmot's wrappers do not stack. "
            f"Received: model={model.name!r} with a wrapped layer "
            f"{(pruning or clustering)[0].name!r}. Call "
            "`model = kdtf.strip(model)` first."
        )


def wrap_layers(
    model: Any, wrap: Callable[[Any], Any], *, select: Any = None
) -> Any:
    """Returns a clone of `model` in which some layers are wrapped.

    The clone shares all layers with `model` and is not compiled. Layers in
    nested models are wrapped with them.

    Args:
        model: A built functional or Sequential `tf_keras` model.
        wrap: Gives the wrapper of a layer, or None for a layer that has no
            weights of the kind or that tfmot does not know.
        select: Which layers directly in `model`: a layer, a pattern of names
            (`"dense_*"`), a predicate of a layer, or a list of these.
            Defaults to all but embeddings and depthwise convolutions.

    Raises:
        TypeError: `select` is made of something else.
        ValueError: The model is subclassed, not built, or wrapped already; or
            `select`, or one rule of it, matches no layer that can be wrapped.
    """
    check_can_be_cloned(model)
    check_plain(model)
    rules = [is_kernel_layer] if select is None else rules_of(select)
    planned: dict[int, Any] = {}
    for rule in rules:
        found = {
            id(inner): inner
            for layer in model.layers
            if matches(rule, layer)
            for inner in leaves(layer)
            if select is not None or is_kernel_layer(inner)
        }
        new = {key: wrap(inner) for key, inner in found.items()}
        if not any(new.values()):
            raise ValueError(nothing_found(model, rule, select))
        planned.update({key: new[key] for key in new if new[key] is not None})
    return _cloned(model, lambda layer: planned.get(id(layer), layer))


def strip(model: Any) -> Any:
    """Returns a `tf_keras` model without the wrappers that tfmot put there.

    Zeros and shared values stay in the weights, and kernels trained for int8
    on their grid. The result is not compiled; a model in which nothing is
    wrapped is returned itself.

    Args:
        model: A `tf_keras` model, pruned, clustered, trained for int8 or none
            of it.

    Returns:
        A `tf_keras` model of the same structure, with plain layers.

    Raises:
        ValueError: The wrapped layers are in a subclassed model, such as a
            Distiller.

    Example:
        >>> import tf_keras
        >>> model = tf_keras.Sequential([tf_keras.layers.Dense(2)])
        >>> strip(model) is model
        True
    """
    if has_quantize_wrappers(model):
        check_can_be_cloned(model)
        from kdtf.transforms import quantize_wrappers

        return quantize_wrappers.unwrapped(model)
    pruning, clustering = wrappers(model)
    if not pruning and not clustering:
        return model
    check_can_be_cloned(model)
    tfmot = load_tfmot()
    if pruning:
        for wrapper in pruning:
            # The optimizer's last step has moved the masked weights.
            wrapper.pruning_obj.weight_mask_op()
        model = _rebuilt(tfmot.sparsity.keras.strip_pruning(model), model)
    if clustering:
        model = _rebuilt(tfmot.clustering.keras.strip_clustering(model), model)
        for wrapper in clustering:
            _give_variables_back(wrapper)
    return model


def training_callbacks(model: Any) -> list[Any]:
    """Returns the callbacks without which tfmot does not train a model.

    Args:
        model: Any `tf_keras` model; a Distiller's student, for example.

    Example:
        >>> import tf_keras
        >>> training_callbacks(tf_keras.Sequential([tf_keras.layers.Dense(2)]))
        []
    """
    tfmot = sys.modules.get("tensorflow_model_optimization")
    if tfmot is None or not wrappers(model)[0]:
        return []
    return [tfmot.sparsity.keras.UpdatePruningStep()]


def fit_with_callbacks(
    fit: Callable[..., Any], model: Any, *args: Any, **kwargs: Any
) -> Any:
    """Calls `fit` with `training_callbacks(model)` beside the user's own.

    Args:
        fit: A bound `tf_keras.Model.fit`.
        model: The model that may be wrapped.
        *args: The arguments of `fit`.
        **kwargs: The keyword arguments of `fit`.
    """
    needed = training_callbacks(model)
    if not needed:
        return fit(*args, **kwargs)
    bound = inspect.signature(fit).bind(*args, **kwargs)
    given: Any = bound.arguments.get("callbacks") or []
    # A user's own list object of tf_keras is kept in one piece.
    held = getattr(given, "callbacks", given)
    held = held if isinstance(held, Sequence) else [held]
    if not any(_is_a(callback, "UpdatePruningStep") for callback in held):
        if hasattr(given, "callbacks"):
            needed[0].set_model(given.model)
            given.append(needed[0])
        else:
            bound.arguments["callbacks"] = [*held, *needed]
    return fit(*bound.args, **bound.kwargs)


def _is_a(value: Any, name: str) -> bool:
    return any(base.__name__ == name for base in type(value).__mro__)


def _cloned(model: Any, replace: Callable[[Any], Any]) -> Any:
    import tf_keras

    def replace_or_clone(layer: Any) -> Any:
        return _cloned(layer, replace) if is_graph(layer) else replace(layer)

    clone = tf_keras.models.clone_model(model, clone_function=replace_or_clone)
    return _rebuilt(clone, model)


def _rebuilt(clone: Any, model: Any) -> Any:
    # A Sequential without an InputLayer was built by its first batch.
    if not clone.built:
        clone.build(model.input_shape)
    return clone


def _give_variables_back(wrapper: Any) -> None:
    """Mends what tfmot leaves of an attention layer: tensors as kernels."""
    for path, variable in wrapper.original_clusterable_weights.items():
        layer, _, name = path.rpartition(".")
        if layer:
            setattr(getattr(wrapper.layer, layer), name, variable)
