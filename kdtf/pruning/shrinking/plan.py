"""What shrinking will remove: a table, a picture, and the smaller model."""

import dataclasses
from typing import Protocol

import keras
import matplotlib.figure
import rich.console
import rich.text

from kdtf.console import plain_text
from kdtf.console import table
from kdtf.console import to_html
from kdtf.drawing import ACCENT
from kdtf.drawing import DPI
from kdtf.drawing import INK
from kdtf.drawing import SOFT
from kdtf.drawing import shorten_path
from kdtf.drawing import style_axes
from kdtf.drawing import to_svg

__all__ = ["Removal", "ShrinkPlan", "Width"]

_WIDTH_INCHES, _BAR_INCHES = 6.0, 0.24


class Removal(Protocol):
    """What goes, and how the model without it is made."""

    def build(self, model: keras.Model) -> keras.Model:
        """Returns the smaller model."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Width:
    """The channels, or heads, of layers that go together.

    Attributes:
        layers: Their paths.
        before: How many there are.
        after: How many stay.
        kind: "width", "heads" or "depth".
    """

    layers: tuple[str, ...]
    before: int
    after: int
    kind: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShrinkPlan:
    """What goes and what stays; prints as a table, in notebooks as a picture.

    Attributes:
        model: The model as it is.
        widths: What may shrink, by how much it does.
        held: Layers whose channels, and those of their neighbours, stay; of
            `keras_nlp` models kinds; each with the reason.
        parameters: Before and after.
        macs: Multiply-accumulates of the layers with kernels, before and
            after, of `keras_nlp` models for one token; those inside of
            attention's products are not counted.
        removal: What makes the smaller model of the given one.
        cost: What was to be reduced, before and after; by latency 1 and a
            share of it.
        keep: The share of it that was asked for; None if shares of kinds or
            layers were.
    """

    model: keras.Model
    widths: tuple[Width, ...]
    held: dict[str, str]
    parameters: tuple[int, int]
    macs: tuple[int, int]
    removal: Removal = dataclasses.field(repr=False)
    cost: tuple[float, float]
    keep: float | None

    def build(self) -> keras.Model:
        """Returns the smaller model, with the weights that stay.

        A plain model with the same layers, names and inputs, not compiled.
        The given model is untouched.
        """
        return self.removal.build(self.model)

    def __str__(self) -> str:
        """Returns the table."""
        return plain_text(lambda console: _render(self, console), width=160)

    def _repr_html_(self) -> str:
        return f"{to_html(str(self))}{self.to_svg()}"

    def to_svg(self) -> str:
        """Returns a picture of the widths before and after."""
        return _draw(self.widths, salt=self.model.name)


def _render(plan: ShrinkPlan, console: rich.console.Console) -> None:
    said = [
        f"{name} {before:,} -> {after:,} ({after / before:.1%})"
        for name, (before, after) in (
            ("parameters", plan.parameters),
            ("MACs", plan.macs),
        )
        if before
    ]
    if plan.keep is not None:
        before, after = plan.cost
        said.append(f"{after / before:.1%} of {plan.keep:.1%} asked for")
    console.print(rich.text.Text(f"{plan.model.name}: {', '.join(said)}"))
    rows = [
        (
            ", ".join(width.layers),
            width.kind,
            str(width.before),
            str(width.after),
        )
        for width in plan.widths
    ]
    columns = ("Layers", "", "Before", "After")
    console.print(table(columns, rows, numbers={"Before", "After"}))
    for path, why in plan.held.items():
        console.print(rich.text.Text(f"held: {path} ({why})"))


def _draw(widths: tuple[Width, ...], salt: str) -> str:
    height = 0.7 + _BAR_INCHES * max(1, len(widths))
    figure = matplotlib.figure.Figure(
        figsize=(_WIDTH_INCHES, height), dpi=DPI, layout="constrained"
    )
    axes = figure.add_subplot()
    style_axes(axes)
    places = range(len(widths))
    before, after = (
        [getattr(w, k) for w in widths] for k in ("before", "after")
    )
    axes.barh(places, before, height=0.7, color=SOFT, alpha=0.25)
    axes.barh(places, after, height=0.7, color=ACCENT)
    names = [shorten_path(", ".join(width.layers)) for width in widths]
    axes.set_yticks(places, names, parse_math=False)
    axes.invert_yaxis()
    axes.set_title(
        "Channels or heads, before and after",
        loc="left",
        color=INK,
        fontsize=10,
    )
    return to_svg(figure, salt=salt)
