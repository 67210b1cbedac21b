"""Each technique alone, at the size of the file that `kdtf.compress` chose.

`compress_tasks.py --singles` calls it. Everything that is trained takes as
many steps as the chosen file did. What a technique can be told (its rate, how
zeros are spread) is chosen by its file on the validation data with the first
seed, the table is of the test data. A technique that has no file as small
shows the smallest it has; of zeros and of few values the compressed file
counts, where they pay.
"""

import contextlib
import dataclasses
import functools
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
from kdtf.recipes.preprocessing import fit_arrays
from kdtf.schedules import PolynomialSchedule
from kdtf.search.objective import as_if_trained

SCHEMES = ("int8", "dynamic_int8", "int4_block32", "int4", "int2")
CLUSTERS = (2, 3, 4, 5, 6, 8, 12, 16, 24, 32, 64, 128)
KEEPS = tuple(round(float(keep), 4) for keep in np.geomspace(0.01, 0.99, 200))
# From the smallest compressed file to the largest.
ZEROS = tuple(round(1.0 - 0.005 * step, 3) for step in range(1, 190))
# Training changes what weights compress to.
MARGIN = 0.99
FLOAT = {"target": "float"}
HALF = {"target": "float", "quantize": "float16"}
ANDROID = {"target": "android"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Technique:
    """What is tried.

    Args:
        name: For the table.
        export: Options of the export.
        make: Makes the trained model: `make(**setting)`.
        settings: To choose from.
        remark: What it was told.
        trains: Whether seeds matter.
    """

    name: str
    export: dict[str, str]
    make: Callable[..., Any]
    settings: tuple[dict[str, Any], ...] = ({},)
    remark: str = ""
    trains: bool = True


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
    def taught(self):
        """Epochs of the chosen model before it was quantized."""
        factor = self.chosen.settings["distil"]["epochs_factor"]
        return self.task.epochs * factor

    @property
    def epochs(self):
        return self.taught + self.task.epochs

    @property
    def steps(self):
        """Of all its training."""
        return self.epochs * -(-len(self.task.train[1]) // 32)

    @property
    def inputs(self):
        return first_examples(self.task.train, 200)

    @property
    def rates(self):
        rate = self.task.rate
        return {"rate": rate}, {"rate": 0.1 * rate}

    def fit(self, model, *, rate, epochs=None, teacher=None):
        trained, epochs = model, epochs or self.epochs
        if teacher is not None:
            trained = kdtf.Distiller(teacher, model, alpha=0.1, temperature=2.0)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        steps = epochs * -(-len(self.task.train[1]) // 32)
        decay = keras.optimizers.schedules.CosineDecay(rate, steps)
        trained.compile(keras.optimizers.Adam(decay), loss)
        x, y = self.task.train
        options = {"batch_size": 32, "epochs": epochs, "verbose": 0}
        fit_arrays(trained, x=x, y=y, **options)
        return model

    def export(self, model, path, options):
        kdtf.export_tflite(
            model,
            path,
            representative_data=self.inputs,
            verify_data=first_examples(self.task.validation, 64),
            **options,
        )

    def content(self, model, options):
        """The file of a model before its training."""
        path = self.folder / "untrained.tflite"
        with as_if_trained(model):
            self.export(model, path, options)
        content = path.read_bytes()
        path.unlink()
        return content

    def quality(self, path, data):
        row = compare(
            {"file": path}, data, metrics=[self.task.metric], latency_runs=0
        )["file"]
        (value,) = row.metrics.values()
        return value

    def shrunk(self, keep, *, anew=False):
        told = self.chosen.settings["shrink"] | {"keep": keep}
        model = kdtf.shrink(self.task.model, **told, data=self.inputs)
        if not anew:
            return model
        # The same architecture with new weights.
        is_task = backbone_of(model) is not None
        return (
            resized(model, {}) if is_task else keras.models.clone_model(model)
        )

    def quantized(self, scheme):
        model = copied(self.task.model)
        return kdtf.quantize_aware(model, scheme, data=(self.inputs,))

    def pruned(self, sparsity=None, **options):
        model = copied(self.task.model)
        return kdtf.prune(
            model, sparsity, select=lambda one: one.is_matrix, **options
        )


def largest(candidates, size_of, limit):
    """The last of rising candidates that fits, or the first that exists."""
    known = {}

    def fits(index):
        # What does not exist is too small.
        with contextlib.suppress(ValueError):
            known[index] = size_of(candidates[index])
        return known.get(index, 0) <= limit

    low, high = -1, len(candidates)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return candidates[low if low in known else min(high, len(candidates) - 1)]


def same_steps(contest, *, anew=False):
    """What compress did, by hand; with new weights it has no teacher."""
    told = contest.chosen.settings
    scheme, keep = told["quantize_aware"]["scheme"], told["shrink"]["keep"]
    rate, teacher = contest.task.rate, None if anew else contest.task.model

    def make():
        model = contest.shrunk(keep, anew=anew)
        contest.fit(model, rate=rate, epochs=contest.taught, teacher=teacher)
        kdtf.quantize_aware(model, scheme, data=(contest.inputs,))
        epochs = contest.task.epochs
        return contest.fit(
            model, rate=0.1 * rate, epochs=epochs, teacher=teacher
        )

    words = "a new network by labels" if anew else "all steps of compress"
    return Technique(name=f"{words}, {scheme}", export=ANDROID, make=make)


def post_training(contest):
    model, sizes = contest.task.model, {}
    for mode in filter(None, MODES):
        # A mode may suit no kernel of the model.
        with contextlib.suppress(ValueError):
            content = contest.content(model, ANDROID | {"quantize": mode})
            sizes[mode] = len(content)
    mode = min(sizes, key=lambda one: sizes[one])
    return Technique(
        name=f"post-training {mode}",
        export=ANDROID | {"quantize": mode},
        make=lambda: model,
        remark=told_sizes(sizes),
        trains=False,
    )


def quantization_aware(contest):
    sizes = {}
    for scheme in SCHEMES:
        try:
            content = contest.content(contest.quantized(scheme), ANDROID)
            sizes[scheme] = len(content)
        except (ValueError, RuntimeError) as error:
            # LiteRT may not run its file, or compute something else.
            print(f"{scheme}: {' '.join(f'{error}'.split())[:160]}")
    scheme = min(sizes, key=lambda one: sizes[one])
    return Technique(
        name=f"quantization-aware {scheme}",
        export=ANDROID,
        make=lambda rate: contest.fit(contest.quantized(scheme), rate=rate),
        settings=contest.rates,
        remark=told_sizes(sizes),
    )


def told_sizes(sizes):
    return ", ".join(f"{name} {size:,}" for name, size in sizes.items())


def shrunk(contest, *, export=FLOAT, anew=False):
    """Narrower in float by labels; or new weights taught by the original."""
    keep = largest(
        KEEPS,
        lambda one: len(contest.content(contest.shrunk(one), export)),
        contest.size,
    )
    teacher = contest.task.model if anew else None
    words = "distilled into a new network" if anew else "shrunk, labels"
    return Technique(
        name=f"{words}, {export.get('quantize', 'float32')}",
        export=export,
        make=lambda rate: contest.fit(
            contest.shrunk(keep, anew=anew), rate=rate, teacher=teacher
        ),
        settings=contest.rates,
        remark=f"{keep:.1%} kept",
    )


def pruned(contest):
    sparsity = largest(
        ZEROS,
        lambda one: gzip_bytes(
            contest.content(kdtf.strip(contest.pruned(one)), FLOAT)
        ),
        MARGIN * contest.size,
    )
    steps = contest.steps
    schedule = PolynomialSchedule(
        initial=0.0, final=sparsity, begin_step=0, end_step=steps // 2
    )

    def make(rate, allocation):
        model = contest.pruned(
            schedule=schedule,
            allocation=allocation,
            frequency=max(1, steps // 50),
        )
        return kdtf.strip(contest.fit(model, rate=rate))

    return Technique(
        name="pruned, float32",
        export=FLOAT,
        make=make,
        settings=tuple(
            rate | {"allocation": allocation}
            for rate in contest.rates
            for allocation in ("uniform", "global")
        ),
        remark=f"{sparsity:.1%} zeros",
    )


def clustered(contest):
    def few(number):
        return kdtf.cluster(copied(contest.task.model), number)

    number = largest(
        CLUSTERS,
        lambda one: gzip_bytes(contest.content(kdtf.strip(few(one)), FLOAT)),
        MARGIN * contest.size,
    )
    return Technique(
        name="clustered, float32",
        export=FLOAT,
        make=lambda rate: kdtf.strip(contest.fit(few(number), rate=rate)),
        settings=contest.rates,
        remark=f"{number} values a kernel",
    )


TECHNIQUES = {
    "same": same_steps,
    "post-training": post_training,
    "quantization-aware": quantization_aware,
    "shrunk": shrunk,
    "distilled": functools.partial(shrunk, anew=True),
    "pruned": pruned,
    "clustered": clustered,
    "shrunk-float16": functools.partial(shrunk, export=HALF),
    "new-int8": functools.partial(same_steps, anew=True),
}


def entry_of(contest, key, technique):
    """Makes all files of a technique: what they cost and can do."""
    task = contest.task

    def file_of(number, seed):
        path = contest.folder / f"{key}-{number}-seed{seed}.tflite"
        if not path.exists():
            keras.utils.set_random_seed(seed)
            model = technique.make(**technique.settings[number])
            contest.export(model, path, technique.export)
        return path

    number = 0
    if len(technique.settings) > 1:
        judged = [
            contest.quality(file_of(index, 0), task.validation)
            for index in range(len(technique.settings))
        ]
        higher = metric_direction(task.metric) == "higher"
        number = int(np.argmax(judged) if higher else np.argmin(judged))
    seeds = range(contest.seeds if technique.trains else 1)
    paths = [file_of(number, seed) for seed in seeds]
    told = [f"{k} {v}" for k, v in technique.settings[number].items()]
    return {
        "name": technique.name,
        "bytes": max(path.stat().st_size for path in paths),
        "gzip": max(gzip_bytes(path.read_bytes()) for path in paths),
        "quality": [contest.quality(path, task.test) for path in paths],
        "remark": "; ".join(filter(None, [technique.remark, *told])),
    }


def contend(task, found, folder, seeds):
    """Prints the table of all techniques beside the chosen file.

    Args:
        task: Of `compress_tasks.py`.
        found: What `kdtf.compress` returned, a shrunk model chosen.
        folder: Of the files; it is made.
        seeds: How often everything is trained.
    """
    folder.mkdir(parents=True, exist_ok=True)
    contest = Contest(
        task=task, chosen=found.chosen, folder=folder, seeds=seeds
    )
    first = {
        "name": f"compress: {found.chosen.name}",
        "bytes": contest.size,
        "gzip": int(found.chosen.gzip_size_bytes),
        "quality": [contest.quality(found.path, task.test)],
        "remark": "the file it chose",
    }
    print(f"at {contest.size:,} bytes, {contest.epochs} epochs each")
    print(line("", "bytes", "gzip", "on test data", ""))
    show(first, contest.size)
    for key, describe in TECHNIQUES.items():
        path = folder / f"{key}.json"
        if not path.exists():
            entry = entry_of(contest, key, describe(contest))
            with atomic_path(path) as temporary:
                temporary.write_text(json.dumps(entry, indent=1))
        show(json.loads(path.read_text()), contest.size)


def line(*words):
    name, size, gzip, quality, remark = words
    return f"{name:40}{size:>11}{gzip:>11}  {quality:25}{remark}"


def show(entry, limit):
    values = entry["quality"]
    words = f"{np.mean(values):.4f}"
    if len(values) > 1:
        words += f" ({min(values):.4f}-{max(values):.4f})"
    remark = entry["remark"]
    if entry["bytes"] > limit:
        fits = entry["gzip"] <= limit
        remark = f"{'fits compressed' if fits else 'smallest'}; {remark}"
    numbers = f"{entry['bytes']:,}", f"{entry['gzip']:,}"
    print(line(entry["name"], *numbers, words, remark), flush=True)
