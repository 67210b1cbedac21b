"""Runs `.tflite` files with LiteRT, the runtime phones have.

Needs neither TensorFlow nor Keras. `describe` (from `kdtf.flatbuffer`) reads a
file without running it.
"""

import os
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np

from kdtf.flatbuffer import FileDescription
from kdtf.flatbuffer import Signature
from kdtf.flatbuffer import TensorDescription
from kdtf.flatbuffer import TensorSpec
from kdtf.flatbuffer import describe

__all__ = [
    "FileDescription",
    "Runner",
    "Signature",
    "TensorDescription",
    "TensorSpec",
    "bind_inputs",
    "describe",
]


class Runner:
    """One loaded file and one of its signatures, called like a function.

    Inputs and outputs are addressed by the signature's names, never by
    position: converters order positions as they like. Files without
    signatures are run too; there the graph's tensor names take their place.

    Args:
        path: A `.tflite` file.
        signature: Which entry to run. Defaults to the file's only one, or
            "serving_default" if there are several.
        num_threads: CPU threads, at least 1. Defaults to 1.

    Raises:
        ValueError: The runtime refuses the file, there is no such signature,
            or it is not clear which is meant.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        signature: str | None = None,
        num_threads: int = 1,
    ) -> None:
        """Loads the file and finds the signature."""
        self.path = os.fspath(path)
        self._interpreter = _load(self.path, num_threads)
        self.signature = self._choose(signature)
        self._runner: Any = None
        interpreter = self._interpreter
        if self.signature is not None:
            self._runner = interpreter.get_signature_runner(self.signature)
        source = self._runner or interpreter
        self._inputs = _by_name(source.get_input_details())
        self._outputs = _by_name(source.get_output_details())
        order = _positions(interpreter.get_input_details())
        self.input_specs = _specs(self._inputs, order)
        order = _positions(interpreter.get_output_details())
        self.output_specs = _specs(self._outputs, order)
        self._was_set = False

    def __call__(
        self, inputs: Mapping[str, np.ndarray] | np.ndarray
    ) -> dict[str, np.ndarray]:
        """Returns the outputs by name, integers turned back into reals.

        One call of the runtime takes the file's own batch; more rows are
        split into such calls and the results put together again.

        Args:
            inputs: Arrays by input name, or one array for a single input,
                with the batch first. Real values for quantized inputs are
                rounded onto their grid; integers pass as they are.

        Raises:
            ValueError: Names, shapes or types do not fit the file.
        """
        bound = bind_inputs(inputs, tuple(self.input_specs))
        arrays = {
            name: _to_input(np.asarray(value), self.input_specs[name])
            for name, value in bound.items()
        }
        chunks = list(_chunks(arrays, self.input_specs))
        results = [self._run(chunk) for chunk in chunks]
        if chunks[0] is arrays:
            # They fit as they are; the first axis need not be a batch.
            return results[0]
        num_rows = len(next(iter(arrays.values())))
        return {
            name: np.concatenate([r[name] for r in results])[:num_rows]
            for name in results[0]
        }

    def invoke_once(self) -> None:
        """Runs the inputs last set once more; for timing only.

        Raises:
            ValueError: The runner was never called.
        """
        if not self._was_set:
            raise ValueError(
                "`invoke_once` repeats a call. Received: a Runner of "
                f"path={self.path!r} that was never called. Call it with "
                "inputs first."
            )
        if self._runner is None:
            self._interpreter.invoke()
        else:
            # The public call sets all inputs anew, which would be timed too.
            runner = self._runner
            runner._interpreter_wrapper.Invoke(runner._subgraph_index)

    def _choose(self, signature: str | None) -> str | None:
        known = sorted(self._interpreter.get_signature_list())
        if signature is None and len(known) < 2:
            return known[0] if known else None
        chosen = signature or "serving_default"
        if chosen not in known:
            raise ValueError(
                f"`signature` must be one of {known}. Received: "
                f"signature={signature!r} for path={self.path!r}."
            )
        return chosen

    def _run(self, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        if self._runner is not None:
            raw = self._runner(**arrays)
        else:
            raw = self._run_positions(arrays)
        self._was_set = True
        return {
            name: _from_output(raw[name], spec)
            for name, spec in self.output_specs.items()
        }

    def _run_positions(self, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
        for name, value in arrays.items():
            index = self._inputs[name]["index"]
            self._interpreter.resize_tensor_input(index, value.shape)
        self._interpreter.allocate_tensors()
        for name, value in arrays.items():
            self._interpreter.set_tensor(self._inputs[name]["index"], value)
        self._interpreter.invoke()
        return {
            name: self._interpreter.get_tensor(detail["index"])
            for name, detail in self._outputs.items()
        }


def bind_inputs(x: Any, names: Sequence[str]) -> dict[str, Any]:
    """Returns `x`, as a Keras model takes it, under the names of a signature.

    Args:
        x: An array, a list or tuple of arrays in the order of `names`, or a
            mapping by name.
        names: The input names, in the model's own order.

    Raises:
        ValueError: The names differ, or their number does.

    Example:
        >>> bind_inputs(([1.0], [2.0]), ("left", "right"))
        {'left': [1.0], 'right': [2.0]}
    """
    if isinstance(x, Mapping):
        missing = sorted(set(names) - set(x))
        unknown = sorted(set(x) - set(names))
        if missing or unknown:
            raise ValueError(
                f"The inputs must be named {list(names)}. Received: "
                f"names={list(x)} (missing: {missing}, unknown: {unknown}). "
                "Name the entries like the model's inputs."
            )
        return {name: x[name] for name in names}
    values = list(x) if isinstance(x, list | tuple) else [x]
    if len(values) != len(names):
        raise ValueError(
            f"The inputs must be the {len(names)} arrays {list(names)}. "
            f"Received: {len(values)} of them. Pass a dict by name, or a "
            "tuple in this order."
        )
    return dict(zip(names, values, strict=True))


def _load(path: str, num_threads: int) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    if num_threads < 1:
        raise ValueError(
            "`num_threads` must be at least 1. Received: "
            f"num_threads={num_threads}."
        )
    try:
        interpreter = Interpreter(model_path=path, num_threads=num_threads)
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            "LiteRT must be able to load the file. Received: "
            f"path={path!r}, refused with: {error}"
        ) from error
    return interpreter


def _by_name(details: Any) -> dict[str, dict[str, Any]]:
    if isinstance(details, dict):
        return details
    return {detail["name"]: detail for detail in details}


def _positions(details: list[dict[str, Any]]) -> dict[int, int]:
    return {detail["index"]: place for place, detail in enumerate(details)}


def _specs(
    details: dict[str, dict[str, Any]], order: dict[int, int]
) -> dict[str, TensorSpec]:
    # A signature lists its names sorted; the graph keeps the exporter's order.
    ranked = sorted(
        details.items(), key=lambda pair: order.get(pair[1]["index"], -1)
    )
    return {name: _spec(name, detail) for name, detail in ranked}


def _spec(name: str, detail: dict[str, Any]) -> TensorSpec:
    scale, zero_point = detail["quantization"]
    shape = detail.get("shape_signature", detail["shape"])
    return TensorSpec(
        name=name,
        dtype=np.dtype(detail["dtype"]).name,
        shape=tuple(None if d < 0 else int(d) for d in shape),
        scale=float(scale) or None,
        zero_point=int(zero_point),
    )


def _to_input(value: np.ndarray, spec: TensorSpec) -> np.ndarray:
    dtype = np.dtype(spec.dtype)
    if value.dtype == dtype:
        return value
    is_real = np.issubdtype(value.dtype, np.floating)
    if np.issubdtype(dtype, np.integer) and is_real:
        if spec.scale is None:
            raise ValueError(
                f"Input {spec.name!r} takes {spec.dtype}. Received: "
                f"dtype={value.dtype}. Cast it if the values are whole."
            )
        info = np.iinfo(dtype)
        steps = np.round(value / spec.scale) + spec.zero_point
        return np.clip(steps, info.min, info.max).astype(dtype)
    return value.astype(dtype)


def _from_output(value: np.ndarray, spec: TensorSpec) -> np.ndarray:
    if spec.scale is None or not np.issubdtype(value.dtype, np.integer):
        return value
    steps = value.astype("float32") - np.float32(spec.zero_point)
    return steps * np.float32(spec.scale)


def _fits(shape: Sequence[int], spec: TensorSpec) -> bool:
    pairs = zip(shape, spec.shape, strict=False)
    return len(shape) == len(spec.shape) and all(
        wanted in (None, size) for size, wanted in pairs
    )


def _chunks(
    arrays: dict[str, np.ndarray], specs: Mapping[str, TensorSpec]
) -> Any:
    """Gives the calls that together cover all rows; the last one is padded."""
    if all(_fits(value.shape, specs[name]) for name, value in arrays.items()):
        yield arrays
        return
    batch, num_rows = _batch_and_rows(arrays, specs)
    for start in range(0, num_rows, batch):
        rows = np.minimum(np.arange(start, start + batch), num_rows - 1)
        yield {name: value[rows] for name, value in arrays.items()}


def _batch_and_rows(
    arrays: dict[str, np.ndarray], specs: Mapping[str, TensorSpec]
) -> tuple[int, int]:
    batches = {spec.shape[0] for spec in specs.values() if spec.shape}
    rows = {value.shape[0] for value in arrays.values() if value.ndim}
    items_fit = all(
        _fits(value.shape[1:], _item(specs[name]))
        for name, value in arrays.items()
    )
    batch = next(iter(batches), None)
    if len(batches) != 1 or len(rows) != 1 or not batch or not items_fit:
        wanted = {name: spec.shape for name, spec in specs.items()}
        shapes = {name: value.shape for name, value in arrays.items()}
        raise ValueError(
            f"The inputs must have the shapes {wanted} (more rows are split "
            f"along the first dimension). Received: shapes={shapes}."
        )
    if not min(rows):
        raise ValueError(
            "The inputs must have at least one row. Received: 0 rows."
        )
    return batch, rows.pop()


def _item(spec: TensorSpec) -> TensorSpec:
    return TensorSpec(name=spec.name, dtype=spec.dtype, shape=spec.shape[1:])
