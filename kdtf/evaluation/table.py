"""The comparison as a table for terminals."""

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import rich.box
import rich.console
import rich.table
import rich.text

from kdtf.console import plain_text
from kdtf.evaluation.columns import Column
from kdtf.evaluation.columns import make_columns
from kdtf.evaluation.rows import Row

if TYPE_CHECKING:
    from kdtf.evaluation.comparison import Comparison

# A file or a pipe has no width; the table takes what it needs up to this.
_TEXT_WIDTH = 200
_LEFT_OUT_FIRST = ["Zeros", "Parameters", "gzip", "p90 ms", "Agreement"]


def table_text(comparison: "Comparison") -> str:
    """Gives the table as plain text, the same wherever it is printed."""
    return plain_text(
        lambda console: _render(comparison, console), width=_TEXT_WIDTH
    )


def print_table(comparison: "Comparison") -> None:
    """Prints the table to standard output, in colour on a terminal."""
    console = rich.console.Console()
    if console.is_terminal:
        _render(comparison, console)
    else:
        console.file.write(table_text(comparison) + "\n")


def caption_of(comparison: "Comparison") -> str:
    """Says in a line what was measured, and how.

    Args:
        comparison: Its rows' first latency speaks for all.
    """
    parts = []
    if comparison.num_examples:
        parts.append(f"quality on {comparison.num_examples:,} examples")
    latency = next((row.latency for row in comparison if row.latency), None)
    if latency:
        threads = "thread" if latency.num_threads == 1 else "threads"
        batches = {row.latency.batch_size for row in comparison if row.latency}
        sizes = "/".join(str(size) for size in sorted(batches))
        parts.append(
            f"latency of one call at batch {sizes} on LiteRT, "
            f"{latency.num_threads} {threads}, {latency.num_runs} runs each, "
            "in turn"
        )
    environment = comparison.environment
    known = [
        key for key in ("cpu", "tensorflow", "keras") if key in environment
    ]
    parts += [
        environment[key] if key == "cpu" else f"{key} {environment[key]}"
        for key in known
    ]
    return "; ".join(parts)


def _render(comparison: "Comparison", console: rich.console.Console) -> None:
    table, left_out = _fitting_table(comparison, console)
    console.print(table)
    if left_out:
        names = ", ".join(left_out)
        console.print(rich.text.Text(f"too narrow to show: {names}"))
    for row in comparison.rows:
        for note in row.notes:
            console.print(rich.text.Text(f"{row.name}: {note}"))
    console.print(rich.text.Text(caption_of(comparison), style="dim"))


def _fitting_table(
    comparison: "Comparison", console: rich.console.Console
) -> tuple[rich.table.Table, list[str]]:
    """Leaves columns out, the least telling first, until the table fits."""
    columns = make_columns(comparison.rows, comparison.directions)
    titles = [column.title for column in columns]
    others = [title for title in titles if title not in _LEFT_OUT_FIRST]
    ranked = [title for title in _LEFT_OUT_FIRST if title in titles]
    # Then the last metrics; the size goes last of all.
    ranked += reversed(others)
    left_out: list[str] = []
    # A console measures nothing wider than itself.
    endless = console.options.update(width=10_000)
    while True:
        table = _table(comparison.rows, columns)
        width = console.measure(table, options=endless).maximum
        if width <= console.width or len(columns) == 1:
            return table, left_out
        left_out.append(ranked.pop(0))
        columns = [c for c in columns if c.title not in left_out]


def _table(rows: Sequence[Row], columns: Sequence[Column]) -> rich.table.Table:
    table = rich.table.Table(
        box=rich.box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0)
    )
    table.add_column("Model", overflow="fold")
    table.add_column("Kind")
    for column in columns:
        table.add_column(
            _wrapped(column.title),
            justify="right",
            vertical="bottom",
            no_wrap=True,
        )
    for index, row in enumerate(rows):
        cells = [
            rich.text.Text(
                column.cells[index],
                style="bold green" if index in column.best else "",
            )
            for column in columns
        ]
        # Text, not str: a name like "[red]" is no markup.
        table.add_row(rich.text.Text(row.name), row.kind, *cells)
    return table


def _wrapped(title: str) -> str:
    """Breaks a metric's long name at its underscores."""
    return "\n".join(textwrap.wrap(title.replace("_", " "), width=14))
