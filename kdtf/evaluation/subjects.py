"""What a comparison compares: one model or file, ready to run and time."""

import dataclasses
import os
import pathlib
from collections.abc import Callable
from collections.abc import Mapping
from typing import Any
from typing import Literal

import keras
import numpy as np

from kdtf.evaluation.loading import file_kind
from kdtf.evaluation.loading import load_keras_model
from kdtf.evaluation.quality import Predict
from kdtf.evaluation.size import Size
from kdtf.evaluation.size import size_of_file
from kdtf.evaluation.size import size_of_model
from kdtf.flavours import flavour_of
from kdtf.litert import Runner

Kind = Literal["keras", "tf_keras", "tflite"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject:
    """A model that can be measured.

    Attributes:
        name: Its row's name.
        kind: Where its predictions come from.
        size: What storing it takes.
        predict: Runs it on a batch of inputs.
        runner: The file that is timed, or None if there is none.
        note: Why it is not timed, or "".
    """

    name: str
    kind: Kind
    size: Size
    predict: Predict
    runner: Runner | None = None
    note: str = ""


def make_subject(
    name: str,
    model: Any,
    *,
    examples: Any,
    num_threads: int,
    timed_path: pathlib.Path | None,
) -> Subject:
    """Makes a model or a model file ready to be measured.

    A Keras model is exported to a float `.tflite`, to be timed
    on the runtime that phones have, like the files it is compared with.

    Args:
        name: The row's name.
        model: A `keras.Model`, a `tf_keras.Model`, or a path.
        examples: Inputs of a few examples to verify the export with, or None.
        num_threads: Threads for LiteRT.
        timed_path: Where that file may lie; None leaves the export out.

    Raises:
        TypeError: `model` is nothing of the kind.
        ValueError: The file is damaged, or the model is not built.
    """
    if isinstance(model, str | os.PathLike):
        if file_kind(model) == "tflite":
            return _file_subject(name, model, num_threads)
        model = load_keras_model(model)
    kind = flavour_of(model, argument=f"models[{name!r}]")
    size = size_of_model(model)
    runner, note = None, ""
    if timed_path is not None:
        runner, note = _exported(model, timed_path, examples, num_threads)
    return Subject(
        name=name,
        kind=kind,
        size=size,
        predict=keras_predict(model),
        runner=runner,
        note=note,
    )


def keras_predict(model: Any) -> Predict:
    """Makes a function that runs a Keras model for inference.

    Args:
        model: A `keras.Model` or `tf_keras.Model`.
    """
    import tensorflow as tf

    def forward(x: Any) -> tuple[Any, Any]:
        outputs = model(x, training=False)
        return outputs, getattr(outputs, "_keras_mask", None)

    run = forward
    if not getattr(model, "run_eagerly", False):
        run = tf.function(forward, reduce_retracing=True)

    def predict(x: Any) -> tuple[np.ndarray, np.ndarray | None]:
        outputs, mask = run(keras.tree.map_structure(tf.convert_to_tensor, x))
        array = np.asarray(_only_output(outputs))
        return array, None if mask is None else np.asarray(mask)

    return predict


def runner_predict(runner: Runner) -> Predict:
    """Makes a function that runs a `.tflite` file."""

    def predict(x: Any) -> tuple[np.ndarray, None]:
        return np.asarray(_only_output(runner(_known(runner, x)))), None

    return predict


def timed_call(runner: Runner, examples: Any) -> Callable[[], None]:
    """Sets the first example as the file's input, for timing.

    Args:
        runner: The loaded file.
        examples: Inputs of at least one example. None takes random ones.

    Raises:
        ValueError: The inputs do not fit the file.
    """
    if examples is None:
        runner(random_inputs(runner))
    else:
        first = keras.tree.map_structure(lambda array: array[:1], examples)
        runner(_known(runner, first))
    return runner.invoke_once


def random_inputs(runner: Runner, *, seed: int = 0) -> dict[str, np.ndarray]:
    """Gives inputs of a file's own shapes, dimensions left open being 1.

    Reals are standard normal. Integers without a scale are 0 or 1: more
    could lie outside a vocabulary.
    """
    rng = np.random.default_rng(seed)
    inputs = {}
    for name, spec in runner.input_specs.items():
        shape = [size or 1 for size in spec.shape]
        if spec.scale is None and np.issubdtype(spec.dtype, np.integer):
            inputs[name] = rng.integers(0, 2, shape).astype(spec.dtype)
        elif spec.dtype == "bool":
            inputs[name] = np.ones(shape, "bool")
        else:
            inputs[name] = rng.normal(size=shape).astype("float32")
    return inputs


def batch_size_of(runner: Runner) -> int:
    """Gives how many examples one call of a file takes; 1 if any number."""
    shapes = [spec.shape for spec in runner.input_specs.values() if spec.shape]
    return max((shape[0] or 1 for shape in shapes), default=1)


def _file_subject(
    name: str, path: str | os.PathLike[str], num_threads: int
) -> Subject:
    runner = Runner(path, num_threads=num_threads)
    return Subject(
        name=name,
        kind="tflite",
        size=size_of_file(path),
        predict=runner_predict(runner),
        runner=runner,
    )


def _exported(
    model: Any, path: pathlib.Path, examples: Any, num_threads: int
) -> tuple[Runner | None, str]:
    """Gives the runner of the exported model, or why there is none."""
    try:
        from kdtf.export import export_tflite

        export_tflite(model, path, target="float", verify_data=examples)
        return Runner(path, num_threads=num_threads), ""
    # The comparison goes on without this row's latency, and the row says
    # why; converters raise every kind of exception.
    except Exception as error:
        return None, f"not timed: {_one_line(error)}"


def _known(runner: Runner, x: Any) -> Any:
    """Leaves out what a dict holds beyond the file's inputs, as Keras does."""
    if not isinstance(x, Mapping) or not set(runner.input_specs) <= set(x):
        return x
    return {name: x[name] for name in runner.input_specs}


def _only_output(outputs: Any) -> Any:
    flat = keras.tree.flatten(outputs)
    if len(flat) != 1:
        raise ValueError(
            "A compared model must have one output. Received: "
            f"{len(flat)} outputs. Wrap it in a model that returns the one "
            "to judge."
        )
    return flat[0]


def _one_line(error: Exception, limit: int = 300) -> str:
    text = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return text if len(text) <= limit else f"{text[: limit - 3]}..."
