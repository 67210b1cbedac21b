"""The dearer stages: how much to shrink, and a search around that."""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

from kdtf.evaluation.metrics import metric_direction
from kdtf.recipes.compression.budget import Budget
from kdtf.recipes.compression.candidate import Candidate
from kdtf.recipes.compression.making import Maker
from kdtf.recipes.compression.teaching import TimeIsUp
from kdtf.recipes.compression.ways import Kind
from kdtf.recipes.compression.ways import Way
from kdtf.recipes.compression.ways import mode_of
from kdtf.recipes.compression.ways import shrunk
from kdtf.recipes.workspace import key_of
from kdtf.search import Infeasible
from kdtf.search import SearchResult
from kdtf.search import search

__all__ = ["Target", "searched", "shrinkings"]

# Where only the quality is limited: parts to keep, the largest first.
_PARTS = (0.7, 0.5, 0.35, 0.25)
# Names and shapes in a file do not shrink with the weights.
_MARGIN, _JUMP, _ROUNDS, _HALVINGS = 0.98, 0.7, 12, 4
# Where nothing may stay: `shrink` says what it cannot do.
_LEAST = 1e-4
# Bytes that a trained file may have beside those of an untrained one.
_EXTRA = 200
_TRIALS = 6
_AROUND = (0.7, 0.85, 1.0)


@dataclasses.dataclass(frozen=True)
class Target:
    """How much of the model may stay.

    Attributes:
        keep: The part.
        by: Of what: "parameters" or "macs".
    """

    keep: float
    by: str


def shrinkings(
    maker: Maker, kind: Kind, budget: Budget, tried: Sequence[Candidate]
) -> Iterator[Way]:
    """Gives how far to shrink so that the file fits, or a few ways to try.

    Args:
        maker: Exports untrained models, to see their size.
        kind: The model's.
        budget: The limits.
        tried: The candidates so far, of which the one in the mode of the
            shrunk models tells what is too much.
    """
    for scheme in (kind.small_scheme, *kind.extra_schemes):
        if not budget.limits_cost:
            for part in _PARTS:
                yield shrunk(kind, part, "parameters", scheme)
            continue
        target = _target(kind, scheme, budget, tried)
        if target is None:
            continue
        # Channels between blocks go where a file fits in no other way: to
        # lose them hurts most.
        for narrow in (False,) if kind.has_graph else (False, True):
            make = functools.partial(
                shrunk, kind, by=target.by, scheme=scheme, narrow=narrow
            )
            fitted = _fitted(maker, budget, target.keep, make)
            if fitted is not None:
                yield fitted
                break


def _target(
    kind: Kind, scheme: str, budget: Budget, tried: Sequence[Candidate]
) -> Target | None:
    """Returns what must go, from what the same mode costs unshrunk."""
    known = [
        one
        for one in tried
        if one.is_complete
        and "shrink" not in one.settings
        and one.settings["export"]["quantize"] == mode_of(scheme)
    ]
    if not known:
        return Target(0.5, "parameters")
    one = known[0]
    size = (budget.max_size or math.inf) / one.size_bytes
    latency = (budget.max_latency_ms or math.inf) / one.latency_ms
    if min(size, latency) >= 1.0:
        # It is small enough: less would only be worse.
        return None
    by_macs = latency < size and kind.has_graph
    return Target(min(size, latency), "macs" if by_macs else "parameters")


def _fitted(
    maker: Maker, budget: Budget, keep: float, make: Callable[[float], Way]
) -> Way | None:
    """Returns the way whose file fits, seen before training it."""
    keep = max(_LEAST, round(keep * _MARGIN, 4))
    if budget.max_size is None:
        return make(keep)
    limit = budget.max_size - _EXTRA
    # An empty file's names and shapes are not known yet: as if there were none.
    last = (0.0, 0)
    for _ in range(_ROUNDS):
        way = make(keep)
        size = maker.size_before_training(way)
        if size is None:
            return None
        if size <= limit:
            return _enlarged(maker, make, way, last[0], limit)
        # The line through the last two, but no long jump: widths come in
        # steps, so the line may be anything.
        slope = (size - last[1]) / (keep - last[0])
        last = (keep, size)
        wanted = keep - (size - limit) / slope if slope > 0 else 0.0
        keep = round(_MARGIN * keep * min(1.0, max(wanted / keep, _JUMP)), 4)
    return None


