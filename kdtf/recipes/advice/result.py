"""What `advise` says: suggestions, ranked, each with its reason."""

import dataclasses

import numpy as np
import rich.console
import rich.text

from kdtf.console import format_bytes
from kdtf.console import plain_text
from kdtf.console import table
from kdtf.console import to_html
from kdtf.recipes.advice.roofline import Bound
from kdtf.recipes.compression.budget import Budget
from kdtf.recipes.compression.candidate import Candidate

__all__ = ["Advice", "Suggestion"]

_FITS = {True: "yes", None: "perhaps", False: "no"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Suggestion:
    """A technique, and what it would do here.

    Attributes:
        technique: Its name, or the mode of a file.
        effort: 0 without training, more for longer training.
        fits: Whether the budget is met: measured, or ruled out; None if only
            training will tell.
        how: The call.
        reason: Why.
        size_bytes: Of the file: measured where `effort` is 0, else expected;
            nan if nothing is known.
        latency_ms: The same for the time of a call.
        quality_loss: Measured; nan where it would have to be trained.
    """

    technique: str
    effort: int
    fits: bool | None
    how: str
    reason: str
    size_bytes: float = np.nan
    latency_ms: float = np.nan
    quality_loss: float = np.nan


@dataclasses.dataclass(frozen=True, kw_only=True)
class Advice:
    """The result of `kdtf.advise`; prints as a table.

    Attributes:
        target: The device.
        budget: What was asked for.
        original: The float file of the model as it is.
        bound: What its time is spent on.
        suggestions: The best first: what fits, what may, what does not; the
            cheaper first among equals.
    """

    target: str
    budget: Budget
    original: Candidate
    bound: Bound
    suggestions: tuple[Suggestion, ...]

    @property
    def best(self) -> Suggestion:
        """The first of them."""
        return self.suggestions[0]

    def __str__(self) -> str:
        """Returns the table."""
        return plain_text(lambda console: _render(self, console), width=180)

    def _repr_html_(self) -> str:
        return to_html(str(self))


def _render(advice: Advice, console: rich.console.Console) -> None:
    one = advice.original
    console.print(
        rich.text.Text(
            f"For {advice.target}, {advice.budget}. As it is: "
            f"{format_bytes(one.size_bytes)}, {advice.bound}"
        ),
        soft_wrap=True,
    )
    rows = [
        (
            _FITS[s.fits],
            s.technique,
            "" if np.isnan(s.size_bytes) else format_bytes(s.size_bytes),
            "" if np.isnan(s.latency_ms) else f"{s.latency_ms:.3g}",
            "" if np.isnan(s.quality_loss) else f"{s.quality_loss:.4f}",
            s.how,
            s.reason,
        )
        for s in advice.suggestions
    ]
    columns = ("Fits", "", "Size", "ms", "Worse by", "How", "Why")
    console.print(table(columns, rows, numbers={"Size", "ms", "Worse by"}))
