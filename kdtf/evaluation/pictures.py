"""Draws the report's pictures: quality against what it costs, as SVG."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import matplotlib.figure
import matplotlib.ticker

from kdtf.console import format_bytes
from kdtf.drawing import ACCENT
from kdtf.drawing import DPI
from kdtf.drawing import INK
from kdtf.drawing import PAPER
from kdtf.drawing import SOFT
from kdtf.drawing import style_axes
from kdtf.drawing import to_svg
from kdtf.evaluation.columns import short
from kdtf.evaluation.labels import is_far
from kdtf.evaluation.labels import nearest_in
from kdtf.evaluation.labels import place_labels
from kdtf.evaluation.metrics import Direction

# Small enough that the text is still readable when a phone shrinks it.
_WIDTH_INCHES, _HEIGHT_INCHES = 4.4, 3.4
_LONGEST_LABEL = 26


@dataclasses.dataclass(frozen=True, kw_only=True)
class Axis:
    """One direction of a picture.

    Attributes:
        title: What it shows, with its unit.
        values: One for each point.
        better: Which way is better.
        is_bytes: Whether the values are bytes, written as "1.2 MB".
    """

    title: str
    values: tuple[float, ...]
    better: Direction
    is_bytes: bool = False


def draw_points(names: Sequence[str], x: Axis, y: Axis) -> str:
    """Draws named points, those that nothing beats filled.

    Args:
        names: One for each point, at least one.
        x: What it costs. Logarithmic if the values differ more than 10-fold.
        y: What it can do.

    Returns:
        An `<svg>` element with its text as text, in the colours of the page.
    """
    figure = matplotlib.figure.Figure(
        figsize=(_WIDTH_INCHES, _HEIGHT_INCHES), dpi=DPI, layout="constrained"
    )
    axes = figure.add_subplot()
    style_axes(axes)
    _scale(axes, x, y)
    front = pareto_front(x, y)
    for values in zip(x.values, y.values, front, strict=True):
        axes.plot(
            *values[:2],
            marker="o",
            zorder=4,
            markersize=7,
            color=ACCENT,
            markerfacecolor=ACCENT if values[2] else "none",
            markeredgewidth=1.5,
        )
    _write_labels(figure, axes, names, (x.values, y.values))
    return to_svg(figure, salt=f"{x.title}|{y.title}")


def pareto_front(x: Axis, y: Axis) -> list[bool]:
    """Tells for each point whether no other is better in both directions.

    A point is beaten by one at least as good in both and better in one.

    Example:
        >>> size = Axis(title="size", values=(1, 2, 3), better="lower")
        >>> score = Axis(title="score", values=(5, 4, 6), better="higher")
        >>> pareto_front(size, score)
        [True, False, True]
    """
    points = [
        (_cost(a, x.better), _cost(b, y.better))
        for a, b in zip(x.values, y.values, strict=True)
    ]
    return [
        not any(p[0] <= own[0] and p[1] <= own[1] and p != own for p in points)
        for own in points
    ]


def needs_log(values: Sequence[float]) -> bool:
    """Returns whether values differ so much that a log axis reads better.

    Example:
        >>> needs_log([1, 10]), needs_log([1, 11]), needs_log([0, 11])
        (False, True, False)
    """
    return min(values) > 0 and max(values) > 10 * min(values)


def shorten(name: str, longest: int = _LONGEST_LABEL) -> str:
    """Cuts the middle out of a name too long for a picture.

    Example:
        >>> shorten("a" * 20 + "b" * 20, longest=9)
        'aaaa…bbbb'
    """
    if len(name) <= longest:
        return name
    keep = longest - 1
    return f"{name[: (keep + 1) // 2]}…{name[len(name) - keep // 2 :]}"


def _cost(value: float, better: Direction) -> float:
    return value if better == "lower" else -value


def _scale(axes: Any, x: Axis, y: Axis) -> None:
    write = format_bytes if x.is_bytes else short
    if needs_log(x.values):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(
            matplotlib.ticker.LogLocator(subs=_log_steps(x.values))
        )
        axes.xaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
        low, high = min(x.values), max(x.values)
        room = (high / low) ** 0.12
        axes.set_xlim(low / room, high * room)
    else:
        axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(5))
        axes.set_xlim(*_limits(x.values))
    axes.xaxis.set_major_formatter(lambda value, _: write(value))
    axes.yaxis.set_major_locator(matplotlib.ticker.MaxNLocator(6))
    axes.set_ylim(*_limits(y.values))
    x_hint = (
        "← smaller is better" if x.better == "lower" else "→ more is better"
    )
    y_hint = (
        "↓ lower is better" if y.better == "lower" else "↑ higher is better"
    )
    axes.set_xlabel(f"{x.title}  ({x_hint})", color=INK, fontsize=10)
    # Above the axis, not turned along it: easier to read on a phone.
    axes.set_title(f"{y.title}  ({y_hint})", loc="left", color=INK, fontsize=10)


def _log_steps(values: Sequence[float]) -> tuple[float, ...]:
    """Gives ticks per decade: more where there are few decades."""
    ratio = max(values) / min(values)
    if ratio < 100:
        return (1.0, 2.0, 5.0)
    return (1.0, 3.0) if ratio < 1000 else (1.0,)


def _limits(values: Sequence[float]) -> tuple[float, float]:
    """Gives room around the values; some, too, if all are equal."""
    low, high = min(values), max(values)
    room = (high - low) * 0.15 or abs(high) * 0.1 or 1.0
    return low - room, high + room


def _write_labels(
    figure: Any,
    axes: Any,
    names: Sequence[str],
    values: tuple[Sequence[float], Sequence[float]],
) -> None:
    texts = [
        axes.text(
            0,
            0,
            shorten(name),
            fontsize=9.5,
            color=INK,
            horizontalalignment="center",
            verticalalignment="center",
            # Keeps a line that runs behind a name from striking it out.
            bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 0.5},
            zorder=3,
            # A name with $ in it is no formula.
            parse_math=False,
        )
        for name in names
    ]
    # Layout and text sizes exist only after a first drawing.
    figure.canvas.draw()
    extents = [text.get_window_extent() for text in texts]
    # Room to spare: the reader's font may be wider than this one.
    sizes = [(extent.width + 8, extent.height + 2) for extent in extents]
    pixels = [
        tuple(axes.transData.transform(point))
        for point in zip(*values, strict=True)
    ]
    left, bottom, right, top = axes.bbox.extents
    boxes = place_labels(pixels, sizes, (left, bottom, right, top))
    back = axes.transData.inverted()
    for text, box, pixel in zip(texts, boxes, pixels, strict=True):
        center = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
        text.set_position(back.transform(center))
        if is_far(box, pixel):
            ends = back.transform([pixel, nearest_in(box, pixel)])
            axes.plot(*ends.T, color=SOFT, linewidth=0.7, zorder=1)
