"""The samples a file is tried on, as the integers its inputs take."""

import dataclasses
from typing import Any

import numpy as np

from kdtf.export.inputs import NUM_VERIFICATION
from kdtf.export.inputs import read_inputs
from kdtf.export.samples import NUM_RANDOM
from kdtf.export.samples import Samples
from kdtf.export.samples import bind
from kdtf.export.samples import collect
from kdtf.export.samples import random_samples
from kdtf.flatbuffer import TensorSpec

__all__ = ["given_samples", "integer_inputs", "on_grid"]


def given_samples(
    model: Any,
    specs: tuple[TensorSpec, ...],
    *,
    representative_data: Any,
    verify_data: Any,
) -> Samples | None:
    """Returns the user's samples by input name, at most 100, as reals.

    Args:
        model: The Keras model they are for; None if there is but a file.
        specs: The file's inputs.
        representative_data: As the user gave it.
        verify_data: As the user gave it; it goes first.

    Returns:
        None if neither was given.

    Raises:
        ValueError: They do not fit.
    """
    argument, data = "verify_data", verify_data
    if data is None:
        argument, data = "representative_data", representative_data
    if data is None:
        return None
    if model is not None:
        # A tuple goes by the model's order, which the file may not have.
        read = read_inputs(
            model,
            needs_ranges=False,
            representative_data=representative_data,
            verify_data=verify_data,
        )
        return read.verification
    structure = collect(data, argument=argument, limit=NUM_VERIFICATION)
    reals = tuple(_as_real(spec) for spec in specs)
    arrays = bind(structure, reals, argument=argument)
    count = len(next(iter(arrays.values())))
    return Samples(arrays=arrays, source=f"{count} samples of {argument}")


def integer_inputs(
    specs: tuple[TensorSpec, ...], samples: Samples | None
) -> Samples:
    """Returns samples in the types of the file's inputs, in their order.

    Args:
        specs: The file's inputs.
        samples: Reals by name; None draws integers all over the range, which
            is what the real inputs were that the range was measured on.
    """
    if samples is not None:
        arrays = {
            spec.name: on_grid(samples.arrays[spec.name], spec)
            for spec in specs
        }
        return Samples(arrays=arrays, source=samples.source)
    drawn = random_samples(specs)
    generator = np.random.default_rng(0)
    for spec in specs:
        if spec.scale is not None:
            info = np.iinfo(spec.dtype)
            drawn.arrays[spec.name] = generator.integers(
                info.min,
                info.max,
                size=(NUM_RANDOM, *drawn.arrays[spec.name].shape[1:]),
                dtype=spec.dtype,
                endpoint=True,
            )
    return drawn


def on_grid(values: np.ndarray, spec: TensorSpec) -> np.ndarray:
    """Returns real values as the nearest integers of a tensor.

    Example:
        >>> spec = TensorSpec(
        ...     name="x", dtype="int8", shape=(1, 3), scale=0.5, zero_point=-1
        ... )
        >>> on_grid(np.array([0.0, 1.3, 99.0]), spec).tolist()
        [-1, 2, 127]
    """
    if spec.scale is None:
        return values.astype(spec.dtype)
    info = np.iinfo(spec.dtype)
    steps = np.round(np.asarray(values, "float32") / spec.scale)
    return np.clip(steps + spec.zero_point, info.min, info.max).astype(
        spec.dtype
    )


def _as_real(spec: TensorSpec) -> TensorSpec:
    if spec.scale is None:
        return spec
    return dataclasses.replace(spec, dtype="float32")
