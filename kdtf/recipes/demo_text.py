"""The text demo: a small language model, distilled and put on a phone."""

import dataclasses
import hashlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kdtf.data import documentation_text
from kdtf.data import token_windows
from kdtf.data import train_tokenizer
from kdtf.evaluation import compare
from kdtf.export import export_tflite
from kdtf.litert import Runner
from kdtf.recipes.trio import Role
from kdtf.recipes.trio import train_trio
from kdtf.recipes.workspace import Workspace
from kdtf.search import decoders

__all__ = ["run_text_demo"]

_PROMPT = "A class definition"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextSettings:
    """Sizes and lengths of the text demo; part of every stage's settings.

    Attributes:
        seed: Seeds initial weights, batches and dropout.
        vocabulary_size: Byte-pair tokens, the 256 bytes among them.
        window: Tokens a model sees at once.
        batch_size: Windows in a step.
        teacher: Layers, heads, width, feed-forward width of the teacher.
        student: The same of the student.
        teacher_epochs: Passes over the text for the teacher.
        student_epochs: Passes for each student.
        teacher_learning_rate: Of AdamW, at its peak.
        student_learning_rate: The same for the students; narrow models learn
            best with larger steps.
        alpha: Weight of the labels for the distilled student.
        temperature: Softens both models' outputs.
    """

    seed: int
    vocabulary_size: int = 512
    window: int = 64
    batch_size: int = 8
    teacher: tuple[int, int, int, int] = (2, 4, 128, 512)
    student: tuple[int, int, int, int] = (1, 2, 64, 256)
    teacher_epochs: int = 8
    student_epochs: int = 4
    teacher_learning_rate: float = 2e-3
    student_learning_rate: float = 6e-3
    alpha: float = 0.1
    temperature: float = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Corpus:
    """Tokenized text: windows of inputs and next tokens, int32."""

    tokenizer: Any
    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    digest: str


def run_text_demo(
    workspace: Workspace, *, seed: int, quick: bool
) -> tuple[Any, dict[str, str]]:
    """Runs the stages and compares their results on held-out text.

    Args:
        workspace: Keeps the finished stages.
        seed: Seeds everything.
        quick: A few steps only.

    Returns:
        The comparison, and notes for its report: what each model writes.
    """
    settings = TextSettings(seed=seed)
    if quick:
        settings = dataclasses.replace(
            settings, teacher_epochs=1, student_epochs=1, batch_size=512
        )
    workspace.console.rule("Text and tokenizer", align="left")
    corpus = read_corpus(settings)
    workspace.console.print(
        f"{corpus.train[0].size:,} tokens of the Python language reference to "
        f"learn from, {corpus.test[0].size:,} held out; "
        f"{corpus.tokenizer.vocabulary_size()} different ones",
        highlight=False,
    )
    models = _train(workspace, settings, corpus)
    workspace.console.rule("Export, verified", align="left")
    x, y = corpus.test
    result = export_tflite(
        models["student distilled"],
        workspace.folder / "student-int8.tflite",
        quantize="dynamic_int8",
        verify_data=text_inputs(x[:32]),
    )
    workspace.console.rule("Comparison on held-out text", align="left")
    comparison = compare(
        models | {"student int8 .tflite": result.path},
        (text_inputs(x), y),
        metrics=[perplexity()],
    )
    writers = {name: _next_of_model(model) for name, model in models.items()}
    writers["student int8 .tflite"] = _next_of_file(result.path)
    notes = {
        f"{name} writes": write(corpus.tokenizer, settings, following)
        for name, following in writers.items()
    }
    return comparison, notes | {"Export": str(result)}


def perplexity() -> Any:
    """Gives the metric the models are judged by."""
    import keras_nlp

    return keras_nlp.metrics.Perplexity(from_logits=True, name="perplexity")


def read_corpus(settings: TextSettings) -> Corpus:
    """Gives the Python language reference as tokens.

    Args:
        settings: For the vocabulary and the window.
    """
    text = documentation_text()
    tokenizer = train_tokenizer(
        text.train, vocabulary_size=settings.vocabulary_size
    )
    train, test = (
        token_windows(np.asarray(tokenizer(part)), length=settings.window)
        for part in text
    )
    digest = hashlib.sha256(train[0].tobytes()).hexdigest()
    return Corpus(tokenizer=tokenizer, train=train, test=test, digest=digest)


def _train(
    workspace: Workspace, settings: TextSettings, corpus: Corpus
) -> dict[str, Any]:
    def role(
        sizes: tuple[int, int, int, int], epochs: int, learning_rate: float
    ) -> Role:
        return Role(
            build=lambda: build_model(settings, corpus, sizes),
            fit=lambda model: fit_text(
                model, corpus, settings, epochs, learning_rate
            ),
            title=f"GPT-2 style, layers: {sizes[0]}, width: {sizes[2]}",
        )

    return train_trio(
        workspace,
        teacher=role(
            settings.teacher,
            settings.teacher_epochs,
            settings.teacher_learning_rate,
        ),
        student=role(
            settings.student,
            settings.student_epochs,
            settings.student_learning_rate,
        ),
        # Python versions differ in their documentation, and so do models.
        settings=dataclasses.asdict(settings) | {"corpus": corpus.digest},
        finish=lambda model: add_tokenizer(model, corpus, settings.window),
    )


