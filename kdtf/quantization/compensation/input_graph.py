"""Which layers multiply the same inputs, and which norm they come from.

A model is traced once into a TensorFlow graph, in which each tensor knows who
reads it; nothing is computed.
"""

import dataclasses
import inspect
from collections.abc import Iterable
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from kdtf.layers import own_weights
from kdtf.layers import walk_layers
from kdtf.quantization.compensation.kernel_inputs import LAST_AXIS
from kdtf.quantization.compensation.kernel_inputs import form_of
from kdtf.quantization.compensation.kernel_inputs import why_no_rows
from kdtf.transforms.layout import layout_of
from kdtf.transforms.selection import Candidate
from kdtf.transforms.selection import candidates
from kdtf.transforms.substitution import Substitution
from kdtf.transforms.substitution import substituted

__all__ = ["InputGroup", "gain_and_offset", "traced_groups"]

# What hands its input on, perhaps in another precision.
_PASSED = ("Cast", "Identity", "PreventGradient", "StopGradient")
_GAINS = ("gamma", "scale", "weight")


@dataclasses.dataclass(frozen=True, kw_only=True)
class InputGroup:
    """Kernels that multiply the same inputs.

    Attributes:
        kernels: All of the model's that do.
        norm: The normalisation that these inputs come from and that feeds
            nothing else; None if there is no such layer.
        reason: Why there is none.
        rank: The number of axes of the inputs.
    """

    kernels: tuple[Candidate, ...]
    norm: Any = None
    reason: str | None = None
    rank: int = 2


def traced_groups(model: Any, inputs: Any) -> list[InputGroup]:
    """Returns the kernels of a model by what they multiply, as they are called.

    Args:
        model: A built Keras 3 model.
        inputs: A batch that it takes, for the shapes.

    Returns:
        The groups, in the order of their first calls. Kernels that
        `why_no_rows` speaks against, or that are not called, are in none.

    Example:
        >>> import numpy as np
        >>> x = keras.Input((3,))
        >>> y = keras.layers.LayerNormalization(name="norm")(x)
        >>> heads = [keras.layers.Dense(2, name=name)(y) for name in "ab"]
        >>> (group,) = traced_groups(keras.Model(x, heads), np.zeros((1, 3)))
        >>> sorted(k.path for k in group.kernels), group.norm.name
        (['a/kernel', 'b/kernel'], 'norm')
    """
    kernels = [k for k in candidates(model) if why_no_rows(k) is None]
    norms = [layer for _, layer in walk_layers(model) if gain_and_offset(layer)]
    graph, calls = _trace(model, inputs, [*(k.layer for k in kernels), *norms])
    by_key: dict[Any, list[Candidate]] = {}
    called = [k for k in kernels if id(k.layer) in calls]
    for kernel in sorted(called, key=lambda k: calls[id(k.layer)][0].start):
        sources = [_key(call.source) for call in calls[id(kernel.layer)]]
        key = (tuple(sources), form_of(kernel.layer))
        by_key.setdefault(key, []).append(kernel)
    finder = _NormFinder(model, graph, calls, norms)
    return [finder.group(members) for members in by_key.values()]


def gain_and_offset(layer: Any) -> tuple[Any, Any] | None:
    """Returns a normalisation's gain and offset (or None), vectors both.

    Returns None for what looks like no normalisation over the last axis.

    Example:
        >>> norm = keras.layers.LayerNormalization(center=False)
        >>> norm.build((None, 3))
        >>> [getattr(v, "name", None) for v in gain_and_offset(norm)]
        ['gamma', None]
    """
    if "norm" not in type(layer).__name__.lower():
        return None
    own = {
        variable.name: variable
        for variable in own_weights(layer)
        if not variable.name.startswith("moving_")
    }
    gains = [own[name] for name in _GAINS if name in own]
    offset = own.get("beta")
    size = len(gains) + (offset is not None)
    vectors = all(len(variable.shape) == 1 for variable in own.values())
    if len(gains) != 1 or len(own) != size or not vectors:
        return None
    # One that gets a gate or a condition, too, is none.
    needed = [
        parameter
        for parameter in inspect.signature(layer.call).parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]
    return (gains[0], offset) if len(needed) == 1 else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Call:
    """A layer's call in the graph: the range of operations it made."""

    start: int
    stop: int
    source: Any
    output: Any


