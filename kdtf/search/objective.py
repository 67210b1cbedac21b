"""The objective of a search for a device: train, export, verify, measure."""

import contextlib
import dataclasses
import os
import pathlib
import tempfile
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from kdtf.batches import is_dataset
from kdtf.batches import iterate_batches
from kdtf.evaluation.macs import macs_of_file
from kdtf.evaluation.quality import measure_quality
from kdtf.evaluation.subjects import keras_predict
from kdtf.export import export_tflite
from kdtf.export.samples import collect
from kdtf.export.targets import get_mode
from kdtf.export.targets import get_target
from kdtf.files import atomic_path
from kdtf.files import gzip_bytes
from kdtf.flavours import flavour_of
from kdtf.search.latency_model import LatencyModel
from kdtf.search.latency_model import measure
from kdtf.search.trial import Infeasible
from kdtf.search.trial import RunningTrial
from kdtf.search.trial import takes_trial

__all__ = ["DeviceObjective", "as_if_trained"]

COSTS = ("bytes", "gzip_bytes", "macs", "parameters", "latency_ms")
# Training changes them: an untrained model does not tell.
_KNOWN_LATER = frozenset({"gzip_bytes"})
_EXPORT_OPTIONS = ("target", "quantize", "verify_data", "sparse")


@dataclasses.dataclass(frozen=True)
class DeviceObjective:
    """Trains a model, exports and verifies it, and says what it costs there.

    For `kdtf.search`. The costs are those of the file that would be shipped;
    a model that does not convert, or whose file computes something else,
    is a failed trial.

    Args:
        fit: Trains: `fit(model)` or `fit(model, trial)`, in place; what it
            returns is not used. It gets the trial if its second argument has
            no default, or is called `trial`.
        quality: `quality(model)` gives a number for the trained model. Or
            data as for `kdtf.compare`, `(x, y)` with labels or one-hot rows:
            then it is the accuracy, by the largest value of the model's
            first output at each position; padding does not count.
        export: Arguments of `kdtf.export_tflite`: "target", "quantize",
            "verify_data", "sparse". Defaults to what the model was quantized
            for, on "android".
        costs: What to measure: "bytes" and "gzip_bytes" of the file; "macs",
            its multiply-accumulates; "parameters", the Keras model's; and
            "latency_ms", the median of one call on LiteRT with one thread,
            on this machine.
        representative_data: Typical inputs, for the export and, its first
            example, for the latency. Defaults to random ones; "int8" needs
            them.
        name: What the quality is called.
        hard: Whether models over one of the trial's limits are not trained:
            the untrained model is exported and measured first. Right if
            `build` gives the model as it will be exported, quantized and
            calibrated if need be; wrong if `fit` shrinks it. "gzip_bytes"
            depend on training and are not looked at.
        num_runs: Timed calls, at least 1.
        latency: Predicts "latency_ms" in place of measuring it.
        keep: Folder in which each trial leaves `trial-<number>.keras` and
            `trial-<number>.tflite`. Defaults to keeping nothing.

    Raises:
        ValueError: A cost, an option or a number is none that is known.
        TypeError: `fit` cannot be called, or another argument is of a wrong
            kind.

    Example:
        >>> x, y = np.eye(4, dtype="float32"), np.array([0, 1, 0, 1])
        >>> objective = DeviceObjective(
        ...     fit=lambda model: model.layers[0].set_weights(
        ...         [np.array([[2, 1], [1, 2], [2, 1], [1, 2.0]])]
        ...     ),
        ...     quality=(x, y),
        ...     costs=("macs", "parameters"),
        ... )
        >>> dense = keras.layers.Dense(2, use_bias=False)
        >>> objective(keras.Sequential([keras.Input((4,)), dense]))
        {'quality': 1.0, 'macs': 8.0, 'parameters': 8.0}
    """

    fit: Callable[..., Any]
    quality: Any
    _: dataclasses.KW_ONLY
    export: Mapping[str, Any] | None = None
    costs: Sequence[str] = ("bytes",)
    representative_data: Any = None
    name: str = "quality"
    hard: bool = False
    num_runs: int = 50
    latency: LatencyModel | None = None
    keep: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        """Checks the arguments, before anything is trained."""
        if not callable(self.fit):
            raise TypeError(
                "`fit` must be a function that trains a model. Received: "
                f"fit={self.fit!r}. Write `lambda model: model.fit(x, y)`."
            )
        if not callable(self.quality) and not _is_data(self.quality):
            raise TypeError(
                "`quality` must be a function of the model, or data (x, y). "
                f"Received: quality of type {type(self.quality).__name__}."
            )
        _check_costs(self.costs, self.name)
        _check_export(self.export or {}, self.hard)
        _check_options(self)
        object.__setattr__(self, "costs", tuple(self.costs))
        object.__setattr__(self, "export", dict(self.export or {}))

    def __call__(
        self, model: Any, trial: RunningTrial | None = None
    ) -> dict[str, float]:
        """Returns the quality and the costs of a model, which is trained.

        Args:
            model: A built model.
            trial: What the search gives. Defaults to None, for trying it by
                hand: then there are no limits, and nothing is kept.

        Raises:
            Infeasible: It is over a limit; only if `hard`.
            ExportError: The file does not compute what the model does.
        """
        if self.hard and trial is not None:
            self._check_limits(model, trial.limits)
        if takes_trial(self.fit):
            self.fit(model, trial)
        else:
            self.fit(model)
        with self._place(model, trial) as path:
            self._write(model, path)
            quality = self._quality(model)
            costs = {cost: self._cost(cost, model, path) for cost in self.costs}
        return {self.name: quality} | costs

    def _check_limits(self, model: Any, limits: Mapping[str, float]) -> None:
        early = [cost for cost in self.costs if cost not in _KNOWN_LATER]
        if not set(early) & set(limits):
            return
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "untrained.tflite")
            try:
                with as_if_trained(model):
                    self._write(model, path)
            except ValueError as error:
                raise type(error)(
                    "With `hard=True` a model must be fit for export before "
                    f"it is trained. Received: one that is not: {error} "
                    "Calibrate it in `build`, or leave `hard` out."
                ) from error
            costs = {cost: self._cost(cost, model, path) for cost in early}
        if any(costs[cost] > limits.get(cost, np.inf) for cost in early):
            raise Infeasible(costs)

    @contextlib.contextmanager
    def _place(
        self, model: Any, trial: RunningTrial | None
    ) -> Iterator[pathlib.Path]:
        """Gives where the file shall be; keeps the model if that is wanted."""
        if self.keep is None or trial is None:
            with tempfile.TemporaryDirectory() as folder:
                yield pathlib.Path(folder, "model.tflite")
            return
        stem = pathlib.Path(self.keep, f"trial-{trial.number}")
        # Before the export, which may refuse what took long to train.
        with atomic_path(stem.with_suffix(".keras")) as temporary:
            _save(model, temporary)
        yield stem.with_suffix(".tflite")

    def _write(self, model: Any, path: pathlib.Path) -> None:
        export_tflite(
            model,
            path,
            representative_data=self.representative_data,
            **(self.export or {}),
        )

    def _quality(self, model: Any) -> float:
        if not callable(self.quality):
            return _accuracy(model, self.quality)
        found = self.quality(model)
        try:
            return float(found)
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"`quality` must return one number. Received: {found!r}."
            ) from error

    def _cost(self, cost: str, model: Any, path: pathlib.Path) -> float:
        match cost:
            case "bytes":
                return float(path.stat().st_size)
            case "gzip_bytes":
                return float(gzip_bytes(path.read_bytes()))
            case "macs":
                return float(macs_of_file(path))
            case "parameters":
                return float(model.count_params())
        if self.latency is not None:
            return self.latency.predict(path)
        inputs = self.representative_data
        if inputs is not None:
            inputs = collect(inputs, argument="representative_data", limit=1)
        return measure([path], num_runs=self.num_runs, inputs=inputs)[0]


