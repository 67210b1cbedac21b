"""What would run on an accelerator, and what would fall back to the CPU."""

import collections
import dataclasses
import importlib.metadata
import os
import pathlib
import platform
from collections.abc import Sequence
from typing import Any

import rich.console

from kdtf.console import plain_text
from kdtf.console import table
from kdtf.export.delegates.partition import partition
from kdtf.export.delegates.partition import taken_by_xnnpack
from kdtf.export.delegates.rules import RULES
from kdtf.export.delegates.rules import Rules
from kdtf.flatbuffer import buffer_size
from kdtf.flatbuffer import dtype_name
from kdtf.flatbuffer import operator_name
from kdtf.flatbuffer import read_model

__all__ = ["Delegate", "DelegateReport", "Fallback", "delegate_report"]

_XNNPACK_DTYPES = {"FLOAT32", "FLOAT16", "INT8", "UINT8"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fallback:
    """Operators that stay on LiteRT's own CPU kernels.

    Args:
        operator: Their name.
        dtype: The type of their first input that is no constant.
        count: How many there are.
        reason: Why.
    """

    operator: str
    dtype: str
    count: int
    reason: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Delegate:
    """What one accelerator makes of a file.

    Args:
        name: "xnnpack", "gpu", "ml_drift" or "nnapi".
        title: What that is.
        source: Where the answer comes from: a measurement, or rules.
        num_operators: Operators in the graph.
        parts: How many operators it takes in each connected part, the largest
            first; every border between parts copies data.
        max_parts: How many parts it takes if not told otherwise; None for
            all.
        fallbacks: What it does not take.
    """

    name: str
    title: str
    source: str
    num_operators: int
    parts: tuple[int, ...]
    max_parts: int | None
    fallbacks: tuple[Fallback, ...]

    @property
    def num_taken(self) -> int:
        """Operators it runs if not told otherwise."""
        return sum(self.parts[: self.max_parts])

    def __str__(self) -> str:
        """Returns one line."""
        text = (
            f"{self.name}: {self.num_taken} of {self.num_operators} operators"
        )
        if self.max_parts is not None and len(self.parts) > self.max_parts:
            text += (
                f" (could take {sum(self.parts)} in {len(self.parts)} parts; "
                f"by default it takes the largest {self.max_parts})"
            )
        elif len(self.parts) > 1:
            text += f" in {len(self.parts)} parts"
        return text


@dataclasses.dataclass(frozen=True, kw_only=True)
class DelegateReport:
    """What accelerators make of a file; `print` shows it as tables.

    Args:
        path: The file.
        delegates: The accelerators.
        num_other_graphs: Graphs of the file beside the main one, which were
            not looked at.
    """

    path: pathlib.Path
    delegates: tuple[Delegate, ...]
    num_other_graphs: int = 0

    def __getitem__(self, name: str) -> Delegate:
        """Returns the accelerator called `name`.

        Raises:
            KeyError: There is none.
        """
        return {delegate.name: delegate for delegate in self.delegates}[name]

    def __str__(self) -> str:
        """Gives the tables as plain text."""
        return plain_text(lambda console: _render(self, console), width=100)


def delegate_report(path: str | os.PathLike[str]) -> DelegateReport:
    """Returns which operators of a file would not run on an accelerator.

    For XNNPACK (the CPU's fast kernels) that is measured: the file is loaded
    here, and the runtime tells what its delegate took. No phone's GPU or NPU
    is here, so for them it follows from rules: names, types and dimensions as
    each delegate's source has them. Rules can only be too kind: an operator's
    options (strides, fused activations) are not looked at.

    Args:
        path: A `.tflite` file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no `.tflite`, or damaged, or LiteRT refuses it.

    Example:
        >>> import keras, os, tempfile
        >>> from kdtf.export import export_tflite
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        >>> path = os.path.join(tempfile.mkdtemp(), "line.tflite")
        >>> _ = export_tflite(model, path)
        >>> print(delegate_report(path)["gpu"])
        gpu: 1 of 1 operators
    """
    path = pathlib.Path(path)
    model = read_model(path.read_bytes(), name=os.fspath(path))
    operators = _operators(model)
    measured = _measured(path, operators)
    return DelegateReport(
        path=path,
        delegates=(measured, *(_by_rules(rules, operators) for rules in RULES)),
        num_other_graphs=len(model.subgraphs) - 1,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Tensor:
    index: int
    dtype: str
    rank: int
    is_dynamic: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Operator:
    """Its tensors that are no constants."""

    name: str
    inputs: tuple[_Tensor, ...]
    outputs: tuple[_Tensor, ...]

    @property
    def dtype(self) -> str:
        tensors = self.inputs or self.outputs
        return tensors[0].dtype if tensors else "-"


def _operators(model: Any) -> list[_Operator]:
    graph = model.subgraphs[0]

    def changing(indices: Any) -> tuple[_Tensor, ...]:
        found = [(int(i), graph.tensors[i]) for i in indices if i >= 0]
        return tuple(
            _Tensor(
                index=index,
                dtype=dtype_name(tensor),
                rank=0 if tensor.shape is None else len(tensor.shape),
                is_dynamic=tensor.shapeSignature is not None
                and any(size < 0 for size in tensor.shapeSignature),
            )
            for index, tensor in found
            if not buffer_size(model, tensor)
        )

    return [
        _Operator(
            name=operator_name(model, operator),
            inputs=changing(operator.inputs),
            outputs=changing(operator.outputs),
        )
        for operator in graph.operators or []
    ]


def _by_rules(rules: Rules, operators: Sequence[_Operator]) -> Delegate:
    reasons = [_reason(rules, operator) for operator in operators]
    parts = partition(
        [[t.index for t in op.inputs] for op in operators],
        [[t.index for t in op.outputs] for op in operators],
        [reason is None for reason in reasons],
    )
    return Delegate(
        name=rules.name,
        title=rules.title,
        source=rules.source,
        num_operators=len(operators),
        parts=_sizes(parts),
        max_parts=rules.max_parts,
        fallbacks=_counted(operators, reasons),
    )


def _reason(rules: Rules, operator: _Operator) -> str | None:
    """Says why an accelerator does not take an operator; None if it does."""
    if operator.name not in rules.operators:
        return "not among its operators"
    everything = operator.inputs + operator.outputs
    if any(tensor.is_dynamic for tensor in everything):
        return "free dimensions"
    rank = max((tensor.rank for tensor in everything), default=0)
    if rank > rules.max_rank:
        return f"{rank} dimensions; it takes {rules.max_rank}"
    allowed = rules.dtypes | rules.more_dtypes.get(operator.name, frozenset())
    if operator.name in rules.float_only:
        allowed = frozenset({"FLOAT32"})
    checked = everything if rules.checks_all else operator.inputs[:1]
    wrong = {t.dtype for t in checked if t.dtype not in allowed}
    return f"type {', '.join(sorted(wrong))}" if wrong else None


def _measured(path: pathlib.Path, operators: Sequence[_Operator]) -> Delegate:
    try:
        parts = taken_by_xnnpack(path, len(operators))
    except RuntimeError as error:
        raise ValueError(
            "LiteRT must be able to load the file. Received: "
            f"path={os.fspath(path)!r}, refused with: {error}"
        ) from error
    taken = {index for part in parts for index in part}
    reasons = [
        None if index in taken else _xnnpack_reason(operator)
        for index, operator in enumerate(operators)
    ]
    version = importlib.metadata.version("ai-edge-litert")
    return Delegate(
        name="xnnpack",
        title="XNNPACK, LiteRT's fast kernels on the CPU",
        source=f"measured: ai-edge-litert {version} on {platform.machine()}",
        num_operators=len(operators),
        parts=_sizes(parts),
        max_parts=None,
        fallbacks=_counted(operators, reasons),
    )


def _xnnpack_reason(operator: _Operator) -> str:
    if operator.dtype not in _XNNPACK_DTYPES:
        return f"type {operator.dtype}"
    return "no kernel for it, or not for its shapes and options"


def _sizes(parts: Sequence[Sequence[int]]) -> tuple[int, ...]:
    return tuple(sorted(map(len, parts), reverse=True))


def _counted(
    operators: Sequence[_Operator], reasons: Sequence[str | None]
) -> tuple[Fallback, ...]:
    counts = collections.Counter(
        (operator.name, operator.dtype, reason)
        for operator, reason in zip(operators, reasons, strict=True)
        if reason is not None
    )
    return tuple(
        Fallback(operator=name, dtype=dtype, count=count, reason=reason)
        for (name, dtype, reason), count in counts.most_common()
    )


def _render(report: DelegateReport, console: rich.console.Console) -> None:
    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False)

    say(f"{report.path}: which operators would fall back to the CPU's kernels")
    if report.num_other_graphs:
        say(f"(the main graph; {report.num_other_graphs} more not looked at)")
    console.print()
    for delegate in report.delegates:
        say(f"{delegate}\n  {delegate.title}\n  {delegate.source}")
        rows = [
            (
                found.operator,
                found.dtype.lower(),
                str(found.count),
                found.reason,
            )
            for found in delegate.fallbacks
        ]
        if rows:
            heads = ("Falls back", "Type", "Count", "Why")
            console.print(table(heads, rows, numbers={"Count"}))
        else:
            console.print()
