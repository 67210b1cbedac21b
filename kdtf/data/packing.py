"""Documents of any length, packed into windows of one length."""

from collections.abc import Iterable
from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["as_ids", "pack_tokens", "shifted_windows"]

Windows = tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]


def pack_tokens(
    documents: Iterable[Sequence[int]],
    *,
    length: int,
    end_id: int,
    pad_id: int | None = None,
    drop_remainder: bool = False,
) -> Windows:
    """Packs documents end to end into windows for a causal language model.

    Every token but the very first is a label exactly once. Documents are
    parted by `end_id` alone: a token attends to the documents before it in
    its window, as GPT-2 and Llama were trained. Empty documents are skipped.

    Args:
        documents: Token ids of each document, without an end token.
        length: Tokens in a window, at least 1.
        end_id: Written after each document.
        pad_id: Fills up the last window. Defaults to `end_id`; its weight is
            zero whatever it is.
        drop_remainder: Whether to leave the last window out if it is not
            full. Defaults to False.

    Returns:
        `(x, y, sample_weight)`: `x` is a dict of "token_ids" and
        "padding_mask", int32; `y` are the labels, one token later, int32;
        `sample_weight` is float32, 0 at padding. All of shape
        `(windows, length)`.

    Raises:
        ValueError: `length` is below 1, or there are too few tokens for one
            window.

    Example:
        >>> x, y, weight = pack_tokens([[5, 6, 7], [8]], length=3, end_id=0)
        >>> x["token_ids"].tolist()
        [[5, 6, 7], [0, 8, 0]]
        >>> y.tolist(), weight.tolist()
        ([[6, 7, 0], [8, 0, 0]], [[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]])
    """
    if length < 1:
        raise ValueError(
            f"`length` must be at least 1. Received: length={length}."
        )
    end = np.array([end_id], np.int32)
    pieces: list[np.ndarray] = []
    for document in documents:
        if len(document):
            pieces += [as_ids(document), end]
    tokens = np.concatenate(pieces) if pieces else end[:0]
    num_labels = len(tokens) - 1
    num_windows = num_labels // length
    if not drop_remainder:
        num_windows = -(-num_labels // length)
    if num_windows < 1:
        raise ValueError(
            "`documents` must hold a window's tokens and the one after them. "
            f"Received: {len(tokens)} tokens, end tokens included, length="
            f"{length}, drop_remainder={drop_remainder}."
        )
    total = num_windows * length + 1
    num_real = min(len(tokens), total)
    stream = np.full(total, end_id if pad_id is None else pad_id, np.int32)
    stream[:num_real] = tokens[:num_real]
    is_real = np.arange(total) < num_real
    # Neighbouring windows share a token: the last label of one is the first
    # input of the next.
    starts = np.arange(num_windows)[:, None] * length
    places = starts + np.arange(length + 1)
    return shifted_windows(stream[places], is_real[places], is_real[places])


def shifted_windows(
    tokens: np.ndarray, is_real: np.ndarray, is_label: np.ndarray
) -> Windows:
    """Parts rows of tokens into inputs, next-token labels and weights.

    Args:
        tokens: int32 of shape `(rows, length + 1)`.
        is_real: Bools of the same shape, False at padding.
        is_label: Bools of the same shape, True where a token is to be
            learned.

    Returns:
        As `pack_tokens`.

    Example:
        >>> real, label = np.array([[1, 1, 1]]), np.array([[0, 1, 1]])
        >>> x, y, weight = shifted_windows(np.array([[4, 5, 6]]), real, label)
        >>> x["token_ids"].tolist(), y.tolist(), weight.tolist()
        ([[4, 5]], [[5, 6]], [[1.0, 1.0]])
    """
    x = {
        "token_ids": tokens[:, :-1].astype(np.int32),
        "padding_mask": is_real[:, :-1].astype(np.int32),
    }
    return x, tokens[:, 1:].astype(np.int32), is_label[:, 1:].astype(np.float32)


def as_ids(tokens: Any) -> np.ndarray:
    """Gives token ids as a vector, whatever a tokenizer made of a text.

    Raises:
        TypeError: They are no integers in one dimension.
    """
    ids = np.asarray(tokens)
    if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
        raise TypeError(
            "Token ids must be one list of integers for each text. Received: "
            f"shape={ids.shape}, dtype={ids.dtype}. Tokenize texts first, or "
            "pass a `tokenizer` where there is such an argument."
        )
    return ids.astype(np.int32)
