"""What is quantized in a model, how much it errs and what it takes to store."""

import dataclasses
import math
from typing import Any

import numpy as np
import rich.console
import rich.text

from kdtf.console import format_bytes
from kdtf.console import plain_text
from kdtf.console import table
from kdtf.console import to_html
from kdtf.flavours import flavour_of
from kdtf.quantization.codes import size_of_codes
from kdtf.quantization.state import QuantizationState
from kdtf.quantization.state import QuantizedKernel
from kdtf.transforms import attach
from kdtf.transforms.selection import Candidate
from kdtf.transforms.selection import candidates

__all__ = ["KernelQuantization", "QuantizationReport", "quantization_report"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class KernelQuantization:
    """One weight matrix, or tensor of more dimensions.

    Attributes:
        path: Where it stands in the model.
        shape: Its shape.
        num_values: How many distinct values it has.
        size_bytes: What its codes take, with all scales, or indices with
            their codebook in the smallest form of
            `kdtf.quantization.storage`.
        entropy_bytes: What its codes take at the least with an entropy code,
            with all scales and the codebook.
        sqnr_db: Energy of the weights over that of their rounding errors, in
            decibels; infinite if there are none.
        note: The scheme, or why it is not quantized.
    """

    path: str
    shape: tuple[int, ...]
    num_values: int
    size_bytes: int
    entropy_bytes: int
    sqnr_db: float
    note: str

    @property
    def num_parameters(self) -> int:
        """Its number of elements."""
        return math.prod(self.shape)


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantizationReport:
    """The quantized parts of a model; prints as a table.

    Attributes:
        name: The model's name.
        kernels: Its weights that are matrices, or of more dimensions.
        ranges: The ranges of its quantized activations, by where they are;
            None for one that is not known yet.
        float_size_bytes: What all its weights take in float32.
        size_bytes: What they take quantized, biases and norms in float32.
        entropy_bytes: The same with entropy codes.
    """

    name: str
    kernels: tuple[KernelQuantization, ...]
    ranges: dict[str, tuple[float, float] | None]
    float_size_bytes: int
    size_bytes: int
    entropy_bytes: int

    def __str__(self) -> str:
        """Returns the table and the sums, as plain text."""
        return plain_text(lambda console: _render(self, console), width=160)

    def _repr_html_(self) -> str:
        return to_html(str(self))


def quantization_report(model: Any) -> QuantizationReport:
    """Lists what of a model is quantized and how, and why the rest is not.

    Sizes are those of the values' codes, what a file format made for them
    takes; a `.tflite` file stores integers so, and codebooks as float32.

    Args:
        model: A built model of Keras 3, quantized or not.

    Raises:
        TypeError: `model` is no Keras model.
        ValueError: It is one of `tf_keras`.

    Example:
        >>> import keras, kdtf
        >>> layers = [keras.Input((8,)), keras.layers.Dense(4, name="head")]
        >>> model = kdtf.quantize(keras.Sequential(layers), "int4")
        >>> report = quantization_report(model)
        >>> [(k.path, k.size_bytes, k.note) for k in report.kernels]
        [('head/kernel', 32, '4 bits per channel')]
        >>> report.float_size_bytes, report.size_bytes
        (144, 48)
    """
    if flavour_of(model) == "tf_keras":
        raise ValueError(
            "The report is of Keras 3 models. Received: a tf_keras model, "
            f"{model.name!r}. Export it, and see the file with `kdtf inspect`."
        )
    states = [
        state
        for _, state in attach.states(model)
        if isinstance(state, QuantizationState)
    ]
    quantized = {
        id(kernel.kernel.variable): kernel
        for state in states
        for kernel in state.kernels()
    }
    reasons = {
        id(candidate.variable): why
        for state in states
        for candidate, why in state.skipped
    }
    rows, others = [], 0
    for candidate in candidates(model):
        key = id(candidate.variable)
        if candidate.is_matrix:
            why = reasons.get(key, "")
            rows.append(_row(candidate, quantized.get(key), why))
        else:
            others += 4 * candidate.size
    return QuantizationReport(
        name=model.name,
        kernels=tuple(rows),
        ranges=_ranges(states),
        float_size_bytes=others + sum(4 * r.num_parameters for r in rows),
        size_bytes=others + sum(row.size_bytes for row in rows),
        entropy_bytes=others + sum(row.entropy_bytes for row in rows),
    )


def _row(
    candidate: Candidate, quantized: QuantizedKernel | None, why: str
) -> KernelQuantization:
    weights = np.asarray(candidate.variable, "float32")
    values, note = weights, why
    size = entropy = 4 * weights.size
    if quantized is not None:
        values = quantized.grid().values
        note = str(quantized.quantizer.scheme)
        stored = size_of_codes(values, quantized.quantizer)
        size, entropy = stored.size_bytes, stored.entropy_bytes
    return KernelQuantization(
        path=candidate.path,
        shape=candidate.shape,
        num_values=np.unique(values).size,
        size_bytes=size,
        entropy_bytes=entropy,
        sqnr_db=_sqnr_db(weights, values),
        note=note,
    )


def _sqnr_db(weights: np.ndarray, values: np.ndarray) -> float:
    noise = float(np.sum(np.square(weights - values, dtype="float64")))
    if not noise:
        return math.inf
    signal = float(np.sum(np.square(weights, dtype="float64")))
    return 10.0 * math.log10(signal / noise) if signal else -math.inf


def _ranges(
    states: list[QuantizationState],
) -> dict[str, tuple[float, float] | None]:
    return {
        quantizer.site_path: quantizer.constants()
        if float(quantizer.is_known)
        else None
        for state in states
        for quantizer in state.ranges()
    }


def _render(report: QuantizationReport, console: rich.console.Console) -> None:
    columns = ("Kernel", "Shape", "Values", "Bytes", "Entropy", "SQNR dB", "")
    rows = [
        (
            kernel.path,
            "x".join(map(str, kernel.shape)),
            f"{kernel.num_values:,}",
            f"{kernel.size_bytes:,}",
            f"{kernel.entropy_bytes:,}",
            "" if math.isinf(kernel.sqnr_db) else f"{kernel.sqnr_db:.1f}",
            kernel.note,
        )
        for kernel in report.kernels
    ]
    console.print(table(columns, rows, numbers=set(columns[2:6])))
    ratio = report.float_size_bytes / max(1, report.size_bytes)
    console.print(
        rich.text.Text(
            f"{report.name}: {format_bytes(report.float_size_bytes)} in "
            f"float32, {format_bytes(report.size_bytes)} quantized "
            f"({ratio:.1f}x), {format_bytes(report.entropy_bytes)} with an "
            "entropy code"
        )
    )
    if report.ranges:
        unknown = sum(value is None for value in report.ranges.values())
        console.print(
            rich.text.Text(
                f"{len(report.ranges)} activations in int8, {unknown} of them "
                "without a range yet"
            )
        )
