"""Each technique alone, at the size of the file that `kdtf.compress` chose.

`compress_tasks.py --singles` calls it. Everything that is trained takes as
many steps as the chosen file did. What a technique can be told (rate, how
zeros are spread) is chosen on the validation data with the first seed, as
`compress` chooses; the table is of the test data. A technique that cannot be
as small as the chosen file shows the smallest it has.
"""

import contextlib
import dataclasses
import itertools
import json
import pathlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

import kdtf
from kdtf.backbones import backbone_of
from kdtf.backbones import resized
from kdtf.batches import first_examples
from kdtf.copies import copied
from kdtf.evaluation import compare
from kdtf.evaluation.metrics import metric_direction
from kdtf.export.targets import MODES
from kdtf.files import atomic_path
from kdtf.files import gzip_bytes
from kdtf.schedules import PolynomialSchedule
from kdtf.search.objective import as_if_trained

SCHEMES = ("int8", "dynamic_int8", "int4_block32", "int4", "int2")
CLUSTERS = (2, 3, 4, 5, 6, 8, 12, 16, 24, 32, 64, 128)
# Of what is said before training how much may be used: it changes the weights.
MARGIN = 0.99
WORD = "chosen by compress"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contest:
    """A task, and the file to compete with.

    Args:
        task: Of `compress_tasks.py`.
        chosen: The candidate that compress chose.
        folder: Of the files, which a second run finds again.
        seeds: How often everything is trained.
    """

    task: Any
    chosen: Any
    folder: pathlib.Path
    seeds: int

    @property
    def size(self):
        return int(self.chosen.size_bytes)

    @property
    def long(self):
        """Epochs of the chosen model's distillation."""
        return self.task.epochs * self.chosen.settings["distil"]["epochs_factor"]

    @property
    def epochs(self):
        """Of all its training."""
        return self.long + self.task.epochs

    def fit(self, model, *, epochs, rate, teacher=None):
        x, y = self.task.train
        steps = epochs * -(-len(y) // 32)
        trained = model
        if teacher is not None:
            trained = kdtf.Distiller(teacher, model, alpha=0.1, temperature=2.0)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        decay = keras.optimizers.schedules.CosineDecay(rate, steps)
        trained.compile(keras.optimizers.Adam(decay), loss)
        trained.fit(x, y, batch_size=32, epochs=epochs, verbose=0)

    def export(self, model, path, mode):
        kdtf.export_tflite(
            model,
            path,
            target="float" if mode in (None, "float16") else "android",
            quantize=mode,
            representative_data=first_examples(self.task.train, 200),
            verify_data=first_examples(self.task.validation, 64),
        )

    def sizes(self, model, mode=None):
        """The bytes of a model's file, and of that compressed."""
        path = self.folder / "untrained.tflite"
        with as_if_trained(model):
            self.export(model, path, mode)
        content = path.read_bytes()
        path.unlink()
        return len(content), gzip_bytes(content)

    def quality(self, path, data):
        row = compare(
            {"file": path}, data, metrics=[self.task.metric], latency_runs=0
        )["file"]
        (value,) = row.metrics.values()
        return value

    def shrunk(self, keep):
        told = self.chosen.settings["shrink"] | {"keep": keep}
        inputs = first_examples(self.task.train, 200)
        return kdtf.shrink(self.task.model, **told, data=inputs)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Technique:
    """What is tried.

    Args:
        name: For the table.
        mode: Of the file.
        make: Makes the trained model: `make(seed, **setting)`.
        settings: To choose from.
        remark: What it was told.
    """

    name: str
    mode: str | None
    make: Callable[..., Any]
    settings: list[dict[str, Any]]
    remark: str = ""


def largest(candidates, size_of, limit):
    """The last of rising candidates that fits, or the first that exists."""
    known = {}

    def fits(index):
        with contextlib.suppress(ValueError):
            known[index] = size_of(candidates[index])
        return known.get(index, 0) <= limit

    low, high = -1, len(candidates)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    index = low if known.get(low) else min(high, len(candidates) - 1)
    return candidates[index]


def quantized_alone(contest):
    """The modes and the schemes with the smallest file."""
    model, rate = contest.task.model, contest.task.rate
    sizes: dict[tuple[str, str], int] = {}
    for mode in filter(None, MODES):
        with contextlib.suppress(ValueError):
            sizes["after", mode] = contest.sizes(model, mode)[0]
    for scheme in SCHEMES:
        data = (first_examples(contest.task.train, 200),)
        # A file that LiteRT cannot run, or with other values, is none.
        with contextlib.suppress(ValueError, RuntimeError):
            attached = kdtf.quantize_aware(copied(model), scheme, data=data)
            sizes["trained", scheme] = contest.sizes(attached)[0]

    def trained(scheme):
        def make(seed, rate):
            student = copied(model)
            data = (first_examples(contest.task.train, 200),)
            kdtf.quantize_aware(student, scheme, data=data)
            contest.fit(student, epochs=contest.epochs, rate=rate)
            return student

        return make

    for when, verb in (("after", "post-training"), ("trained", "trained for")):
        known = {name: size for (w, name), size in sizes.items() if w == when}
        name = min(known, key=lambda one: known[one])
        yield Technique(
            name=f"{verb} {name}",
            mode=name if when == "after" else None,
            make=(lambda seed: model) if when == "after" else trained(name),
            settings=[{}] if when == "after" else both(rate),
            remark="all: "
            + ", ".join(f"{n} {s:,}" for n, s in sorted(known.items())),
        )


def both(rate):
    return [{"rate": rate}, {"rate": 0.1 * rate}]


def shrunk_alone(contest, mode, *, inherits=True, teacher=None):
    """Narrower in float, taught by the labels, or from new weights."""
    keeps = [round(float(keep), 4) for keep in np.geomspace(0.01, 0.99, 200)]
    keep = largest(
        keeps,
        lambda one: contest.sizes(contest.shrunk(one), mode)[0],
        contest.size,
    )

    def make(seed, rate):
        student = contest.shrunk(keep)
        if not inherits:
            student = renewed(student)
        contest.fit(
            student, epochs=contest.epochs, rate=rate, teacher=teacher
        )
        return student

    taught = "labels" if teacher is None else "the original"
    start = "shrunk" if inherits else "new weights, as shrunk"
    return Technique(
        name=f"{start}, {taught}, {mode or 'float32'}",
        mode=mode,
        make=make,
        settings=both(contest.task.rate),
        remark=f"keep {keep:.1%}",
    )


def renewed(model):
    """The same architecture with new weights."""
    if backbone_of(model) is None:
        return keras.models.clone_model(model)
    return resized(model, {})


def quantized_small(contest, *, inherits, teacher):
    """The architecture of the chosen file with its number of steps."""
    told = contest.chosen.settings
    scheme = told["quantize_aware"]["scheme"]
    rate = contest.task.rate

    def make(seed):
        student = contest.shrunk(told["shrink"]["keep"])
        if not inherits:
            student = renewed(student)
        contest.fit(student, epochs=contest.long, rate=rate, teacher=teacher)
        data = (first_examples(contest.task.train, 200),)
        kdtf.quantize_aware(student, scheme, data=data)
        contest.fit(
            student,
            epochs=contest.task.epochs,
            rate=0.1 * rate,
            teacher=teacher,
        )
        return student

    words = "the steps of compress" if inherits else "new weights, labels"
    return Technique(
        name=f"{words}, {scheme}", mode=None, make=make, settings=[{}]
    )


def pruned_alone(contest):
    """Zeros, until the compressed float file is as small."""
    model = contest.task.model

    def masked(sparsity, **options):
        return kdtf.prune(
            copied(model), sparsity, select=lambda c: c.is_matrix, **options
        )

    # From the smallest file to the largest.
    zeros = [round(1.0 - 0.005 * step, 3) for step in range(1, 190)]
    sparsity = largest(
        zeros,
        lambda one: contest.sizes(masked(one))[1],
        MARGIN * contest.size,
    )

    def make(seed, rate, allocation):
        steps = contest.epochs * -(-len(contest.task.train[1]) // 32)
        schedule = PolynomialSchedule(
            initial=0.0, final=sparsity, begin_step=0, end_step=steps // 2
        )
        student = masked(
            None,
            schedule=schedule,
            allocation=allocation,
            frequency=max(1, steps // 50),
        )
        contest.fit(student, epochs=contest.epochs, rate=rate)
        return student

    return Technique(
        name="pruned, float32",
        mode=None,
        make=make,
        settings=[
            rate | {"allocation": allocation}
            for rate, allocation in itertools.product(
                both(contest.task.rate), ("uniform", "global")
            )
        ],
        remark=f"{sparsity:.1%} zeros",
    )


def clustered_alone(contest):
    """Few values, until the compressed float file is as small."""
    model = contest.task.model
    number = largest(
        CLUSTERS,
        lambda one: contest.sizes(kdtf.cluster(copied(model), one))[1],
        MARGIN * contest.size,
    )

    def make(seed, rate):
        student = kdtf.cluster(copied(model), number)
        contest.fit(student, epochs=contest.epochs, rate=rate)
        return student

    return Technique(
        name="clustered, float32",
        mode=None,
        make=make,
        settings=both(contest.task.rate),
        remark=f"{number} values per kernel",
    )


def techniques(contest):
    original = contest.task.model
    yield quantized_small(contest, inherits=True, teacher=original)
    yield from quantized_alone(contest)
    yield shrunk_alone(contest, None)
    yield shrunk_alone(contest, None, inherits=False, teacher=original)
    yield pruned_alone(contest)
    yield clustered_alone(contest)
    yield shrunk_alone(contest, "float16")
    yield quantized_small(contest, inherits=False, teacher=None)


def file_of(contest, technique, seed, setting):
    words = [technique.name, technique.remark, *map(str, setting.values())]
    name = "".join(c if c.isalnum() else "-" for c in " ".join(words))
    path = contest.folder / f"{name[:120]}-{seed}.tflite"
    if not path.exists():
        keras.utils.set_random_seed(seed)
        contest.export(
            kdtf.strip(technique.make(seed, **setting))
            if technique.name.startswith(("pruned", "clustered"))
            else technique.make(seed, **setting),
            path,
            technique.mode,
        )
    return path


def entry_of(contest, technique):
    """Makes all files of a technique: what they cost and can do."""
    task = contest.task
    sign = 1.0 if metric_direction(task.metric) == "higher" else -1.0

    def judged(setting):
        path = file_of(contest, technique, 0, setting)
        return sign * contest.quality(path, task.validation)

    setting = max(technique.settings, key=judged)
    seeds = range(contest.seeds if technique.make(0) is not task.model else 1)
    paths = [file_of(contest, technique, s, setting) for s in seeds]
    told = ", ".join(f"{k} {v:g}" if k == "rate" else f"{v}"
                     for k, v in setting.items())
    return {
        "name": technique.name,
        "bytes": max(path.stat().st_size for path in paths),
        "gzip": max(gzip_bytes(path.read_bytes()) for path in paths),
        "quality": [contest.quality(path, task.test) for path in paths],
        "remark": "; ".join(filter(None, (technique.remark, told))),
    }
