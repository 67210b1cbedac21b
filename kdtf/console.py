"""What is printed for people: tables as plain text, bytes with a unit."""

import html
import io
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence

import rich.box
import rich.console
import rich.table
import rich.text

__all__ = ["format_bytes", "plain_text", "table", "to_html"]


def format_bytes(size_bytes: float) -> str:
    """Writes a number of bytes for people, in powers of 1000.

    Example:
        >>> [format_bytes(size) for size in (0, 999, 1234, 61_000, 5_890_000)]
        ['0 B', '999 B', '1.23 kB', '61 kB', '5.89 MB']
    """
    for unit in ("B", "kB", "MB"):
        # 999.5 would print as "1e+03".
        if size_bytes < 999.5:
            return f"{size_bytes:.3g} {unit}"
        size_bytes /= 1000
    return (
        f"{size_bytes:.3g} GB" if size_bytes < 999.5 else f"{size_bytes:.0f} GB"
    )


def plain_text(
    render: Callable[[rich.console.Console], None], *, width: int
) -> str:
    """Gives as plain text what `render` prints to the console it is given.

    Args:
        render: Prints to a console without colours.
        width: Columns, at the most.
    """
    buffer = io.StringIO()
    console = rich.console.Console(
        file=buffer,
        width=width,
        color_system=None,
        force_terminal=False,
        # In a notebook Rich would display it and write nothing here.
        force_jupyter=False,
    )
    render(console)
    lines = buffer.getvalue().splitlines()
    return "\n".join(line.rstrip() for line in lines)


def table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: set[str]
) -> rich.table.Table:
    """Gives a table without lines but under its head.

    Args:
        columns: Titles, as they are: no markup in them; the last column is
            the one that may wrap.
        rows: Cells, no markup in them either.
        numbers: Titles of columns that are aligned to the right.
    """
    result = rich.table.Table(
        box=rich.box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0)
    )
    for title in columns:
        result.add_column(
            rich.text.Text(title),
            justify="right" if title in numbers else "left",
            no_wrap=title != columns[-1],
        )
    for row in rows:
        result.add_row(*(rich.text.Text(cell) for cell in row))
    return result


def to_html(text: str) -> str:
    """Gives plain text as an HTML element that keeps its columns.

    Example:
        >>> to_html("a < b")
        '<pre style="font-family: monospace; white-space: pre">a &lt; b</pre>'
    """
    # Pages that notebooks are turned into may wrap what is in `pre`.
    style = "font-family: monospace; white-space: pre"
    return f'<pre style="{style}">{html.escape(text, quote=False)}</pre>'
