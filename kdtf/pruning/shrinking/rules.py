"""What each layer does with atoms.

A rule takes a `Call` and returns the atoms of its outputs. It is exact: if
all weights that follow an atom are zero, removing them changes nothing. So
what looks at all channels at once (softmax, layer norm) holds them fast.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from kdtf.pruning.shrinking.atoms import lines
from kdtf.pruning.shrinking.atoms import spread
from kdtf.pruning.shrinking.layer_rules import LAYER_RULES
from kdtf.pruning.shrinking.layer_rules import is_elementwise
from kdtf.pruning.shrinking.tracing import Call

__all__ = ["rule_for"]

Rule = Callable[[Call], list[np.ndarray]]


def rule_for(layer: Any) -> Rule | None:
    """Returns the rule of a layer or an operation; None if there is none.

    Subclasses have none: they may compute anything.
    """
    kind = type(layer)
    home = kind.__module__.split(".")[0]
    name = kind.__name__
    if home != "keras":
        return None
    if ".ops." in kind.__module__:
        return _OPERATIONS.get(name)
    return LAYER_RULES.get(name) or _SHAPES.get(name)


def _same(call: Call) -> list[np.ndarray]:
    """Each element becomes one of the same channel."""
    return [call.inputs[0]]


def _activation(call: Call) -> list[np.ndarray]:
    if is_elementwise(call.layer.activation):
        return _same(call)
    return _all_at_once(call)


def _all_at_once(call: Call) -> list[np.ndarray]:
    """Each output element depends on all channels: they stay."""
    call.atoms.fix(call.inputs[0])
    return _same(call)


def _spatial(call: Call) -> list[np.ndarray]:
    """Channels stay what they are, positions are others."""
    axis = _channel_axis(call.layer)
    atoms = call.atoms.along(call.inputs[0], axis)
    shape = call.shapes[0]
    if len(shape) < call.inputs[0].ndim:
        axis = -1
    return [spread(atoms, shape, axis)]


def _channel_axis(layer: Any) -> int:
    first = getattr(layer, "data_format", None) == "channels_first"
    return 0 if first else -1


def _flatten(call: Call) -> list[np.ndarray]:
    if call.layer.data_format == "channels_first":
        return call.hold("channels_first")
    return [call.inputs[0].reshape(call.shapes[0])]


def _reshape(call: Call) -> list[np.ndarray]:
    size = int(np.prod(call.shapes[0]))
    if size != call.inputs[0].size:
        return call.hold("a dimension is not fixed")
    atoms = call.atoms.whole(call.inputs[0].reshape(call.shapes[0]))
    for index, line in lines(atoms).items():
        call.set("target_shape", line, index=index)
    return [atoms]


def _permute(call: Call) -> list[np.ndarray]:
    return [call.inputs[0].transpose([d - 1 for d in call.layer.dims])]


def _repeat_vector(call: Call) -> list[np.ndarray]:
    return [np.broadcast_to(call.inputs[0], call.shapes[0])]


def _merge(call: Call) -> list[np.ndarray]:
    """Elements at one place become one: their channels go together."""
    tensors = _broadcast(call)
    for tensor in tensors[1:]:
        call.atoms.tie(tensors[0], tensor)
    return [tensors[0]]


def _broadcast(call: Call) -> list[np.ndarray]:
    """Gives all inputs the output's shape.

    What has one element along an axis meets all of the others': it is not
    sliced there, so it holds nothing but itself.
    """
    shape = call.shapes[0]
    filled = []
    for tensor in call.inputs:
        padded = tensor.reshape(
            (1,) * (len(shape) - tensor.ndim) + tensor.shape
        )
        filled.append(padded)
    for axis in range(len(shape)):
        wide = next((t for t in filled if t.shape[axis] > 1), None)
        if wide is None:
            continue
        for index, tensor in enumerate(filled):
            varies = (wide != wide.take([0], axis)).any()
            if tensor.shape[axis] == 1 and varies:
                call.atoms.fix(tensor)
                template = np.broadcast_to(wide, shape)
                filled[index] = template
    return [np.broadcast_to(tensor, shape) for tensor in filled]


def _concatenate(call: Call) -> list[np.ndarray]:
    axis = call.layer.axis
    axis = axis - 1 if axis > 0 else axis
    return [np.concatenate(call.inputs, axis)]


def _with_number(call: Call) -> list[np.ndarray]:
    """An operator on two tensors, or on one and a number."""
    args, kwargs = call.arguments
    others = [a for a in (*args, *kwargs.values()) if not _is_tensor(a)]
    if any(np.size(np.asarray(other)) > 1 for other in others):
        return call.hold("an array is part of it")
    return _merge(call) if len(call.inputs) > 1 else _same(call)


def _is_tensor(value: Any) -> bool:
    return isinstance(value, keras.KerasTensor)


_SHAPES: dict[str, Rule] = {
    **dict.fromkeys(
        """
        ActivityRegularization AlphaDropout Dropout ELU GaussianDropout
        GaussianNoise Identity LeakyReLU ReLU
        """.split(),
        _same,
    ),
    "Activation": _activation,
    **dict.fromkeys(
        """
        AveragePooling1D AveragePooling2D AveragePooling3D Cropping1D
        Cropping2D Cropping3D GlobalAveragePooling1D GlobalAveragePooling2D
        GlobalAveragePooling3D GlobalMaxPooling1D GlobalMaxPooling2D
        GlobalMaxPooling3D MaxPooling1D MaxPooling2D MaxPooling3D
        SpatialDropout1D SpatialDropout2D SpatialDropout3D UpSampling1D
        UpSampling2D UpSampling3D ZeroPadding1D ZeroPadding2D ZeroPadding3D
        """.split(),
        _spatial,
    ),
    "Softmax": _all_at_once,
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Permute": _permute,
    "RepeatVector": _repeat_vector,
    "Concatenate": _concatenate,
    **dict.fromkeys(
        ["Add", "Average", "Maximum", "Minimum", "Multiply", "Subtract"], _merge
    ),
}

# `keras.ops` that a Functional model was written with.
_OPERATIONS: dict[str, Rule] = {
    **dict.fromkeys(
        """
        Absolute Elu Gelu HardSigmoid HardSwish HardSilu LeakyRelu Negative
        Relu Relu6 Sigmoid Silu Softplus Softsign Square Tanh
        """.split(),
        _same,
    ),
    **dict.fromkeys(
        ["Add", "Subtract", "Multiply", "Maximum", "Minimum", "Divide"],
        _with_number,
    ),
    "Concatenate": _concatenate,
}
