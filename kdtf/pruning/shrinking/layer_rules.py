"""The rules of layers that have weights."""

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from kdtf.pruning.shrinking.atoms import spread
from kdtf.pruning.shrinking.tracing import Call

__all__ = ["LAYER_RULES", "is_elementwise"]

# They look at all channels at once.
_WHOLE = {"softmax", "log_softmax", "sparsemax", "glu", "sparse_plus"}


def is_elementwise(activation: Any) -> bool:
    """Returns whether a function gives each element by that element alone.

    Only Keras's own are known to.

    Example:
        >>> is_elementwise(keras.activations.relu)
        True
        >>> is_elementwise(keras.activations.softmax)
        False
    """
    if activation is None:
        return True
    name = getattr(activation, "__name__", "")
    known = getattr(keras.activations, name, None) is activation
    return known and name not in _WHOLE


def _out(call: Call, number: int, key: str, activation: Any) -> np.ndarray:
    """Returns the atoms of a layer's output channels."""
    made = call.made("out", number)
    call.set(key, made)
    if not is_elementwise(activation):
        call.atoms.fix(made)
    return made


def _dense(call: Call) -> list[np.ndarray]:
    layer = call.layer
    read = call.read("in", call.atoms.along(call.inputs[0]))
    out = _out(call, layer.units, "units", layer.activation)
    call.slice(layer._kernel, {0: read, 1: out}, uses=call.positions)
    if layer.bias is not None:
        call.slice(layer.bias, {0: out})
    return [spread(out, call.shapes[0])]


def _embedding(call: Call) -> list[np.ndarray]:
    out = _out(call, call.layer.output_dim, "output_dim", None)
    call.slice(call.layer._embeddings, {1: out})
    return [spread(out, call.shapes[0])]


def _conv(call: Call) -> list[np.ndarray]:
    return _filters(call, read_axis=-2, uses=call.positions)


def _conv_transpose(call: Call) -> list[np.ndarray]:
    # Each input position is multiplied by the whole kernel.
    uses = math.prod(call.inputs[0].shape[:-1])
    return _filters(call, read_axis=-1, uses=uses)


def _filters(call: Call, *, read_axis: int, uses: int) -> list[np.ndarray]:
    layer = call.layer
    if (why := _why_not_conv(layer)) is not None:
        return call.hold(why)
    read = call.read("in", call.atoms.along(call.inputs[0]))
    out = _out(call, layer.filters, "filters", layer.activation)
    made_axis = -3 - read_axis
    call.slice(layer.kernel, {read_axis: read, made_axis: out}, uses=uses)
    if layer.bias is not None:
        call.slice(layer.bias, {0: out})
    return [spread(out, call.shapes[0])]


def _depthwise(call: Call) -> list[np.ndarray]:
    layer = call.layer
    if (why := _why_not_conv(layer)) is not None:
        return call.hold(why)
    read = call.read("in", call.atoms.along(call.inputs[0]))
    if not is_elementwise(layer.activation):
        call.atoms.fix(read)
    # Output c * multiplier + m is made of input c.
    out = np.repeat(read, layer.depth_multiplier)
    call.slice(layer.kernel, {-2: read}, uses=call.positions)
    if layer.bias is not None:
        call.slice(layer.bias, {0: out})
    return [spread(out, call.shapes[0])]


def _separable(call: Call) -> list[np.ndarray]:
    layer = call.layer
    if (why := _why_not_conv(layer)) is not None:
        return call.hold(why)
    read = call.read("in", call.atoms.along(call.inputs[0]))
    middle = np.repeat(read, layer.depth_multiplier)
    out = _out(call, layer.filters, "filters", layer.activation)
    uses = call.positions
    call.slice(layer.depthwise_kernel, {-2: read}, uses=uses)
    call.slice(layer.pointwise_kernel, {-2: middle, -1: out}, uses=uses)
    if layer.bias is not None:
        call.slice(layer.bias, {0: out})
    return [spread(out, call.shapes[0])]


def _why_not_conv(layer: Any) -> str | None:
    if layer.data_format != "channels_last":
        return f"data_format={layer.data_format!r}"
    groups = getattr(layer, "groups", 1)
    return None if groups == 1 else f"groups={groups}"


def _batch_norm(call: Call) -> list[np.ndarray]:
    layer = call.layer
    axis = layer.axis
    axis = axis - 1 if axis > 0 else axis
    tensor = call.inputs[0]
    read = call.read("in", call.atoms.along(tensor, axis))
    for weight in layer.weights:
        call.slice(weight, {0: read})
    return [spread(read, tensor.shape, axis)]


