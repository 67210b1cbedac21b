"""What is printed for people: tables as plain text, bytes with a unit."""

import io
from collections.abc import Callable

import rich.console

__all__ = ["format_bytes", "plain_text"]


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
