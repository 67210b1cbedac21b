"""Spaces of transformers: BERT-like encoders and GPT-2-like decoders."""

import functools
from collections.abc import Iterable
from typing import Any

from kdtf.search.preset import Preset
from kdtf.search.preset import integers
from kdtf.search.preset import middle
from kdtf.search.space import Chosen
from kdtf.search.space import Space
from kdtf.search.strategies import check_positive

__all__ = ["decoders", "encoders"]

# Narrower heads hardly tell tokens apart, and waste what vector units do.
_MIN_HEAD_SIZE = 8
# The width that the initial spread of BERT and GPT-2, 0.02, is meant for.
_REFERENCE_WIDTH = 768


def encoders(
    *,
    vocabulary_size: int,
    sequence_length: int,
    num_classes: int,
    layers: Iterable[int] = range(1, 5),
    width: Iterable[int] = (32, 48, 64, 96, 128),
    heads: Iterable[int] = (2, 4),
    feed_forward: Iterable[int] = (1, 2, 4),
) -> Preset:
    """Gives a space of small BERTs that classify texts.

    Models are `keras_nlp.models.BertTextClassifier`s without a preprocessor:
    they take `token_ids`, `segment_ids` and `padding_mask`, each of shape
    `(batch, time)`, and give logits `(batch, num_classes)`. Layers are all
    alike. Depth costs latency and, in tiny files, size, about 19 KB of graph
    each; width costs parameters.

    Args:
        vocabulary_size: Tokens.
        sequence_length: Positions, the longest text.
        num_classes: Logits.
        layers: Options of how many.
        width: Options of the hidden size.
        heads: Options of attention heads in a layer; valid where they divide
            the width and leave each at least 8.
        feed_forward: Options of the feed-forward layer's width, in multiples
            of the width.

    Returns:
        The choices "layers", "width", "heads" and "feed_forward".

    Raises:
        ValueError: An argument is out of range, or no combination is valid.

    Example:
        >>> preset = encoders(
        ...     vocabulary_size=100, sequence_length=16, num_classes=2
        ... )
        >>> preset.default
        {'layers': 2, 'width': 64, 'heads': 2, 'feed_forward': 2}
        >>> preset.build(preset.default).output_shape
        (None, 2)

    Reference:
        Turc et al. 2019, https://arxiv.org/abs/1908.08962 (small BERTs);
        Yin et al. 2021, https://arxiv.org/abs/2107.13686 (AutoTinyBERT)
    """
    check_positive("vocabulary_size", vocabulary_size)
    check_positive("sequence_length", sequence_length)
    check_positive("num_classes", num_classes)
    space = _space(
        layers=layers, width=width, heads=heads, feed_forward=feed_forward
    )
    build = functools.partial(
        _build_encoder,
        vocabulary_size=vocabulary_size,
        sequence_length=sequence_length,
        num_classes=num_classes,
    )
    return Preset(space, build, middle(space))


def decoders(
    *,
    vocabulary_size: int,
    sequence_length: int,
    layers: Iterable[int] = range(1, 5),
    width: Iterable[int] = (32, 48, 64, 96, 128),
    heads: Iterable[int] = (2, 4),
    feed_forward: Iterable[int] = (1, 2, 4),
) -> Preset:
    """Gives a space of small GPT-2s, language models.

    Models are `keras_nlp.models.GPT2CausalLM`s without a preprocessor: they
    take `token_ids` and `padding_mask`, each of shape `(batch, time)`, and
    give logits `(batch, time, vocabulary_size)`. Layers are all alike, and
    the output layer is the embedding's table. Where the vocabulary is large
    the table is most of the model: then search the width first.

    Args:
        vocabulary_size: Tokens.
        sequence_length: Positions, the longest text.
        layers: Options of how many.
        width: Options of the hidden size.
        heads: Options of attention heads in a layer; valid where they divide
            the width and leave each at least 8.
        feed_forward: Options of the feed-forward layer's width, in multiples
            of the width.

    Returns:
        The choices "layers", "width", "heads" and "feed_forward".

    Raises:
        ValueError: An argument is out of range, or no combination is valid.

    Example:
        >>> preset = decoders(
        ...     vocabulary_size=100, sequence_length=16, layers=[1, 2]
        ... )
        >>> preset.space.size
        60
        >>> preset.build(preset.default).output_shape
        (None, None, 100)

    Reference:
        Javaheripi et al. 2022, https://arxiv.org/abs/2203.02094
        (LiteTransformerSearch)
    """
    check_positive("vocabulary_size", vocabulary_size)
    check_positive("sequence_length", sequence_length)
    space = _space(
        layers=layers, width=width, heads=heads, feed_forward=feed_forward
    )
    build = functools.partial(
        _build_decoder,
        vocabulary_size=vocabulary_size,
        sequence_length=sequence_length,
    )
    return Preset(space, build, middle(space))


def _space(**options: Iterable[int]) -> Space:
    return Space(
        {name: integers(name, values) for name, values in options.items()},
        valid=_heads_fit,
    )


def _heads_fit(chosen: Chosen) -> bool | str:
    width, heads = chosen["width"], chosen["heads"]
    if width % heads:
        return f"width {width} is not divisible by {heads} heads"
    if width // heads < _MIN_HEAD_SIZE:
        return (
            f"{heads} heads share a width of {width}: each must have at least "
            f"{_MIN_HEAD_SIZE}"
        )
    return True


def _build_encoder(
    choices: Chosen,
    *,
    vocabulary_size: int,
    sequence_length: int,
    num_classes: int,
) -> Any:
    import keras_nlp

    backbone = keras_nlp.models.BertBackbone(
        vocabulary_size=vocabulary_size,
        max_sequence_length=sequence_length,
        **_sizes(choices),
    )
    _match_spread(backbone, choices["width"])
    return keras_nlp.models.BertTextClassifier(
        backbone, num_classes=num_classes, preprocessor=None, dropout=0.0
    )


def _build_decoder(
    choices: Chosen, *, vocabulary_size: int, sequence_length: int
) -> Any:
    import keras_nlp

    backbone = keras_nlp.models.GPT2Backbone(
        vocabulary_size=vocabulary_size,
        max_sequence_length=sequence_length,
        **_sizes(choices),
    )
    _match_spread(backbone, choices["width"])
    return keras_nlp.models.GPT2CausalLM(backbone, preprocessor=None)


def _sizes(choices: Chosen) -> dict[str, Any]:
    return {
        "num_layers": choices["layers"],
        "num_heads": choices["heads"],
        "hidden_dim": choices["width"],
        "intermediate_dim": choices["feed_forward"] * choices["width"],
        # Models this small, trained this briefly, learn nothing by heart.
        "dropout": 0.0,
    }


def _match_spread(backbone: Any, width: int) -> None:
    """Draws initial weights as wide as the model's width asks for.

    A sum over n inputs spreads with sqrt(n). With weights of spread 0.02 it
    is 0.55 at the width of 768 and 0.11 at 32, so narrow models start
    slowly, and a search that trains briefly would take them for worse than
    they are: an encoder of 2 layers, 32 wide, was right on .62 instead of
    .37 of scikit-learn's digits (64 tokens each) after 6 epochs.
    """
    for variable in backbone.trainable_variables:
        if variable.path.endswith(("kernel", "embeddings")):
            variable.assign(variable * (_REFERENCE_WIDTH / width) ** 0.5)
