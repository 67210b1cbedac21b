"""How each verb of a recipe changes a model."""

import dataclasses
import importlib.util
import inspect
import json
import math
import pathlib
from typing import Any

import keras
import numpy as np

from kdtf.batches import first_examples
from kdtf.distillation import Distiller
from kdtf.distillation.outputs import find_activation
from kdtf.distillation.outputs import last_activation
from kdtf.evaluation import compare
from kdtf.evaluation import load_keras_model
from kdtf.flavours import flavour_of
from kdtf.pruning import prune
from kdtf.pruning import shrink
from kdtf.pruning.criteria import get as get_criterion
from kdtf.quantization import cluster
from kdtf.quantization import quantize
from kdtf.quantization import quantize_aware
from kdtf.recipes.preprocessing import fit_arrays
from kdtf.recipes.recipe_files.schema import Step
from kdtf.recipes.recipe_files.schema import Training
from kdtf.schedules import CosineSchedule
from kdtf.schedules import PolynomialSchedule
from kdtf.transforms.strip import strip

__all__ = ["Bench", "apply", "attach", "load_model", "loss_of"]

# What ranges, scores and roundings are measured on: as much as an export.
_NUM_EXAMPLES = 300
_FIT = ("x", "y", "sample_weight")
_SCHEDULES = {"polynomial": PolynomialSchedule, "cosine": CosineSchedule}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bench:
    """What all steps of a recipe share.

    Attributes:
        folder: Where the recipe's files are found from.
        teacher: The recipe's first model.
        loss: Keras's name of the hard loss, or None.
        metrics: Names of metrics.
        train: `(x, y, sample_weight)`, without what there is not.
        validation: The same, to judge by.
        logs: Where TensorBoard logs go, or None.
    """

    folder: pathlib.Path
    teacher: str
    loss: str | None
    metrics: tuple[str, ...]
    train: tuple[Any, ...]
    validation: tuple[Any, ...]
    logs: pathlib.Path | None = None

    def __post_init__(self) -> None:
        """Misses TensorBoard before the first step, not in it."""
        if self.logs and importlib.util.find_spec("tensorboard") is None:
            raise ImportError(
                "TensorBoard's logs need its package. Install it with "
                "`pip install 'kdtf[tensorboard]'`, or leave `tensorboard` out."
            )

    @property
    def examples(self) -> tuple[Any, ...]:
        """The first examples to learn from, with their labels."""
        return keras.tree.map_structure(
            lambda array: array[:_NUM_EXAMPLES], self.train
        )

    @property
    def inputs(self) -> Any:
        """The inputs of `examples`."""
        return first_examples(self.train, _NUM_EXAMPLES)

    def fit(self, model: Any, training: Any, *, name: str) -> None:
        """Compiles a model, or the Distiller around one, and trains it.

        Raises:
            ValueError: The loss or a weight is not finite any more.
        """
        optimizer = keras.optimizers.get(training.optimizer)
        if training.learning_rate is not None:
            optimizer.learning_rate = training.learning_rate
        trained = getattr(model, "student", model)
        loss = self.loss_for(trained)
        callbacks: list[Any] = [keras.callbacks.TerminateOnNaN()]
        if self.logs is not None:
            folder = self.logs / name
            callbacks.append(keras.callbacks.TensorBoard(folder))
        metrics = list(self.metrics) if loss is not None else None
        model.compile(optimizer, loss=loss, metrics=metrics)
        history = fit_arrays(
            model,
            # What there is of x, y and sample_weight.
            **dict(zip(_FIT, self.train, strict=False)),
            validation_data=self.validation if loss is not None else None,
            batch_size=training.batch_size,
            epochs=training.epochs,
            callbacks=callbacks,
        )
        _check_finite(trained, history, training)

    def loss_for(self, model: Any) -> Any:
        """Returns the hard loss of a model's outputs, or None."""
        if self.loss is None:
            return None
        return loss_of(self.loss, model, first_examples(self.train, 1))

    def score(self, model: Any) -> dict[str, float]:
        """Returns the metrics of a model, or a file, on the validation data."""
        if not self.metrics:
            return {}
        rows = compare(
            {"it": model},
            self.validation,
            metrics=self.metrics,
            latency_runs=0,
        )
        return rows["it"].metrics


def load_model(path: pathlib.Path) -> Any:
    """Loads a `.keras` or `.h5` file, or a preset folder of keras-nlp.

    Raises:
        ValueError: It is of `tf_keras`, or nothing that can be loaded.
    """
    if path.is_dir():
        import keras_nlp

        # Folders of Hugging Face say no task.
        task, name = path / "task.json", "CausalLM"
        if task.is_file():
            name = json.loads(task.read_text("utf-8"))["class_name"]
        return getattr(keras_nlp.models, name).from_preset(str(path))
    model = load_keras_model(path)
    if flavour_of(model) == "tf_keras":
        raise ValueError(
            "A recipe is for models of Keras 3. Received: "
            f"path={str(path)!r}, of tf_keras. Call the verbs in Python: "
            "`kdtf.prune`, `kdtf.quantize_aware` and others take it."
        )
    return model


