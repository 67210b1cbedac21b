"""Scales strong inputs down and their weights up, before weights are rounded.

Rounding errs by the same amount for all weights of a step. A weight of an
input that is often large shall err less: multiplied by s it does, relatively,
and the input divided by s makes up for it. The division costs nothing where it
can be put into the normalisation that the input comes from.
"""

import dataclasses
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from kdtf.quantization.compensation.input_graph import InputGroup
from kdtf.quantization.compensation.input_graph import gain_and_offset
from kdtf.transforms.layout import layout_of
from kdtf.transforms.substitution import real_value

__all__ = ["ScaleSearch", "activation_scales", "best_scales", "fold_scales"]

# From a scaled matrix and the second moments of its inputs to the rounded one.
Rounder = Callable[[np.ndarray, np.ndarray], np.ndarray]

_EXPONENTS = tuple(np.linspace(0.0, 1.0, 11).tolist())


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScaleSearch:
    """The scales with which rounding costs least.

    Attributes:
        scales: What each input is divided by, float32 `(num_inputs,)`.
        exponent: That of the mean |x| that gave them.
        error: The squared error of the outputs with them.
        error_unscaled: The same with scales of 1.
    """

    scales: np.ndarray
    exponent: float
    error: float
    error_unscaled: float


def activation_scales(magnitudes: Any, exponent: float) -> np.ndarray:
    """Returns mean|x| ** exponent, with largest times smallest made 1.

    Args:
        magnitudes: The mean |x| of each input, `(num_inputs,)`. Below 1e-4 of
            the largest they count as that: of inputs that the data hardly
            have not much is known.
        exponent: 0 (no scaling) to 1.

    Returns:
        float32, `(num_inputs,)`.

    Example:
        >>> [round(float(s), 4) for s in activation_scales([4.0, 1.0], 0.5)]
        [1.4142, 0.7071]

    Reference:
        Lin et al. 2023, https://arxiv.org/abs/2306.00978 (eq. 5)
    """
    given = np.asarray(magnitudes, "float64")
    if given.ndim != 1 or not (given >= 0.0).all() or np.isinf(given).any():
        raise ValueError(
            "`magnitudes` must be a finite mean |x| for each input. Received: "
            f"shape={given.shape}, least {given.min(initial=np.inf)}. Look "
            "for nan in the data."
        )
    largest = given.max(initial=0.0)
    if largest == 0.0:
        return np.ones(given.shape, "float32")
    powers = np.maximum(given, 1e-4 * largest) ** exponent
    powers /= np.sqrt(powers.max() * powers.min())
    return powers.astype("float32")


def best_scales(
    matrices: Sequence[Any],
    hessian: Any,
    magnitudes: Any,
    *,
    rounders: Sequence[Rounder],
    exponents: Sequence[float] = _EXPONENTS,
) -> ScaleSearch:
    """Finds the scales that make the outputs of some matrices err least.

    Args:
        matrices: The matrices that multiply the same inputs, each
            `(num_inputs, num_outputs)`.
        hessian: Sum of x x^T of the inputs.
        magnitudes: Mean |x| of each input.
        rounders: For each matrix, the function that puts it on its grid. It
            gets the scaled matrix and the second moments of the scaled inputs.
        exponents: Those to try. 0, which scales nothing, is always tried, and
            the smaller one wins among equals.

    Example:
        >>> search = best_scales(
        ...     [np.array([[0.4], [1.0]])], np.diag([100.0, 1.0]), [10.0, 1.0],
        ...     rounders=[lambda matrix, _: np.rint(matrix)], exponents=[0.5])
        >>> search.exponent, round(search.error, 2), search.error_unscaled
        (0.5, 3.24, 16.0)

    Reference:
        Lin et al. 2023, https://arxiv.org/abs/2306.00978 (eq. 4)
    """
    moments = np.asarray(hessian, "float32")
    pairs = [
        (np.asarray(matrix, "float32"), rounder)
        for matrix, rounder in zip(matrices, rounders, strict=True)
    ]

    def error_of(scales: np.ndarray) -> float:
        wide = scales[:, np.newaxis]
        strengths = np.diagonal(moments) / np.square(scales)
        return sum(
            _error(matrix, rounder(matrix * wide, strengths) / wide, moments)
            for matrix, rounder in pairs
        )

    found: dict[float, tuple[float, np.ndarray]] = {}
    for exponent in sorted({0.0, *exponents}):
        scales = activation_scales(magnitudes, exponent)
        found[exponent] = (error_of(scales), scales)
    best = min(found, key=lambda exponent: found[exponent][0])
    return ScaleSearch(
        scales=found[best][1],
        exponent=best,
        error=found[best][0],
        error_unscaled=found[0.0][0],
    )


def fold_scales(group: InputGroup, scales: np.ndarray) -> str | None:
    """Divides a norm's outputs by scales and multiplies its kernels by them.

    The model's function stays, up to float32 rounding. That the norm gives
    what it should is tried out on random numbers: some have a gain of
    1 + their weight.

    Args:
        group: Kernels with their norm, not None.
        scales: float32, `(num_inputs,)`.

    Returns:
        None; or why nothing was changed.
    """
    reason = _divide_norm(group, scales)
    if reason is not None:
        return reason
    for kernel in group.kernels:
        layout = layout_of(kernel.layer, kernel.variable)
        value = real_value(kernel.variable)
        matrix = layout.to_matrix(value) * scales[:, np.newaxis]
        kernel.variable.assign(layout.from_matrix(matrix))
    return None


def _divide_norm(group: InputGroup, scales: np.ndarray) -> str | None:
    norm = group.norm
    found = gain_and_offset(norm)
    if found is None:
        return f"{norm.name!r} is no normalisation with a gain"
    gain, offset = found
    shape = (2,) * (group.rank - 1) + (len(scales),)
    probe = np.random.default_rng(0).normal(size=shape).astype("float32")
    before = [
        np.asarray(real_value(v)) for v in (gain, offset) if v is not None
    ]
    wanted = keras.ops.convert_to_numpy(norm(probe)) / scales
    if offset is not None:
        offset.assign(before[1] / scales)
    for added in (0.0, 1.0):
        gain.assign((before[0] + added) / scales - added)
        got = keras.ops.convert_to_numpy(norm(probe))
        # Half precision, where a norm computes in it, is right to 1e-2.
        close = 1e-5 if got.dtype == np.float32 else 2e-2
        if np.allclose(got, wanted, rtol=close, atol=close * abs(wanted).max()):
            return None
    gain.assign(before[0])
    if offset is not None:
        offset.assign(before[1])
    return f"{norm.name!r} does not multiply by its gain"


def _error(
    matrix: np.ndarray, rounded: np.ndarray, moments: np.ndarray
) -> float:
    difference = matrix - rounded
    # In float32: it is tried many times, and compared with itself only.
    return float(np.vdot(difference, moments @ difference))
