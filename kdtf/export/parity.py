"""How far a file's outputs are from the model's: pure arithmetic."""

import dataclasses
import math
from collections.abc import Mapping

import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parity:
    """Distances between reference and file over all outputs.

    Args:
        per_sample_error: Largest absolute error of each sample.
        max_error: The largest of them.
        output_errors: Largest absolute error of each output.
        mean_error: Mean absolute error over all values.
        sqnr_db: Signal-to-quantization-noise ratio of each output, in
            decibels; infinite if they are equal.
        argmax_agreement: Share of rows with the same argmax, in [0, 1]; None
            if the model has not exactly one output of the shape
            `(batch, classes)` or `(batch, time, classes)`.
        within_one_step: Share of the numbers of integer outputs that are at
            most one integer step off, in [0, 1]; None without such outputs.
    """

    per_sample_error: tuple[float, ...]
    max_error: float
    output_errors: dict[str, float]
    mean_error: float
    sqnr_db: dict[str, float]
    argmax_agreement: float | None
    within_one_step: float | None = None


def compare(
    reference: Mapping[str, np.ndarray],
    outputs: Mapping[str, np.ndarray],
    steps: Mapping[str, float] | None = None,
) -> Parity:
    """Returns the distances between two sets of outputs of the same shapes.

    Args:
        reference: What the Keras model gives, `(samples, ...)` by name.
        outputs: What the file gives.
        steps: One integer step of each quantized output, as a real value.

    Example:
        >>> import numpy as np
        >>> right = {"y": np.array([[3.0, 4.0]])}
        >>> near = {"y": np.array([[3.0, 4.5]])}
        >>> compare(right, near).max_error
        0.5
        >>> round(compare(right, near).sqnr_db["y"], 4)
        20.0
        >>> compare(right, near, {"y": 0.25}).within_one_step
        0.5
    """
    differences = {
        name: np.abs(_rows(outputs[name]) - _rows(value))
        for name, value in reference.items()
    }
    joined = np.concatenate(list(differences.values()), axis=1)
    per_sample = joined.max(axis=1, initial=0.0)
    return Parity(
        per_sample_error=tuple(float(error) for error in per_sample),
        max_error=float(per_sample.max()),
        output_errors={
            name: float(difference.max(initial=0.0))
            for name, difference in differences.items()
        },
        mean_error=float(joined.mean()),
        sqnr_db={
            name: sqnr_db(value, outputs[name])
            for name, value in reference.items()
        },
        argmax_agreement=_argmax_agreement(reference, outputs),
        within_one_step=_share_within(differences, steps or {}),
    )


def sqnr_db(reference: np.ndarray, values: np.ndarray) -> float:
    """Returns 10 log10(signal power / error power), in decibels.

    The signal is not centred, so nearly constant outputs raise no alarm.

    Example:
        >>> import numpy as np
        >>> sqnr_db(np.array([1.0, 2.0]), np.array([1.0, 2.0]))
        inf
    """
    signal = np.mean(_rows(reference) ** 2)
    noise = np.mean((_rows(values) - _rows(reference)) ** 2)
    if not noise:
        return math.inf
    return float(10 * np.log10(signal / noise)) if signal else -math.inf


def _share_within(
    differences: Mapping[str, np.ndarray], steps: Mapping[str, float]
) -> float | None:
    # A hundredth for the float32 that steps and outputs are computed in.
    near = [differences[name] <= 1.01 * steps[name] for name in steps]
    return float(np.concatenate(near, axis=None).mean()) if near else None


def _rows(values: np.ndarray) -> np.ndarray:
    array = np.asarray(values, "float64")
    return array.reshape(len(array), -1)


def _argmax_agreement(
    reference: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]
) -> float | None:
    if len(reference) != 1:
        return None
    ((name, expected),) = reference.items()
    is_scores = expected.ndim in (2, 3) and expected.shape[-1] > 1
    if not is_scores or expected.dtype.kind != "f":
        return None
    same = expected.argmax(-1) == outputs[name].argmax(-1)
    return float(same.mean())
