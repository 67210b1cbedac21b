"""The smaller model: layers of new widths, and what is left of weights."""

import dataclasses
from typing import Any

import keras
import numpy as np

from kdtf.pruning.shrinking.atoms import lines
from kdtf.pruning.shrinking.tracing import Path
from kdtf.pruning.shrinking.tracing import Setting
from kdtf.pruning.shrinking.tracing import Trace
from kdtf.pruning.shrinking.tracing import graph_of
from kdtf.pruning.shrinking.tracing import is_plain

__all__ = ["GraphRemoval", "rebuild"]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class GraphRemoval:
    """What stays of a Functional or Sequential model.

    Attributes:
        trace: The model's dependencies.
        kept: bool, for each atom whether it stays.
    """

    trace: Trace
    kept: np.ndarray

    def build(self, model: keras.Model) -> keras.Model:
        """Returns the smaller model."""
        return rebuild(model, self.trace, self.kept)


def rebuild(model: keras.Model, trace: Trace, kept: np.ndarray) -> keras.Model:
    """Returns a new model without the atoms that go.

    Args:
        model: The model; it is left as it is.
        trace: What `trace(model)` found.
        kept: bool, for each atom whether it is kept.

    Returns:
        A plain model of the same layers, with the same names, uncompiled.
    """
    settings: dict[Path, list[Setting]] = {}
    for setting in trace.settings:
        settings.setdefault(setting.layer, []).append(setting)
    smaller = _clone(model, (), trace, settings, kept)
    slicings = {(s.layer, s.weight): s for s in trace.slicings}
    for path, old, new in _pairs(model, smaller, ()):
        values = []
        for index, weight in enumerate(old.get_weights()):
            slicing = slicings.get((path, index))
            for axis, atoms in (slicing.axes if slicing else {}).items():
                weight = np.compress(kept[atoms], weight, axis)
            values.append(weight)
        new.set_weights(values)
    return smaller


def _clone(
    model: keras.Model,
    path: Path,
    trace: Trace,
    settings: dict[Path, list[Setting]],
    kept: np.ndarray,
) -> keras.Model:
    def copy(layer: Any) -> Any:
        where = (*path, layer.name)
        if where in trace.inner:
            return _clone(layer, where, trace, settings, kept)
        config = layer.get_config()
        for setting in settings.get(where, ()):
            _write(config, setting, int(kept[setting.atoms].sum()))
        return type(layer).from_config(config)

    inputs = [
        keras.Input(
            batch_shape=_left(tensor, atoms, kept),
            dtype=tensor.dtype,
            name=tensor.name,
        )
        for tensor, atoms in zip(
            graph_of(model).inputs, trace.inner.get(path, ()), strict=False
        )
    ]
    clone = keras.models.clone_model(
        model, input_tensors=inputs or None, clone_function=copy
    )
    clone.name = model.name
    return clone


def _left(tensor: Any, atoms: np.ndarray, kept: np.ndarray) -> tuple[Any, ...]:
    """Returns what is left of a tensor's shape."""
    shape = list(tensor.shape)
    for axis, line in lines(atoms).items():
        shape[axis + 1] = int(kept[line].sum())
    return tuple(shape)


def _write(config: dict[str, Any], setting: Setting, number: int) -> None:
    if setting.key == "output_shape":
        config[setting.key] = (number,)
    elif setting.index is None:
        config[setting.key] = number
    else:
        shape = list(config[setting.key])
        if shape[setting.index] != -1:
            shape[setting.index] = number
        config[setting.key] = tuple(shape)


def _pairs(old: Any, new: Any, path: Path) -> Any:
    """Gives the layers of both models side by side, with their names."""
    for layer in old.layers:
        if isinstance(layer, keras.layers.InputLayer):
            # Clones have inputs of other names, and no weights there.
            continue
        twin = new.get_layer(layer.name)
        if graph_of(layer) is not None and is_plain(layer):
            yield from _pairs(layer, twin, (*path, layer.name))
        else:
            yield (*path, layer.name), layer, twin