class _FirstOutput:
    """A model that gives its first output only."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.run_eagerly = getattr(model, "run_eagerly", False)

    def __call__(self, x: Any, training: bool = False) -> Any:
        return keras.tree.flatten(self._model(x, training=training))[0]


def _accuracy(model: Any, data: Any) -> float:
    """Returns the share of places whose largest logit is the label's."""
    run = keras_predict(_FirstOutput(model))

    def predict(x: Any) -> tuple[np.ndarray, np.ndarray | None]:
        outputs, mask = run(x)
        if outputs.ndim < 2 or outputs.shape[-1] < 2:
            raise ValueError(
                "Data as `quality` needs a model that gives each class a "
                f"value. Received: outputs of shape {outputs.shape}. Give "
                "`quality` a function of the model instead."
            )
        return outputs, mask

    found = measure_quality(
        {"model": predict}, iterate_batches(data), metrics=["accuracy"]
    )
    return found["model"].metrics["accuracy"]


@contextlib.contextmanager
def as_if_trained(model: Any) -> Iterator[None]:
    """Gives weights that are still all alike some noise, for a while.

    The converter leaves out biases of zeros and shares equal constants; a
    trained model's file would be larger.

    Args:
        model: A model of either Keras; as before afterwards.
    """
    rng = np.random.default_rng(0)
    # Batch normalization folds its mean into a bias, too.
    means = [w for w in model.non_trainable_weights if "moving_mean" in w.name]
    before = []
    try:
        for weight in [*model.trainable_weights, *means]:
            values = np.array(weight)
            if values.size and np.all(values == values.flat[0]):
                before.append((weight, values))
                noise = 1e-3 * rng.normal(size=values.shape)
                weight.assign((values + noise).astype(values.dtype))
        yield
    finally:
        for weight, values in before:
            weight.assign(values)