def build_model(
    settings: TextSettings, corpus: Corpus, sizes: tuple[int, int, int, int]
) -> Any:
    """Gives a fresh `keras_nlp.models.GPT2CausalLM` that takes tokens.

    Args:
        settings: For the vocabulary and the window.
        corpus: For the tokenizer.
        sizes: Layers, heads, width, feed-forward width.

    Returns:
        The model, with initial weights.
    """
    num_layers, num_heads, width, feed_forward = sizes
    choices = {
        "layers": num_layers,
        "width": width,
        "heads": num_heads,
        "feed_forward": feed_forward // width,
    }
    space = decoders(
        vocabulary_size=corpus.tokenizer.vocabulary_size(),
        sequence_length=settings.window,
        **{name: [value] for name, value in choices.items()},
    )
    return space.build(choices)


def add_tokenizer(model: Any, corpus: Corpus, window: int) -> None:
    """Gives the model its tokenizer, so that it generates from its file.

    After training: with it `fit` would take text and not tokens.

    Args:
        model: A `GPT2CausalLM`.
        corpus: For the tokenizer.
        window: Tokens the model sees at once.
    """
    import keras_nlp

    model.preprocessor = keras_nlp.models.GPT2CausalLMPreprocessor(
        corpus.tokenizer, sequence_length=window
    )


def text_inputs(token_ids: Any) -> dict[str, Any]:
    """Gives tokens, none of them padding, as keras-nlp models take them."""
    return {"token_ids": token_ids, "padding_mask": np.ones_like(token_ids)}


def fit_text(
    model: Any,
    corpus: Corpus,
    settings: TextSettings,
    epochs: int,
    learning_rate: float,
    *,
    verbose: Any = "auto",
) -> None:
    """Compiles a model, or the Distiller around one, and trains it.

    Args:
        model: What is trained.
        corpus: For the windows.
        settings: For the batch size and the seed.
        epochs: Passes over the windows.
        learning_rate: Of AdamW, at its peak.
        verbose: As for Keras's `fit`.
    """
    x, y = corpus.train
    per_epoch = len(x) // settings.batch_size
    # Steps are short: several at a time take fewer trips through Python.
    together = min(8, per_epoch)
    per_epoch -= per_epoch % together
    steps = epochs * per_epoch
    warmup = max(1, steps // 20)
    decay = keras.optimizers.schedules.CosineDecay(
        0.0,
        steps - warmup,
        alpha=0.02,
        warmup_target=learning_rate,
        warmup_steps=warmup,
    )
    model.compile(
        keras.optimizers.AdamW(decay, weight_decay=0.01, global_clipnorm=1.0),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        # A keras-nlp model would add its own.
        weighted_metrics=[],
        steps_per_execution=together,
    )
    data = tf.data.Dataset.from_tensor_slices((text_inputs(x), y))
    data = data.shuffle(len(x), seed=settings.seed)
    data = data.batch(settings.batch_size, drop_remainder=True)
    data = data.take(per_epoch).prefetch(together)
    model.fit(data, epochs=epochs, shuffle=False, verbose=verbose)


def _next_of_model(model: Any) -> Callable[[np.ndarray], np.ndarray]:
    return lambda ids: np.asarray(model(text_inputs(ids), training=False))


def _next_of_file(path: Any) -> Callable[[np.ndarray], np.ndarray]:
    runner = Runner(path)
    return lambda ids: next(iter(runner(text_inputs(ids)).values()))


def write(
    tokenizer: Any,
    settings: TextSettings,
    logits_of: Callable[[np.ndarray], np.ndarray],
) -> str:
    """Continues the prompt with one of the 5 likeliest tokens at a time.

    Model and file are asked in the same way, with the same random numbers.

    Args:
        tokenizer: Text to tokens and back.
        settings: For the window and the seed.
        logits_of: Tokens int32 `(1, window)` to logits `(1, window, tokens)`.

    Returns:
        The prompt and what follows, up to the window.
    """
    rng = np.random.default_rng(settings.seed)
    prompt = np.asarray(tokenizer(_PROMPT), "int32")
    ids = np.zeros((1, settings.window), "int32")
    ids[0, : len(prompt)] = prompt
    for end in range(len(prompt), settings.window):
        logits = logits_of(ids)[0, end - 1].astype("float64")
        best = np.argsort(logits)[-5:]
        weights = np.exp(logits[best] - logits[best].max())
        ids[0, end] = rng.choice(best, p=weights / weights.sum())
    return " ".join(str(tokenizer.detokenize(ids[0])).split())
