"""`compress`: a budget in, the best verified file out, with the evidence."""

import dataclasses
import math
import os
import pathlib
import time
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import rich.console

from kdtf._version import __version__
from kdtf.batches import is_dataset
from kdtf.distillation.cache.fingerprints import of_arrays
from kdtf.distillation.cache.fingerprints import of_model
from kdtf.evaluation.metrics import metric_name
from kdtf.recipes.compression import stages
from kdtf.recipes.compression import ways
from kdtf.recipes.compression.budget import Budget
from kdtf.recipes.compression.candidate import Candidate
from kdtf.recipes.compression.checks import check
from kdtf.recipes.compression.checks import check_numbers
from kdtf.recipes.compression.ledger import Ledger
from kdtf.recipes.compression.making import Maker
from kdtf.recipes.compression.reasons import choose
from kdtf.recipes.compression.reasons import closest
from kdtf.recipes.compression.reasons import explain
from kdtf.recipes.compression.result import Compression
from kdtf.recipes.compression.teaching import Teaching
from kdtf.recipes.compression.ways import Kind
from kdtf.recipes.compression.ways import Way
from kdtf.recipes.preprocessing import tokenized
from kdtf.recipes.workspace import Workspace
from kdtf.recipes.workspace import plain
from kdtf.search.quiet_logs import quiet_retracing

__all__ = ["compress"]

# How often to look whether another process is done.
_POLL_SECONDS = 1.0