class _Recorder(Substitution):
    """Notes where in the graph one layer is called."""

    def __init__(self) -> None:
        self.calls: list[_Call] = []
        self._open: list[tuple[int, Any]] = []

    def before(self, inputs: Any) -> Any:
        if not tf.is_symbolic_tensor(inputs):
            # A constant, which stands in no graph.
            inputs = tf.identity(inputs)
        self._open.append((_size(inputs), inputs))
        return inputs

    def after(self, outputs: Any) -> Any:
        start, inputs = self._open.pop()
        call = _Call(
            start=start,
            stop=_size(outputs),
            source=_source(inputs),
            output=_source(outputs),
        )
        self.calls.append(call)
        return outputs


def _trace(
    model: Any, inputs: Any, layers: Iterable[Any]
) -> tuple[Any, dict[int, list[_Call]]]:
    """Returns the model's graph and the calls of each layer, by its id."""
    recorders = {id(layer): (layer, _Recorder()) for layer in layers}
    specs = keras.tree.map_structure(
        lambda array: tf.TensorSpec(array.shape, array.dtype), inputs
    )

    def run(x: Any) -> list[Any]:
        outputs = keras.tree.flatten(model(x, training=False))
        return [tensor for tensor in outputs if tensor is not None]

    with substituted(recorders.values()):
        function = tf.function(run, autograph=False)
        graph = function.get_concrete_function(specs).graph
    # Inside a loop or a branch stands a graph of its own: not looked into.
    found = {
        key: recorder.calls
        for key, (_, recorder) in recorders.items()
        if recorder.calls
        and all(call.source.graph is graph for call in recorder.calls)
    }
    return graph, found


class _NormFinder:
    """Looks for norms that feed certain layers and nothing else."""

    def __init__(
        self,
        model: Any,
        graph: Any,
        calls: dict[int, list[_Call]],
        norms: Sequence[Any],
    ) -> None:
        self._graph = graph
        self._calls = calls
        self._operations = graph.get_operations()
        self._outputs = {_key(tensor) for tensor in graph.outputs}
        called = [norm for norm in norms if id(norm) in calls]
        self._norms = {
            _key(call.output): norm
            for norm in called
            for call in calls[id(norm)]
        }
        self._gains = {
            id(norm): gain_and_offset(norm) or (None, None) for norm in called
        }
        self._owners: dict[int, int] = {}
        for _, layer in [("", model), *walk_layers(model)]:
            for variable in own_weights(layer):
                count = self._owners.get(id(variable), 0)
                self._owners[id(variable)] = count + 1

    def group(self, kernels: Sequence[Candidate]) -> InputGroup:
        """Returns the kernels with their norm."""
        calls = [c for k in kernels for c in self._calls[id(k.layer)]]
        norms = [self._norms.get(_key(call.source)) for call in calls]
        norm = norms[0]
        reason: str | None
        if norm is None or any(other is not norm for other in norms):
            reason = "its inputs come from no single normalisation"
        else:
            reason = self._why_not(norm, kernels)
        return InputGroup(
            kernels=tuple(kernels),
            norm=norm if reason is None else None,
            reason=reason,
            rank=len(calls[0].source.shape),
        )

    def _why_not(self, norm: Any, kernels: Sequence[Candidate]) -> str | None:
        gain, offset = self._gains[id(norm)]
        variables = [*(k.variable for k in kernels), gain, offset]
        if any(self._owners.get(id(v), 1) > 1 for v in variables):
            return "a weight is shared with another layer"
        if any(form_of(k.layer) != LAST_AXIS for k in kernels):
            return f"it sums over more than the last axis of {norm.name!r}"
        width = layout_of(kernels[0].layer, kernels[0].variable).num_inputs
        if gain is None or tuple(gain.shape) != (width,):
            return f"{norm.name!r} is not over its {width} inputs"
        inside = {
            operation.name
            for kernel in kernels
            for call in self._calls[id(kernel.layer)]
            for operation in self._operations[call.start : call.stop]
        }
        for call in self._calls[id(norm)]:
            for tensor in _same_values(call.output):
                if _key(tensor) in self._outputs:
                    return f"{norm.name!r} is an output of the model"
                for reader in tensor.consumers():
                    if reader.type in _PASSED or reader.name in inside:
                        continue
                    return f"{norm.name!r} also feeds {reader.name!r}"
        return None


def _size(tensor: Any) -> int:
    return len(tensor.graph.get_operations())


def _source(tensor: Any) -> Any:
    """Returns the first tensor of the same values."""
    while tensor.op.type in _PASSED:
        tensor = tensor.op.inputs[0]
    return tensor


def _same_values(tensor: Any) -> list[Any]:
    """Returns a tensor and all that only hand its values on."""
    found = [tensor]
    for each in found:
        for reader in each.consumers():
            if reader.type in _PASSED:
                found.extend(reader.outputs)
    return found


def _key(tensor: Any) -> tuple[int, str]:
    return id(tensor.graph), tensor.name
