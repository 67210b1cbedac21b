"""What a search found: the best model, the front, every trial."""

import dataclasses
import html
import math
import os
import pathlib
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import rich.console
import rich.text

from kdtf.console import plain_text
from kdtf.console import table
from kdtf.console import to_html
from kdtf.files import atomic_path
from kdtf.search.pictures import draw_front
from kdtf.search.pictures import draw_history
from kdtf.search.rewards import losses_of
from kdtf.search.trial import Trial

__all__ = ["SearchResult"]

_NUM_ROWS = 10
_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ --ink: #111111; --soft: #777777; --accent: #0b6e99;
  --paper: #fdfdfd; color-scheme: light dark; }}
@media (prefers-color-scheme: dark) {{ :root {{ --ink: #e8e8e8;
  --soft: #999999; --accent: #5bb8e0; --paper: #161616; }} }}
body {{ background: var(--paper); color: var(--ink); margin: 2rem auto;
  max-width: 60rem; padding: 0 1rem; font: 16px/1.5 system-ui, sans-serif; }}
pre {{ overflow-x: auto; font-size: 13px; }}
svg {{ max-width: 36rem; width: 100%; height: auto; display: block;
  margin: 1.5rem 0; }}
</style>
<h1>{title}</h1>
{body}
</html>
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchResult:
    """All trials of a study; prints the best as a table, draws itself.

    Attributes:
        trials: In the order in which they were proposed.
        limits: The highest cost by name.
        minimize: Whether the quality is a loss.
    """

    trials: tuple[Trial, ...]
    limits: Mapping[str, float]
    minimize: bool = False

    @property
    def complete(self) -> tuple[Trial, ...]:
        """The trials that were measured to the end."""
        return tuple(t for t in self.trials if t.status == "complete")

    @property
    def best(self) -> Trial:
        """The trial of the best quality within all limits.

        Raises:
            ValueError: There is none.
        """
        best = self.best_or_none
        if best is not None:
            return best
        if not self.complete:
            raise ValueError(
                "A search must have a complete trial. Received: "
                f"{len(self.trials)} trials, none complete."
            )
        least = {
            name: min(t.values.get(name, math.inf) for t in self.complete)
            for name in self.limits
        }
        raise ValueError(
            "A trial must be within the limits to be the best. Received: "
            f"limits={dict(self.limits)}; the least of any trial were {least}. "
            "Raise the limits, search longer, or look at `pareto`."
        )

    @property
    def best_or_none(self) -> Trial | None:
        """The best trial, or None where there is none within the limits."""
        within = [trial for trial in self.complete if not self.over(trial)]
        # Of equals the first.
        return min(within, key=lambda t: self.losses(t)[0], default=None)

    @property
    def pareto(self) -> tuple[Trial, ...]:
        """The trials that no other one beats in quality and in every cost.

        From the worst quality to the best.
        """
        ends = [(self.losses(trial), trial) for trial in self.complete]
        front = [
            (losses, trial)
            for losses, trial in ends
            if not any(_dominates(other, losses) for other, _ in ends)
        ]
        front.sort(key=lambda pair: (-pair[0][0], pair[1].number))
        return tuple(trial for _, trial in front)

    def over(self, trial: Trial) -> tuple[str, ...]:
        """Returns the costs that are over their limits, or not known.

        An earlier objective of the study may not have given all.
        """
        return tuple(
            name
            for name, limit in self.limits.items()
            if trial.values.get(name, math.inf) > limit
        )

    def losses(self, trial: Trial) -> tuple[float, ...]:
        """Returns the quality, negated unless a loss, and the costs."""
        return losses_of(trial.values, minimize=self.minimize)

    def __str__(self) -> str:
        """Returns the table, as plain text."""
        return plain_text(lambda console: _render(self, console), width=160)

    def _repr_html_(self) -> str:
        pictures = [self.history_svg()] if self.complete else []
        if self.complete and len(self.complete[0].values) > 1:
            pictures.append(self.pareto_svg())
        return to_html(str(self)) + "".join(pictures)

    def to_html(
        self, path: str | os.PathLike[str], *, title: str = "Search"
    ) -> pathlib.Path:
        """Writes one page with the table and the pictures.

        Args:
            path: Where to; folders are made.
            title: The page's heading.

        Returns:
            The path.
        """
        page = _PAGE.format(title=html.escape(title), body=self._repr_html_())
        with atomic_path(path) as temporary:
            temporary.write_text(page, encoding="utf-8")
        return pathlib.Path(path)

    def history_svg(self) -> str:
        """Returns the quality of each trial and the best so far, as `<svg>`.

        Raises:
            ValueError: No trial is complete.
        """
        return draw_history(self)

    def pareto_svg(self, cost: str | None = None) -> str:
        """Returns quality against a cost with the front, as `<svg>`.

        Args:
            cost: Its name. Defaults to the first.

        Raises:
            ValueError: The objective gave no cost, or not this one, or no
                trial is complete.
        """
        return draw_front(self, cost)


def _dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    """Tells whether one is nowhere worse and somewhere better."""
    return len(one) == len(other) and (
        all(a <= b for a, b in zip(one, other, strict=True))
        and any(a < b for a, b in zip(one, other, strict=True))
    )


def _render(result: SearchResult, console: rich.console.Console) -> None:
    counts: dict[str, int] = {}
    for trial in result.trials:
        counts[trial.status] = counts.get(trial.status, 0) + 1
    tally = ", ".join(f"{count} {status}" for status, count in counts.items())
    console.print(
        rich.text.Text(f"Search: {len(result.trials)} trials ({tally})")
    )
    if result.complete:
        console.print(_table(result))
    for trial in result.trials:
        if trial.status == "failed":
            line = f"Trial {trial.number} {trial.choices}: {trial.error}"
            console.print(rich.text.Text(line))


def _table(result: SearchResult) -> Any:
    # An objective may have been changed between the runs of a study.
    names = list(dict.fromkeys(k for t in result.complete for k in t.values))
    best, front = result.best_or_none, {t.number for t in result.pareto}
    rows = []
    ranked = sorted(result.complete, key=lambda t: result.losses(t)[0])
    if best is not None:
        # The best within the limits stands first, whatever is above it.
        ranked.sort(key=lambda t: t.number != best.number)
    for trial in ranked[:_NUM_ROWS]:
        marks = ["best"] if trial is best else []
        marks += ["front"] if trial.number in front else []
        marks += [f"over {name}" for name in result.over(trial)]
        rows.append(
            (
                str(trial.number),
                *(_number(trial.values.get(name)) for name in names),
                ", ".join(marks),
                ", ".join(f"{k}={v}" for k, v in trial.choices.items()),
            )
        )
    columns = ("Trial", *names, "", "Choices")
    return table(columns, rows, numbers={"Trial", *names})


def _number(value: float | None) -> str:
    """Writes bytes and operations whole, what is smaller with 5 digits."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.5g}"
