"""How all pictures look, and how they become SVG text."""

import io
import re
from typing import Any

import matplotlib

__all__ = [
    "ACCENT",
    "DPI",
    "INK",
    "PAPER",
    "SOFT",
    "shorten_path",
    "style_axes",
    "to_svg",
]

INK, SOFT, ACCENT = "#111111", "#777777", "#0b6e99"
PAPER = "#fdfdfd"
DPI = 72
_LONGEST_PATH = 44


def shorten_path(path: str) -> str:
    """Keeps the end of a path: the layer says more than its model.

    Example:
        >>> shorten_path("head/kernel"), len(shorten_path("a/" * 40))
        ('head/kernel', 44)
    """
    if len(path) <= _LONGEST_PATH:
        return path
    return "…" + path[-(_LONGEST_PATH - 1) :]


def style_axes(axes: Any) -> None:
    """Gives a picture's axes the house's look."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(SOFT)
    axes.tick_params(colors=INK, labelsize=9.5, color=SOFT)
    axes.tick_params(which="minor", labelsize=9.5, color=SOFT)
    axes.grid(color=SOFT, alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)


def to_svg(figure: Any, *, salt: str) -> str:
    """Gives a figure as an `<svg>` element in the colours of its page.

    Args:
        figure: A Matplotlib figure, drawn in the colours above.
        salt: Tells it from the other pictures of a page.

    Returns:
        The element with its text as text and no size of its own; in a page
        without the house's colours it has its own.
    """
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    # Text stays text; ids differ between the pictures of one page.
    options: Any = {"svg.fonttype": "none", "svg.hashsalt": salt}
    with matplotlib.rc_context(options):
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    # A page holds two pictures, and an id may stand in it only once.
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    # The page's own colours, so that dark mode reaches the pictures.
    for color, variable in (
        (INK, "--ink"),
        (SOFT, "--soft"),
        (ACCENT, "--accent"),
        (PAPER, "--paper"),
    ):
        svg = svg.replace(color, f"var({variable}, {color})")
    return svg
