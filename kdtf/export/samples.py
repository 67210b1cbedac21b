"""Real inputs: read from what users have, checked, or drawn at random."""

import dataclasses
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any

import numpy as np

from kdtf.flatbuffer import TensorSpec
from kdtf.litert import bind_inputs

NUM_RANDOM = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class Samples:
    """Inputs by name, each of shape `(samples, ...)`, and their origin."""

    arrays: dict[str, np.ndarray]
    source: str

    def __len__(self) -> int:
        """Returns the number of samples."""
        return len(next(iter(self.arrays.values())))

    def one(self, index: int) -> list[np.ndarray]:
        """Returns sample `index` as a batch of one per input."""
        return [value[index : index + 1] for value in self.arrays.values()]


def collect(data: Any, *, argument: str, limit: int) -> Any:
    """Returns the inputs in `data`, at most `limit` samples, as arrays.

    Args:
        data: An array, a tuple or list of arrays, a dict of arrays, or a
            `tf.data.Dataset` of batches `x`, `(x, y)` or `(x, y, weight)`.
        argument: The parameter's name, for messages.
        limit: The most samples to take.

    Returns:
        An array, a tuple or a dict of arrays; the samples come first.

    Raises:
        ValueError: There is no sample, or the values are no numbers.

    Example:
        >>> collect({"a": [[1], [2], [3]]}, argument="data", limit=2)["a"].shape
        (2, 1)
    """
    if hasattr(data, "as_numpy_iterator"):
        return _from_dataset(data, argument, limit)
    return _map(lambda value: _array(value, argument)[:limit], data)


def bind(
    structure: Any, specs: tuple[TensorSpec, ...], *, argument: str
) -> dict[str, np.ndarray]:
    """Returns the arrays of `structure` by input name, in the model's types.

    Args:
        structure: What `collect` gave.
        specs: The model's inputs; None stands for free dimensions.
        argument: The parameter's name, for messages.

    Raises:
        ValueError: Names, number, shapes or lengths do not fit.
    """
    names = [spec.name for spec in specs]
    try:
        bound = bind_inputs(structure, names)
    except ValueError as error:
        raise ValueError(
            f"`{argument}` must hold the model's inputs, without labels. "
            f"{error}"
        ) from error
    for spec in specs:
        _check_shape(bound[spec.name], spec, argument)
    lengths = {name: len(value) for name, value in bound.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(
            f"All inputs in `{argument}` must have the same number of "
            f"samples. Received: {lengths}."
        )
    return {
        spec.name: _cast(bound[spec.name], spec, argument) for spec in specs
    }


def random_samples(specs: tuple[TensorSpec, ...], *, seed: int = 0) -> Samples:
    """Returns samples in ranges every model takes: normal reals, ids 0 and 1.

    Args:
        specs: Inputs with fixed shapes, the batch first.
        seed: Of NumPy's generator. Defaults to 0.

    Example:
        >>> spec = TensorSpec(name="ids", dtype="int32", shape=(1, 3))
        >>> sorted(set(random_samples((spec,)).arrays["ids"].ravel().tolist()))
        [0, 1]
    """
    generator = np.random.default_rng(seed)
    arrays = {}
    values: np.ndarray
    for spec in specs:
        shape = (NUM_RANDOM, *(int(d or 1) for d in spec.shape[1:]))
        if np.issubdtype(np.dtype(spec.dtype), np.floating):
            values = generator.normal(size=shape)
        else:
            values = generator.integers(0, 2, size=shape)
        arrays[spec.name] = values.astype(spec.dtype)
    source = f"{NUM_RANDOM} random samples (seed {seed})"
    return Samples(arrays=arrays, source=source)


def _from_dataset(data: Any, argument: str, limit: int) -> Any:
    batches, num_rows = [], 0
    for element in data.as_numpy_iterator():
        x = element[0] if isinstance(element, tuple) else element
        batches.append(_map(lambda value: _array(value, argument), x))
        num_rows += len(_leaves(batches[-1])[0])
        if num_rows >= limit:
            break
    if not batches:
        raise ValueError(
            f"`{argument}` must hold at least one batch. Received: an empty "
            "dataset."
        )
    try:
        return _concatenate(batches, limit)
    except ValueError as error:
        raise ValueError(
            f"All batches of `{argument}` must have the same shape after the "
            f"first dimension: the exported file has fixed shapes. Received: "
            f"{error}. Pad the samples to one length."
        ) from error


def _concatenate(batches: list[Any], limit: int) -> Any:
    first = batches[0]
    if isinstance(first, Mapping):
        return {
            key: _concatenate([batch[key] for batch in batches], limit)
            for key in first
        }
    if isinstance(first, tuple):
        columns = zip(*batches, strict=True)
        return tuple(_concatenate(list(column), limit) for column in columns)
    return np.concatenate(batches)[:limit]


def _map(function: Callable[[Any], np.ndarray], data: Any) -> Any:
    if isinstance(data, Mapping):
        return {key: function(value) for key, value in data.items()}
    if _is_sequence_of_arrays(data):
        return tuple(function(value) for value in data)
    return function(data)


def _leaves(structure: Any) -> list[np.ndarray]:
    if isinstance(structure, Mapping):
        return list(structure.values())
    return list(structure) if isinstance(structure, tuple) else [structure]


def _is_sequence_of_arrays(data: Any) -> bool:
    return isinstance(data, list | tuple) and all(
        hasattr(value, "shape") for value in data
    )


def _array(value: Any, argument: str) -> np.ndarray:
    array = np.asarray(value)
    if array.dtype.kind not in "biuf" or not array.ndim or not len(array):
        raise ValueError(
            f"`{argument}` must hold arrays of numbers with at least one "
            f"sample. Received: type={type(value).__qualname__}, "
            f"dtype={array.dtype}, shape={array.shape}. Pass an array, a "
            "tuple or dict of arrays, or a tf.data.Dataset of batches."
        )
    return array


def _check_shape(value: np.ndarray, spec: TensorSpec, argument: str) -> None:
    wanted: Iterable[Any] = spec.shape[1:]
    fits = len(value.shape) == len(spec.shape) and all(
        dim in (None, size)
        for size, dim in zip(value.shape[1:], wanted, strict=True)
    )
    if not fits:
        raise ValueError(
            f"Input {spec.name!r} in `{argument}` must have the shape "
            f"{(None, *spec.shape[1:])}, samples first. Received: "
            f"shape={value.shape}."
        )


def _cast(value: np.ndarray, spec: TensorSpec, argument: str) -> np.ndarray:
    if value.dtype.kind == "f" and not np.isfinite(value).all():
        raise ValueError(
            f"Input {spec.name!r} in `{argument}` must be finite. Received: "
            "nan or infinity among its values."
        )
    wanted = np.dtype(spec.dtype)
    if value.dtype.kind == "f" and wanted.kind in "iu":
        if not np.array_equal(value, np.round(value)):
            raise ValueError(
                f"Input {spec.name!r} in `{argument}` must hold whole "
                f"numbers ({spec.dtype}). Received: dtype={value.dtype} with "
                "fractions."
            )
    return value.astype(wanted)
