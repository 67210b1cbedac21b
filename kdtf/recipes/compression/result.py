"""What compressing found: the chosen file, all others, and why."""

import dataclasses
import json
import os
import pathlib
from typing import Any

import keras
import rich.console
import rich.table
import rich.text

from kdtf.console import format_bytes
from kdtf.console import plain_text
from kdtf.console import table
from kdtf.console import to_html
from kdtf.evaluation import compare
from kdtf.evaluation.metrics import metric_name
from kdtf.quantization import sensitivity
from kdtf.recipes.compression.budget import Budget
from kdtf.recipes.compression.candidate import TAUGHT
from kdtf.recipes.compression.candidate import Candidate
from kdtf.recipes.compression.candidate import pareto

__all__ = ["Compression"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compression:
    """The result of `kdtf.compress`; prints as a table with the reasons.

    Attributes:
        budget: What was asked for.
        target: The device.
        metric: What the quality is: a name, or a Keras metric.
        original: The float file of the model as it was.
        candidates: All that was tried, in order.
        chosen: The candidate to take: within the budget, or if none is, the
            closest; None if there is no file at all.
        why: Sentences: what was tried, and why this one was chosen.
        folder: Where the files lie.
        call: What to write to get this again.
    """

    budget: Budget
    target: str
    metric: Any
    original: Candidate
    candidates: tuple[Candidate, ...]
    chosen: Candidate | None
    why: tuple[str, ...]
    folder: pathlib.Path
    call: str = ""

    @property
    def is_met(self) -> bool:
        """Whether the chosen file is within the budget."""
        return self.chosen is not None and not self.budget.misses(self.chosen)

    @property
    def path(self) -> pathlib.Path:
        """The chosen, verified file.

        Raises:
            ValueError: No file could be made.
        """
        if self.chosen is None:
            reasons = [f"{c.name}: {c.reason}" for c in self.candidates]
            raise ValueError(
                "There is no file: nothing that was tried worked. Received: "
                f"{reasons}."
            )
        return self.folder / self.chosen.file

    def load_model(self) -> keras.Model:
        """Returns the chosen network as a Keras model, in float.

        Shrunk and taught, before it was quantized: for exports to other
        clients than the one that the file is for.

        Raises:
            ValueError: Nothing was shrunk: it is the network you have.
        """
        path = self.path.with_name(f"{self.path.stem}{TAUGHT}.keras")
        if self.chosen is None or "shrink" not in self.chosen.settings:
            raise ValueError(
                "The chosen file must be of a smaller network. Received: "
                f"{self.path.name}, of the one that was given. Use that."
            )
        return keras.saving.load_model(path, compile=False)

    @property
    def pareto(self) -> tuple[Candidate, ...]:
        """Those that no other beats in bytes, time and quality at once."""
        return pareto(self.candidates)

    def __str__(self) -> str:
        """Returns the table and the reasons."""
        return plain_text(lambda console: _render(self, console), width=160)

    def _repr_html_(self) -> str:
        return to_html(str(self))

    def to_html(
        self, path: str | os.PathLike[str], data: Any, *, model: Any = None
    ) -> pathlib.Path:
        """Writes one page: the original beside the best files, and why.

        Args:
            path: Where to; folders are made.
            data: Labelled data to compare on, best such as no choice was
                made by.
            model: The model as it was: adds what few bits cost each of its
                kernels, measured on `data`.

        Returns:
            The path.
        """
        shown = {c.name: self.folder / c.file for c in self.pareto}
        comparison = compare(
            {"original": self.folder / self.original.file, **shown},
            data,
            metrics=[self.metric],
        )
        pictures = {}
        if model is not None:
            scheme = "dynamic_int8" if self.target == "iot" else "int4"
            pictures[f"What {scheme} costs each kernel, alone"] = sensitivity(
                model, data, [scheme], verbose=0
            )
        return comparison.to_html(
            path,
            title=f"Compressed for {self.target}: {self.budget}",
            notes={
                "What was chosen, and why": "\n".join(self.why),
                "All that was tried": plain_text(
                    lambda console: console.print(_table(self)), width=160
                ),
                "How each file was made": _lineages(self.candidates),
                "How to make them again": self.call,
            },
            pictures=pictures,
        )


def _lineages(candidates: tuple[Candidate, ...]) -> str:
    return "\n".join(
        f"{one.name}: original -> "
        + " -> ".join(
            f"{verb} {json.dumps(settings)}"
            for verb, settings in one.settings.items()
        )
        for one in candidates
    )


def _render(found: Compression, console: rich.console.Console) -> None:
    console.print(_table(found))
    for sentence in found.why:
        console.print(rich.text.Text(sentence), soft_wrap=True)


def _table(found: Compression) -> rich.table.Table:
    rows = []
    front = found.pareto
    for one in (found.original, *found.candidates):
        mark = "*" if one in front else ""
        rows.append(
            (
                "->" if one is found.chosen else mark,
                one.name,
                one.stage,
                *_numbers(one),
                _remark(found, one),
            )
        )
    metric = metric_name(found.metric)
    columns = ("", "", "Stage", "Size", "ms", metric, "Worse by", "s", "")
    numbers = {"Size", "ms", metric, "Worse by", "s"}
    return table(columns, rows, numbers=numbers)


def _numbers(one: Candidate) -> tuple[str, ...]:
    seconds = f"{one.seconds:.0f}"
    if not one.is_complete:
        return ("", "", "", "", seconds)
    return (
        format_bytes(one.size_bytes),
        f"{one.latency_ms:.3g}",
        f"{one.quality:.4f}",
        "" if one.stage == "original" else f"{one.quality_loss:.4f}",
        seconds,
    )


def _remark(found: Compression, one: Candidate) -> str:
    if not one.is_complete:
        return f"{one.status}: {one.reason}"[:200]
    if one.stage == "original":
        return ""
    missed = found.budget.describe(one)
    return f"misses: {missed}" if missed else "fits"
