"""What a recipe's run gives: the files, and what led to each."""

import dataclasses
import pathlib
from collections.abc import Sequence

from kdtf.console import format_bytes
from kdtf.console import plain_text
from kdtf.console import table
from kdtf.evaluation import Comparison
from kdtf.recipes.recipe_files.keeper import Made

__all__ = ["RecipeResult", "lineage_text"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecipeResult:
    """What the steps of a recipe made; `print` it.

    Attributes:
        out: The folder with all of it, and `lineage.json`.
        made: The files, in order.
        comparison: Of the last `compare` step, or None.
        seconds: What this run took.
    """

    out: pathlib.Path
    made: tuple[Made, ...]
    comparison: Comparison | None
    seconds: float

    def __str__(self) -> str:
        """Gives a table of the files."""
        names = list(dict.fromkeys(n for m in self.made for n in m.metrics))
        columns = ["file", "size", *names, "seconds", "last step"]
        rows = [
            [
                made.name,
                format_bytes(made.size_bytes),
                *(_number(made.metrics.get(name)) for name in names),
                "reused" if made.is_reused else _number(made.seconds),
                made.steps[-1],
            ]
            for made in self.made
        ]
        shown = table(columns, rows, numbers={"size", "seconds", *names})
        text = plain_text(lambda console: console.print(shown), width=100)
        return f"{self.out}: {self.seconds:.0f} s\n{text}"


def lineage_text(made: Sequence[Made], *, first: str) -> str:
    """Says for each file what led to it, what it took and what it scores.

    Args:
        made: The files.
        first: The model that it began with.

    Example:
        >>> steps = ("shrink keep=0.5", "fit epochs=2")
        >>> file = Made(name="2-fit.keras", steps=steps, size_bytes=2000,
        ...     seconds=3.0, metrics={"accuracy": 0.5})
        >>> print(lineage_text([file], first="teacher.keras"))
        2-fit.keras: 2 kB, accuracy 0.5, 3 s
          teacher.keras
          -> shrink keep=0.5
          -> fit epochs=2
    """
    return "\n".join(line for file in made for line in _lines(file, first))


def _lines(made: Made, first: str) -> list[str]:
    facts = [format_bytes(made.size_bytes)]
    facts += [f"{name} {_number(v)}" for name, v in made.metrics.items()]
    if made.seconds is not None:
        facts.append(f"{_number(made.seconds)} s")
    return [
        f"{made.name}: {', '.join(facts)}",
        f"  {first}",
        *(f"  -> {step}" for step in made.steps),
    ]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
