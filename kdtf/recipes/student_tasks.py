"""What `kdtf search` searches a student for: a teacher, data, a space."""

import dataclasses
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from kdtf.data import digits
from kdtf.distillation import Distiller
from kdtf.evaluation import compare
from kdtf.recipes import demo_image
from kdtf.recipes import demo_text
from kdtf.recipes.workspace import Workspace
from kdtf.search import Choice
from kdtf.search import Preset
from kdtf.search import Space
from kdtf.search import decoders
from kdtf.search import encoders

__all__ = ["TASKS", "StudentTask"]

# A pixel's brightness is a token of the encoders' task.
_NUM_TOKENS, _NUM_CLASSES = 17, 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudentTask:
    """A teacher, and what its students are trained and judged by.

    Attributes:
        title: What it is, for people.
        teacher: Builds the untrained teacher.
        fit_teacher: Trains it.
        preset: The space.
        by_hand: Builds the student as the demo, or anybody, would choose it.
        fit: `fit(model, epochs, verbose)` trains the Distiller around a
            student.
        epochs: Of a trial, and of the student that is shipped.
        alpha: Weight of the labels.
        temperature: Softens both models' outputs.
        held_out: Data that chooses the student; not in the training data.
        test: Data that judges it, looked at once.
        metric: Gives the Keras metric for people.
        choosing: Gives the Keras metric that chooses, the smaller the better:
            a loss, since of few examples it tells more than their accuracy.
        export: Arguments of `kdtf.export_tflite`.
        calibration: Typical inputs.
        settings: All that decides how models turn out, plain data.
        finish: Called with a trained model before it is kept.
    """

    title: str
    teacher: Callable[[], Any]
    fit_teacher: Callable[[Any], None]
    preset: Preset
    by_hand: Callable[[], Any]
    fit: Callable[[Any, int, Any], None]
    epochs: tuple[int, int]
    alpha: float
    temperature: float
    held_out: Any
    test: Any
    metric: Callable[[], Any]
    choosing: Callable[[], Any]
    export: dict[str, Any]
    calibration: Any
    settings: dict[str, Any]
    finish: Callable[[Any], None]

    def trained_teacher(self, workspace: Workspace) -> Any:
        """Returns the teacher, trained now or loaded.

        Args:
            workspace: Keeps it.
        """

        def make() -> Any:
            keras.utils.set_random_seed(self.settings["seed"])
            model = self.teacher()
            self.fit_teacher(model)
            self.finish(model)
            return model

        return workspace.model(
            "teacher",
            settings=self.settings | {"model": "teacher"},
            make=make,
            title=f"Teacher: {self.title}",
        )

    def distil(
        self, teacher: Any, student: Any, epochs: int, *, verbose: Any = 0
    ) -> None:
        """Trains a student from the teacher, in place."""
        distiller = Distiller(
            teacher, student, alpha=self.alpha, temperature=self.temperature
        )
        self.fit(distiller, epochs, verbose)

    def quality(self, model: Any) -> float:
        """Returns what chooses, on the data that chooses."""
        row = compare(
            {"student": model},
            self.held_out,
            metrics=[self.choosing()],
            latency_runs=0,
        )["student"]
        return float(next(iter(row.metrics.values())))


def _decoder_task(*, seed: int, quick: bool) -> StudentTask:
    settings = demo_text.TextSettings(seed=seed)
    corpus = demo_text.read_corpus(settings)
    x, y = corpus.train
    # The last tenth chooses, so that the test data judges only.
    split = len(x) * 9 // 10
    x, y, held_out = x[:split], y[:split], (x[split:], y[split:])
    if quick:
        x, y = x[:64], y[:64]
        held_out = (held_out[0][:16], held_out[1][:16])
    corpus = dataclasses.replace(corpus, train=(x, y))
    space = decoders(
        vocabulary_size=corpus.tokenizer.vocabulary_size(),
        sequence_length=settings.window,
        layers=range(1, 4),
        width=(32, 48, 64, 80, 96),
    )

    def fit(model: Any, epochs: int, verbose: Any, rate: float) -> None:
        demo_text.fit_text(
            model, corpus, settings, epochs, rate, verbose=verbose
        )

    return StudentTask(
        title="a GPT-2 on the Python language reference",
        teacher=lambda: demo_text.build_model(
            settings, corpus, settings.teacher
        ),
        fit_teacher=lambda model: fit(
            model,
            1 if quick else settings.teacher_epochs,
            "auto",
            settings.teacher_learning_rate,
        ),
        preset=space,
        by_hand=lambda: demo_text.build_model(
            settings, corpus, settings.student
        ),
        fit=lambda model, epochs, verbose: fit(
            model, epochs, verbose, settings.student_learning_rate
        ),
        epochs=(1, 1) if quick else (1, settings.student_epochs),
        alpha=settings.alpha,
        temperature=settings.temperature,
        held_out=(demo_text.text_inputs(held_out[0]), held_out[1]),
        test=(demo_text.text_inputs(corpus.test[0]), corpus.test[1]),
        metric=demo_text.perplexity,
        choosing=demo_text.perplexity,
        export={"quantize": "dynamic_int8"},
        calibration=demo_text.text_inputs(x[:32]),
        settings=dataclasses.asdict(settings)
        | {"corpus": corpus.digest, "windows": len(x), "quick": quick},
        finish=lambda model: demo_text.add_tokenizer(
            model, corpus, settings.window
        ),
    )


