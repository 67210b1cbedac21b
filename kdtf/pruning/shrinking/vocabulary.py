"""The verb: a language model of the tokens that its texts use."""

import collections
import dataclasses
import itertools
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from kdtf.backbones import backbone_of
from kdtf.backbones import resized
from kdtf.pruning.shrinking.token_sets import TokenSet
from kdtf.pruning.shrinking.token_sets import ids_of
from kdtf.pruning.shrinking.token_sets import token_set

__all__ = ["VocabularyPlan", "plan_vocabulary", "trim_vocabulary"]

# Texts that are tokenized in one call.
_TEXTS = 256


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class VocabularyPlan:
    """Which tokens stay; prints as a summary.

    Attributes:
        model: The model as it is.
        tokenizer: The one of fewer tokens.
        kept: int64, the old ids of the tokens that stay, ascending; a
            token's place is its new id.
        tokens: How many there are, before and after; before, rows of the
            model's table that are no token's count as well.
        fixed: How many of those that stay are special tokens or single
            characters, which always do.
        used: How many different ones the texts use.
        covered: Share of the texts' tokens that stay; the others fall into
            smaller ones.
    """

    model: keras.Model
    tokenizer: Any = dataclasses.field(repr=False)
    kept: np.ndarray = dataclasses.field(repr=False)
    tokens: tuple[int, int]
    fixed: int
    used: int
    covered: float

    def build(self) -> keras.Model:
        """Returns the model with the rows of the tokens that stay.

        Of the same class, with the same names, not compiled; its preprocessor
        has the new tokenizer. The given model is untouched.
        """
        task = None
        old = getattr(self.model, "preprocessor", None)
        if old is not None:
            config = old.get_config() | {"tokenizer": self.tokenizer}
            task = {"preprocessor": type(old).from_config(config)}
        changes = {"vocabulary_size": len(self.kept)}
        smaller = resized(self.model, changes, task=task)
        pairs = zip(smaller.weights, self.model.weights, strict=True)
        for new, weight in pairs:
            new.assign(_rows(np.asarray(weight), new.shape, self.kept))
        return smaller

    def __str__(self) -> str:
        """Returns a summary of one line."""
        before, after = self.tokens
        return (
            f"{self.model.name}: {before:,} -> {after:,} tokens "
            f"({after / before:.1%}), {self.covered:.2%} of the texts' "
            f"({self.used:,} different ones); {self.fixed:,} are special or "
            "single characters"
        )


def trim_vocabulary(
    model: keras.Model,
    texts: Iterable[str] | np.ndarray,
    size: int | None = None,
    *,
    tokenizer: Any = None,
    round_to: int = 8,
) -> keras.Model:
    """Keeps the tokens that texts use: a truly smaller language model.

    A vocabulary for the whole web is most of a small model: its table of
    embeddings, and the output's product with it. Kept are all special tokens
    and single characters (so any text can still be written), the tokens that
    are used most, and those that these are formed of.

    Where all tokens of a text are kept, the new tokenizer gives the same
    ones, and the new model's logits of kept tokens are the old model's. Other
    texts become longer rows of smaller tokens.

    Args:
        model: A `keras_nlp` backbone or task (a causal language model, a
            classifier) with byte-pair, WordPiece or SentencePiece tokens. It
            is left as it is.
        texts: Typical ones: strings, or an array of token ids of any shape.
        size: Tokens, at the most. Defaults to all that the texts use.
        tokenizer: That of a model without a preprocessor; the new one is
            `plan_vocabulary(...).tokenizer`.
        round_to: The number of tokens is a multiple of it, which kernels
            like: `size` is rounded down; by default tokens that no text uses
            fill up what is missing, lower ids first. Defaults to 8.

    Returns:
        The smaller model, with its preprocessor, not compiled; `shrink`,
        `Distiller`, `cache_teacher` and exports take it.

    Raises:
        TypeError: `texts` is a single string, or holds something else.
        ValueError: `model` is no `keras_nlp` model of transformer blocks or
            has no tokenizer, there are no texts, or `size` is less than what
            any text needs.

    Example:
        >>> import keras_nlp
        >>> tokenizer = keras_nlp.models.BertTokenizer(
        ...     ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        ...     + ["a", "##b", "day", "night", "noon"]
        ... )
        >>> model = keras_nlp.models.BertBackbone(
        ...     vocabulary_size=10, num_layers=1, num_heads=1, hidden_dim=4,
        ...     intermediate_dim=8, max_sequence_length=6,
        ... )
        >>> plan = plan_vocabulary(
        ...     model, ["a day", "noon"], tokenizer=tokenizer, round_to=1
        ... )
        >>> plan.tokenizer.get_vocabulary()[5:]
        ['a', '##b', 'day', 'noon']
        >>> plan.build().vocabulary_size
        9

    Reference:
        Abdaoui et al. 2020, https://arxiv.org/abs/2010.05609
    """
    return plan_vocabulary(
        model, texts, size, tokenizer=tokenizer, round_to=round_to
    ).build()


