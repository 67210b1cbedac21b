"""`cache_teacher`: runs a teacher over a dataset and keeps what it says."""

import itertools
import math
import os
import pathlib
import shutil
import time
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import keras
import rich.console
import rich.progress
import tensorflow as tf

from kdtf import batches
from kdtf.console import format_bytes
from kdtf.distillation import checks
from kdtf.distillation import outputs as outputs_module

# As a module: that one imports the cache.
from kdtf.distillation import teachers
from kdtf.distillation.cache import fingerprints
from kdtf.distillation.cache import shards
from kdtf.distillation.cache.records import CacheError
from kdtf.distillation.cache.records import CacheSettings
from kdtf.distillation.cache.records import RowFormat
from kdtf.distillation.cache.teacher_cache import TeacherCache
from kdtf.distillation.cache.writing import CacheWriter

__all__ = ["cache_teacher"]


def cache_teacher(
    teacher: Any,
    dataset: Any,
    path: str | os.PathLike[str],
    *,
    top_k: int | None = None,
    samples: int | None = None,
    temperature: float = 1.0,
    dtype: str = "float16",
    batch_size: int = 32,
    key: Callable[[Any], Any] | None = None,
    inputs: Callable[[Any], Any] | None = None,
    outputs: str = "auto",
    head: str = "auto",
    seed: int = 0,
    shard_megabytes: float = 64,
    overwrite: bool = False,
    verbose: int = 1,
) -> TeacherCache:
    """Runs the teacher over a dataset once and writes what it says to disk.

    For students that see the same examples for several epochs, or several
    students. Killed and called again it goes on after the last whole shard;
    called again when it is done it computes nothing.

    Full logits of a language model are large (50,257 classes: 100 kB per
    token). `top_k` keeps the k likeliest classes and the mass of all others:
    4 bytes per class, and 3.5% error of the gradient for k = 64. `samples`
    keeps classes drawn from the teacher: noisier, but its mean over many
    examples is the full gradient.

    Args:
        teacher: A built Keras 3 or `tf_keras` model with one output of shape
            `(batch, ..., classes)`, all but the batch fixed.
        dataset: Arrays `(x,)`, `(x, y)` or `(x, y, sample_weight)`; or a
            finite `tf.data.Dataset` of such batches that gives the same order
            each time.
        path: The cache's folder.
        top_k: As for `CacheSettings`.
        samples: As for `CacheSettings`.
        temperature: As for `CacheSettings`; give the Distiller the same.
        dtype: "float16" or "float32".
        batch_size: Examples per batch, for arrays.
        key: Maps `x` to ids of shape `(batch,)`, whole numbers or strings, in
            TensorFlow operations. Defaults to what the content gives. For
            examples augmented by a seed: an id that the seed is part of.
        inputs: Maps `x` to what the teacher is fed. Defaults to the same.
        outputs: "logits", "probabilities" or "auto", which finds it from the
            last activation.
        head: "softmax" where classes exclude each other, else "sigmoid".
            "auto" goes by the last activation, and one single class.
        seed: Of `samples`.
        shard_megabytes: Size of a file, about; a whole number of batches.
        overwrite: Whether to delete an older cache at `path` first.
        verbose: 0 for silence.

    Returns:
        The cache, open.

    Raises:
        TypeError: `teacher` is no Keras model, or `dataset` no data.
        ValueError: A setting is out of range or does not fit the teacher.
        CacheError: The folder holds another cache or a damaged shard, the
            disk is too small, or a number does not fit the dtype.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> x = np.eye(4, dtype="float32")
        >>> teacher = keras.Sequential(
        ...     [keras.Input((4,)), keras.layers.Dense(3)]
        ... )
        >>> cache = cache_teacher(teacher, (x,), tempfile.mkdtemp(), verbose=0)
        >>> cache.kind, len(cache), cache.output_shape
        ('dense', 4, (None, 3))
        >>> dataset = cache.attach((x,), batch_size=2)
        >>> joined, = next(iter(dataset))
        >>> sorted(joined)
        ['kdtf_inputs', 'kdtf_teacher']

    Reference:
        Anshumann et al. 2025, https://arxiv.org/abs/2503.16870 (`samples`)
    """
    settings = CacheSettings(
        top_k=top_k,
        samples=samples,
        temperature=temperature,
        dtype=dtype,
        seed=seed,
    )
    checks.check_choice("outputs", outputs, _OUTPUTS)
    checks.check_choice("head", head, ("auto", "softmax", "sigmoid"))
    checks.check_model("teacher", teacher)
    _check_positive(batch_size=batch_size, shard_megabytes=shard_megabytes)
    walk = batches.iterate_batches(dataset, batch_size=batch_size)
    first = next(walk)
    fingerprints.row_keys(first.x, key)
    run = Runner(
        teachers.ModelTeacher(teacher, inputs=inputs), first.x, outputs, head
    )
    rows = RowFormat(
        settings=settings,
        output_shape=run.output_shape,
        head=run.head,
        has_ids=key is not None,
    )
    folder = pathlib.Path(path)
    console = rich.console.Console(
        stderr=True, force_jupyter=False, quiet=not verbose
    )
    num_rows = _num_rows(dataset, first.x)
    console.print(_check_space(folder, rows, num_rows), highlight=False)
    if overwrite:
        shards.remove(folder)
    writer = CacheWriter(
        folder,
        (None, *rows.output_shape),
        teacher=teacher,
        settings=settings,
        head=rows.head,
        key=key,
    )
    batch_bytes = rows.frame.itemsize * batches.num_examples_of(first.x)
    per_shard = max(1, int(shard_megabytes * 1e6 // batch_bytes))
    xs = (batch.x for batch in itertools.chain([first], walk))
    num_shards = _fill(writer, run, xs, per_shard, num_rows, console)
    return writer.finish(num_shards)


_OUTPUTS = ("auto", "logits", "probabilities")


class Runner:
    """Gives a teacher's logits, compiled once for batches of any size."""

    def __init__(
        self, teacher: "teachers.ModelTeacher", x: Any, outputs: str, head: str
    ) -> None:
        self._teacher = teacher
        self._outputs = outputs
        self.head = head
        self._inputs = fingerprints.describe_inputs(x)
        signature = keras.tree.map_structure(
            lambda array: tf.TensorSpec(
                (None, *array.shape[1:]), tf.as_dtype(array.dtype)
            ),
            x,
        )
        self._run = tf.function(self._logits, input_signature=[signature])
        traced = self._run.get_concrete_function().structured_outputs
        shape = traced.shape[1:]
        if not shape.is_fully_defined():
            shape = self(x).shape[1:]
        self.output_shape = tuple(shape)

    def __call__(self, x: Any) -> Any:
        """Returns float32 logits `(batch, ..., classes)`."""
        received = fingerprints.describe_inputs(x)
        if received != self._inputs:
            raise ValueError(
                "All batches must have rows of one shape. Received: "
                f"{received} after {self._inputs}. Pad them to one length."
            )
        return self._run(keras.tree.map_structure(tf.convert_to_tensor, x))

    def _logits(self, x: Any) -> Any:
        values = self._teacher(x)
        if not tf.is_tensor(values) or (values.shape.rank or 2) < 2:
            raise ValueError(
                "The teacher must have one output of shape (batch, ..., "
                f"classes). Received: {values}."
            )
        activation = outputs_module.last_activation(
            self._teacher.model
        ) or outputs_module.made_by(values)
        kind = self._kind(activation, values.shape[-1])
        self.head = kind.head
        return tf.cast(outputs_module.to_logits(values, kind), tf.float32)

    def _kind(
        self, activation: str | None, classes: int | None
    ) -> outputs_module.OutputKind:
        values: Any = self._outputs
        if values == "auto":
            if activation is None:
                raise ValueError(
                    "Whether the teacher returns logits or probabilities "
                    "cannot be told: its output comes out of a compiled "
                    "function. Received: outputs='auto'. Say `outputs="
                    "'logits'` or `outputs='probabilities'`."
                )
            is_linear = activation == "linear"
            values = "logits" if is_linear else "probabilities"
        head: Any = self.head
        if head == "auto" and activation in ("softmax", "sigmoid"):
            head = activation
        elif head == "auto":
            head = "sigmoid" if classes == 1 else "softmax"
        return outputs_module.OutputKind(values=values, head=head)


def _fill(
    writer: CacheWriter,
    run: Runner,
    xs: Iterator[Any],
    per_shard: int,
    num_rows: int | None,
    console: rich.console.Console,
) -> int:
    """Writes the shards that are not there yet; returns how many there are."""
    computed, begin = 0, time.perf_counter()
    progress = rich.progress.Progress(
        *rich.progress.Progress.get_default_columns(),
        rich.progress.MofNCompleteColumn(),
        console=console,
        disable=console.quiet,
    )
    with progress:
        task = progress.add_task("rows", total=num_rows)

        def watched(group: Iterator[Any]) -> Iterator[Any]:
            for x in group:
                yield x
                progress.advance(task, batches.num_examples_of(x))

        index = -1
        for index, group in enumerate(_groups(xs, per_shard)):
            shard = shards.find_shard(writer.path, index)
            if shard is None:
                pairs = ((x, run(x)) for x in watched(group))
                computed += writer.write(index, pairs).rows
            else:
                writer.check(index, shard, watched(group))
    seconds = time.perf_counter() - begin
    if computed:
        tokens = computed * writer.rows.positions
        unit = "tokens" if len(writer.rows.output_shape) > 1 else "rows"
        console.print(
            f"{tokens:,} {unit} in {seconds:.1f} s: "
            f"{tokens / seconds:,.0f} {unit} per second",
            highlight=False,
        )
    else:
        console.print("All rows were there; nothing was computed.")
    return index + 1


def _groups(items: Iterator[Any], size: int) -> Iterator[Iterator[Any]]:
    """Gives iterators over `size` items each, without holding them."""
    for item in items:
        rest = itertools.islice(items, size - 1)
        yield itertools.chain([item], rest)


def _num_rows(dataset: Any, first: Any) -> int | None:
    """Returns how many rows there are, at most; None if it cannot be told."""
    if not batches.is_dataset(dataset):
        return len(keras.tree.flatten(dataset)[0])
    cardinality = int(dataset.cardinality())
    if cardinality < 0:
        return None
    return cardinality * batches.num_examples_of(first)


def _check_space(
    folder: pathlib.Path, rows: RowFormat, num_rows: int | None
) -> str:
    """Returns what the cache will take of the disk; raises if that lacks it."""
    existing = next(
        p for p in [folder, *folder.absolute().parents] if p.exists()
    )
    there = sum(p.stat().st_size for p in folder.glob("teacher-*.tfrecord"))
    free = shutil.disk_usage(existing).free
    size = rows.frame.itemsize
    if num_rows is None:
        return (
            f"Teacher cache {folder}: rows of {format_bytes(size)}, their "
            f"number is unknown; {format_bytes(free)} are free."
        )
    needed = num_rows * size
    if needed > free + there:
        raise CacheError(
            f"The disk of {folder} is too small for the cache. Received: "
            f"{num_rows} rows of {size} bytes need {needed:,} bytes "
            f"({format_bytes(needed)}); {free:,} are free, {there:,} of the "
            "cache are there. Keep less (`top_k`, `samples`, "
            "`dtype='float16'`), or take another disk."
        )
    return (
        f"Teacher cache {folder}: {num_rows:,} rows of {format_bytes(size)} "
        f"are {format_bytes(needed)}; {format_bytes(free)} are free."
    )


def _check_positive(**numbers: float) -> None:
    for name, value in numbers.items():
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(
                f"`{name}` must be positive. Received: {name}={value!r}."
            )
