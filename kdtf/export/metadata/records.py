"""What a user says of a model beside its weights."""

import dataclasses
import math
from collections.abc import Iterable
from collections.abc import Sequence
from typing import Any

__all__ = ["ImageMetadata", "Metadata", "TextMetadata"]

_TEXTS = ("name", "description", "version", "author", "license")
# MediaPipe puts the first two around every text, the third for unknown words.
_SPECIAL_TOKENS = ("[CLS]", "[SEP]", "[UNK]")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metadata:
    """Who made a model, and what it is.

    Args:
        name: Of the model.
        description: What it does.
        version: Of the model, in the user's own counting.
        author: Who made it.
        license: What others may do with it.

    Raises:
        TypeError: One of them is no text.

    Example:
        >>> print(Metadata(name="digits", license="Apache-2.0"))
        Metadata: name 'digits', license 'Apache-2.0'
    """

    name: str = ""
    description: str = ""
    version: str = ""
    author: str = ""
    license: str = ""

    def __post_init__(self) -> None:
        """Checks the values."""
        for field in _TEXTS:
            value = getattr(self, field)
            if not isinstance(value, str):
                raise TypeError(
                    f"`{field}` must be a text. Received: {field}={value!r}."
                )

    def __str__(self) -> str:
        """Returns what is known, in one line."""
        texts = [(field, getattr(self, field)) for field in _TEXTS]
        facts = [f"{field} {text!r}" for field, text in texts if text]
        facts += self._facts()
        return f"{type(self).__name__}: {', '.join(facts) or 'empty'}"

    def _facts(self) -> list[str]:
        return []


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageMetadata(Metadata):
    """What MediaPipe's ImageClassifier needs to run a file as it is.

    The model takes one colour picture and gives one row of scores. The
    classifier scales a picture to the model's size, computes
    `(pixel - mean) / std` of pixels in [0, 255] and gives the model's output
    as scores: a model that ends in logits gets logits.

    Args:
        labels: Names of the output's numbers, in order. Defaults to none.
        mean: One number: MediaPipe refuses different ones for the channels
            (files of other makers have them). A model that rescales its input
            itself takes `mean=0.0, std=1.0`; one trained on [-1, 1]
            `mean=127.5, std=127.5`. Needed unless the input is uint8; defaults
            to none.
        std: Likewise; positive.
        name: And `description`, `version`, `author`, `license`: as in
            `Metadata`.

    Raises:
        ValueError: A label has more than one line, `mean` and `std` are not
            equally many, or they are not finite or `std` not positive.
        TypeError: A label is no text.

    Example:
        >>> ImageMetadata(labels=["cat", "dog"], mean=127.5, std=127.5).mean
        (127.5,)
    """

    labels: Sequence[str] | None = dataclasses.field(default=None, repr=False)
    # After `__post_init__` these are tuples.
    mean: Any = ()
    std: Any = ()

    def __post_init__(self) -> None:
        """Checks the values and makes tuples of them."""
        super().__post_init__()
        _set(self, "labels", _lines(self.labels, "labels"))
        mean, std = _numbers(self.mean), _numbers(self.std)
        _set(self, "mean", mean)
        _set(self, "std", std)
        if len(mean) != len(std):
            raise ValueError(
                "`mean` and `std` must have as many numbers each. Received: "
                f"mean={mean}, std={std}."
            )
        if not all(map(math.isfinite, mean + std)) or min(std or (1,)) <= 0:
            raise ValueError(
                "`mean` must be finite and `std` positive. Received: "
                f"mean={mean}, std={std}."
            )

    def _facts(self) -> list[str]:
        facts = [f"{len(self.labels)} labels"] if self.labels else []
        if not self.mean:
            return facts
        mean, std = _plain(self.mean), _plain(self.std)
        return [*facts, f"(pixel - {mean}) / {std}"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextMetadata(Metadata):
    """What MediaPipe's TextClassifier needs to run a BERT file as it is.

    The model takes three int32 inputs of equal length: ids, segments and mask
    (by the names of keras-nlp or of Hugging Face). The classifier lowercases
    the text, which only a lowercase vocabulary fits, splits it into
    WordPieces and gives the model's output as scores: a model that ends in
    logits gets logits. Beyond ASCII it does not lowercase, and it keeps
    accents, which keras-nlp strips: such words get other ids.

    Args:
        labels: Names of the output's numbers, in order.
        tokenizer: A keras-nlp BERT tokenizer, or the vocabulary itself: a
            token's place is its id. Defaults to the tokenizer of the model's
            own preprocessor.
        name: And `description`, `version`, `author`, `license`: as in
            `Metadata`.

    Raises:
        ValueError: A label or token has more than one line, the tokenizer
            keeps capital letters, or the vocabulary lacks [CLS], [SEP] or
            [UNK].
        TypeError: A label is no text, or `tokenizer` neither of the two.

    Example:
        >>> tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad"]
        >>> print(TextMetadata(labels=["no", "yes"], tokenizer=tokens))
        TextMetadata: 2 labels, 6 tokens
    """

    labels: Sequence[str] | None = dataclasses.field(default=None, repr=False)
    tokenizer: Any = dataclasses.field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Checks the values and makes tuples of them."""
        super().__post_init__()
        _set(self, "labels", _lines(self.labels, "labels"))
        _set(self, "tokenizer", _vocabulary(self.tokenizer))

    def _facts(self) -> list[str]:
        facts = [f"{len(self.labels)} labels"] if self.labels else []
        if self.tokenizer is None:
            return facts
        return [*facts, f"{len(self.tokenizer)} tokens"]


def _set(record: Any, field: str, value: Any) -> None:
    object.__setattr__(record, field, value)


def _numbers(value: float | Sequence[float]) -> tuple[float, ...]:
    values = value if isinstance(value, Sequence) else [value]
    return tuple(float(item) for item in values)


def _plain(values: Any) -> str:
    return str(values[0]) if len(values) == 1 else str(values)


def _lines(values: Any, argument: str) -> tuple[str, ...] | None:
    """Checks texts that become the lines of a file."""
    if values is None:
        return None
    is_list = isinstance(values, Iterable) and not isinstance(values, str)
    lines = tuple(values) if is_list else ()
    if not lines or not all(isinstance(line, str) for line in lines):
        raise TypeError(
            f"`{argument}` must be a list of texts. Received: {argument}="
            f"{lines[:5] or values!r}."
        )
    # Not `splitlines`: a file's readers split at "\n" alone.
    broken = [v for v in lines if not v or "\n" in v or "\r" in v]
    if broken:
        raise ValueError(
            f"Each of `{argument}` must be one line. Received: {broken[:5]}."
        )
    return lines


def _vocabulary(tokenizer: Any) -> tuple[str, ...] | None:
    if getattr(tokenizer, "lowercase", True) is False:
        raise ValueError(
            "`tokenizer` must lowercase, as MediaPipe does with every text. "
            "Received: a tokenizer with lowercase=False. Train with an "
            "uncased vocabulary, or run the file with LiteRT itself."
        )
    if hasattr(tokenizer, "get_vocabulary"):
        tokenizer = tokenizer.get_vocabulary()
    tokens = _lines(tokenizer, "tokenizer")
    missing = [t for t in _SPECIAL_TOKENS if tokens and t not in tokens]
    if missing:
        raise ValueError(
            "`tokenizer` must have the tokens MediaPipe's BERT tokenizer puts "
            f"in: {list(_SPECIAL_TOKENS)}. Received: a vocabulary of "
            f"{len(tokens or ())} without {missing}."
        )
    return tokens
