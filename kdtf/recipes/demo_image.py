"""The image demo: handwritten digits, for a phone and a microcontroller."""

import dataclasses
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from kdtf.data import digits
from kdtf.evaluation import compare
from kdtf.export import export_tflite
from kdtf.recipes.trio import Role
from kdtf.recipes.trio import train_trio
from kdtf.recipes.workspace import Workspace

__all__ = ["run_image_demo"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageSettings:
    """Sizes and lengths of the image demo; part of every stage's settings.

    Attributes:
        seed: Seeds initial weights, batches and dropout.
        teacher_passes: Passes over the data for the teacher.
        student_passes: Passes for each student.
        batch_size: Images in a step.
        learning_rate: Of Adam, at the start; it decays to 0.
        alpha: Weight of the labels for the distilled student.
        temperature: Softens both models' outputs.
    """

    seed: int
    teacher_passes: int = 60
    student_passes: int = 60
    batch_size: int = 32
    learning_rate: float = 5e-3
    alpha: float = 0.1
    temperature: float = 4.0


def run_image_demo(
    workspace: Workspace, *, seed: int, quick: bool
) -> tuple[Any, dict[str, str]]:
    """Runs the stages and compares their results on held-out digits.

    Args:
        workspace: Keeps the finished stages.
        seed: Seeds everything.
        quick: A few steps only.

    Returns:
        The comparison, and notes for its report.
    """
    settings = ImageSettings(seed=seed)
    if quick:
        settings = dataclasses.replace(
            settings, teacher_passes=1, student_passes=1
        )
    train, test = digits()
    models = _train(workspace, settings, train)
    results = _export(workspace, models["student distilled"], train[0], test[0])
    rows = models | {name: result.path for name, result in results.items()}
    workspace.console.rule("Comparison on held-out digits", align="left")
    comparison = compare(rows, test, metrics=["accuracy"])
    return comparison, {
        "Data": f"{len(train[1])} handwritten digits to learn from and "
        f"{len(test[1])} to judge by (scikit-learn's bundled scans).",
        **{name: str(result) for name, result in results.items()},
    }


def _train(
    workspace: Workspace, settings: ImageSettings, train: Any
) -> dict[str, Any]:
    def role(build: Callable[[], Any], passes: int, title: str) -> Role:
        return Role(
            build=build,
            fit=lambda model: fit_image(model, train, settings, passes),
            title=title,
        )

    return train_trio(
        workspace,
        teacher=role(build_teacher, settings.teacher_passes, "a CNN"),
        student=role(build_student, settings.student_passes, "a tiny CNN"),
        settings=dataclasses.asdict(settings),
    )


def build_teacher() -> Any:
    """Gives a CNN of about 57,000 parameters for 8x8 digits."""
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((8, 8, 1), name="image"),
            layers.Conv2D(32, 3, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Conv2D(64, 3, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.MaxPooling2D(),
            layers.Conv2D(64, 3, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.GlobalAveragePooling2D(),
            layers.Dropout(0.3),
            layers.Dense(10),
        ],
        name="teacher",
    )


def build_student() -> Any:
    """Gives a CNN of about 3,000 parameters with microcontroller operators."""
    blocks = [("separable", 32), ("separable", 32)]
    return build_tiny_cnn(stem=16, blocks=blocks, halved=1)


def build_tiny_cnn(
    *, stem: int, blocks: Sequence[tuple[str, int]], halved: int
) -> Any:
    """Gives a CNN for 8x8 digits: a convolution, and blocks of them behind it.

    Args:
        stem: Channels of the first convolution.
        blocks: "separable" or "plain", and the channels, of each one after it.
        halved: Which of these halves the map, from 1 on.
    """
    layers = keras.layers
    convolutions = [layers.Conv2D(stem, 3, padding="same", use_bias=False)]
    for number, (kind, width) in enumerate(blocks, start=1):
        spatial = {
            "kernel_size": 3,
            "strides": 2 if number == halved else 1,
            "padding": "same",
            "use_bias": False,
        }
        if kind == "separable":
            convolutions.append(layers.DepthwiseConv2D(**spatial))
            spatial = {"kernel_size": 1, "use_bias": False}
        convolutions.append(layers.Conv2D(width, **spatial))
    model = keras.Sequential([keras.Input((8, 8, 1), name="image")])
    for convolution in convolutions:
        model.add(convolution)
        model.add(layers.BatchNormalization())
        model.add(layers.ReLU())
    model.add(layers.GlobalAveragePooling2D())
    model.add(layers.Dense(10))
    return model


def _moved(seed: int) -> Callable[[Any, Any], Any]:
    """Shifts and turns digits a little: no two passes are the same.

    Teacher and students see the moved digits alike; what a moved digit
    resembles is what the teacher has to tell.
    """
    layers = keras.layers
    shift = layers.RandomTranslation(0.1, 0.1, fill_mode="constant", seed=seed)
    turn = layers.RandomRotation(0.04, fill_mode="constant", seed=seed + 1)
    return lambda images, labels: (
        turn(shift(images, training=True), training=True),
        labels,
    )


def fit_image(
    model: Any,
    train: Any,
    settings: ImageSettings,
    passes: int,
    *,
    verbose: Any = "auto",
) -> None:
    """Compiles a model, or the Distiller around one, and trains it.

    Args:
        model: What is trained.
        train: Images and labels.
        settings: For the batch size, learning rate and seed.
        passes: Over the data.
        verbose: As for Keras's `fit`.
    """
    data = tf.data.Dataset.from_tensor_slices(train)
    data = data.shuffle(len(train[1]), seed=settings.seed).repeat()
    data = data.batch(settings.batch_size).map(_moved(settings.seed))
    data = data.prefetch(4)
    steps = passes * len(train[1]) // settings.batch_size
    # A pass takes a moment; a bar for each would bury the rest.
    epochs = min(4, passes)
    decay = keras.optimizers.schedules.CosineDecay(
        settings.learning_rate, steps
    )
    model.compile(
        keras.optimizers.Adam(decay),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(
        data,
        epochs=epochs,
        steps_per_epoch=steps // epochs,
        shuffle=False,
        verbose=verbose,
    )


def _export(
    workspace: Workspace, student: Any, calibration: Any, held_out: Any
) -> dict[str, Any]:
    workspace.console.rule("Export, each file verified", align="left")
    variants: dict[str, dict[str, Any]] = {
        "android float": {},
        "android int8": {"quantize": "int8"},
        "iot int8": {"target": "iot"},
    }
    return {
        name: export_tflite(
            student,
            workspace.folder / f"{name.replace(' ', '-')}.tflite",
            representative_data=calibration,
            verify_data=held_out,
            **variant,
        )
        for name, variant in variants.items()
    }
