"""Text to tokens to training windows, for small language models."""

from typing import Any

import numpy as np

__all__ = ["END_OF_TEXT", "token_windows", "train_tokenizer"]

END_OF_TEXT = "<|endoftext|>"


def train_tokenizer(text: str, *, vocabulary_size: int) -> Any:
    """Trains a byte-level BPE vocabulary and gives it as a GPT-2 tokenizer.

    Byte-level, so that every string can be written: there is no unknown
    token. Training is deterministic.

    Args:
        text: What to learn the pieces from.
        vocabulary_size: Number of tokens, at least 258: the 256 bytes, the
            end-of-text token and one merged pair. The result has fewer if
            `text` is short.

    Returns:
        A `keras_nlp.models.GPT2Tokenizer`; the end of text is its last token.

    Raises:
        ValueError: `vocabulary_size` is below 258, or `text` has no two
            characters that follow each other twice.

    Example:
        >>> tokenizer = train_tokenizer("the cat, the hat", vocabulary_size=260)
        >>> str(tokenizer.detokenize(tokenizer("the cat")))
        'the cat'

    Reference:
        Sennrich et al. 2016, https://arxiv.org/abs/1508.07909; byte level:
        Radford et al. 2019 (GPT-2), section 2.2
    """
    if vocabulary_size < 258:
        raise ValueError(
            "`vocabulary_size` must be at least 258: 256 bytes, the end of "
            "text and one merged pair. Received: vocabulary_size="
            f"{vocabulary_size}."
        )
    import keras_nlp
    import tokenizers

    byte_level = tokenizers.pre_tokenizers.ByteLevel
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    bpe.pre_tokenizer = byte_level(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(byte_level.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(text.splitlines(keepends=True), trainer)
    # The only public way to the merges is the tokenizer's own JSON.
    merges = _merges_of(bpe)
    if not merges:
        raise ValueError(
            "`text` must have pairs of characters that occur again: there is "
            f"nothing to merge. Received: text={text[:40]!r}. Train on more."
        )
    # The end comes last: Keras pads with 0, and would take that for an end.
    vocabulary = bpe.get_vocab()
    end = vocabulary.pop(END_OF_TEXT)
    vocabulary = {t: i - (i > end) for t, i in vocabulary.items()}
    vocabulary[END_OF_TEXT] = len(vocabulary)
    return keras_nlp.models.GPT2Tokenizer(vocabulary=vocabulary, merges=merges)


def _merges_of(tokenizer: Any) -> list[str]:
    import json

    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return [m if isinstance(m, str) else " ".join(m) for m in merges]


def token_windows(
    ids: np.ndarray, *, length: int, stride: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Cuts a long sequence into inputs and next-token labels.

    Args:
        ids: Token ids, shape `(n,)`.
        length: Tokens in a window, at least 1.
        stride: Tokens between the starts of windows. Defaults to `length`:
            windows that do not overlap.

    Returns:
        Inputs and labels, int32 of shape `(windows, length)`; the labels are
        the inputs one token later. A rest shorter than a window is left out.

    Raises:
        ValueError: There are not `length` + 1 tokens.

    Example:
        >>> x, y = token_windows(np.arange(8), length=3)
        >>> x.tolist(), y.tolist()
        ([[0, 1, 2], [3, 4, 5]], [[1, 2, 3], [4, 5, 6]])
    """
    stride = length if stride is None else stride
    if length < 1 or stride < 1 or len(ids) < length + 1:
        raise ValueError(
            "A window needs `length` >= 1 tokens, the one after them, and a "
            f"`stride` >= 1. Received: {len(ids)} tokens, length={length}, "
            f"stride={stride}."
        )
    ids = np.asarray(ids, np.int32)
    windows = np.lib.stride_tricks.sliding_window_view(ids, length + 1)
    windows = windows[::stride]
    return windows[:, :-1].copy(), windows[:, 1:].copy()
