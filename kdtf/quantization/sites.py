"""Finds where a model's activations are quantized, by watching it run once.

What LiteRT fuses into one operator has one range: a convolution, the batch
norm after it and a ReLU. Between them nothing is rounded, so nothing is here.
Operations that only move values (reshaping, max pooling) keep their input's
range. The graph is that of tensors between layers, so it is there for
subclassed and nested models, too.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from kdtf.layers import walk_layers
from kdtf.quantization.activations import FIXED_RANGES
from kdtf.transforms.substitution import Substitution
from kdtf.transforms.substitution import substituted

__all__ = ["Site", "find_sites", "leaves", "recurrent_hosts"]

_L = keras.layers
WEIGHTED = (
    _L.Conv1D,
    _L.Conv2D,
    _L.Conv3D,
    _L.Conv1DTranspose,
    _L.Conv2DTranspose,
    _L.Conv3DTranspose,
    _L.DepthwiseConv1D,
    _L.DepthwiseConv2D,
    _L.SeparableConv1D,
    _L.SeparableConv2D,
    _L.Dense,
    _L.EinsumDense,
)
# Fused with an activation behind them.
_MERGING = (_L.Add, _L.Subtract, _L.Multiply)
# What comes out has the range of what goes in.
_MOVING = (
    _L.ActivityRegularization,
    _L.AlphaDropout,
    _L.AveragePooling1D,
    _L.AveragePooling2D,
    _L.Cropping1D,
    _L.Cropping2D,
    _L.Dropout,
    _L.Flatten,
    _L.GaussianDropout,
    _L.GaussianNoise,
    _L.GlobalMaxPooling1D,
    _L.GlobalMaxPooling2D,
    _L.Identity,
    _L.InputLayer,
    _L.Masking,
    _L.MaxPooling1D,
    _L.MaxPooling2D,
    _L.Permute,
    _L.RepeatVector,
    _L.Reshape,
    _L.SpatialDropout1D,
    _L.SpatialDropout2D,
    _L.UpSampling1D,
    _L.UpSampling2D,
    _L.ZeroPadding1D,
    _L.ZeroPadding2D,
)
# LiteRT clamps with these for nothing.
_CLAMPS = ("linear", "relu", "relu6")
# Graph operations that hand a tensor on.
_PASSING = ("Cast", "Identity", "StopGradient")


@dataclasses.dataclass(kw_only=True)
class Site:
    """Where in and around one layer values are quantized.

    Args:
        path: The layer's path.
        layer: The layer.
        inputs: Whether its input is.
        inside: Whether what goes into its own activation function is.
        output: Whether its output is.
        fixed: The output's range, if LiteRT prescribes one.
    """

    path: str
    layer: Any
    inputs: bool = False
    inside: bool = False
    output: bool = False
    fixed: tuple[float, float] | None = None


@dataclasses.dataclass(kw_only=True)
class _Event:
    path: str
    layer: Any
    inputs: list[Any]
    outputs: list[Any]


class _Recorder(Substitution):
    """Writes down what a layer gets and gives."""

    def __init__(self, path: str, layer: Any, events: list[_Event]) -> None:
        self._path, self._layer, self._events = path, layer, events
        self._inputs: list[Any] = []

    def before(self, inputs: Any) -> Any:
        self._inputs = _floats(inputs)
        return inputs

    def after(self, outputs: Any) -> Any:
        event = _Event(
            path=self._path,
            layer=self._layer,
            inputs=self._inputs,
            outputs=_floats(outputs),
        )
        self._events.append(event)
        return outputs


def leaves(model: Any) -> Iterator[tuple[str, Any]]:
    """Gives the layers that compute, with their paths.

    A recurrent layer is one: its cell runs inside its loop.
    """
    inside: set[int] = set()
    for path, layer in walk_layers(model):
        inner = [child for _, child in walk_layers(layer)]
        if id(layer) in inside:
            continue
        if isinstance(layer, _L.RNN):
            inside |= {id(child) for child in inner}
        elif inner:
            continue
        yield path, layer


def recurrent_hosts(model: Any) -> dict[int, Any]:
    """Gives the recurrent layer around each cell, by the cell's id.

    A recurrent layer may compute without calling its cell, and calls it at
    each time step; its weights are quantized once, around all of it.
    """
    return {
        id(child): layer
        for _, layer in walk_layers(model)
        if isinstance(layer, _L.RNN)
        for _, child in walk_layers(layer)
    }


def find_sites(model: Any, inputs: Any) -> tuple[list[Site], int]:
    """Returns where activations are quantized, at most one for each layer.

    Args:
        model: A built Keras 3 model.
        inputs: What it is called with: tensors or `tf.TensorSpec`s, in the
            structure that it takes.

    Returns:
        Sites of layers where something is, and the number of float inputs of
        the model, which are quantized in any case.
    """
    events, given, results = _watched(model, inputs)
    made = {id(t): event for event in events for t in event.outputs}
    used: dict[int, list[_Event]] = {}
    for event in events:
        for tensor in event.inputs:
            used.setdefault(id(tensor), []).append(event)
    sites: dict[int, Site] = {}
    for event in events:
        site = sites.setdefault(
            id(event.layer), Site(path=event.path, layer=event.layer)
        )
        _decide(site, event, used, results)
    known = {id(tensor) for tensor in given}
    for event in events:
        # After the outputs are decided: an input may be one of those.
        if isinstance(event.layer, WEIGHTED):
            site = sites[id(event.layer)]
            site.inputs |= not all(
                _is_quantized(tensor, made, sites, known)
                for tensor in event.inputs
            )
    found = [s for s in sites.values() if s.inputs or s.inside or s.output]
    return found, len(given)


def _watched(
    model: Any, inputs: Any
) -> tuple[list[_Event], list[Any], set[int]]:
    """Runs the model in a graph and returns what its layers did."""
    events: list[_Event] = []
    ends: list[list[Any]] = []

    def run(values: Any) -> Any:
        outputs = model(values, training=False)
        ends.extend([_floats(values), _floats(outputs)])
        return outputs

    recorders = [
        (layer, _Recorder(path, layer, events)) for path, layer in leaves(model)
    ]
    with substituted(recorders):
        specs = keras.tree.map_structure(_spec, inputs)
        tf.function(run, autograph=False).get_concrete_function(specs)
    given, results = ends
    # A dropout that is off hands its input on: as if it were not there.
    active = [
        event
        for event in events
        if not {id(t) for t in event.outputs} & {id(t) for t in event.inputs}
    ]
    return active, given, {id(tensor) for tensor in results}


def _decide(
    site: Site,
    event: _Event,
    used: dict[int, list[_Event]],
    results: set[int],
) -> None:
    layer = event.layer
    if isinstance(layer, (*_MOVING, _L.Embedding)) and not event.inputs:
        # A table's rows: integers come in.
        site.output = bool(event.outputs)
        return
    if isinstance(layer, _MOVING) or not event.outputs:
        return
    name = _function(layer)
    if name in FIXED_RANGES:
        site.fixed = FIXED_RANGES[name]
    site.inside |= isinstance(layer, WEIGHTED) and name not in _CLAMPS
    site.output |= not _is_fused(event, used, results)


def _is_fused(
    event: _Event,
    used: dict[int, list[_Event]],
    results: set[int],
) -> bool:
    """Returns whether the next operator takes the output in, unrounded."""
    layer = event.layer
    if len(event.outputs) != 1:
        return False
    key = id(event.outputs[0])
    following = used.get(key, [])
    if key in results or len(following) != 1:
        return False
    after = following[0].layer
    is_weighted = isinstance(layer, WEIGHTED) and _function(layer) == "linear"
    if isinstance(after, _L.BatchNormalization):
        return is_weighted
    if not _is_clamp(after):
        return False
    is_norm = isinstance(layer, _L.BatchNormalization)
    return is_weighted or is_norm or isinstance(layer, _MERGING)


def _is_quantized(
    tensor: Any,
    made: dict[int, _Event],
    sites: dict[int, Site],
    known: set[int],
) -> bool:
    if id(tensor) in known:
        return True
    event = made.get(id(tensor))
    if event is None:
        return False
    if sites[id(event.layer)].output:
        return True
    # Moved, or fused with what comes before.
    return bool(event.inputs) and all(
        _is_quantized(source, made, sites, known) for source in event.inputs
    )


def _function(layer: Any) -> str:
    """Returns the name of a layer's activation function; "" if none."""
    if isinstance(layer, _L.Softmax):
        return "softmax"
    if isinstance(layer, _L.RNN):
        # Its `activation` is inside the loop.
        return ""
    function = getattr(layer, "activation", None)
    return getattr(function, "__name__", "") if function else ""


def _is_clamp(layer: Any) -> bool:
    if isinstance(layer, _L.ReLU):
        slope, threshold = layer.negative_slope, layer.threshold
        return not slope and not threshold and layer.max_value in (None, 6.0)
    is_activation = isinstance(layer, _L.Activation)
    return is_activation and _function(layer) in _CLAMPS


def _floats(structure: Any) -> list[Any]:
    return [
        _source(tensor)
        for tensor in keras.tree.flatten(structure)
        if getattr(tensor, "dtype", None) is not None
        and tf.as_dtype(tensor.dtype).is_floating
    ]


def _source(tensor: Any) -> Any:
    """Follows a tensor back through what only hands it on."""
    while tensor.op.type in _PASSING and tensor.op.inputs[0].dtype.is_floating:
        tensor = tensor.op.inputs[0]
    return tensor


def _spec(value: Any) -> tf.TensorSpec:
    return tf.TensorSpec(value.shape, value.dtype)
