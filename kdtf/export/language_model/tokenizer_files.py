"""A Keras tokenizer as the file that clients read."""

import os
import pathlib
from typing import Any

from kdtf.export.errors import ExportError
from kdtf.export.language_model.settings import CHATS
from kdtf.export.language_model.settings import Chat
from kdtf.export.language_model.settings import Settings
from kdtf.export.language_model.settings import chat_of
from kdtf.export.language_model.text_codec import BYTE_PAIRS
from kdtf.export.language_model.text_codec import PIECES
from kdtf.export.language_model.text_codec import TextCodec

__all__ = ["codec_of", "settings_of"]

# What tokenizers disagree on: spaces, digits, case, other scripts, code.
PROBES = (
    "The quick brown fox can't jump over 12345 lazy dogs.",
    "  two spaces,\ta tab\n\nand lines\r\n  ",
    "Größe, naïve, 東京, Привет, مرحبا 😀 e\u0301",
    "def f(x):\n    return x[0] != 3.14 and 'it''s' # ...",
    "HTTPServer2023 I'LL it's ½ x² \u00a0nbsp\u3000wide",
    "x",
)
# How byte-pair tokenizers split text before they merge. Keras means to do it
# as Llama 3 does, for all of them, but keras-nlp 0.32 passes the pattern as
# plain text, which matches nothing: words are not split at all. Whatever it
# does, the file has to do the same.
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_GPT2 = (
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|"
    r"\s+(?!\S)|\s+"
)
# End tokens of tokenizer files that do not say which theirs are.
_ENDS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>")


def codec_of(model: Any, tokenizer: Any) -> TextCodec | None:
    """Returns the tokenizer to put into the file, None for none.

    Args:
        model: A keras-nlp model, with or without a preprocessor.
        tokenizer: "auto" (the model's own), None, or the path of a
            tokenizer.json or SentencePiece model.

    Raises:
        ValueError: There is no such file, or it is no tokenizer.
        ExportError: The model's own has no file that gives the same tokens.
    """
    if tokenizer is None:
        return None
    if tokenizer != "auto":
        return _from_path(tokenizer)
    ours = getattr(getattr(model, "preprocessor", None), "tokenizer", None)
    if ours is None:
        return None
    candidates = _candidates(ours)
    expected = [_ids(ours, text) for text in PROBES]
    for content, name in candidates:
        codec = TextCodec(content, name)
        if [codec.encode(text) for text in PROBES] == expected:
            return codec
    raise ExportError(
        "The file's tokenizer must give the tokens that Keras's gives. "
        f"Received: {type(ours).__qualname__}, which "
        f"{len(candidates)} forms of a tokenizer file were tried for. Pass "
        "`tokenizer=` the path of its tokenizer.json or SentencePiece model, "
        "or None to export without one."
    )


def settings_of(
    model: Any, codec: TextCodec | None, *, max_length: int
) -> Settings:
    """Returns what clients must know to run the model.

    Args:
        model: A keras-nlp model, with or without a preprocessor.
        codec: The tokenizer in the file.
        max_length: Tokens that its cache holds.
    """
    preprocessor: Any = getattr(model, "preprocessor", None)
    tokenizer = getattr(preprocessor, "tokenizer", None)
    start = None
    stops: list[int | None] = []
    if tokenizer is not None:
        if preprocessor.add_start_token:
            start = tokenizer.start_token_id
        stops += [tokenizer.end_token_id]
        stops += [getattr(tokenizer, "end_token2_id", None)]
    chat: Chat | None = None
    if codec is not None:
        chat = chat_of(codec.token_id)
        stops += [codec.token_id(chat.stop)] if chat else []
        if tokenizer is None:
            stops += [codec.token_id(token) for token in _ENDS]
    known = dict.fromkeys(int(s) for s in stops if s is not None)
    return Settings(
        max_length=max_length,
        start_token=None if start is None else int(start),
        stop_tokens=tuple(known),
        chat=chat,
        tokenizer=codec.name if codec else None,
    )


def _from_path(path: str | os.PathLike[str]) -> TextCodec:
    file = pathlib.Path(path)
    if not file.is_file():
        raise ValueError(
            "`tokenizer` must be 'auto', None, or the path of a "
            f"{BYTE_PAIRS} or SentencePiece model. Received: "
            f"tokenizer={os.fspath(path)!r}, which is no file."
        )
    content = file.read_bytes()
    if file.suffix != ".json":
        return TextCodec(content, PIECES)
    return TextCodec(_with_marks(content), BYTE_PAIRS)


def _with_marks(content: bytes) -> bytes:
    """Makes a chat's tokens special, where a file leaves them plain."""
    import tokenizers

    codec = TextCodec(content, BYTE_PAIRS)
    marks = [mark for c in CHATS.items() for mark in (c[0], c[1].stop)]
    marks = [m for m in (*marks, *_ENDS) if codec.token_id(m) is not None]
    loaded = tokenizers.Tokenizer.from_str(content.decode())
    loaded.add_special_tokens(marks)
    return str(loaded.to_str()).encode()


def _candidates(tokenizer: Any) -> list[tuple[bytes, str]]:
    if getattr(tokenizer, "proto", None):
        return [(bytes(tokenizer.proto), PIECES)]
    if not getattr(tokenizer, "merges", None):
        return []
    return [
        (_byte_pair_file(tokenizer, pattern), BYTE_PAIRS)
        for pattern in (None, _LLAMA3, _GPT2)
    ]


def _byte_pair_file(tokenizer: Any, pattern: str | None) -> bytes:
    import tokenizers

    pairs = [tuple(merge.split(" ")) for merge in tokenizer.merges]
    result = tokenizers.Tokenizer(
        tokenizers.models.BPE(
            vocab=dict(tokenizer.vocabulary),
            merges=[p for p in pairs if p[0] != "#version:"],
        )
    )
    before = tokenizers.pre_tokenizers
    split = []
    if pattern is not None:
        split = [before.Split(tokenizers.Regex(pattern), "isolated")]
    as_bytes = before.ByteLevel(
        add_prefix_space=tokenizer.add_prefix_space, use_regex=False
    )
    result.pre_tokenizer = before.Sequence([*split, as_bytes])
    result.decoder = tokenizers.decoders.ByteLevel()
    result.add_special_tokens(list(tokenizer.unsplittable_tokens or ()))
    return str(result.to_str()).encode()


def _ids(tokenizer: Any, text: str) -> list[int]:
    import numpy as np

    return [int(i) for i in np.asarray(tokenizer(text))]
