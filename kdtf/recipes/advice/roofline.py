"""What one thread of LiteRT can do here, and what a file asks of it."""

import dataclasses
import os
import pathlib
import tempfile
from typing import Any

import keras
import numpy as np

from kdtf.evaluation.latency import time_interleaved
from kdtf.evaluation.macs import macs_of_file
from kdtf.export import export_tflite
from kdtf.litert import Runner
from kdtf.litert import describe

__all__ = ["Bound", "Roofline"]

_RUNS = 30
_SIDE, _CHANNELS = 32, 64
# 38 MB of weights: beyond the caches of most machines.
_WIDTH = 3072
_NUM_SMALL = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bound:
    """The times a file cannot be faster than, in milliseconds.

    Attributes:
        compute: Its multiply-accumulates at the machine's best rate.
        memory: Its bytes, read once at the machine's best rate.
        overhead: Its operators, each at what an empty one takes.
        measured: What it takes.
    """

    compute: float
    memory: float
    overhead: float
    measured: float

    @property
    def by(self) -> str:
        """What takes most: "compute", "memory" or "overhead"."""
        times = {k: getattr(self, k) for k in ("compute", "memory", "overhead")}
        return max(times, key=lambda name: times[name])

    def __str__(self) -> str:
        """Says it in a sentence."""
        words = {
            "compute": "its multiply-accumulates",
            "memory": "reading its weights",
            "overhead": "starting its operators",
        }
        return (
            f"{self.measured:.3g} ms a call; at this machine's best rates "
            f"multiply-accumulates take {self.compute:.2g} ms, weights "
            f"{self.memory:.2g} ms, operators {self.overhead:.2g} ms: bound "
            f"by {words[self.by]}."
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Roofline:
    """Rates of one thread of LiteRT on this machine, for float files.

    Attributes:
        macs_per_ms: Multiply-accumulates of a convolution.
        bytes_per_ms: Of weights that are read once.
        ms_per_operator: Of one on a single number.

    Reference:
        Williams et al. 2009, https://doi.org/10.1145/1498765.1498785
    """

    macs_per_ms: float
    bytes_per_ms: float
    ms_per_operator: float

    @classmethod
    def measure(cls) -> "Roofline":
        """Times three models that ask for one thing each: a few seconds."""
        with tempfile.TemporaryDirectory() as folder:
            paths = {
                name: _written(model, pathlib.Path(folder, f"{name}.tflite"))
                for name, model in _probes().items()
            }
            times = dict(zip(paths, _times(list(paths.values())), strict=True))
            compute, memory = paths["compute"], paths["memory"]
            return cls(
                macs_per_ms=macs_of_file(compute) / times["compute"],
                bytes_per_ms=memory.stat().st_size / times["memory"],
                ms_per_operator=times["overhead"] / _NUM_SMALL,
            )

    def bound(self, path: str | os.PathLike[str], measured: float) -> Bound:
        """Returns what a file is bound by.

        Args:
            path: A `.tflite` file.
            measured: Its time in milliseconds.
        """
        path = pathlib.Path(path)
        operators = sum(describe(path).operators.values())
        return Bound(
            compute=macs_of_file(path) / self.macs_per_ms,
            memory=path.stat().st_size / self.bytes_per_ms,
            overhead=operators * self.ms_per_operator,
            measured=measured,
        )


def _probes() -> dict[str, Any]:
    layers = keras.layers
    small = keras.Sequential([keras.Input((1,))])
    for _ in range(_NUM_SMALL // 2):
        # Two kinds in turn, so that none are merged into one.
        small.add(layers.Activation("tanh"))
        small.add(layers.Activation("exponential"))
    convolution = layers.Conv2D(_CHANNELS, 3, padding="same")
    return {
        "compute": keras.Sequential(
            [keras.Input((_SIDE, _SIDE, _CHANNELS)), convolution]
        ),
        "memory": keras.Sequential(
            [keras.Input((_WIDTH,)), layers.Dense(_WIDTH)]
        ),
        "overhead": small,
    }


def _written(model: Any, path: pathlib.Path) -> pathlib.Path:
    export_tflite(model, path, target="float")
    return path


def _times(paths: list[pathlib.Path]) -> list[float]:
    """Returns each file's median time of a call in milliseconds."""
    runners = [Runner(path) for path in paths]
    for runner in runners:
        (spec,) = runner.input_specs.values()
        runner(np.zeros([size or 1 for size in spec.shape], "float32"))
    calls = [runner.invoke_once for runner in runners]
    return [
        float(np.median(t)) for t in time_interleaved(calls, num_runs=_RUNS)
    ]
