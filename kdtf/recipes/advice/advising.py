"""`advise`: which technique fits a model, a device and a budget."""

import math
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

import keras
import rich.console

from kdtf.quantization import sensitivity
from kdtf.recipes.advice.result import Advice
from kdtf.recipes.advice.result import Suggestion
from kdtf.recipes.advice.roofline import Bound
from kdtf.recipes.advice.roofline import Roofline
from kdtf.recipes.compression import ways
from kdtf.recipes.compression.budget import Budget
from kdtf.recipes.compression.candidate import Candidate
from kdtf.recipes.compression.checks import check
from kdtf.recipes.compression.making import Maker
from kdtf.recipes.compression.teaching import Teaching
from kdtf.recipes.compression.ways import Kind
from kdtf.recipes.preprocessing import tokenized
from kdtf.recipes.workspace import Workspace

__all__ = ["advise"]

# Less of a model than this is another model.
_LEAST_KEEP = 0.15
# From here on training with quantized values is worth its time.
_NOTICEABLE = 1e-3
_NUM_SHOWN = 3


def advise(
    model: keras.Model,
    data: Any,
    *,
    target: str = "android",
    max_size: int | str | None = None,
    max_latency_ms: float | None = None,
    max_quality_loss: float | None = None,
    metric: Any = "accuracy",
    loss: Any = None,
    verbose: int = 1,
) -> Advice:
    """Says which techniques suit a model and a budget, before any training.

    Tries what takes seconds (every way to quantize the model as it is, each
    file verified and measured), times what this machine's LiteRT can do at
    best, and measures how much each kernel minds 4 bits. From that it says
    what the dearer techniques would have to do, and whether they can.
    `kdtf.compress` then does it.

    Args:
        model: A trained model of Keras 3; it is left as it is.
        data: Some hundred labelled examples, as for `kdtf.compress`.
        target: "android", or "iot" for a microcontroller.
        max_size: As for `kdtf.compress`.
        max_latency_ms: As for `kdtf.compress`.
        max_quality_loss: As for `kdtf.compress`.
        metric: As for `kdtf.compress`.
        loss: As for `kdtf.compress`.
        verbose: 0 for silence, 1 to say what is measured.

    Returns:
        Ranked suggestions with reasons, and what the model is bound by.

    Raises:
        TypeError: As for `kdtf.compress`.
        ValueError: As for `kdtf.compress`.
        ExportError: Not even the model as it is can be exported.

    Example:
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> x = rng.normal(size=(32, 64)).astype("float32")
        >>> y = (x[:, 0] > 0).astype("int32")
        >>> layers = [keras.layers.Dense(64, "relu"), keras.layers.Dense(2)]
        >>> model = keras.Sequential([keras.Input((64,)), *layers])
        >>> loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        >>> model.compile("adam", loss)
        >>> advice = advise(model, (x, y), max_size="10kB", verbose=0)
        >>> advice.best.technique, advice.best.fits
        ('dynamic_int8', True)
    """
    budget = Budget(
        max_size=max_size,
        max_latency_ms=max_latency_ms,
        max_quality_loss=max_quality_loss,
    )
    loss = check(model, target, metric, loss)
    data = tokenized(model, data, "data")
    kind = Kind.of(model, target)
    console = rich.console.Console(quiet=not verbose, stderr=True)
    with tempfile.TemporaryDirectory() as folder:
        maker = Maker(
            model=model,
            teaching=Teaching(
                train=data, loss=loss, rate=0.0, epochs=1, batch_size=32
            ),
            validation=data,
            metric=metric,
            target=target,
            workspace=Workspace(folder, console=console),
            setting={},
        )
        console.print("The model as it is")
        original = maker.original()
        tried = []
        for way in ways.post_training(kind):
            console.print(f"Quantized as it is: {way.name}")
            tried.append(maker.candidate(way, original))
        console.print("What LiteRT can do here")
        path = pathlib.Path(folder, original.file)
        bound = Roofline.measure().bound(path, original.latency_ms)
    console.print("What each kernel minds")
    worst = _worst(model, data, loss, kind)
    suggestions = [
        *(_of_trial(one, target, budget) for one in tried),
        *_dearer(kind, budget, original, tried, bound, worst),
    ]
    return Advice(
        target=target,
        budget=budget,
        original=original,
        bound=bound,
        suggestions=tuple(sorted(suggestions, key=_rank)),
    )


def _rank(suggestion: Suggestion) -> tuple[int, int]:
    order = {True: 0, None: 1, False: 2}
    return order[suggestion.fits], suggestion.effort


