"""Pictures of a search: its history, and the front it found."""

from typing import Any

import matplotlib.figure
import numpy as np

from kdtf.drawing import ACCENT
from kdtf.drawing import DPI
from kdtf.drawing import INK
from kdtf.drawing import SOFT
from kdtf.drawing import style_axes
from kdtf.drawing import to_svg

__all__ = ["draw_front", "draw_history"]

_SIZE_INCHES = 6.0, 3.4


def draw_history(result: Any) -> str:
    """Draws the quality of each trial, and the best one's so far.

    Args:
        result: A `SearchResult` with a complete trial.
    """
    trials = _complete(result)
    quality = next(iter(trials[0].values))
    figure, axes = _axes()
    numbers = [trial.number for trial in trials]
    values = np.array([next(iter(trial.values.values())) for trial in trials])
    within = np.array([not result.over(trial) for trial in trials])
    for mask, face, label in (
        (within, SOFT, "trial"),
        (~within, "none", "over a limit"),
    ):
        if mask.any():
            axes.scatter(
                np.array(numbers)[mask],
                values[mask],
                s=18,
                facecolors=face,
                edgecolors=SOFT,
                label=label,
            )
    if within.any():
        keep = np.minimum if result.minimize else np.maximum
        worst = np.inf if result.minimize else -np.inf
        best = keep.accumulate(np.where(within, values, worst))
        shown = np.isfinite(best)
        axes.step(
            np.array(numbers)[shown],
            best[shown],
            where="post",
            color=ACCENT,
            linewidth=1.8,
            label="best so far",
        )
    axes.set_xlabel("Trial", color=INK)
    axes.set_ylabel(quality, color=INK, parse_math=False)
    axes.legend(frameon=False, labelcolor=INK, fontsize=9.5)
    return to_svg(figure, salt="history")


def draw_front(result: Any, cost: str | None) -> str:
    """Draws quality against a cost, the front as a line.

    Args:
        result: A `SearchResult` with a complete trial.
        cost: Name of the cost; None for the first.

    Raises:
        ValueError: There is no such cost.
    """
    trials = _complete(result)
    quality, *costs = trials[0].values
    if cost is None and costs:
        cost = costs[0]
    if cost is None or cost not in costs:
        raise ValueError(
            f"`cost` must be one that the objective gave, {costs}. Received: "
            f"cost={cost!r}."
        )
    # Earlier runs of a study may have measured something else.
    trials = [t for t in trials if {quality, cost} <= set(t.values)]
    figure, axes = _axes()
    x = np.array([trial.values[cost] for trial in trials])
    y = np.array([trial.values[quality] for trial in trials])
    axes.scatter(x, y, s=18, color=SOFT, label="trial")
    front = sorted(
        (trial.values[cost], trial.values[quality])
        for trial in _front(trials, quality, cost, minimize=result.minimize)
    )
    axes.plot(
        *np.array(front).T,
        color=ACCENT,
        linewidth=1.8,
        marker="o",
        markersize=5,
        label="front",
    )
    if cost in result.limits:
        axes.axvline(
            result.limits[cost], color=INK, linewidth=1.0, linestyle="--"
        )
        axes.annotate(
            "limit",
            (result.limits[cost], 0.02),
            xycoords=("data", "axes fraction"),
            xytext=(4, 0),
            textcoords="offset points",
            color=INK,
            fontsize=9.5,
        )
    axes.set_xlabel(cost, color=INK, parse_math=False)
    axes.set_ylabel(quality, color=INK, parse_math=False)
    axes.legend(frameon=False, labelcolor=INK, fontsize=9.5)
    return to_svg(figure, salt="front")


def _complete(result: Any) -> Any:
    if not result.complete:
        raise ValueError(
            "A picture needs a complete trial. Received: "
            f"{len(result.trials)} trials, none complete."
        )
    return result.complete


def _front(trials: Any, quality: str, cost: str, *, minimize: bool) -> Any:
    """Gives what no other trial beats in these two quantities."""
    sign = 1.0 if minimize else -1.0
    best = np.inf
    for trial in sorted(
        trials, key=lambda t: (t.values[cost], sign * t.values[quality])
    ):
        if sign * trial.values[quality] < best:
            best = sign * trial.values[quality]
            yield trial


def _axes() -> tuple[Any, Any]:
    figure = matplotlib.figure.Figure(
        figsize=_SIZE_INCHES, dpi=DPI, layout="constrained"
    )
    axes = figure.add_subplot()
    style_axes(axes)
    return figure, axes