def plan_vocabulary(
    model: keras.Model,
    texts: Iterable[str] | np.ndarray,
    size: int | None = None,
    *,
    tokenizer: Any = None,
    round_to: int = 8,
) -> VocabularyPlan:
    """Says what `trim_vocabulary` would keep, with the same arguments.

    Returns:
        A plan: the tokens that stay and the new tokenizer; its `build()`
        gives the smaller model.
    """
    if tokenizer is None:
        preprocessor = getattr(model, "preprocessor", None)
        tokenizer = getattr(preprocessor, "tokenizer", None)
    _check(model, texts, size, tokenizer, round_to)
    tokens = token_set(tokenizer)
    num_rows = backbone_of(model).vocabulary_size
    if max(tokens.tokens) >= num_rows:
        raise ValueError(
            "`tokenizer` must not have more tokens than the model's table. "
            f"Received: {len(tokens.tokens)} tokens, and {num_rows} rows of "
            f"{model.name!r}."
        )
    counts = _counts(tokenizer, texts)
    if not counts or not set(counts) <= tokens.tokens.keys():
        raise ValueError(
            "`texts` must have tokens, all of them in the vocabulary. "
            f"Received: {len(counts)} different ones, those unknown: "
            f"{sorted(set(counts) - tokens.tokens.keys())[:5]}."
        )
    kept = _choose(tokens, counts, size, round_to)
    staying = sum(counts[index] for index in kept)
    return VocabularyPlan(
        model=model,
        tokenizer=tokens.trimmed(kept),
        kept=np.array(kept, "int64"),
        tokens=(num_rows, len(kept)),
        fixed=len(tokens.fixed()),
        used=len(counts),
        covered=staying / sum(counts.values()),
    )


def _counts(tokenizer: Any, texts: Any) -> collections.Counter[int]:
    """Returns how often each token is used."""
    counts: collections.Counter[int] = collections.Counter()
    if isinstance(texts, np.ndarray):
        counts.update(texts.ravel().tolist())
        return counts
    rest = iter(texts)
    while chunk := list(itertools.islice(rest, _TEXTS)):
        wrong = [text for text in chunk if not isinstance(text, str)]
        if wrong:
            raise TypeError(
                "`texts` must hold strings, or be an array of token ids. "
                f"Received: {type(wrong[0]).__qualname__} among them."
            )
        counts.update(ids_of(tokenizer, chunk).tolist())
    return counts


def _choose(
    tokens: TokenSet,
    counts: collections.Counter[int],
    size: int | None,
    round_to: int,
) -> list[int]:
    """Returns the ids of the tokens that stay, ascending."""
    kept: set[int] = set()
    kept.update(*(tokens.closure(index) for index in tokens.fixed()))
    if size is None:
        needed = kept.union(*(tokens.closure(index) for index in counts))
        size = -(-len(needed) // round_to) * round_to
    else:
        size = size // round_to * round_to
    if size < len(kept):
        raise ValueError(
            "`size` must be large enough for the special tokens and single "
            f"characters, rounded to round_to={round_to}: {len(kept)}. "
            f"Received: size={size}."
        )
    # The most used first; those that are not used at all by their ids, which
    # tokenizers give to the likelier ones first.
    ranked = sorted(
        tokens.tokens,
        key=lambda i: (-counts[i], tokens.is_idle(tokens.tokens[i]), i),
    )
    for index in ranked:
        if len(kept) == size:
            break
        more = tokens.closure(index) - kept
        if len(kept) + len(more) <= size:
            kept |= more
    return sorted(kept)


def _rows(value: np.ndarray, shape: Any, kept: np.ndarray) -> np.ndarray:
    """Returns what is kept along the axis that follows the vocabulary."""
    for axis, (old, new) in enumerate(zip(value.shape, shape, strict=True)):
        if old != new:
            value = np.take(value, kept, axis)
    return value


def _check(
    model: Any, texts: Any, size: int | None, tokenizer: Any, round_to: int
) -> None:
    backbone = backbone_of(model)
    if backbone is None or "vocabulary_size" not in backbone.get_config():
        raise ValueError(
            "`model` must be a `keras_nlp` backbone of transformer blocks, or "
            f"a task with one. Received: type={type(model).__qualname__}."
        )
    if tokenizer is None:
        raise ValueError(
            "`model` must have a preprocessor with a tokenizer. Received: "
            f"model={model.name!r} without one. Pass `tokenizer=`; the new "
            "one is `plan_vocabulary(...).tokenizer`."
        )
    if isinstance(texts, str) or (
        isinstance(texts, np.ndarray)
        and not np.issubdtype(texts.dtype, np.integer)
    ):
        raise TypeError(
            "`texts` must be strings in a list or iterator, or an integer "
            f"array of token ids. Received: {type(texts).__qualname__}."
        )
    if round_to < 1 or (size is not None and size < 1):
        raise ValueError(
            "`size` and `round_to` must be at least 1. Received: "
            f"size={size}, round_to={round_to}."
        )