def _of_trial(one: Candidate, target: str, budget: Budget) -> Suggestion:
    """Says how a file that was made does."""
    if not one.is_complete:
        return Suggestion(
            technique=one.name,
            effort=0,
            fits=False,
            how="",
            reason=f"no file: {one.reason}",
        )
    missed = budget.describe(one)
    asked = 'target="iot"' if target == "iot" else f'quantize="{one.name}"'
    return Suggestion(
        technique=one.name,
        effort=0,
        fits=not missed,
        how=f"kdtf.export_tflite(model, path, {asked})",
        reason=f"misses: {missed}" if missed else "fits as it is: no training",
        size_bytes=one.size_bytes,
        latency_ms=one.latency_ms,
        quality_loss=one.quality_loss,
    )


def _dearer(
    kind: Kind,
    budget: Budget,
    original: Candidate,
    tried: list[Candidate],
    bound: Bound,
    worst: str,
) -> Iterator[Suggestion]:
    """Says of what needs training whether it can help."""
    made = [one for one in tried if one.is_complete]
    by_mode = {one.name: one for one in made}
    # Of some there is no file without training.
    known = [s for s in kind.trained_schemes if ways.mode_of(s) in by_mode]
    if known:
        base = by_mode[ways.mode_of(known[-1])]
        yield _trained(known[-1], base, budget, worst)
    yield _zeros(kind)
    small = by_mode.get(ways.mode_of(kind.small_scheme)) or original
    yield from _smaller(kind, budget, small, bound)


def _trained(
    scheme: str, base: Candidate, budget: Budget, worst: str
) -> Suggestion:
    """Says whether to train with quantized values."""
    costs = {k for k in budget.misses(base) if k != "max_quality_loss"}
    loses = base.quality_loss > _NOTICEABLE
    if costs:
        reason = f"the same file as {base.name}: {budget.describe(base)}"
    elif loses:
        reason = f"regains most of the {base.quality_loss:.3g} lost; {worst}"
    else:
        reason = f"{base.name} without training loses nothing to regain"
    return Suggestion(
        technique="quantization-aware training",
        effort=1,
        # What it regains is not known before.
        fits=False if costs or not loses else None,
        how=f'kdtf.quantize_aware(model, "{scheme}")',
        reason=reason,
        size_bytes=base.size_bytes,
        latency_ms=base.latency_ms,
    )


def _zeros(kind: Kind) -> Suggestion:
    """Says whether zeros pay."""
    pays = kind.has_rows and kind.target == "android"
    where = "a microcontroller" if kind.target == "iot" else "LiteRT"
    return Suggestion(
        technique="pruning",
        effort=2,
        fits=None if pays else False,
        how='kdtf.prune(model, 0.75, structure="litert_int8")',
        reason=(
            "its Dense layers can be stored sparse: bytes fall with the zeros"
            if pays
            else f"{where} has no kernels for zeros in these layers: they "
            "take bytes and time as other numbers do (a download shrinks)"
        ),
    )


def _smaller(
    kind: Kind, budget: Budget, small: Candidate, bound: Bound
) -> Iterator[Suggestion]:
    """Says how much would have to go, and whether that is still a model."""
    size = (budget.max_size or math.inf) / small.size_bytes
    latency = (budget.max_latency_ms or math.inf) / small.latency_ms
    keep = min(1.0, size, latency)
    by = "macs" if latency < size and kind.has_graph else "parameters"
    fits, reason = None, f"{keep:.0%} of {small.name} may stay"
    if keep >= 1.0:
        fits, reason = False, f"{small.name} is small and fast enough"
    elif keep < _LEAST_KEEP:
        fits, reason = False, f"{reason}: too little to keep weights of"
    elif latency < size and bound.by == "overhead":
        reason += (
            ", and most time goes into starting operators: fewer layers help, "
            "narrower ones hardly"
        )
    yield Suggestion(
        technique="shrinking and distillation",
        effort=3,
        fits=fits,
        how=f'kdtf.shrink(model, {keep:.2f}, "{by}")',
        reason=reason,
        size_bytes=small.size_bytes * keep,
        latency_ms=small.latency_ms * keep,
    )
    yield Suggestion(
        technique="a student of its own, searched and taught",
        effort=4,
        fits=False if keep >= 1.0 else None,
        how="kdtf.search(build, space, objective, limits=...)",
        reason=reason
        if keep >= 1.0
        else "any size can be asked for; it "
        "learns from the first weight on, which takes longest",
    )


def _worst(model: Any, data: Any, loss: Any, kind: Kind) -> str:
    """Names the kernels that mind few bits most."""
    scheme = "int4" if kind.target == "android" else "dynamic_int8"
    found = sensitivity(model, data, [scheme], loss=loss, verbose=0)
    rows = sorted(found.rows, key=lambda row: -row.increase)[:_NUM_SHOWN]
    named = ", ".join(f"{row.path} (+{row.increase:.2g})" for row in rows)
    return f"in {scheme} these add most to the {found.measure}: {named}"
