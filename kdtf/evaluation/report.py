"""Renders a comparison as one HTML page that needs no network."""

import datetime
import math
import os
import pathlib
import re
import urllib.parse
from collections.abc import Mapping
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any

import jinja2
import markupsafe

from kdtf.evaluation.columns import MISSING
from kdtf.evaluation.columns import digits
from kdtf.evaluation.columns import make_columns
from kdtf.evaluation.columns import short
from kdtf.evaluation.metrics import Direction
from kdtf.evaluation.pictures import Axis
from kdtf.evaluation.pictures import draw_points
from kdtf.evaluation.rows import Row
from kdtf.evaluation.table import caption_of

if TYPE_CHECKING:
    from kdtf.evaluation.comparison import Comparison

_SIZE = "size"
_LATENCY = "latency, p50 in ms"
_Values = Sequence[float | None]
# What is shown, its value for each row, and which way is better.
_Shown = tuple[str, _Values, Direction]


def render_report(
    comparison: "Comparison",
    *,
    title: str,
    notes: Mapping[str, str],
    pictures: Mapping[str, Any] | None = None,
    links: Mapping[str, str] | None = None,
) -> str:
    """Gives the page's HTML.

    Args:
        comparison: What was measured.
        title: The heading.
        notes: Further sections, heading to plain text.
        pictures: Further ones, heading to what has a `to_svg` method.
        links: Where rows can be tried, by name.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("kdtf.evaluation", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html").render(
        title=title,
        summary=summarize(comparison),
        rows=comparison.rows,
        columns=make_columns(comparison.rows, comparison.directions),
        missing=MISSING,
        figures=[*make_figures(comparison), *_drawn(pictures or {})],
        notes=notes,
        links=links or {},
        caption=caption_of(comparison),
        environment=comparison.environment,
        created=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
    )


def write_trials(
    comparison: "Comparison",
    path: str | os.PathLike[str],
    files: Mapping[str, str | os.PathLike[str]],
    *,
    runtime: str | os.PathLike[str] | None = None,
) -> dict[str, str]:
    """Writes pages that run models, and returns where, seen from the report.

    Args:
        comparison: What was measured.
        path: The report's.
        files: `.tflite` files by the name of their row.
        runtime: Where LiteRT.js is.

    Raises:
        ValueError: There is no such row, or `kdtf.write_web_page` refused.
    """
    places = {row.name: place for place, row in enumerate(comparison.rows, 1)}
    unknown = [name for name in files if name not in places]
    if unknown:
        raise ValueError(
            f"`try_it` must name rows, which are {list(places)}. Received: "
            f"{unknown}."
        )
    links = {}
    for name, file in files.items():
        from kdtf.export import write_web_page

        # Rows may be called anything, also what no folder can be.
        plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", name)
        trial = f"{pathlib.Path(path).stem}-try-it/{places[name]}-{plain}"
        folder = pathlib.Path(path).parent / trial
        write_web_page(file, folder, runtime=runtime, title=name)
        links[name] = f"{urllib.parse.quote(trial)}/index.html"
    return links


def summarize(comparison: "Comparison") -> list[tuple[str, str]]:
    """Says for each row after the first what it gained and what it cost.

    Returns:
        Names and sentences, like "4.1× smaller and 2.2× faster than teacher;
        accuracy 0.9812 (teacher: 0.9901)."
    """
    first, *others = comparison.rows
    pairs = []
    for row in others:
        gains = [_ratio(first.size_bytes, row.size_bytes, "smaller", "larger")]
        if first.latency and row.latency:
            own, its = first.latency.p50_ms, row.latency.p50_ms
            gains.append(_ratio(own, its, "faster", "slower"))
        sentence = f"{' and '.join(gains)} than {first.name}"
        scores = [
            f"{name} {digits(row.metrics[name])} "
            f"({first.name}: {digits(first.metrics[name])})"
            for name in comparison.directions
            if name in row.metrics and name in first.metrics
        ]
        pairs.append((row.name, "; ".join([sentence, *scores]) + "."))
    return pairs


def make_figures(comparison: "Comparison") -> list[dict[str, str]]:
    """Draws quality against size and against latency.

    Without any quality it draws the latency against the size.

    Returns:
        For each picture its `title`, its `svg` ("" if there is nothing to
        draw) and a `caption` that says what was left out.
    """
    rows = comparison.rows
    sizes = [float(row.size_bytes) for row in rows]
    latencies = [row.latency_ms_p50 for row in rows]
    quality = _quality(comparison)
    if quality is None:
        slow: _Shown = (_LATENCY, latencies, "lower")
        return [_figure("Latency and size", rows, _SIZE, sizes, slow)]
    return [
        _figure("Quality and size", rows, _SIZE, sizes, quality),
        _figure("Quality and latency", rows, _LATENCY, latencies, quality),
    ]


def _drawn(pictures: Mapping[str, Any]) -> list[dict[str, str]]:
    """Returns what draws itself, as `make_figures` does."""
    return [
        {
            "title": title,
            "svg": markupsafe.Markup(picture.to_svg()),
            "caption": "",
        }
        for title, picture in pictures.items()
    ]


def _quality(comparison: "Comparison") -> _Shown | None:
    """Gives what the pictures show upwards: the first metric, or agreement."""
    rows = comparison.rows
    for name, direction in comparison.directions.items():
        return name, [row.metrics.get(name) for row in rows], direction
    if any(row.agreement is not None for row in rows):
        values = [row.agreement for row in rows]
        return f"agreement with {rows[0].name}", values, "higher"
    return None


def _figure(
    title: str,
    rows: Sequence[Row],
    x_title: str,
    x_values: _Values,
    y: _Shown,
) -> dict[str, str]:
    y_title, y_values, direction = y
    shown = [
        (row.name, a, b)
        for row, a, b in zip(rows, x_values, y_values, strict=True)
        if _is_number(a) and _is_number(b)
    ]
    left_out = [r.name for r in rows if r.name not in {s[0] for s in shown}]
    caption = f"Not shown, not measured: {', '.join(left_out)}."
    svg = ""
    if shown:
        names, xs, ys = zip(*shown, strict=True)
        svg = draw_points(
            names,
            Axis(
                title=x_title,
                values=xs,
                better="lower",
                is_bytes=x_title == _SIZE,
            ),
            Axis(title=y_title, values=ys, better=direction),
        )
    return {
        "title": title,
        # Drawn here, names escaped by matplotlib's XML writer.
        "svg": markupsafe.Markup(svg),
        "caption": caption if left_out else "",
    }


def _is_number(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _ratio(first: float, other: float, less: str, more: str) -> str:
    """Writes how many times less or more the other is."""
    ratio = first / max(other, 1e-9)
    if ratio > 1.005:
        return f"{short(ratio)}× {less}"
    return f"{short(1 / ratio)}× {more}" if ratio < 0.995 else f"no {less}"
