"""Compares an exported language model with the Keras model it came from."""

import dataclasses
import importlib.util
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from kdtf.export.errors import ExportError
from kdtf.export.language_model.text_codec import TextCodec
from kdtf.export.language_model.worker import continuations
from kdtf.export.language_model.worker import engine_texts
from kdtf.export.language_model.worker import forced_logits
from kdtf.export.parity import sqnr_db
from kdtf.export.quiet import quiet
from kdtf.export.targets import Mode

__all__ = [
    "NUM_NEW",
    "Comparison",
    "Written",
    "check_limits",
    "compare_file",
    "run_engine",
    "written_by",
]

# How far two float32 computations of the same logits may be apart, as a part
# of the largest; the next two scores that are closer are a tie.
_TIE = 1e-4
# Tokens that are written after each prompt.
NUM_NEW = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class Written:
    """What the Keras model wrote.

    Args:
        prompt: Token ids it was given.
        tokens: Those it wrote, the likeliest each time.
        logits: The scores it chose them by, `(written, vocabulary)`.
    """

    prompt: list[int]
    tokens: list[int]
    logits: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """How far a file is from its model; see `LanguageModelResult`."""

    sqnr_db: float
    token_agreement: float
    num_tokens: int
    tokens_per_second: float
    peak_memory_bytes: int


def written_by(
    model: Any, prompts: Sequence[list[int]], *, max_length: int
) -> list[Written]:
    """Returns what Keras's own generation writes after each prompt.

    Args:
        model: A keras-nlp `CausalLM`; its sampler is put back.
        prompts: Token ids, each shorter than `max_length`.
        max_length: Tokens there may be in all.
    """
    import keras_nlp
    import tensorflow as tf

    sampler = model.sampler
    # Not `compile`, which would drop the user's optimizer.
    model.sampler = keras_nlp.samplers.GreedySampler()
    try:
        # Traced once for each length; call by call it takes twice as long.
        step = tf.function(model.generate_step, autograph=False)
        # It warns of functions that are traced anew for each model.
        with quiet():
            return [_written(model, step, ids, max_length) for ids in prompts]
    finally:
        model.sampler = sampler


def _written(
    model: Any, step: Any, prompt: list[int], max_length: int
) -> Written:
    length = min(len(prompt) + NUM_NEW, max_length)
    ids = np.zeros((1, length), "int32")
    ids[0, : len(prompt)] = prompt
    mask = (np.arange(length) < len(prompt))[None].astype("int32")
    made = step({"token_ids": ids, "padding_mask": mask})
    ids = np.asarray(made["token_ids"], "int32")
    inputs = {"token_ids": ids, "padding_mask": np.ones_like(ids)}
    logits = np.asarray(model(inputs, training=False)[0], "float32")
    return Written(
        prompt=list(prompt),
        tokens=[int(i) for i in ids[0, len(prompt) :]],
        logits=logits[len(prompt) - 1 : -1],
    )


def compare_file(
    path: pathlib.Path, written: Sequence[Written], *, mode: str | None
) -> Comparison:
    """Returns how the file's scores and tokens compare with Keras's.

    Args:
        path: The `.tflite` file with its settings.
        written: What Keras wrote.
        mode: How the file is quantized; float files must give Keras's tokens.

    Raises:
        ExportError: The runtime refused the file, or a float file writes
            other tokens.
    """
    pairs = [(w.prompt, w.tokens) for w in written]
    found, facts = forced_logits(path, pairs)
    expected = np.concatenate([w.logits for w in written])
    given = np.concatenate(found)
    if given.shape != expected.shape or not np.isfinite(given).all():
        raise ExportError(
            "The file must give a number for each token of the vocabulary. "
            f"Received: logits of shape {given.shape}, finite: "
            f"{bool(np.isfinite(given).all())}, where Keras gives "
            f"{expected.shape}. Nothing was written."
        )
    tokens = np.concatenate([w.tokens for w in written])
    same = given.argmax(-1) == tokens
    if mode is None:
        _check_tokens(given, expected, tokens)
    return Comparison(
        sqnr_db=sqnr_db(_centred(expected), _centred(given)),
        token_agreement=float(same.mean()),
        num_tokens=len(tokens),
        tokens_per_second=facts["tokens_per_second"],
        peak_memory_bytes=int(facts["peak_memory_bytes"]),
    )