def compress(
    model: keras.Model,
    train: Any,
    validation: Any,
    *,
    target: str = "android",
    max_size: int | str | None = None,
    max_latency_ms: float | None = None,
    max_quality_loss: float | None = None,
    time_budget: float | None = None,
    metric: Any = "accuracy",
    loss: Any = None,
    epochs: int = 3,
    learning_rate: float = 1e-3,
    batch_size: int = 32,
    out: str | os.PathLike[str] = "kdtf-compress",
    seed: int = 0,
    verbose: int = 1,
) -> Compression:
    """Makes the best verified file of a model within a budget.

    From cheap to dear: quantized as it is; trained with quantized values;
    pruned in blocks, where the file can leave zeros out; shrunk, taught by
    the original and quantized; and a search around that. Each file is
    verified and measured. Once a stage has a file within the limits on bytes
    and time (and quality), the dearer ones are left out; where only the
    quality is limited, all are tried, and the smallest file within it wins.
    Where nothing fits, the closest is chosen, and the result says so.

    All is kept in `out`: called again, also after a kill, it goes on from
    there, and with other limits it uses what is there. Other models, arrays
    or settings are tried anew; of datasets only the form is compared, so give
    other ones another `out`.

    Args:
        model: A trained model of Keras 3; it is left as it is.
        train: `(x, y)` arrays, or a finite `tf.data.Dataset` of batches, as
            for `fit`: what is learned from, and calibrated on. Of a keras-nlp
            task with a preprocessor also texts, of which that makes the rest.
        validation: The same: what files are judged and chosen by. Judge the
            chosen one once more on data of its own.
        target: "android", or "iot" for a microcontroller (int8 throughout).
        max_size: Of the file: bytes, or a text such as "2MB".
        max_latency_ms: Of one call at batch 1, one thread of LiteRT on this
            machine.
        max_quality_loss: How much worse the metric may get, in its units:
            0.01 is one point of accuracy.
        time_budget: Seconds after which no more is tried. Training in
            progress is broken off, and goes on the next time. Defaults to no
            limit.
        metric: A name or a `keras.metrics.Metric`, of which the direction is
            known. Defaults to "accuracy".
        loss: As for `compile`. Defaults to what the model was compiled with.
            With a cross-entropy, what is trained also learns from the
            original model's outputs.
        epochs: Of each training; up to ten times as many where a model is
            shrunk, the more the less is left of it. Defaults to 3.
        learning_rate: Of Adam where a shrunk model is taught; a tenth of it
            where weights are good already. It falls to 0 as a cosine.
        batch_size: For arrays.
        out: Folder for the files.
        seed: Seeds everything.
        verbose: 0 for silence, 1 for progress.

    Returns:
        The chosen file, all candidates, those that no other beats, and why.

    Raises:
        TypeError: `model` is no Keras 3 model, or data is of another kind.
        ValueError: An argument is unknown or out of range, there is no limit
            or no loss, or `out` is damaged.
        ExportError: Not even the model as it is can be exported.

    Example:
        >>> import numpy as np, tempfile
        >>> rng = np.random.default_rng(0)
        >>> x = rng.normal(size=(64, 64)).astype("float32")
        >>> y = (x[:, 0] > 0).astype("int32")
        >>> layers = [keras.layers.Dense(64, "relu"), keras.layers.Dense(2)]
        >>> model = keras.Sequential([keras.Input((64,)), *layers])
        >>> loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        >>> model.compile("adam", loss)
        >>> found = compress(
        ...     model, (x, y), (x, y), max_size="10kB",
        ...     out=tempfile.mkdtemp(), verbose=0,
        ... )
        >>> found.is_met, found.chosen.stage
        (True, 'post-training')

    Reference:
        Han et al. 2016, https://arxiv.org/abs/1510.00149 (Deep Compression)
    """
    start = time.monotonic()
    budget = Budget(
        max_size=max_size,
        max_latency_ms=max_latency_ms,
        max_quality_loss=max_quality_loss,
    )
    loss = check(model, target, metric, loss)
    check_numbers(epochs, batch_size, learning_rate, time_budget)
    train = tokenized(model, train, "train")
    validation = tokenized(model, validation, "validation")
    console = rich.console.Console(quiet=not verbose)
    workspace = Workspace(pathlib.Path(out), console=console)
    teaching = Teaching(
        train=train,
        loss=loss,
        rate=learning_rate,
        epochs=epochs,
        batch_size=batch_size,
        deadline=start + (math.inf if time_budget is None else time_budget),
        verbose="auto" if verbose else 0,
    )
    setting = {
        "kdtf": __version__,
        "model": of_model(model),
        "train": _fingerprint(train),
        "validation": _fingerprint(validation),
        "target": target,
        "metric": metric_name(metric),
        "loss": teaching.told,
        "epochs": epochs,
        "learning_rate": learning_rate,
        "batch_size": batch_size,
        "seed": seed,
    }
    maker = Maker(
        model=model,
        teaching=teaching,
        validation=validation,
        metric=metric,
        target=target,
        workspace=workspace,
        setting=setting,
    )
    run = _Run(
        maker=maker,
        budget=budget,
        kind=Kind.of(model, target),
        ledger=Ledger(workspace.folder, setting),
        console=console,
        seed=seed,
    )
    # Each way has a model of its own, and TensorFlow warns of many.
    with quiet_retracing():
        found = run.result()
    return dataclasses.replace(found, call=_call(budget, setting, out))