def _cnn_task(*, seed: int, quick: bool) -> StudentTask:
    settings = demo_image.ImageSettings(seed=seed)
    (images, labels), test = digits()
    return _digits_task(
        settings,
        images,
        labels,
        test,
        title="a CNN on handwritten digits",
        teacher=demo_image.build_teacher,
        preset=_tiny_cnns(),
        by_hand=demo_image.build_student,
        fit=demo_image.fit_image,
        export={"target": "iot"},
        quick=quick,
    )


def _tiny_cnns() -> Preset:
    """Gives networks of a few kB, the demo's among them.

    They are smaller than what `kdtf.search.cnns` is for: no expansion, and a
    ReLU behind each convolution. Where channels are so few a plain
    convolution may be the better buy than a separable one: more
    multiplications, but one operator in place of two.
    """

    def blocks(chosen: dict[str, Any]) -> list[tuple[str, int]]:
        numbers = range(1, chosen["blocks"] + 1)
        return [(chosen[f"kind{n}"], chosen[f"width{n}"]) for n in numbers]

    def build(chosen: dict[str, Any]) -> Any:
        return demo_image.build_tiny_cnn(
            stem=chosen["stem"],
            blocks=blocks(chosen),
            halved=chosen["halved"],
        )

    def grows(chosen: dict[str, Any]) -> bool:
        widths = [width for _, width in blocks(chosen)]
        return widths == sorted(widths)

    def third(options: Sequence[Any]) -> Choice:
        return Choice(options, when=lambda chosen: chosen["blocks"] > 2)

    widths, kinds = (8, 12, 16, 20, 24, 32), ("separable", "plain")
    space = Space(
        {
            "blocks": [2, 3],
            "stem": [8, 12, 16, 20],
            "kind1": kinds,
            "width1": widths,
            "kind2": kinds,
            "width2": widths,
            "kind3": third(kinds),
            "width3": third(widths),
            "halved": [1, 2],
        },
        valid=grows,
    )
    by_hand = {"blocks": 2, "stem": 16, "halved": 1}
    separable = {"kind1": "separable", "kind2": "separable"}
    return Preset(
        space, build, by_hand | separable | {"width1": 32, "width2": 32}
    )


def _encoder_task(*, seed: int, quick: bool) -> StudentTask:
    settings = demo_image.ImageSettings(seed=seed, teacher_passes=20)
    (images, labels), (test_images, test_labels) = digits()
    space = encoders(
        vocabulary_size=_NUM_TOKENS,
        sequence_length=int(np.prod(images.shape[1:])),
        num_classes=_NUM_CLASSES,
    )
    teacher = {"layers": 4, "width": 128, "heads": 4, "feed_forward": 4}
    return _digits_task(
        settings,
        _as_tokens(images),
        labels,
        (_as_tokens(test_images), test_labels),
        title="a BERT on handwritten digits, a pixel a token",
        teacher=lambda: space.build(teacher),
        preset=space,
        by_hand=lambda: space.build(space.default),
        fit=_fit_encoder,
        export={"quantize": "dynamic_int8"},
        quick=quick,
    )


def _digits_task(
    settings: demo_image.ImageSettings,
    x: Any,
    labels: np.ndarray,
    test: Any,
    *,
    fit: Callable[..., None],
    quick: bool,
    **given: Any,
) -> StudentTask:
    """Gives a task whose last fifth of the training data chooses."""
    split = len(labels) * 4 // 5
    x_train, x_held = (
        keras.tree.map_structure(lambda part, where=where: part[where], x)
        for where in (slice(None, split), slice(split, None))
    )
    train = x_train, labels[:split]
    passes = settings.student_passes
    return StudentTask(
        fit_teacher=lambda model: fit(
            model, train, settings, 1 if quick else settings.teacher_passes
        ),
        fit=lambda model, epochs, verbose: fit(
            model, train, settings, epochs, verbose=verbose
        ),
        # After a quarter of them it is chance that ranks such small networks.
        epochs=(1, 1) if quick else (passes // 2, passes),
        alpha=settings.alpha,
        temperature=settings.temperature,
        held_out=(x_held, labels[split:]),
        test=test,
        metric=lambda: keras.metrics.SparseCategoricalAccuracy("accuracy"),
        choosing=lambda: keras.metrics.SparseCategoricalCrossentropy(
            "crossentropy", from_logits=True
        ),
        calibration=x_train,
        settings=dataclasses.asdict(settings) | {"quick": quick},
        finish=lambda model: None,
        **given,
    )


def _as_tokens(images: np.ndarray) -> dict[str, np.ndarray]:
    brightness = images.reshape(len(images), -1) / images.max()
    ids = np.rint(brightness * (_NUM_TOKENS - 1)).astype("int32")
    return {
        "token_ids": ids,
        "segment_ids": np.zeros_like(ids),
        "padding_mask": np.ones_like(ids),
    }


def _fit_encoder(
    model: Any,
    train: Any,
    settings: demo_image.ImageSettings,
    passes: int,
    *,
    verbose: Any = "auto",
) -> None:
    x, y = train
    steps = passes * -(-len(y) // settings.batch_size)
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, steps, warmup_target=3e-3, warmup_steps=max(1, steps // 20)
    )
    model.compile(
        keras.optimizers.AdamW(rate, global_clipnorm=1.0),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(
        x, y, batch_size=settings.batch_size, epochs=passes, verbose=verbose
    )


# What `kdtf search --space` takes, and the task behind it.
TASKS: dict[str, Callable[..., StudentTask]] = {
    "decoder": _decoder_task,
    "encoder": _encoder_task,
    "cnn": _cnn_task,
}
