"""Turns measured rows into columns of text, for the terminal and the page."""

import dataclasses
import math
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence

from kdtf.console import format_bytes
from kdtf.evaluation.metrics import Direction
from kdtf.evaluation.rows import Row

MISSING = "-"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Column:
    """One column of the table.

    Attributes:
        title: What stands above it, with the unit.
        cells: The text of each row; `MISSING` where there is no value.
        best: The rows that hold the best value; empty if all are equal or
            the column has no better and worse.
    """

    title: str
    cells: tuple[str, ...]
    best: frozenset[int] = frozenset()


def make_columns(
    rows: Sequence[Row], directions: Mapping[str, Direction]
) -> list[Column]:
    """Gives the table's columns, first what decides: size, latency, quality.

    Args:
        rows: The measured rows.
        directions: For each metric whether higher or lower is better.
    """
    columns = [
        _column("Size", [r.size_bytes for r in rows], format_bytes, "lower"),
        _column(
            "gzip", [r.gzip_size_bytes for r in rows], format_bytes, "lower"
        ),
        _column("p50 ms", [r.latency_ms_p50 for r in rows], short, "lower"),
        _column("p90 ms", [r.latency_ms_p90 for r in rows], short, "lower"),
    ]
    for name, direction in directions.items():
        values = [row.metrics.get(name) for row in rows]
        columns.append(_column(name, values, digits, direction))
    if any(row.agreement is not None for row in rows):
        values = [row.agreement for row in rows]
        columns.append(_column("Agreement", values, "{:.4f}".format))
    columns += [
        _column("Parameters", [r.num_parameters for r in rows], "{:,}".format),
        _column("Zeros", [r.sparsity for r in rows], "{:.2f}".format),
    ]
    return columns


def digits(value: float) -> str:
    """Writes a number with four digits that count, never as a power of ten.

    Example:
        >>> [digits(value) for value in (0.98765, 31.4159, 1234.5, 0.00123)]
        ['0.9877', '31.42', '1234', '0.0012']
    """
    if not math.isfinite(value):
        return str(value)
    size = abs(value)
    decimals = 4 if size < 10 else 2 if size < 100 else 1 if size < 1000 else 0
    return f"{value:.{decimals}f}"


def short(value: float) -> str:
    """Writes a number with three digits that count, never as a power of ten.

    Example:
        >>> [short(value) for value in (0.00123, 2.0, 14.26, 1234.5)]
        ['0.00123', '2', '14.3', '1234']
    """
    if abs(value) >= 1000:
        return f"{value:.0f}"
    if 0 < abs(value) < 1e-4:
        return f"{value:.6f}"
    return f"{value:.3g}"


def _column(
    title: str,
    values: Sequence[float | None],
    write: Callable[[float], str],
    direction: Direction | None = None,
) -> Column:
    cells = tuple(MISSING if v is None else write(v) for v in values)
    best: frozenset[int] = frozenset()
    known = [v for v in values if v is not None and not math.isnan(v)]
    if direction and known:
        winner = write(max(known) if direction == "higher" else min(known))
        # What reads the same is the same to the reader.
        best = frozenset(i for i, cell in enumerate(cells) if cell == winner)
    if len(best) == len(known):
        best = frozenset()
    return Column(title=title, cells=cells, best=best)
