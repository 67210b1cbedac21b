"""Wraps a `tf_keras` model's layers to simulate int8, where tfmot would fail.

tfmot refuses a model for a single layer that it does not know, and leaves the
kernels of Conv2D and Dense in float where a ReLU layer follows.
"""

from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras
from tf_keras import layers

from kdtf.layers import walk_layers
from kdtf.quantization import tfmot_norms
from kdtf.quantization.tfmot_ranges import ActivationRange
from kdtf.quantization.tfmot_ranges import Groups
from kdtf.quantization.tfmot_ranges import KernelRange
from kdtf.quantization.tfmot_ranges import groups_of
from kdtf.transforms import tf_keras_graphs
from kdtf.transforms import tf_keras_layers
from kdtf.transforms.quantize_wrappers import quantize_wrappers

__all__ = ["PRESERVE", "wrapped"]

PRESERVE = ("auto", "nothing", "zeros", "clusters", "zeros_and_clusters")

# A quarter of exact zeros is pruned, not chance.
_MIN_ZEROS = 0.25
# A model that was trained for int8 before has up to 255 values in a kernel.
_MAX_CLUSTERS = 64
_MAX_VALUES = 256
_MIN_WEIGHTS_PER_CLUSTER = 4
# What tfmot's wrappers may simulate after; others are split by nobody.
_ACTIVATIONS = {"linear", "relu", "softmax", "sigmoid", "tanh", "swish", "gelu"}
_NO_OP = "NoOpQuantizeConfig"
# Values go through unchanged, and so does their range.
_SELECTING = (
    layers.MaxPooling1D,
    layers.MaxPooling3D,
    layers.RepeatVector,
    layers.UpSampling1D,
    layers.ZeroPadding3D,
)
# tfmot would put Lambda layers around it, which plain tf_keras does not load.
_NOT_WRAPPED = (layers.SeparableConv1D, layers.Lambda)


def wrapped(tfmot: Any, model: Any, *, select: Any, preserve: str) -> Any:
    """Returns a flat copy of `model` in tfmot's wrappers, with our ranges.

    Args:
        tfmot: The package.
        model: A plain functional or Sequential `tf_keras` model.
        select: As in `quantize_aware`.
        preserve: As in `quantize_aware`.

    Raises:
        ValueError: Nothing is selected or preserved, the model makes masks,
            or a layer computes in half precision.
    """
    own_classes = tf_keras_graphs.custom_classes(
        layer for _, layer in walk_layers(model)
    )
    api = tfmot.quantization.keras
    with api.quantize_scope(own_classes):
        flat, chosen = _flat_copy(model, select)
        scheme = _Scheme(tfmot, flat, chosen)
        annotated = tf_keras.models.clone_model(
            flat, clone_function=scheme.annotated
        )
        simulated = api.quantize_apply(annotated, scheme)
    kept = [_take_over(w, preserve) for w in quantize_wrappers(simulated)]
    if preserve not in ("auto", "nothing") and not any(kept):
        raise ValueError(
            f"There must be {preserve.replace('_', ' ')} to preserve. "
            f"Received: preserve={preserve!r} and model={model.name!r}, whose "
            "kernels have none. Prune or cluster it and call `kdtf.strip` "
            "first, or leave `preserve` out."
        )
    return simulated


def _flat_copy(model: Any, select: Any) -> tuple[Any, set[str]]:
    """Gives a copy without models in it, and the names of the chosen."""
    chosen = {id(layer) for layer in tf_keras_layers.selected(model, select)}
    made: dict[str, Any] = {}

    def replace(layer: Any) -> Any:
        _check_layer(layer)
        name, count = layer.name, 1
        while name in made:
            name, count = f"{layer.name}_{count}", count + 1
        if tfmot_norms.layer_before(layer) is not None:
            return None
        made[name] = layer
        with_bias = (
            {} if tfmot_norms.norm_after(layer) is None else {"use_bias": True}
        )
        return tf_keras_graphs.fresh(layer, name=name, **with_bias)

    copy = tf_keras_graphs.rewritten(model, replace)
    for layer in copy.layers:
        if layer.name in made:
            layer.set_weights(tfmot_norms.folded(made[layer.name]))
    return copy, {name for name, old in made.items() if id(old) in chosen}