def loss_of(name: str, model: Any, x: Any) -> Any:
    """Returns a loss by Keras's name, told whether it is given logits.

    Args:
        name: Such as "sparse_categorical_crossentropy".
        model: Whose outputs it is for.
        x: Inputs of the model, run where its graph does not tell.

    Example:
        >>> layers = [keras.Input((4,)), keras.layers.Dense(3)]
        >>> model, x = keras.Sequential(layers), np.ones((1, 4))
        >>> loss = loss_of("sparse_categorical_crossentropy", model, x)
        >>> loss.get_config()["from_logits"]
        True
    """
    # The class of a function: "hinge", `Hinge`.
    title = "".join(part[:1].upper() + part[1:] for part in name.split("_"))
    kind: Any = getattr(keras.losses, title, None)
    if kind is None or "from_logits" not in inspect.signature(kind).parameters:
        return keras.losses.get(name)
    end = last_activation(model)
    if end is None:
        x = keras.tree.map_structure(keras.ops.convert_to_tensor, x)
        end = find_activation(model, x, model(x))
    return kind(from_logits=end == "linear")


def attach(model: Any, step: Step, bench: Bench) -> Any:
    """Puts masks or grids on a model, in place, without any training."""
    arguments = step.arguments
    if step.verb == "prune":
        return _prune(model, arguments, bench)
    given = _given(arguments)
    if step.verb == "cluster":
        return cluster(model, **given)
    verb = quantize if step.verb == "quantize" else quantize_aware
    return verb(model, **given, data=bench.inputs)


def apply(model: Any, step: Step, bench: Bench, *, name: str) -> Any:
    """Returns the model after one step.

    Args:
        model: The model, live; it may be changed in place.
        step: The step.
        bench: What it works with.
        name: The step's, for its logs.

    Raises:
        ValueError: The step refuses the model, or its training diverged.
    """
    arguments = step.arguments
    if step.verb == "strip":
        return strip(model)
    if step.verb == "shrink":
        given = arguments.model_dump()
        _give_loss(model, arguments, bench)
        return shrink(model, **given, data=bench.examples)
    if step.verb == "distil":
        return _distil(model, arguments, bench, name)
    if step.verb != "fit":
        model = attach(model, step, bench)
    if getattr(arguments, "epochs", 0):
        bench.fit(model, arguments, name=name)
    return model


def _prune(model: Any, arguments: Any, bench: Bench) -> Any:
    given = _given(arguments)
    kind, begin, end = (
        given.pop(key) for key in ("schedule", "begin_step", "end_step")
    )
    if kind is not None:
        steps = -(-_num_examples(bench.train) // arguments.batch_size)
        # The last third lets the weights that are left settle.
        end = end or max(begin + 1, steps * arguments.epochs * 2 // 3)
        given["schedule"] = _SCHEDULES[kind](
            final=given.pop("sparsity"), begin_step=begin, end_step=end
        )
    _give_loss(model, arguments, bench)
    return prune(model, **given, data=bench.examples)


def _give_loss(model: Any, arguments: Any, bench: Bench) -> None:
    """Compiles a model whose weights are ranked by the loss's gradient."""
    if get_criterion(arguments.criterion).needs_labels:
        model.compile(loss=bench.loss_for(model))


def _distil(model: Any, arguments: Any, bench: Bench, name: str) -> Any:
    given = _given(arguments)
    teacher = load_model(bench.folder / (given.pop("teacher") or bench.teacher))
    student = given.pop("student")
    if student is not None:
        model = load_model(bench.folder / student)
    distiller = Distiller(teacher, model, **given)
    bench.fit(distiller, arguments, name=name)
    return model


def _given(arguments: Any) -> dict[str, Any]:
    """Returns a step's arguments without those for its training."""
    given: dict[str, Any] = arguments.model_dump()
    names = set(Training.model_fields)
    return {key: value for key, value in given.items() if key not in names}


def _num_examples(data: tuple[Any, ...]) -> int:
    return len(keras.tree.flatten(data)[0])


def _check_finite(model: Any, history: Any, training: Any) -> None:
    losses = history.history.get("loss", [])
    finite = sum(math.isfinite(loss) for loss in losses)
    if finite == len(losses) == training.epochs and all(
        np.isfinite(np.asarray(w, "float32")).all() for w in model.weights
    ):
        return
    raise ValueError(
        "its training diverged: the loss or a weight is nan or infinite in "
        f"epoch {min(finite + 1, training.epochs)} of {training.epochs}. "
        f"Received: optimizer={training.optimizer!r}, "
        f"learning_rate={training.learning_rate}. Choose a smaller "
        "`learning_rate`, and look for nan in the data."
    )