def _norm(call: Call) -> list[np.ndarray]:
    """Norms over channels see how many there are: they all stay."""
    call.atoms.fix(call.inputs[0])
    return [call.inputs[0]]


def _prelu(call: Call) -> list[np.ndarray]:
    tensor, alpha = call.inputs[0], call.layer.alpha
    axes = {}
    for axis, size in enumerate(alpha.shape):
        if size > 1:
            axes[axis] = call.read(f"in {axis}", call.atoms.along(tensor, axis))
    if len(axes) > 1:
        # One slope for each place: they follow the last axis alone.
        tensor = spread(call.atoms.along(tensor), tensor.shape)
        axes = {
            a: atoms for a, atoms in axes.items() if a == len(alpha.shape) - 1
        }
    call.slice(alpha, axes)
    return [tensor]


def _recurrent(call: Call, gates: int) -> list[np.ndarray]:
    layer, cell = call.layer, call.layer.cell
    if len(call.inputs) > 1 or layer.return_state:
        return call.hold("it takes or returns states")
    read = call.read("in", call.atoms.along(call.inputs[0]))
    out = _out(call, cell.units, "units", cell.activation)
    if gates > 1 and not is_elementwise(cell.recurrent_activation):
        call.atoms.fix(out)
    blocks = np.tile(out, gates)
    uses = math.prod(call.inputs[0].shape[:-1])
    call.slice(cell.kernel, {0: read, 1: blocks}, uses=uses)
    call.slice(cell.recurrent_kernel, {0: out, 1: blocks}, uses=uses)
    if cell.bias is not None:
        # A GRU with `reset_after` has two rows of them.
        call.slice(cell.bias, {-1: blocks})
    return [spread(out, call.shapes[0])]


def _attention(call: Call) -> list[np.ndarray]:
    layer = call.layer
    if len(call.shapes) > 1 or len(layer._attention_axes) > 1:
        return call.hold("it returns scores, or attends along several axes")
    args, kwargs = call.arguments
    if kwargs.get("attention_mask") is not None or len(args) > 3:
        return call.hold("its mask is a tensor")
    given = dict(zip(("query", "value", "key"), args, strict=False)) | kwargs
    names = [n for n in ("query", "value", "key") if given.get(n) is not None]
    if len(names) != len(call.inputs):
        return call.hold("its arguments are not understood")
    tensors = dict(zip(_in_order(given, names), call.inputs, strict=True))
    tensors.setdefault("key", tensors["value"])
    heads = call.made("heads", layer.num_heads)
    call.set("num_heads", heads, kind="heads")
    for name in ("query", "key", "value"):
        read = call.read(name, call.atoms.along(tensors[name]))
        part = getattr(layer, f"_{name}_dense")
        uses = math.prod(tensors[name].shape[:-1])
        call.slice(part.kernel, {0: read, 1: heads}, uses=uses)
        if part.bias is not None:
            call.slice(part.bias, {0: heads})
    output = layer._output_dense
    out = call.made("out", output.kernel.shape[-1])
    call.set("output_shape", out)
    call.slice(output.kernel, {0: heads, -1: out}, uses=call.positions)
    if output.bias is not None:
        call.slice(output.bias, {0: out})
    return [spread(out, call.shapes[0])]


def _in_order(given: dict[str, Any], names: list[str]) -> list[str]:
    """Returns the names in the order of the call's arguments."""
    return [name for name in given if name in names]


LAYER_RULES: dict[str, Callable[[Call], list[np.ndarray]]] = {
    "Dense": _dense,
    "Embedding": _embedding,
    **dict.fromkeys(["Conv1D", "Conv2D", "Conv3D"], _conv),
    **dict.fromkeys(
        ["Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"],
        _conv_transpose,
    ),
    **dict.fromkeys(["DepthwiseConv1D", "DepthwiseConv2D"], _depthwise),
    **dict.fromkeys(["SeparableConv1D", "SeparableConv2D"], _separable),
    "BatchNormalization": _batch_norm,
    **dict.fromkeys(
        """
        GroupNormalization LayerNormalization RMSNormalization
        UnitNormalization
        """.split(),
        _norm,
    ),
    "PReLU": _prelu,
    "SimpleRNN": lambda call: _recurrent(call, 1),
    "GRU": lambda call: _recurrent(call, 3),
    "LSTM": lambda call: _recurrent(call, 4),
    "MultiHeadAttention": _attention,
}