def _check_layer(layer: Any) -> None:
    if layer.compute_dtype in ("float16", "bfloat16"):
        raise ValueError(
            "int8 is simulated in float32 only. Received: layer "
            f"{layer.name!r} with the policy {layer.dtype_policy.name!r}. "
            "Make the model anew under `tf_keras.mixed_precision."
            "set_global_policy('float32')` and give it the weights."
        )
    if isinstance(layer, layers.Masking) or getattr(layer, "mask_zero", False):
        raise ValueError(
            "Masks do not get through tfmot's wrappers. Received: layer "
            f"{layer.name!r} of type {type(layer).__name__}, which makes one. "
            "Use a model without masks, or quantize after training: "
            "`kdtf.export_tflite(model, path, quantize='dynamic_int8')`."
        )


class _Scheme:
    """What tfmot asks for a scheme, its layout transform and its registry.

    Args:
        tfmot: The package.
        model: The flat model to be wrapped.
        chosen: Names of the layers whose kernels are quantized.
    """

    def __init__(self, tfmot: Any, model: Any, chosen: set[str]) -> None:
        """Looks at each layer of the model."""
        api = tfmot.quantization.keras
        self._annotate = api.quantize_annotate_layer
        self._default = api.default_8bit.Default8BitQuantizeRegistry()
        self._layout = api.default_8bit.Default8BitQuantizeLayoutTransform()
        # A class of its own that any tfmot loads; it has no public name.
        general = type(self._default.get_quantize_config(layers.ReLU()))
        self._general = general
        self._unchosen = {
            layer.name
            for layer in model.layers
            if layer.name not in chosen and self._has_kernel(layer)
        }
        self._own = {
            layer.name: config
            for layer in model.layers
            if (config := self._own_config(layer)) is not None
        }

    def annotated(self, layer: Any) -> Any:
        """Returns a layer marked for tfmot, or itself where it is left out.

        Args:
            layer: A layer of the flat model.
        """
        if layer.name in self._unchosen:
            is_folded = any(
                map(tfmot_norms.is_norm, tfmot_norms.followers(layer))
            )
            config = self._general([], [], not is_folded)
            return self._annotate(layer, config) if _is_simple(layer) else layer
        return self._annotate(layer) if self.supports(layer) else layer

    def get_layout_transformer(self) -> "_Scheme":
        """Returns what has `apply`."""
        return self

    def get_quantize_registry(self) -> "_Scheme":
        """Returns what has `supports` and `get_quantize_config`."""
        return self

    def supports(self, layer: Any) -> bool:
        """Returns whether a layer can be wrapped.

        Args:
            layer: A layer of the flat model, or one tfmot has put there.
        """
        known = layer.name in self._own or self._default.supports(layer)
        return known and not isinstance(layer, _NOT_WRAPPED)

    def get_quantize_config(self, layer: Any) -> Any:
        """Returns tfmot's configuration for a layer, or another of ours.

        Args:
            layer: A layer for which `supports` is true.
        """
        if layer.name in self._own:
            return self._own[layer.name]
        config = self._default.get_quantize_config(layer)
        if _is_simulated(layer):
            return config
        if isinstance(layer, layers.Activation):
            return self._general([], [], True)
        return type(config)(config.weight_attrs, [], True)

    def apply(self, model: Any, marks: Any) -> tuple[Any, Any]:
        """Returns tfmot's changed model, and its changed marks mended.

        Args:
            model: The flat model.
            marks: The configuration of each layer by name.
        """
        model, marks = self._layout.apply(model, marks)
        for layer in model.layers:
            mark = marks.get(layer.name)
            if mark is None or layer.name in self._unchosen:
                continue
            is_off = type(mark.get("quantize_config")).__name__ == _NO_OP
            if is_off and self._has_kernel(layer):
                # tfmot wants nothing quantized between it and a ReLU, and
                # says so in a way that leaves the kernel in float.
                config = self.get_quantize_config(layer)
                mark["quantize_config"] = type(config)(
                    config.weight_attrs, [], False
                )
        return model, marks

    def _has_kernel(self, layer: Any) -> bool:
        return bool(layer.weights) and not tfmot_norms.is_norm(layer)

    def _own_config(self, layer: Any) -> Any:
        """Gives a configuration where tfmot has none, None to leave it."""
        if self._default.supports(layer) or not _is_simple(layer):
            return None
        if type(layer) is layers.Conv1D:
            if _is_simulated(layer):
                return self._general(["kernel"], ["activation"], False)
            return self._general(["kernel"], [], True)
        return self._general([], [], not isinstance(layer, _SELECTING))


