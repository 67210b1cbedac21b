"""From what the user passed to samples, shapes and reference outputs."""

import dataclasses
import re
from typing import Any

import numpy as np

from kdtf.export.converter import call
from kdtf.export.errors import ExportError
from kdtf.export.interface import Interface
from kdtf.export.interface import interface_of
from kdtf.export.interface import outputs_by_name
from kdtf.export.samples import Samples
from kdtf.export.samples import bind
from kdtf.export.samples import collect
from kdtf.export.samples import random_samples

# Ranges settle after a few hundred samples; each costs a run of the model.
NUM_CALIBRATION = 300
NUM_VERIFICATION = 100
_REFERENCE_BATCH = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inputs:
    """How a model is called, and samples for both purposes.

    Args:
        interface: The model's inputs, with a batch of 1 and fixed shapes.
        verification: What the file is compared on.
        calibration: What int8 ranges are measured on, or None.
    """

    interface: Interface
    verification: Samples
    calibration: Samples | None


def read_inputs(
    model: Any,
    *,
    needs_ranges: bool,
    representative_data: Any,
    verify_data: Any,
) -> Inputs:
    """Returns how to call `model`, and the samples to do it with.

    Args:
        model: A built model of either Keras.
        needs_ranges: Whether activation ranges must be measured.
        representative_data: As the user gave it.
        verify_data: As the user gave it.

    Raises:
        ValueError: Data is missing or does not fit the model.
        ExportError: Neither model nor data tell the shapes.
    """
    if needs_ranges and representative_data is None:
        raise ValueError(
            "`representative_data` must be given for int8: activation ranges "
            "are measured on it. Received: representative_data=None. Pass "
            "some hundred typical inputs, or use `quantize='dynamic_int8'`."
        )
    given = {
        argument: (collect(data, argument=argument, limit=limit), limit)
        for argument, data, limit in (
            ("verify_data", verify_data, NUM_VERIFICATION),
            ("representative_data", representative_data, NUM_CALIBRATION),
        )
        if data is not None
    }
    example = next(iter(given.values()))[0] if given else None
    interface = interface_of(model, example)
    bound = {
        argument: bind(structure, interface.inputs, argument=argument)
        for argument, (structure, _) in given.items()
    }
    interface = interface.fixed(next(iter(bound.values()), None))
    for argument, (structure, _) in given.items():
        # Now with fixed shapes: both must have the same.
        bind(structure, interface.inputs, argument=argument)
    return _choose_samples(interface, bound)


def _choose_samples(
    interface: Interface, bound: dict[str, dict[str, np.ndarray]]
) -> Inputs:
    samples = {}
    for argument, arrays in bound.items():
        kept = {k: v[:NUM_VERIFICATION] for k, v in arrays.items()}
        count = len(next(iter(kept.values())))
        source = f"{count} samples of {argument}"
        samples[argument] = Samples(arrays=kept, source=source)
    verification = next(iter(samples.values()), None) or random_samples(
        interface.inputs
    )
    calibration = None
    if "representative_data" in bound:
        calibration = Samples(
            arrays=bound["representative_data"], source="representative_data"
        )
    return Inputs(
        interface=interface,
        verification=verification,
        calibration=calibration,
    )


def reference_outputs(model: Any, inputs: Inputs) -> dict[str, np.ndarray]:
    """Returns the Keras model's outputs for the verification samples.

    Args:
        model: A built model of either Keras.
        inputs: What `read_inputs` gave.

    Returns:
        Arrays of shape `(samples, ...)` by output name.

    Raises:
        ExportError: The model does not run, or an output is not finite or
            not one row per sample.
    """
    samples = inputs.verification
    batches = []
    for start in range(0, len(samples), _REFERENCE_BATCH):
        rows = slice(start, start + _REFERENCE_BATCH)
        flat = [value[rows] for value in samples.arrays.values()]
        named = outputs_by_name(_outputs(model, inputs, flat))
        batches.append({k: np.asarray(v) for k, v in named.items()})
    reference = {
        name: np.concatenate([np.atleast_1d(batch[name]) for batch in batches])
        for name in batches[0]
    }
    for name, value in reference.items():
        _check_reference(name, value, samples)
    return reference


def _outputs(model: Any, inputs: Inputs, flat: list[np.ndarray]) -> Any:
    try:
        return call(model, inputs.interface.pack(flat))
    # Whatever TensorFlow, Keras or the model's own code raises.
    except Exception as error:
        # Keras puts colours around the cause, and all arguments behind it.
        text = str(error).split("Arguments received")[0]
        cause = " ".join(re.sub(r"\x1b\[[\d;]*m", "", text).split())[:400]
        raise ExportError(
            "The Keras model itself must run on the samples. Received: "
            f"{type(error).__name__}: {cause}, for "
            f"{inputs.verification.source}. Call the model on a batch to see "
            "where, or pass samples that it takes as `verify_data=`."
        ) from error


def _check_reference(name: str, value: np.ndarray, samples: Samples) -> None:
    if len(value) != len(samples):
        raise ExportError(
            "Every output must have the batch as its first dimension. "
            f"Received: output {name!r} with {len(value)} rows for "
            f"{len(samples)} samples. Export a model that gives one row each."
        )
    if value.dtype.kind == "f" and not np.isfinite(value).all():
        raise ExportError(
            "The Keras model itself must give finite numbers on the samples. "
            f"Received: nan or infinity in output {name!r} for "
            f"{samples.source}. Check the weights, or pass typical inputs as "
            "`verify_data=`."
        )
