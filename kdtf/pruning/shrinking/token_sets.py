"""A tokenizer's tokens, what each is formed of, and tokenizers of fewer.

The law behind all three kinds: what a tokenizer does to a text is a chain of
choices, each the best of what it has. With fewer tokens, but all that the
chain passes through, the same choices are still there and still the best.
"""

import abc
import functools
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["TokenSet", "ids_of", "token_set"]

_VERSION = "#version: 0.2"
# Types of SentencePiece's pieces.
_NORMAL, _UNUSED = 1, 5
_BYTE_PAIRS = 2


class TokenSet(abc.ABC):
    """The tokens of a `keras_nlp` tokenizer.

    Args:
        tokenizer: A tokenizer with a vocabulary.

    Attributes:
        tokenizer: That tokenizer.
        tokens: Id to token.
    """

    def __init__(self, tokenizer: Any) -> None:
        """Reads the tokens."""
        self.tokenizer = tokenizer
        self.tokens = self._read()

    @abc.abstractmethod
    def _read(self) -> dict[int, str]: ...

    @abc.abstractmethod
    def _set(self, tokenizer: Any, kept: dict[int, int]) -> None:
        """Gives a tokenizer without tokens those kept: old id to new."""

    @abc.abstractmethod
    def is_fixed(self, index: int, token: str) -> bool:
        """Returns whether a token is needed for any text at all."""

    def parts(self, index: int) -> Iterable[int]:
        """Returns the tokens of which one is formed."""
        return ()

    def is_idle(self, token: str) -> bool:
        """Returns whether a token only keeps a place free."""
        return False

    def fixed(self) -> set[int]:
        """Returns the special tokens and those of single characters."""
        tokenizer = self.tokenizer
        special = {*tokenizer.special_tokens}
        special |= {*(getattr(tokenizer, "unsplittable_tokens", None) or ())}
        found = {
            index
            for index, token in self.tokens.items()
            if token in special or self.is_fixed(index, token)
        }
        # Some pad with a number that is no special token's: 0, mostly.
        pad = getattr(tokenizer, "pad_token_id", None)
        if pad in self.tokens:
            found.add(pad)
        return found

    def closure(self, index: int) -> set[int]:
        """Returns a token and all that it is formed of, directly or not."""
        found: set[int] = set()
        waiting = [index]
        while waiting:
            token = waiting.pop()
            if token not in found:
                found.add(token)
                waiting.extend(self.parts(token))
        return found

    def trimmed(self, kept: Sequence[int]) -> Any:
        """Returns a tokenizer of the same class and settings.

        Args:
            kept: Ids of the tokens it shall have, closed and ascending; their
                new ids are their places.
        """
        old = self.tokenizer
        new = type(old).from_config(old.get_config())
        # Not all configurations say which tokens are special.
        names = getattr(old, "_special_token_attrs", [])
        if names:
            new._special_token_attrs = list(names)
        for name in names:
            setattr(new, name, getattr(old, name))
        places = {int(index): place for place, index in enumerate(kept)}
        self._set(new, places)
        if "pad_token" not in names and hasattr(old, "pad_token_id"):
            new.pad_token_id = places.get(old.pad_token_id, old.pad_token_id)
        return new


class _BytePairs(TokenSet):
    """Tokens that merges form, as in GPT-2, Llama 3, Qwen and RoBERTa.

    A word's merges all lie within its tokens. So they are still there if
    each token came with all merges that give it, and the first of them is
    still the first.
    """

    def _read(self) -> dict[int, str]:
        return {
            index: token for token, index in self.tokenizer.vocabulary.items()
        }

    @functools.cached_property
    def _parts(self) -> dict[int, set[int]]:
        ids = self.tokenizer.vocabulary
        found: dict[int, set[int]] = {}
        for merge in self.tokenizer.merges:
            pair = _pair(merge)
            if pair is not None:
                made = ids["".join(pair)]
                found.setdefault(made, set()).update(ids[part] for part in pair)
        return found

    def parts(self, index: int) -> Iterable[int]:
        return self._parts.get(index, ())

    def is_fixed(self, index: int, token: str) -> bool:
        # The alphabet of bytes, each written as one character.
        return len(token) == 1

    def _set(self, tokenizer: Any, kept: dict[int, int]) -> None:
        ids = {self.tokens[old]: new for old, new in kept.items()}
        merges = []
        for merge in self.tokenizer.merges:
            pair = _pair(merge)
            if pair is None or {*pair, "".join(pair)} <= ids.keys():
                merges.append(merge)
        # Keras makes no table of none; the line of a version is no rule.
        tokenizer.set_vocabulary_and_merges(ids, merges or [_VERSION])


class _WordPieces(TokenSet):
    """Words and their pieces, the longest that fits first, as in BERT.

    The longest piece stays the longest among fewer. With all single
    characters any word still has pieces.
    """

    def _read(self) -> dict[int, str]:
        return dict(enumerate(self.tokenizer.get_vocabulary()))

    def is_fixed(self, index: int, token: str) -> bool:
        mark = self.tokenizer.suffix_indicator
        named = {self.tokenizer.oov_token}
        named |= {*(self.tokenizer._init_special_tokens or ())}
        return token in named or len(token.removeprefix(mark)) == 1

    def is_idle(self, token: str) -> bool:
        return token.startswith("[unused")

    def _set(self, tokenizer: Any, kept: dict[int, int]) -> None:
        # Its configuration forgets this one.
        tokenizer.split_on_cjk = self.tokenizer.split_on_cjk
        tokenizer.set_vocabulary([self.tokens[index] for index in kept])