def _activation(layer: Any) -> str:
    activation = getattr(layer, "activation", None)
    if activation is None:
        return "linear"
    return getattr(activation, "__name__", type(activation).__name__)


def _is_simulated(layer: Any) -> bool:
    """Returns whether tfmot can simulate int8 around its activation."""
    known = _ACTIVATIONS | {"NoOpActivation"}
    if isinstance(layer, layers.Activation):
        # As a layer of its own; its output is all there is to quantize.
        known = known | {"relu6"}
    return _activation(layer) in known


def _is_simple(layer: Any) -> bool:
    """Returns whether a layer takes one argument and gives one tensor."""
    if isinstance(layer, (layers.InputLayer, *_NOT_WRAPPED)):
        return False
    return not type(layer).__name__.endswith("OpLambda") and all(
        len(node.call_args) == 1
        and not any(map(tf.is_tensor, tf.nest.flatten(node.call_kwargs)))
        and tf.is_tensor(node.outputs)
        and node.outputs.dtype.is_floating
        for node in layer.inbound_nodes
    )


def _take_over(wrapper: Any, preserve: str) -> bool:
    """Puts our ranges into a wrapper; gives whether it preserves something."""
    own = []
    for variable, _, weights in wrapper._weight_vars:
        groups = _groups(variable.numpy(), preserve)
        own.append(
            (variable, KernelRange(_kind(wrapper, weights), groups), weights)
        )
    # Past tf_keras, which would count the variables once more.
    object.__setattr__(wrapper, "_weight_vars", own)
    if not wrapper.layer.trainable:
        # tfmot trains the kernels of frozen layers.
        frozen = [variable for variable, _, _ in own]
        object.__setattr__(wrapper, "_trainable_weights", [])
        wrapper._non_trainable_weights.extend(frozen)
    for variable, kernel_range, weights in own:
        kernel_range(variable, True, weights)
    _take_over_activations(wrapper)
    return any(
        kernel_range.groups.nonzero is not None
        or kernel_range.groups.cluster is not None
        for _, kernel_range, _ in own
    )


def _take_over_activations(wrapper: Any) -> None:
    pairs = []
    for activation in wrapper._quantize_activations:
        if activation._should_pre_quantize():
            pairs.append(activation._pre_activation_vars)
        if activation._should_post_quantize():
            pairs.append(activation._post_activation_vars)
    if wrapper._output_quantizers:
        pairs.append(wrapper._output_quantizer_vars)
    if not pairs:
        return
    ours = ActivationRange(wrapper.optimizer_step, pairs[-1]["min_var"])
    for activation in wrapper._quantize_activations:
        activation.quantizer = ours
    wrapper._output_quantizers = [ours] if wrapper._output_quantizers else []


def _kind(wrapper: Any, weights: dict[str, Any]) -> str:
    if weights["max_var"].shape.rank == 0:
        return "per_tensor"
    is_depthwise = isinstance(wrapper.layer, layers.DepthwiseConv2D)
    return "depthwise" if is_depthwise else "per_channel"


def _groups(kernel: Any, preserve: str) -> Groups:
    num_values = np.unique(kernel).size
    zeros = float((kernel == 0).mean())
    # Of one value only is what has not been trained yet.
    is_shared = 1 < num_values <= kernel.size / _MIN_WEIGHTS_PER_CLUSTER
    if preserve == "auto":
        return groups_of(
            kernel,
            zeros=_MIN_ZEROS <= zeros < 1,
            clusters=is_shared and num_values <= _MAX_CLUSTERS,
        )
    return groups_of(
        kernel,
        zeros="zeros" in preserve and 0 < zeros < 1,
        clusters="clusters" in preserve
        and is_shared
        and num_values <= _MAX_VALUES,
    )