def _enlarged(
    maker: Maker,
    make: Callable[[float], Way],
    way: Way,
    too_much: float,
    limit: int,
) -> Way:
    """Returns the largest of a few between what fits and what does not."""
    if way.keep >= too_much:
        # The first try fits already.
        too_much = min(1.0, way.keep / _MARGIN**2)
    for _ in range(_HALVINGS):
        middle = make(round((way.keep + too_much) / 2, 4))
        size = maker.size_before_training(middle)
        if size is not None and size <= limit:
            way = middle
        else:
            too_much = middle.keep
    return way


def searched(
    maker: Maker,
    kind: Kind,
    budget: Budget,
    around: Way,
    try_way: Callable[[Way], Candidate],
    *,
    goes_on: Callable[[], bool],
    seed: int,
) -> None:
    """Searches by evolution around a shrunk model; what it tries is kept.

    Over how much stays, whether all layers lose the same, and how it is
    taught. Models whose file would not fit are not trained.

    Args:
        maker: Makes them.
        kind: The model's.
        budget: The limits, on the file.
        around: The way to begin with.
        try_way: Makes and keeps a candidate.
        goes_on: Whether there is time for one more.
        seed: Of the search.
    """
    keeps = sorted(round(around.keep * f, 4) for f in _AROUND)
    space: dict[str, Any] = {
        "keep": keeps,
        "allocation": ["global", "uniform"],
    }
    if maker.teaching.distils:
        space |= {"alpha": [0.1, 0.5], "temperature": [1.0, 2.0, 4.0]}
    first = {key: getattr(around, key) for key in space}
    first["keep"] = keeps[-1]

    def build(choices: dict[str, Any]) -> Way:
        told = [
            str(value) if isinstance(value, str) else f"{key} {value:g}"
            for key, value in choices.items()
            if key != "keep"
        ]
        # Files are named after it: other searches may keep as much.
        keep = f"searched {choices['keep']:.1%} of {around.by}"
        name = ", ".join([keep, *told, f"{around.scheme}"])
        return shrunk(
            kind,
            **choices,
            by=around.by,
            scheme=around.scheme,
            narrow="hidden" in around.what,
            name=name,
            stage="searched",
        )

    def objective(way: Way) -> dict[str, float]:
        _check_size(maker, way, budget)
        found = try_way(way)
        if found.status == "skipped":
            raise TimeIsUp(found.reason)
        if not found.is_complete:
            raise ValueError(found.reason)
        return {
            "quality": found.quality,
            "bytes": found.size_bytes,
            "latency_ms": found.latency_ms,
        }

    # Other models and other spaces are other studies.
    common = around.by, around.scheme, list(around.what)
    key = key_of([maker.setting, space, *common])
    limits = {"bytes": budget.max_size, "latency_ms": budget.max_latency_ms}
    direction = metric_direction(maker.metric)
    with contextlib.suppress(TimeIsUp):
        # One by one, so that none begins when the time is up.
        for trials in range(1, _TRIALS + 1):
            if not goes_on():
                return
            found = search(
                build,
                space,
                objective,
                strategy="evolution",
                trials=trials,
                limits={k: v for k, v in limits.items() if v is not None},
                direction="max" if direction == "higher" else "min",
                first=[first],
                study=maker.workspace.folder / f"search-{key}.log",
                seed=seed,
                verbose=0,
            )
            if trials == 1:
                _recall(found, build, maker, budget, try_way)


def _recall(
    found: SearchResult,
    build: Callable[[dict[str, Any]], Way],
    maker: Maker,
    budget: Budget,
    try_way: Callable[[Way], Candidate],
) -> None:
    """Looks up what an earlier run tried: a search runs no trial again."""
    ways = []
    for trial in found.trials:
        with contextlib.suppress(ValueError, Infeasible):
            way = build(trial.choices)
            _check_size(maker, way, budget)
            ways.append(way)
    for way in ways:
        try_way(way)


def _check_size(maker: Maker, way: Way, budget: Budget) -> None:
    """Refuses what would be too large, before any training."""
    if budget.max_size is None:
        return
    size = maker.size_before_training(way)
    if size is None:
        raise ValueError("nothing so small exists")
    if size + _EXTRA > budget.max_size:
        raise Infeasible({"bytes": float(size)})
