"""Measures models side by side: size, latency and quality."""

import pathlib
import tempfile
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np
import rich.console

from kdtf.batches import Batch
from kdtf.batches import first_examples
from kdtf.batches import iterate_batches
from kdtf.evaluation.comparison import Comparison
from kdtf.evaluation.environment import describe_environment
from kdtf.evaluation.latency import Latency
from kdtf.evaluation.latency import time_interleaved
from kdtf.evaluation.metrics import check_metrics
from kdtf.evaluation.metrics import metric_direction
from kdtf.evaluation.metrics import metric_name
from kdtf.evaluation.quality import Quality
from kdtf.evaluation.quality import measure_quality
from kdtf.evaluation.rows import Row
from kdtf.evaluation.subjects import Subject
from kdtf.evaluation.subjects import batch_size_of
from kdtf.evaluation.subjects import make_subject
from kdtf.evaluation.subjects import timed_call

# Enough to verify the export of a model that is exported to be timed.
_NUM_VERIFIED = 4


def compare(
    models: Mapping[str, Any],
    data: Any = None,
    *,
    metrics: Sequence[Any] | None = None,
    num_threads: int = 1,
    latency_runs: int = 50,
    batch_size: int = 32,
) -> Comparison:
    """Measures models and files side by side on the same data.

    Size: a `.tflite` file's bytes, a Keras model's weight bytes. Latency: one
    call at batch 1 on LiteRT, the runs of all rows in turn so that a busy
    machine slows all alike; Keras models are exported to a temporary float
    `.tflite` for it. Quality: any Keras metric, and the share of decisions
    that equal the first row's. `sample_weight` weights the metrics; where it
    or the first model's mask is 0, a place is padding and counts nowhere.

    Args:
        models: By row name: a `keras.Model`, a `tf_keras.Model`, or a path to
            a `.keras`, `.h5` or `.tflite` file. The first is the reference.
        data: `(x, y)` or `(x, y, sample_weight)` arrays, where `x` may be a
            dict or tuple; or a `tf.data.Dataset` of such batches. None
            measures size, and latency on random inputs.
        metrics: Names, `keras.metrics.Metric` objects (each row gets a copy)
            or functions. "accuracy" fits itself to the labels.
        num_threads: CPU threads for LiteRT, at least 1. Defaults to 1.
        latency_runs: Timed calls of each row; 0 skips latency. Defaults
            to 50.
        batch_size: Examples per prediction, for arrays. Defaults to 32.

    Returns:
        The rows; it prints itself and writes JSON and HTML.

    Raises:
        TypeError: A model or a metric is nothing of the kind.
        ValueError: No models, a damaged file, metrics without labels, or
            data that a model cannot run on.

    Example:
        >>> import keras, numpy as np
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        >>> data = (np.ones((5, 3)), np.zeros(5, "int32"))
        >>> comparison = compare({"model": model}, data, latency_runs=0)
        >>> comparison["model"].size_bytes, comparison["model"].agreement
        (32, 1.0)
    """
    metrics = list(metrics or ())
    _check_arguments(models, data, metrics, latency_runs)
    examples = None if data is None else first_examples(data, _NUM_VERIFIED)
    with tempfile.TemporaryDirectory() as folder:
        # Ends before the timing: its animation is a thread that disturbs. In a
        # notebook it would leave its last line, in red.
        is_notebook = rich.console.Console().is_jupyter
        console = rich.console.Console(
            stderr=True, force_jupyter=False, quiet=is_notebook
        )
        with console.status("Loading") as status:
            subjects = []
            for index, (name, model) in enumerate(models.items()):
                status.update(f"Loading {name}")
                path = pathlib.Path(folder, f"{index}.tflite")
                subject = make_subject(
                    name,
                    model,
                    examples=examples,
                    num_threads=num_threads,
                    timed_path=path if latency_runs else None,
                )
                subjects.append(subject)
            batches = _watched(data, batch_size, status)
            predicts = {subject.name: subject.predict for subject in subjects}
            qualities = measure_quality(predicts, batches, metrics=metrics)
        latencies, notes = _latencies(
            subjects, examples, num_runs=latency_runs, num_threads=num_threads
        )
    directions = {metric_name(m): metric_direction(m) for m in metrics}
    environment = describe_environment() | {"threads": str(num_threads)}
    return Comparison(
        rows=tuple(
            _row(s, qualities[s.name], latencies.get(s.name), notes[s.name])
            for s in subjects
        ),
        directions=directions,
        num_examples=max(q.num_examples for q in qualities.values()),
        environment=environment,
    )


def _check_arguments(
    models: Any, data: Any, metrics: Sequence[Any], latency_runs: int
) -> None:
    if not isinstance(models, Mapping) or not models:
        raise ValueError(
            "`models` must be a dict from row names to models or paths, with "
            f"at least one. Received: models={models!r}. For one model pass "
            '{"model": model}.'
        )
    if metrics and data is None:
        raise ValueError(
            f"`metrics` need data. Received: metrics={metrics}, data=None. "
            "Pass (x, y), or no metrics."
        )
    if latency_runs < 0:
        raise ValueError(
            "`latency_runs` must be at least 0 (0 skips latency). Received: "
            f"latency_runs={latency_runs}."
        )
    check_metrics(metrics)


def _watched(data: Any, batch_size: int, status: Any) -> Iterator[Batch]:
    """Gives the batches and says how far it is; none without data."""
    if data is None:
        return
    for number, batch in enumerate(
        iterate_batches(data, batch_size=batch_size), start=1
    ):
        status.update(f"Predicting batch {number}")
        yield batch


def _latencies(
    subjects: Sequence[Subject],
    examples: Any,
    *,
    num_runs: int,
    num_threads: int,
) -> tuple[dict[str, Latency], dict[str, str]]:
    """Times what can be timed; says by name why the others cannot."""
    notes = {subject.name: subject.note for subject in subjects}
    calls: dict[str, Callable[[], None]] = {}
    runners = {s.name: s.runner for s in subjects if s.runner is not None}
    if not num_runs:
        return {}, notes
    for name, runner in runners.items():
        try:
            calls[name] = timed_call(runner, examples)
        except ValueError as error:
            notes[name] = f"not timed: {error}"
    times = time_interleaved(list(calls.values()), num_runs=num_runs)
    latencies = {
        name: Latency(
            p50_ms=float(np.percentile(own, 50)),
            p90_ms=float(np.percentile(own, 90)),
            num_runs=num_runs,
            num_threads=num_threads,
            batch_size=batch_size_of(runners[name]),
        )
        for name, own in zip(calls, times, strict=True)
    }
    return latencies, notes


def _row(
    subject: Subject, quality: Quality, latency: Latency | None, note: str
) -> Row:
    return Row(
        name=subject.name,
        kind=subject.kind,
        num_parameters=subject.size.num_parameters,
        num_nonzero=subject.size.num_nonzero,
        size_bytes=subject.size.size_bytes,
        gzip_size_bytes=subject.size.gzip_size_bytes,
        latency=latency,
        metrics=quality.metrics,
        agreement=quality.agreement,
        notes=tuple(text for text in (note, quality.note) if text),
    )
