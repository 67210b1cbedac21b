"""Prompts and answers, as windows in which only the answer is learned."""

import warnings
from collections.abc import Callable
from collections.abc import Iterable
from typing import Any

import numpy as np

from kdtf.data.packing import Windows
from kdtf.data.packing import as_ids
from kdtf.data.packing import shifted_windows

__all__ = ["instruction_windows"]


def instruction_windows(
    pairs: Iterable[tuple[Any, Any]],
    *,
    length: int,
    end_id: int,
    pad_id: int | None = None,
    tokenizer: Callable[[str], Any] | None = None,
    format: Callable[[Any, Any], tuple[Any, Any]] | None = None,
    too_long: str = "cut",
) -> Windows:
    """Puts each prompt and its answer into a window of its own.

    Answer and end token have weight 1, prompt and padding weight 0. The
    prompt is told by its position, so that an end token within a prompt, or
    a padding token that is also the end token, stays what it is.

    A pair that is too long is cut at the left of its prompt, of which at
    least one token stays, or is dropped; a warning says how many were. A
    pair whose answer alone is too long is dropped: half an answer would
    teach to stop anywhere.

    Args:
        pairs: `(prompt, answer)` as token ids, without end tokens, or as
            texts if there is a `tokenizer`.
        length: Tokens in a window, at least 1.
        end_id: Written after each answer, and learned.
        pad_id: Fills up windows. Defaults to `end_id`.
        tokenizer: Gives the token ids of one text, as
            `keras_nlp.models.GPT2Tokenizer` does. Prompt and answer are
            tokenized apart, as they are when a model writes the answer.
        format: Gives `(prompt, answer)` for what a pair holds, before the
            tokenizer sees it: the place for a chat template.
        too_long: "cut" or "drop". Defaults to "cut".

    Returns:
        `(x, y, sample_weight)` as `pack_tokens`, of shape
        `(pairs that are left, length)`.

    Raises:
        TypeError: Texts without a `tokenizer`.
        ValueError: `length` is below 1, a prompt is empty, or no pair is
            left.

    Example:
        >>> x, y, weight = instruction_windows(
        ...     [([5, 6], [7]), ([8], [9])], length=4, end_id=0
        ... )
        >>> x["token_ids"].tolist(), x["padding_mask"].tolist()
        ([[5, 6, 7, 0], [8, 9, 0, 0]], [[1, 1, 1, 1], [1, 1, 1, 0]])
        >>> y.tolist(), weight[0].tolist()
        ([[6, 7, 0, 0], [9, 0, 0, 0]], [0.0, 1.0, 1.0, 0.0])
    """
    if length < 1:
        raise ValueError(
            f"`length` must be at least 1. Received: length={length}."
        )
    if too_long not in ("cut", "drop"):
        raise ValueError(
            "`too_long` must be 'cut' or 'drop'. Received: too_long="
            f"{too_long!r}."
        )
    end = np.array([end_id], np.int32)
    rows: list[tuple[np.ndarray, np.ndarray]] = []
    num_cut = num_dropped = 0
    for index, pair in enumerate(pairs):
        prompt, answer = pair if format is None else format(*pair)
        prompt = _ids_of(prompt, tokenizer)
        answer = np.concatenate([_ids_of(answer, tokenizer), end])
        if not len(prompt):
            raise ValueError(
                "A prompt must have at least one token, which the first of "
                f"the answer is told from. Received: pair {index} with an "
                "empty prompt. Begin each with the start token."
            )
        surplus = len(prompt) + len(answer) - (length + 1)
        if surplus > 0:
            if too_long == "drop" or surplus >= len(prompt):
                num_dropped += 1
                continue
            num_cut += 1
            prompt = prompt[surplus:]
        rows.append((prompt, answer))
    _report(len(rows), num_cut, num_dropped, length)
    return _to_windows(rows, length, end_id if pad_id is None else pad_id)


def _ids_of(text: Any, tokenizer: Callable[[str], Any] | None) -> np.ndarray:
    # Most tokenizers give floats for an empty text.
    if isinstance(text, str) and not text:
        return np.zeros(0, np.int32)
    return as_ids(text if tokenizer is None else tokenizer(text))


def _report(num_left: int, num_cut: int, num_dropped: int, length: int) -> None:
    total = num_left + num_dropped
    if not num_left:
        raise ValueError(
            "`pairs` must hold a pair that fits. Received: "
            f"{total} pairs, of which {num_dropped} were dropped as too long; "
            f"length={length}. Raise `length`, or use `too_long='cut'`."
        )
    if num_cut or num_dropped:
        warnings.warn(
            f"Of {total} pairs, {num_cut} were cut at the left of the prompt "
            f"and {num_dropped} dropped: they are longer than length="
            f"{length}.",
            stacklevel=3,
        )


def _to_windows(
    rows: list[tuple[np.ndarray, np.ndarray]], length: int, pad_id: int
) -> Windows:
    tokens = np.full((len(rows), length + 1), pad_id, np.int32)
    starts = np.array([[len(prompt)] for prompt, _ in rows])
    ends = np.array([[len(prompt) + len(answer)] for prompt, answer in rows])
    for row, (prompt, answer) in zip(tokens, rows, strict=True):
        row[: len(prompt) + len(answer)] = np.concatenate([prompt, answer])
    places = np.arange(length + 1)
    is_real = places < ends
    return shifted_windows(tokens, is_real, is_real & (places >= starts))
