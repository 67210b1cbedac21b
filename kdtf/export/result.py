"""What an export gave, in numbers and in words."""

import dataclasses
import pathlib

from kdtf.export.float_reasons import FloatOperator
from kdtf.export.metadata import Metadata
from kdtf.export.sparsity import SparseTensor
from kdtf.export.sparsity import counted_reasons
from kdtf.flatbuffer import Signature

_NUM_REASONS = 6


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportResult:
    """An exported file that passed all checks; prints as a summary.

    Args:
        path: The file.
        size_bytes: Its size.
        gzip_size_bytes: Its size after gzip: what a download costs.
        target: "android", "iot" or "float".
        quantize: None, or a mode of `export_tflite`, such as "int8".
        signatures: Its entries with the names, types and shapes of inputs
            and outputs.
        operators: Name to count.
        float_operators: Those of them whose first output is float.
        per_sample_error: Largest absolute difference from the Keras model,
            for each verified sample.
        max_error: The largest of them.
        mean_error: Mean absolute difference over all values.
        sqnr_db: Signal-to-noise ratio of the worst output, in decibels;
            infinite if all are equal.
        argmax_agreement: Share of rows with the same argmax, in [0, 1]; None
            if the output is no table of scores.
        verified_on: Which samples the numbers come from.
        warnings: What is worth knowing, but no reason to refuse the file.
        sparse_tensors: The weights stored sparse, with their bytes before
            and after.
        left_dense: Why other weights of FULLY_CONNECTED stayed dense, and
            how many for each reason; empty if `sparse` was not asked for.
        within_one_step: Share of the numbers of int8 outputs that are at most
            one int8 step from the Keras model's, in [0, 1]; None without
            such outputs.
        float_reasons: Which operators of an int8 file stayed float, and why.
        metadata: What the file says of itself, if it was asked to.
    """

    path: pathlib.Path
    size_bytes: int
    gzip_size_bytes: int
    target: str
    quantize: str | None
    signatures: tuple[Signature, ...]
    operators: dict[str, int]
    float_operators: dict[str, int]
    per_sample_error: tuple[float, ...]
    max_error: float
    mean_error: float
    sqnr_db: float
    argmax_agreement: float | None
    verified_on: str
    warnings: tuple[str, ...] = ()
    sparse_tensors: tuple[SparseTensor, ...] = ()
    left_dense: dict[str, int] = dataclasses.field(default_factory=dict)
    within_one_step: float | None = None
    float_reasons: tuple[FloatOperator, ...] = ()
    metadata: Metadata | None = None

    def __str__(self) -> str:
        """Returns a summary of a few lines."""
        size = f"{self.size_bytes:,} bytes ({self.gzip_size_bytes:,} gzipped)"
        lines = [
            f"{self.path}: {size}",
            f"  target {self.target}, quantize {self.quantize or 'float32'}",
            *(_signature_lines(self.signatures)),
            *([f"  {self.metadata}"] if self.metadata else []),
            f"  operators: {_counts(self.operators)}",
            *(_float_lines(self.float_reasons)),
            *(_sparsity_lines(self.sparse_tensors, self.left_dense)),
            f"  verified on {self.verified_on}: {self._quality()}",
            *(f"  warning: {warning}" for warning in self.warnings),
        ]
        return "\n".join(lines)

    def _quality(self) -> str:
        text = (
            f"max error {self.max_error:.3g}, mean {self.mean_error:.3g}, "
            f"SQNR {self.sqnr_db:.1f} dB"
        )
        if self.argmax_agreement is not None:
            text += f", same argmax {self.argmax_agreement:.1%}"
        if self.within_one_step is not None:
            text += f", within one int8 step {self.within_one_step:.1%}"
        return text


def _signature_lines(signatures: tuple[Signature, ...]) -> list[str]:
    lines = []
    for signature in signatures:
        ends = [
            ", ".join(f"{s.name}: {s.dtype} {list(s.shape)}" for s in specs)
            for specs in (signature.inputs, signature.outputs)
        ]
        lines.append(f"  {signature.key}({ends[0]}) -> {ends[1]}")
    return lines


def _float_lines(operators: tuple[FloatOperator, ...]) -> list[str]:
    lines = [f"  stayed float: {op}" for op in operators[:_NUM_REASONS]]
    num_more = len(operators) - len(lines)
    return lines + ([f"  stayed float: {num_more} more"] if num_more else [])


def _sparsity_lines(
    tensors: tuple[SparseTensor, ...], left_dense: dict[str, int]
) -> list[str]:
    lines = [
        f"  sparse: {tensor.name} {list(tensor.shape)}, "
        f"{tensor.zero_share:.1%} of 1x{tensor.block} blocks zero, "
        f"{tensor.dense_bytes:,} -> {tensor.sparse_bytes:,} bytes"
        for tensor in tensors
    ]
    reasons = counted_reasons(left_dense)
    return lines + [f"  left dense: {reason}" for reason in reasons]


def _counts(operators: dict[str, int]) -> str:
    ranked = sorted(operators.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{name} x{count}" for name, count in ranked)
