"""A model's inputs and outputs by name, whichever Keras it is made with."""

import dataclasses
import re
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np

from kdtf.export.errors import ExportError
from kdtf.flatbuffer import TensorSpec
from kdtf.flavours import flavour_of

# Names Keras counts up by itself; they differ from run to run.
_COUNTED = re.compile(r"(keras_tensor|input|input_layer)(_\d+)?")
# A flatbuffer addresses 2 GiB. The float file is made on every route.
MAX_FLOAT_BYTES = 2**31
# NumPy's default types are not what models and devices compute in.
_NARROW = {"float64": "float32", "int64": "int32"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Interface:
    """How a model is called.

    Args:
        inputs: Name, dtype and shape of each input; None in free dimensions.
        pack: Puts a flat list of inputs into the structure the model takes.
    """

    inputs: tuple[TensorSpec, ...]
    pack: Callable[[Sequence[Any]], Any]

    def fixed(self, arrays: Mapping[str, np.ndarray] | None) -> "Interface":
        """Returns this interface with a batch of 1 and no free dimension.

        Args:
            arrays: Samples by name; they decide the free dimensions.

        Raises:
            ExportError: A dimension is free and there are no samples.
        """
        specs = tuple(_fix(spec, arrays) for spec in self.inputs)
        return dataclasses.replace(self, inputs=specs)


def check_built(model: Any) -> None:
    """Refuses what is no Keras model, or has no weights yet.

    Args:
        model: What the user passed.

    Raises:
        TypeError: It is no model.
        ValueError: It is not built.
    """
    flavour_of(model)
    if not model.built:
        raise ValueError(
            "`model` must be built: its weights do not exist yet. Received: "
            f"model={model.name!r} of type {type(model).__qualname__}. Call "
            "it once on a batch, or give it a `keras.Input`."
        )


def interface_of(model: Any, example: Any) -> Interface:
    """Returns how `model` is called.

    Args:
        model: A built model of either Keras.
        example: Arrays in the structure the model takes, or None. Subclassed
            models need it: they know neither names nor types.

    Raises:
        ExportError: The model is subclassed and there is no example.
    """
    structure = _input_structure(model)
    if structure is not None:
        return _from_tensors(structure)
    if example is None:
        raise ExportError(
            "The inputs of a subclassed model must be shown by a sample: it "
            f"does not say their names and types. Received: model="
            f"{type(model).__name__!r} and no data. Pass "
            "`verify_data=` (an array, tuple or dict as the model takes it)."
        )
    return _from_example(example)


def outputs_by_name(outputs: Any) -> dict[str, Any]:
    """Returns a model's outputs by name: its own keys, or "output_0", ...

    Args:
        outputs: What calling the model gave.

    Raises:
        ExportError: The outputs are nested deeper than a dict or a list.
    """
    if isinstance(outputs, Mapping):
        named = {str(key): value for key, value in outputs.items()}
    elif isinstance(outputs, list | tuple):
        named = {f"output_{i}": value for i, value in enumerate(outputs)}
    else:
        named = {"output_0": outputs}
    for name, value in named.items():
        if not hasattr(value, "shape"):
            raise ExportError(
                "A model must give a tensor, or a list or dict of tensors. "
                f"Received: {type(value).__qualname__} as output {name!r}. "
                "Wrap it in a model that gives a flat dict."
            )
    return named


def _input_structure(model: Any) -> Any:
    """Gives the model's symbolic inputs in their structure, None if none."""
    if flavour_of(model) == "tf_keras":
        return model.input if getattr(model, "inputs", None) else None
    # Keras's own exporter reads the same private attribute; `model.inputs`
    # has lost the structure.
    structure = getattr(model, "_inputs_struct", None)
    inputs = getattr(model, "inputs", None)
    if structure is None and inputs:
        structure = inputs[0] if len(inputs) == 1 else list(inputs)
    return structure


def _from_tensors(structure: Any) -> Interface:
    import keras

    leaves = keras.tree.flatten(structure)
    names = _names(structure, leaves)
    specs = tuple(
        TensorSpec(name=name, dtype=_dtype(leaf.dtype), shape=tuple(leaf.shape))
        for name, leaf in zip(names, leaves, strict=True)
    )
    return Interface(
        inputs=specs,
        pack=lambda flat: keras.tree.pack_sequence_as(structure, list(flat)),
    )


def _names(structure: Any, leaves: list[Any]) -> list[str]:
    if isinstance(structure, Mapping) and len(structure) == len(leaves):
        # keras.tree flattens a dict in the order of its sorted keys.
        return sorted(structure)
    return [
        f"input_{i}" if _COUNTED.fullmatch(leaf.name) else leaf.name
        for i, leaf in enumerate(leaves)
    ]


def _from_example(example: Any) -> Interface:
    if isinstance(example, Mapping):
        named = dict(example)
        keys = list(named)
        return Interface(
            inputs=_example_specs(named),
            pack=lambda flat: dict(zip(keys, flat, strict=True)),
        )
    if isinstance(example, tuple):
        named = {f"input_{i}": value for i, value in enumerate(example)}
        return Interface(inputs=_example_specs(named), pack=tuple)
    return Interface(
        inputs=_example_specs({"input_0": example}), pack=lambda flat: flat[0]
    )


def _example_specs(named: dict[str, np.ndarray]) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(
            name=name,
            dtype=_NARROW.get(value.dtype.name, value.dtype.name),
            shape=(None, *value.shape[1:]),
        )
        for name, value in named.items()
    )


def _fix(spec: TensorSpec, arrays: Mapping[str, Any] | None) -> TensorSpec:
    shape = (1, *spec.shape[1:])
    if None in shape:
        if arrays is None:
            raise ExportError(
                "Exported files have fixed shapes, and a sample must say "
                f"them. Received: input {spec.name!r} of shape {spec.shape} "
                "and no data. Pass `verify_data=` with samples of the length "
                "the device will use."
            )
        shape = (1, *arrays[spec.name].shape[1:])
    return dataclasses.replace(spec, shape=shape)


def _dtype(dtype: Any) -> str:
    # tf_keras gives tf.DType objects, Keras 3 names.
    return getattr(dtype, "name", dtype)


def check_size(model: Any) -> None:
    """Refuses what no file can hold, before the work starts.

    Args:
        model: A built model.

    Raises:
        ExportError: Its float file would be too large.
    """
    size = 4 * model.count_params()
    if size >= MAX_FLOAT_BYTES:
        raise ExportError(
            "A .tflite file holds less than 2 GiB, and every route passes "
            f"through float32. Received: {model.count_params()} parameters, "
            f"{size} bytes. Export a smaller student, or parts of the model."
        )