class _Pieces(TokenSet):
    """SentencePiece's pieces, as in Llama 2, Gemma, Mistral and ALBERT.

    Byte pairs are merged by the scores of what they give, the highest first;
    of unigrams the likeliest row is taken, which stays it among fewer.
    """

    @functools.cached_property
    def _model(self) -> Any:
        from sentencepiece import sentencepiece_model_pb2

        # Its messages are made at import, where no type checker sees them.
        message: Any = sentencepiece_model_pb2
        return message.ModelProto.FromString(self.tokenizer.proto)

    @functools.cached_property
    def _ids(self) -> dict[str, int]:
        return {piece.piece: i for i, piece in enumerate(self._model.pieces)}

    @functools.cached_property
    def _lowest(self) -> int | None:
        """What a unigram model's unknown characters cost is told by it."""
        if self._model.trainer_spec.model_type == _BYTE_PAIRS:
            return None
        pieces = self._model.pieces
        normal = [i for i, piece in enumerate(pieces) if piece.type == _NORMAL]
        return min(normal, key=lambda index: pieces[index].score, default=None)

    def _read(self) -> dict[int, str]:
        return {i: piece.piece for i, piece in enumerate(self._model.pieces)}

    def is_fixed(self, index: int, token: str) -> bool:
        kind = self._model.pieces[index].type
        # Those of bytes, of control, the unknown one, what users defined.
        is_special = kind not in (_NORMAL, _UNUSED)
        return is_special or len(token) == 1 or index == self._lowest

    def parts(self, index: int) -> Iterable[int]:
        if self._model.trainer_spec.model_type != _BYTE_PAIRS:
            return ()
        return self._merged(self.tokens[index])

    def _merged(self, token: str) -> set[int]:
        """Returns all pieces that come up when a token is merged."""
        parts = list(token)
        found = {self._ids[part] for part in parts if part in self._ids}
        while len(parts) > 1:
            pairs = [a + b for a, b in zip(parts, parts[1:], strict=False)]
            places = [i for i, pair in enumerate(pairs) if pair in self._ids]
            if not places:
                break
            # Of equal scores the first is taken.
            best = max(places, key=lambda i: self._score(pairs[i]))
            parts[best : best + 2] = [pairs[best]]
            found.add(self._ids[pairs[best]])
        return found

    def _score(self, token: str) -> float:
        return float(self._model.pieces[self._ids[token]].score)

    def _set(self, tokenizer: Any, kept: dict[int, int]) -> None:
        model = type(self._model)()
        model.CopyFrom(self._model)
        del model.pieces[:]
        model.pieces.extend(self._model.pieces[index] for index in kept)
        model.trainer_spec.vocab_size = len(kept)
        # Some come with examples of what the whole vocabulary gives.
        model.DiscardUnknownFields()
        tokenizer.set_proto(model.SerializeToString())


def token_set(tokenizer: Any) -> TokenSet:
    """Returns what is known of a tokenizer's tokens.

    Args:
        tokenizer: One of `keras_nlp`.

    Raises:
        ValueError: Its tokens are of none of the three kinds.

    Example:
        >>> import keras_nlp
        >>> tokenizer = keras_nlp.tokenizers.BytePairTokenizer(
        ...     {"a": 0, "b": 1, "ab": 2, "aba": 3}, ["a b", "ab a"]
        ... )
        >>> sorted(token_set(tokenizer).closure(3))
        [0, 1, 2, 3]
    """
    import keras_nlp

    kinds: dict[type, Callable[[Any], TokenSet]] = {
        keras_nlp.tokenizers.BytePairTokenizer: _BytePairs,
        keras_nlp.tokenizers.WordPieceTokenizer: _WordPieces,
        keras_nlp.tokenizers.SentencePieceTokenizer: _Pieces,
    }
    for kind, tokens in kinds.items():
        if isinstance(tokenizer, kind):
            return tokens(tokenizer)
    raise ValueError(
        f"`tokenizer` must be one of {[kind.__name__ for kind in kinds]} of "
        f"`keras_nlp`. Received: {type(tokenizer).__qualname__}. A model "
        "without one is trimmed with `tokenizer=`."
    )


def _pair(merge: str) -> tuple[str, str] | None:
    """Returns what a rule merges; None for the line of its version."""
    if "#version:" in merge.lstrip():
        return None
    first, second = str(merge).split(" ")
    return first, second


def ids_of(tokenizer: Any, texts: Sequence[str]) -> np.ndarray:
    """Returns the ids of all tokens of some texts, in one row."""
    rows = [np.asarray(row, "int64") for row in tokenizer(list(texts))]
    return np.concatenate([*rows, np.zeros(0, "int64")])