def _centred(logits: np.ndarray) -> np.ndarray:
    """Takes out what all scores of a place share: softmax does not see it.

    In SmolLM2 it is three times what they differ by.
    """
    return logits - logits.mean(-1, keepdims=True)


def _check_tokens(
    given: np.ndarray, expected: np.ndarray, tokens: np.ndarray
) -> None:
    places = np.arange(len(tokens))
    best = expected[places, given.argmax(-1)]
    gaps = expected[places, tokens] - best
    wrong = np.flatnonzero(gaps > _TIE * np.abs(expected).max(-1))
    if len(wrong):
        raise ExportError(
            "A float file must write the tokens that Keras's `generate` "
            f"writes. Received: other ones at {len(wrong)} of {len(tokens)} "
            f"places, the first after {wrong[0]}. Nothing was written."
        )


def check_limits(comparison: Comparison, limits: Mode) -> tuple[str, ...]:
    """Returns warnings about a file that is good enough.

    Raises:
        ExportError: It is not.
    """
    text = (
        f"a signal-to-noise ratio of {comparison.sqnr_db:.1f} dB in the "
        f"logits and {comparison.token_agreement:.0%} of Keras's tokens"
    )
    if comparison.sqnr_db < limits.min_sqnr_db:
        raise ExportError(
            "The file must compute what the Keras model computes, to "
            f"{limits.min_sqnr_db:g} dB. Received: {text}. Choose a finer "
            "`quantize`, such as 'int4_block32' or 'dynamic_int8', or have "
            "errors made up for: `kdtf.quantize(model, {'*embeddings': "
            "'dynamic_int8', '*': 'int4_block32'}, data, method='gptq')`, "
            "then quantize='dynamic_int8'. Nothing was written."
        )
    if comparison.sqnr_db < limits.good_sqnr_db:
        return (f"{text}: its texts will differ from Keras's here and there",)
    return ()


def run_engine(
    path: pathlib.Path,
    written: Sequence[Written],
    codec: TextCodec,
    interpreter: pathlib.Path,
) -> str:
    """Returns in words how a bundle did in LiteRT-LM.

    Args:
        path: The `.litertlm` bundle.
        written: For the prompts.
        codec: Its tokenizer.
        interpreter: The `.tflite` in it, with its settings: what the engine
            must write is what LiteRT's interpreter writes.

    Raises:
        ExportError: It wrote something else, or does not run it.
    """
    if importlib.util.find_spec("litert_lm") is None:
        return "not run in LiteRT-LM, which is not installed"
    prompts = [codec.decode(item.prompt) for item in written]
    expected = continuations(interpreter, prompts, max_tokens=NUM_NEW)
    answers = engine_texts(path, prompts, [e["tokens"] for e in expected])
    for text, want, answer in zip(prompts, expected, answers, strict=True):
        if answer["ids"] != want["ids"]:
            raise ExportError(
                "LiteRT-LM must read a text as the tokens Keras reads. "
                f"Received: {answer['ids']} for {text!r}, not {want['ids']}."
            )
        if answer["text"].strip() != answer["expected"].strip():
            raise ExportError(
                "LiteRT-LM must write what LiteRT's interpreter writes. "
                f"Received: {answer['text']!r} after {text!r}, not "
                f"{answer['expected']!r}."
            )
    count = sum(len(want["tokens"]) for want in expected)
    return f"wrote the same {count} tokens after {len(prompts)} prompts"