@dataclasses.dataclass(kw_only=True)
class _Run:
    """Tries way after way, and keeps what it found."""

    maker: Maker
    budget: Budget
    kind: Kind
    ledger: Ledger
    console: rich.console.Console
    seed: int
    tried: list[Candidate] = dataclasses.field(default_factory=list)
    said: list[str] = dataclasses.field(default_factory=list)

    def result(self) -> Compression:
        self.original = self._original()
        for name, tries in self._stages():
            if not self.has_time():
                self.said.append(f"{name}: not tried, the time is up.")
                continue
            before = len(self.tried)
            tries()
            self.said.append(explain(name, self.tried[before:], self.budget))
            if self.budget.limits_cost and self._fits():
                break
        chosen, reason = choose(self.tried, self.budget)
        found = Compression(
            budget=self.budget,
            target=self.maker.target,
            metric=self.maker.metric,
            original=self.original,
            candidates=tuple(self.tried),
            chosen=chosen,
            why=(*self.said, reason),
            folder=self.maker.workspace.folder,
        )
        self.console.print(
            str(found), markup=False, highlight=False, soft_wrap=True
        )
        return found

    def has_time(self) -> bool:
        return time.monotonic() < self.maker.teaching.deadline

    def try_way(self, way: Way) -> Candidate:
        """Returns the candidate of a way, from the ledger or made now.

        Waits for one that another process makes.
        """
        while (found := self._try_way(way)) is None:
            time.sleep(_POLL_SECONDS)
        return found

    def _try_way(self, way: Way) -> Candidate | None:
        """Returns the candidate; None if another process makes it."""
        found = self.ledger.find(way.steps)
        if found is not None:
            self.console.print(f"[dim]{way.name}: as tried before[/dim]")
            # It may have got another name since.
            return self._remember(
                dataclasses.replace(found, name=way.name, stage=way.stage)
            )
        with self.ledger.claim(way.steps) as ours:
            if not ours:
                return None
            # Another process may have been faster.
            found = self.ledger.find(way.steps)
            if found is None:
                self.console.rule(f"{way.stage}: {way.name}", align="left")
                keras.utils.set_random_seed(self.seed)
                found = self.maker.candidate(way, self.original)
                if found.status != "skipped":
                    self.ledger.add(found)
        return self._remember(found)

    def _remember(self, found: Candidate) -> Candidate:
        # A search begins with what is known, under another name.
        known = [plain(one.settings) for one in self.tried]
        if plain(found.settings) not in known:
            self.tried.append(found)
        return found

    def _original(self) -> Candidate:
        found = self.ledger.find({"export": {"quantize": None}})
        if found is None:
            self.console.rule("The model as it is", align="left")
            found = self.maker.original()
            self.ledger.add(found)
        return found

    def _stages(self) -> Iterator[tuple[str, Any]]:
        yield "post-training", lambda: self._try(ways.post_training(self.kind))
        yield (
            "quantization-aware",
            lambda: self._try(ways.quantization_aware(self.kind)),
        )
        yield "pruned", lambda: self._try(ways.pruned(self.kind))
        yield (
            "shrunk",
            lambda: self._try(
                stages.shrinkings(
                    self.maker, self.kind, self.budget, self.tried
                )
            ),
        )
        yield "searched", self._search

    def _try(self, some: Iterator[Way]) -> None:
        """Tries ways, those first that no other process is at."""
        waiting = list(some)
        while waiting and self.has_time():
            waiting = [
                way
                for way in waiting
                if not self.has_time() or self._try_way(way) is None
            ]
            if waiting:
                time.sleep(_POLL_SECONDS)

    def _search(self) -> None:
        shrunk = [one for one in self.tried if one.stage == "shrunk"]
        best = closest(shrunk, self.budget)
        if best is None:
            return
        chosen = best.settings["shrink"]
        stages.searched(
            self.maker,
            self.kind,
            self.budget,
            ways.shrunk(
                self.kind,
                chosen["keep"],
                chosen["by"],
                best.settings["quantize_aware"]["scheme"],
                narrow="hidden" in chosen["what"],
            ),
            self.try_way,
            goes_on=self.has_time,
            seed=self.seed,
        )

    def _fits(self) -> bool:
        return any(
            one.is_complete and not self.budget.misses(one)
            for one in self.tried
        )


def _call(budget: Budget, setting: dict[str, Any], out: Any) -> str:
    """Returns the call that makes the same files."""
    names = (
        "target",
        "metric",
        "epochs",
        "learning_rate",
        "batch_size",
        "seed",
    )
    arguments = {
        **dataclasses.asdict(budget),
        **{name: setting[name] for name in names},
        "out": os.fspath(out),
    }
    given = {k: v for k, v in arguments.items() if v is not None}
    words = ", ".join(f"{name}={value!r}" for name, value in given.items())
    return (
        f"kdtf.compress(model, train, validation, {words})\n"
        f"kdtf {setting['kdtf']}, model {setting['model'][:12]}, training data "
        f"{setting['train'][:12]}"
    )


def _fingerprint(data: Any) -> str:
    """Returns a digest of arrays; of a dataset, which may shuffle, its form."""
    if is_dataset(data):
        return f"{data.element_spec}, {int(data.cardinality())} batches"
    leaves = keras.tree.flatten(data)
    return of_arrays(np.asarray(leaf) for leaf in leaves if leaf is not None)
