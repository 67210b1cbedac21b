"""How long a smaller model takes on LiteRT, beside the given one."""

import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable

import keras
import numpy as np

from kdtf.litert import Runner
from kdtf.litert import TensorSpec

__all__ = ["RelativeLatency"]

# Of sizes that a model leaves open, such as the length of texts.
_OPEN_SIZE = 128
_WARMUP, _ROUNDS, _MOST_ROUNDS, _SECONDS = 3, 21, 2000, 0.25


class RelativeLatency:
    """The time of one example, as a share of a given model's.

    Float files on one thread, timed in turn: a machine that gets slower for
    a moment slows both. The files are for timing alone, nothing verifies
    them; `kdtf.export_tflite` does.

    Args:
        model: The model whose time is 1.
    """

    def __init__(self, model: keras.Model) -> None:
        """Converts the model."""
        self._given = _runner(model)

    def __call__(self, model: keras.Model) -> float:
        """Returns the ratio of the medians."""
        smaller = _runner(model)
        first, second = medians([self._given.invoke_once, smaller.invoke_once])
        return second / first


def medians(
    calls: list[Callable[[], object]],
    clock: Callable[[], float] = time.perf_counter,
) -> list[float]:
    """Returns the median times of functions, called a, b, a, b, ...

    Args:
        calls: The functions.
        clock: Gives seconds.
    """
    for _ in range(_WARMUP):
        for call in calls:
            call()
    times: list[list[float]] = [[] for _ in calls]
    begin = clock()
    for number in range(_MOST_ROUNDS):
        for call, own in zip(calls, times, strict=True):
            start = clock()
            call()
            own.append(clock() - start)
        if number + 1 >= _ROUNDS and clock() - begin > _SECONDS:
            break
    return [statistics.median(own) for own in times]


def _runner(model: keras.Model) -> Runner:
    """Returns a model's float file, called once."""
    # What is mapped into memory outlives the file.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        path = pathlib.Path(folder) / "model.tflite"
        model.export(path, format="litert", verbose=False)
        runner = Runner(path)
        runner({name: _ones(spec) for name, spec in runner.input_specs.items()})
    return runner


def _ones(spec: TensorSpec) -> np.ndarray:
    # The first is the batch.
    open_sizes = [1] + [_OPEN_SIZE] * len(spec.shape)
    sizes = zip(spec.shape, open_sizes, strict=False)
    return np.ones([size or other for size, other in sizes], spec.dtype)
