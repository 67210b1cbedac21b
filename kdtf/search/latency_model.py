"""How long a file will take on a device, told without the device.

A search asks for the latency of hundreds of models. Where the device is not
at hand, or is busy, or noisy, some dozens of measured files teach a formula
that answers for the others.
"""

import dataclasses
import json
import math
import os
import pathlib
import re
import time
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np

from kdtf.evaluation.latency import Clock
from kdtf.evaluation.latency import time_interleaved
from kdtf.evaluation.macs import Execution
from kdtf.evaluation.macs import executed_operators
from kdtf.evaluation.macs import macs_of_execution
from kdtf.evaluation.macs import shape_of
from kdtf.evaluation.subjects import timed_call
from kdtf.files import atomic_path
from kdtf.flatbuffer import dtype_name
from kdtf.flatbuffer import read_model
from kdtf.litert import Runner

__all__ = ["LatencyModel", "features_of_file", "measure"]

MIN_FILES = 5
# Strengths of the penalty to choose from; 1 weighs a coefficient that makes
# up a whole latency like a prediction that is wrong by all of it.
ALPHAS = (1e-8, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
_FORMAT = "kdtf latency model"
_VERSION = 1

_FAMILIES = {
    "CONV_2D": "convolution_macs",
    "CONV_3D": "convolution_macs",
    "TRANSPOSE_CONV": "convolution_macs",
    "DEPTHWISE_CONV_2D": "depthwise_macs",
    "FULLY_CONNECTED": "dense_macs",
    "UNIDIRECTIONAL_SEQUENCE_LSTM": "dense_macs",
    "BATCH_MATMUL": "matmul_macs",
}
# Each element costs a series or a table look-up, not one instruction.
_TRANSCENDENTAL = frozenset(
    "SOFTMAX LOG_SOFTMAX LOGISTIC TANH GELU ELU EXP LOG RSQRT SQRT POW SIN "
    "COS HARD_SWISH UNIDIRECTIONAL_SEQUENCE_LSTM".split()
)
FEATURES = (
    "convolution_macs",
    "depthwise_macs",
    "dense_macs",
    "matmul_macs",
    "float_macs",
    "num_operators",
    "activation_bytes",
    "transcendental_elements",
    "size_bytes",
)


def measure(
    paths: Sequence[str | os.PathLike[str]],
    *,
    num_runs: int = 50,
    num_warmup: int = 3,
    inputs: Any = None,
    num_threads: int = 1,
    clock: Clock = time.perf_counter,
) -> list[float]:
    """Returns the median time of one call of each file, in milliseconds.

    LiteRT runs them in turn on this machine, so that what slows it for a
    second slows all alike.

    Args:
        paths: The `.tflite` files.
        num_runs: Timed calls of each, at least 1. Defaults to 50.
        num_warmup: Calls of each before that. Defaults to 3.
        inputs: Inputs that all files take, as their models take them; the
            first example is used. Defaults to random ones.
        num_threads: CPU threads, at least 1. Defaults to 1.
        clock: Gives seconds.

    Raises:
        ValueError: A file cannot be run on these inputs, or a number is too
            small.
    """
    calls = [
        timed_call(Runner(path, num_threads=num_threads), inputs)
        for path in paths
    ]
    times = time_interleaved(
        calls, num_runs=num_runs, num_warmup=num_warmup, clock=clock
    )
    return [float(np.median(own)) for own in times]


def features_of_file(path: str | os.PathLike[str]) -> dict[str, float]:
    """Returns what a `LatencyModel` sees of a `.tflite` file.

    The multiply-accumulates of each family of operators, and how many of all
    have float weights; how many operators run, how many bytes they write and
    how many elements pass an exponential or the like; the file's bytes.

    Args:
        path: The file.

    Raises:
        ValueError: It is no `.tflite` file, or its work is not known; see
            `kdtf.evaluation.macs.macs_of_file`.
    """
    name = os.fspath(path)
    content = pathlib.Path(path).read_bytes()
    model = read_model(content, name=name)
    features = dict.fromkeys(FEATURES, 0.0)
    features["size_bytes"] = float(len(content))
    for execution in executed_operators(model, name=name):
        macs = macs_of_execution(execution, name=name)
        if macs:
            features[_FAMILIES[execution.name]] += macs
            features["float_macs"] += macs * _has_float_weights(execution)
        features["num_operators"] += execution.num_times
        # A loop's results are written by its body.
        is_loop = execution.name == "WHILE"
        for tensor in [] if is_loop else execution.outputs():
            elements = math.prod(shape_of(tensor)) * execution.num_times
            features["activation_bytes"] += elements * _element_bytes(tensor)
            if execution.name in _TRANSCENDENTAL:
                features["transcendental_elements"] += elements
    return features


@dataclasses.dataclass(frozen=True, kw_only=True)
class LatencyModel:
    """Predicts the latency of `.tflite` files from what is in them.

    A sum: milliseconds per call, plus milliseconds for each unit of work.
    None of them is negative, so more work never takes less time, and no
    prediction is below 0. It holds for one device, number of threads and
    kind of model; files far bigger or smaller than those it was made from
    are a guess.

    Attributes:
        intercept_ms: What a call takes in any case.
        coefficients_ms: Feature to milliseconds per unit.
        alpha: Strength of the ridge penalty.
        error: Mean absolute error relative to the latency, each file being
            predicted from the others; 0.1 is 10%. If `alpha` was chosen, it
            was so for this error, which is then a little too low.
        rank_correlation: Spearman's, between these predictions and the
            latencies: 1 if they are in the same order. 0 if all are equal.
        num_files: How many files it was made from.

    Example:
        >>> import keras, tempfile
        >>> from kdtf.export import export_tflite
        >>> path = os.path.join(tempfile.mkdtemp(), "dense.tflite")
        >>> layers = [keras.Input((100,)), keras.layers.Dense(10)]
        >>> _ = export_tflite(keras.Sequential(layers), path)
        >>> model = LatencyModel(
        ...     intercept_ms=0.02, coefficients_ms={"dense_macs": 1e-5},
        ...     alpha=0.1, error=0.04, rank_correlation=0.98, num_files=24,
        ... )
        >>> round(model.predict(path), 6)
        0.03
    """

    intercept_ms: float
    coefficients_ms: Mapping[str, float]
    alpha: float
    error: float
    rank_correlation: float
    num_files: int

    @classmethod
    def fit(
        cls,
        paths: Sequence[str | os.PathLike[str]],
        latencies_ms: Sequence[float],
        *,
        alpha: float | None = None,
    ) -> "LatencyModel":
        """Returns the model that fits measured files best.

        Ridge regression on the relative error,
        `sum((predicted / latency - 1)^2) + alpha * sum(w^2)`, where `w` are
        the coefficients over features of standard deviation 1, as shares of
        the typical latency, none negative. The intercept is not penalised.

        Args:
            paths: At least 5 `.tflite` files, better some dozens, of the
                kind that shall be predicted.
            latencies_ms: What each takes, for example from `measure`.
            alpha: Strength of the penalty, above 0. Defaults to the one of
                `ALPHAS` with the least leave-one-out error.

        Raises:
            ValueError: There are too few files, a latency is not above 0,
                their numbers differ, `alpha` is not above 0, or a file is
                not readable.
        """
        latencies = _checked_latencies(paths, latencies_ms)
        if alpha is not None and not 0 < alpha < math.inf:
            raise ValueError(
                "`alpha` must be above 0. Received: "
                f"alpha={alpha!r}. Leave it out to have it chosen."
            )
        table = np.array(
            [list(features_of_file(path).values()) for path in paths]
        )
        # The strongest penalty wins ties: it trusts the files least.
        strengths = sorted(ALPHAS, reverse=True) if alpha is None else [alpha]
        tried = [(a, *_held_out(table, latencies, a)) for a in strengths]
        chosen, error, predicted = min(tried, key=lambda found: found[1])
        intercept, slopes = _solve(table, latencies, chosen)
        return cls(
            intercept_ms=intercept,
            coefficients_ms=dict(zip(FEATURES, slopes.tolist(), strict=True)),
            alpha=float(chosen),
            error=error,
            rank_correlation=_rank_correlation(predicted, latencies),
            num_files=len(latencies),
        )

    def predict(self, path: str | os.PathLike[str]) -> float:
        """Returns how long one call of a file will take, in milliseconds.

        Args:
            path: A `.tflite` file.

        Raises:
            ValueError: It is none, or its work is not known.
        """
        features = features_of_file(path)
        return self.intercept_ms + sum(
            slope * features[name]
            for name, slope in self.coefficients_ms.items()
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes it as JSON, whole or not at all."""
        stored = {"format": _FORMAT, "version": _VERSION}
        content = json.dumps(stored | dataclasses.asdict(self), indent=2)
        with atomic_path(path) as temporary:
            temporary.write_text(f"{content}\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "LatencyModel":
        """Returns what `save` wrote.

        Args:
            path: The file.

        Raises:
            ValueError: The file is damaged or another one.
            FileNotFoundError: There is none.
        """
        content = pathlib.Path(path).read_bytes()
        try:
            return _from_stored(json.loads(content))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(
                "A latency model must be a JSON file that `save` wrote. "
                f"Received: path={os.fspath(path)!r}, where "
                f"{type(error).__name__}: {error}. Fit and save it again."
            ) from error

    def __str__(self) -> str:
        """Says how well it predicts."""
        return (
            f"Latency from {self.num_files} files: off by {self.error:.1%} "
            "on a file left out (mean), rank correlation "
            f"{self.rank_correlation:.2f}"
        )


def _from_stored(stored: dict[str, Any]) -> LatencyModel:
    if stored.get("format") != _FORMAT or stored.get("version") != _VERSION:
        raise ValueError(
            f"format and version are {stored.get('format')!r} and "
            f"{stored.get('version')!r}, not {_FORMAT!r} and {_VERSION}"
        )
    slopes = {name: float(stored["coefficients_ms"][name]) for name in FEATURES}
    others = ("intercept_ms", "alpha", "error", "rank_correlation")
    numbers = {name: float(stored[name]) for name in others}
    finite = all(map(math.isfinite, (*slopes.values(), *numbers.values())))
    lowest = min(*slopes.values(), numbers["intercept_ms"])
    if not finite or lowest < 0:
        raise ValueError("a number is negative or not finite")
    return LatencyModel(
        coefficients_ms=slopes, num_files=int(stored["num_files"]), **numbers
    )


def _checked_latencies(
    paths: Sequence[str | os.PathLike[str]], latencies_ms: Sequence[float]
) -> np.ndarray:
    if isinstance(paths, str | os.PathLike):
        raise TypeError(
            f"`paths` must be a list of files. Received: paths={paths!r}."
        )
    latencies = np.asarray(latencies_ms, "float64")
    if latencies.shape != (len(paths),):
        raise ValueError(
            "`latencies_ms` must hold one number for each of `paths`. "
            f"Received: {len(paths)} paths, latencies of shape "
            f"{latencies.shape}."
        )
    if len(paths) < MIN_FILES:
        raise ValueError(
            f"A latency model needs at least {MIN_FILES} measured files. "
            f"Received: {len(paths)}. Export and `measure` some more models "
            "of the space, small and big ones."
        )
    if not np.all(np.isfinite(latencies) & (latencies > 0)):
        raise ValueError(
            "`latencies_ms` must be above 0. Received: "
            f"latencies_ms={latencies.tolist()}."
        )
    return latencies


def _solve(
    table: np.ndarray, latencies: np.ndarray, alpha: float
) -> tuple[float, np.ndarray]:
    """Returns the intercept and a coefficient per feature, none negative.

    The penalty is written as further equations, `sqrt(alpha) * w = 0`, so
    that a solver of non-negative least squares gives the exact ridge.
    """
    from sklearn.linear_model import LinearRegression

    # A feature that never changes cannot be told from the intercept.
    spread = table.std(axis=0)
    varies = spread > 1e-12 * np.abs(table).max(axis=0)
    typical = float(np.exp(np.log(latencies).mean()))
    scaled = table[:, varies] / spread[varies]
    ones = np.ones((len(latencies), 1))
    work = np.hstack([ones, scaled]) * (typical / latencies)[:, None]
    penalty = math.sqrt(alpha) * np.eye(work.shape[1])[1:]
    rows = np.vstack([work, penalty])
    target = np.concatenate([np.ones(len(latencies)), np.zeros(len(penalty))])
    solver = LinearRegression(positive=True, fit_intercept=False)
    shares = np.maximum(solver.fit(rows, target).coef_, 0.0)
    slopes = np.zeros(table.shape[1])
    slopes[varies] = shares[1:] * typical / spread[varies]
    return float(shares[0] * typical), slopes


def _held_out(
    table: np.ndarray, latencies: np.ndarray, alpha: float
) -> tuple[float, np.ndarray]:
    """Returns the leave-one-out error and each file's prediction."""
    predicted = np.empty_like(latencies)
    for place in range(len(latencies)):
        others = np.arange(len(latencies)) != place
        intercept, slopes = _solve(table[others], latencies[others], alpha)
        predicted[place] = intercept + table[place] @ slopes
    return float(np.mean(np.abs(predicted / latencies - 1))), predicted


def _rank_correlation(left: np.ndarray, right: np.ndarray) -> float:
    """Returns Spearman's correlation, ties sharing their mean rank."""
    # It comes with scikit-learn.
    from scipy.stats import rankdata

    ranks = np.array([rankdata(left), rankdata(right)])
    ranks -= ranks.mean(axis=1, keepdims=True)
    norms = np.sqrt(np.sum(ranks**2, axis=1))
    if not norms.all():
        return 0.0
    return float(ranks[0] @ ranks[1] / norms.prod())


def _has_float_weights(execution: Execution) -> bool:
    weights = execution.input(1)
    return weights is not None and "FLOAT" in dtype_name(weights)


def _element_bytes(tensor: Any) -> float:
    bits = re.search(r"\d+", dtype_name(tensor))
    return int(bits.group()) / 8 if bits else 1