def _save(model: Any, path: pathlib.Path) -> None:
    """Saves a model, of Keras 3 without the optimizer: a third of the size."""
    if flavour_of(model) != "keras" or not model.compiled:
        model.save(path)
        return
    optimizer = model.optimizer
    try:
        model.optimizer, model.compiled = None, False
        model.save(path)
    finally:
        model.optimizer, model.compiled = optimizer, True


def _is_data(data: Any) -> bool:
    return is_dataset(data) or (
        isinstance(data, tuple | list) and len(data) in (2, 3)
    )


def _check_costs(costs: Any, name: Any) -> None:
    if isinstance(costs, str) or not isinstance(costs, Sequence):
        raise TypeError(
            f"`costs` must be a tuple of names. Received: costs={costs!r}. "
            'Write for example `costs=("bytes",)`.'
        )
    unknown = [cost for cost in costs if cost not in COSTS]
    if unknown or len(set(costs)) < len(costs):
        raise ValueError(
            f"`costs` must be among {list(COSTS)}, each once. Received: "
            f"costs={list(costs)}. For others write an objective of your "
            "own: a function that returns a dict."
        )
    if not isinstance(name, str) or not name or name in COSTS:
        raise ValueError(
            f"`name` must be a text that is no cost's. Received: name={name!r}."
        )


def _check_export(export: Any, hard: bool) -> None:
    known = list(_EXPORT_OPTIONS)
    if not isinstance(export, Mapping) or set(export) - set(known):
        raise ValueError(
            f"`export` must be a dict with keys among {known}. Received: "
            f"export={export!r}. Data to quantize with is an argument of its "
            "own, `representative_data`."
        )
    # They raise for what no target or mode is called.
    get_mode(
        export.get("quantize"), get_target(export.get("target", "android"))
    )
    if hard and export.get("sparse"):
        raise ValueError(
            "`hard=True` measures untrained models, which are not sparse. "
            f"Received: hard=True, export={dict(export)!r}. Leave one out."
        )


def _check_options(objective: DeviceObjective) -> None:
    runs, latency = objective.num_runs, objective.latency
    if isinstance(runs, bool) or not isinstance(runs, int) or runs < 1:
        raise ValueError(
            f"`num_runs` must be an integer from 1 on. Received: "
            f"num_runs={runs!r}."
        )
    if latency is not None and not isinstance(latency, LatencyModel):
        raise TypeError(
            "`latency` must be a `LatencyModel`. Received: "
            f"latency={latency!r}. Make one with `LatencyModel.fit`, or read "
            "one with `LatencyModel.load`."
        )
    if latency is not None and "latency_ms" not in objective.costs:
        raise ValueError(
            "`latency` predicts the cost 'latency_ms'. Received: "
            f"costs={list(objective.costs)}. Add it there, or leave `latency` "
            "out."
        )
    keep = objective.keep
    if keep is not None and not isinstance(keep, str | os.PathLike):
        raise TypeError(
            f"`keep` must be the path of a folder. Received: keep={keep!r}."
        )
