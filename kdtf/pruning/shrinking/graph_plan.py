"""Shrinking Functional and Sequential models: groups found from the graph."""

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from kdtf.pruning.shrinking.choosing import choose
from kdtf.pruning.shrinking.choosing import counts_allowed
from kdtf.pruning.shrinking.choosing import keep_best
from kdtf.pruning.shrinking.families import Costs
from kdtf.pruning.shrinking.families import Family
from kdtf.pruning.shrinking.families import families_of
from kdtf.pruning.shrinking.importance import scores_of
from kdtf.pruning.shrinking.plan import ShrinkPlan
from kdtf.pruning.shrinking.plan import Width
from kdtf.pruning.shrinking.rebuilding import GraphRemoval
from kdtf.pruning.shrinking.rebuilding import rebuild
from kdtf.pruning.shrinking.shares import Shares
from kdtf.pruning.shrinking.shares import nearest
from kdtf.pruning.shrinking.tracing import trace

__all__ = ["plan_graph"]


def plan_graph(
    model: keras.Model,
    keep: float | Shares,
    by: str | Callable[[keras.Model], float],
    *,
    criterion: Any,
    data: Any,
    what: Sequence[str],
    allocation: str,
    round_to: int,
) -> ShrinkPlan:
    """Plans the shrinking of a model with a graph; arguments of `shrink`.

    Raises:
        ValueError: Nothing can go, or the target cannot be met.
    """
    found = trace(model)
    roots = found.atoms.roots()
    families = families_of(found, roots, what)
    if not families:
        raise ValueError(
            "`model` must have channels that can be removed: those of inputs "
            "and outputs stay, and so do those that layer norms, softmax or "
            f"unknown layers look at. Received: model={model.name!r}, what="
            f"{list(what)}, held: {found.held or 'nothing by name'}."
        )
    scores = scores_of(model, found, roots, criterion, data)
    families = [f for f in families if not np.isnan(scores[f.groups]).any()]
    costs = Costs(found, roots, model)

    def cost(kept: np.ndarray) -> float:
        if isinstance(by, str):
            return costs(by, kept)
        return float(by(rebuild(model, found, kept[roots])))

    everything = np.ones(len(roots), bool)
    before = cost(everything)
    if isinstance(keep, Shares):
        counts = _counts(families, keep, round_to)
        kept = keep_best(families, scores, counts)
    else:
        kept = choose(
            families,
            scores,
            cost,
            target=keep * before,
            uniform=allocation == "uniform",
            round_to=round_to,
            exchanges=isinstance(by, str),
        )
    return ShrinkPlan(
        model=model,
        widths=tuple(_width(family, kept) for family in families),
        held=found.held,
        parameters=(costs("parameters", everything), costs("parameters", kept)),
        macs=(costs("macs", everything), costs("macs", kept)),
        removal=GraphRemoval(trace=found, kept=kept[roots]),
        cost=(before, cost(kept)),
        keep=None if isinstance(keep, Shares) else keep,
    )


def _counts(
    families: Sequence[Family], shares: Shares, round_to: int
) -> list[int]:
    """Returns how many of each family stay."""
    counts = [
        nearest(
            counts_allowed(len(family.groups), family.kind, round_to),
            shares(family.kind, family.layers),
        )
        for family in families
    ]
    shares.check_used([path for f in families for path in f.layers])
    return counts


def _width(family: Family, kept: np.ndarray) -> Width:
    return Width(
        layers=family.layers,
        before=len(family.groups),
        after=int(kept[family.groups].sum()),
        kind=family.kind,
    )
