"""Where a layer's self-attention is, and the maps it makes.

Fused attention gives no scores out, so they are made again from queries and
keys, with the masks that the attention was called with.
"""

import math
from collections.abc import Mapping
from typing import Any

from keras import ops

from kdtf.distillation.features import mapping
from kdtf.distillation.features.capture import Record
from kdtf.layers import walk_layers

__all__ = [
    "check_plain",
    "find_attention",
    "log_probabilities",
    "mean_over_heads",
    "scores_and_mask",
]

# Attributes of keras's and keras-nlp's attentions, the last step first.
_STEPS = {
    "query": (
        "_query_dense_layer_norm",
        "_query_norm",
        "query_norm",
        "_query_dense",
        "query_dense",
    ),
    "key": (
        "_key_dense_layer_norm",
        "_key_norm",
        "key_norm",
        "_key_dense",
        "key_dense",
    ),
    "value": ("_value_dense", "value_dense"),
}

# Those whose scores are q . k / sqrt(dim), after a rotation if they have one:
# others add biases, cap or scale in their own ways.
_PLAIN = (
    "MultiHeadAttention",
    "GroupedQueryAttention",
    "CachedMultiHeadAttention",
    "CachedMistralAttention",
    "LlamaAttention",
    "Qwen3Attention",
    "QwenAttention",
)
# Stands for -inf, whose gradients would be nan.
_FAR_BELOW = -1e9


def find_attention(model: Any, path: str) -> dict[str, str]:
    """Returns where a layer's self-attention and its projections are.

    Args:
        model: A built Keras 3 model.
        path: Path of an attention layer, or of a block that holds one.

    Returns:
        Paths by role: "attention", "query", "key" and "value". The last three
        are layers whose outputs are queries, keys and values as projected,
        before a rotary embedding.

    Raises:
        ValueError: The layer holds no self-attention that has these
            projections, or more than one.

    Example:
        >>> import keras
        >>> inputs = keras.Input((4, 8))
        >>> attention = keras.layers.MultiHeadAttention(2, 4, name="mixer")
        >>> model = keras.Model(inputs, attention(inputs, inputs))
        >>> find_attention(model, "mixer")["key"]
        'mixer/key'
    """
    top = mapping.find_layer(model, path)
    inside = [(f"{path}/{at}", layer) for at, layer in walk_layers(top)]
    found = {
        at: steps
        for at, layer in [(path, top), *inside]
        if (steps := _projections(layer)) and "cross" not in layer.name
    }
    if len(found) != 1:
        raise ValueError(
            "Attention is learned from layers that hold one self-attention "
            f"with queries, keys and values of its own. Received: {path!r} of "
            f"{model.name!r}, which holds {sorted(found) or 'none'}. Name "
            "another layer in `layers`, or learn its `HiddenStates`."
        )
    ((at, steps),) = found.items()
    paths = {id(layer): inner for inner, layer in [(path, top), *inside]}
    roles = {role: paths[id(layer)] for role, layer in steps.items()}
    return {"attention": at, **roles}


def _projections(layer: Any) -> dict[str, Any]:
    """Returns the layers that give queries, keys and values, or nothing."""
    inner = {id(child) for _, child in walk_layers(layer)}
    steps = {}
    for role, names in _STEPS.items():
        for name in names:
            child = getattr(layer, name, None)
            if id(child) in inner:
                steps[role] = child
                break
    return steps if len(steps) == len(_STEPS) else {}


def check_plain(attention: Any, path: str) -> None:
    """Raises unless an attention's maps follow from its queries and keys.

    Args:
        attention: The attention layer.
        path: Its path, for the message.

    Raises:
        ValueError: Its scores have more in them, or it masks by itself.
    """
    kind = type(attention).__name__
    windows = ("_sliding_window", "sliding_window", "sliding_window_size")
    window = any(getattr(attention, name, None) for name in windows)
    if kind == "QwenAttention":
        window = attention.use_sliding_window_attention
    if kind == "CachedMistralAttention":
        # Its decoder puts the window into the mask.
        window = False
    if kind not in _PLAIN or window:
        raise ValueError(
            "Maps are made from queries and keys for attentions that do no "
            f"more than scale and mask their products: {', '.join(_PLAIN)}, "
            f"without a sliding window of their own. Received: {kind} at "
            f"{path!r}. Use `AttentionRelations`, which needs no maps."
        )


def scores_and_mask(
    records: Mapping[str, Record], padding_mask: Any = None
) -> tuple[Any, Any]:
    """Returns an attention's scores and which of them count.

    Args:
        records: What `Capture` recorded, by the roles of `find_attention`.
        padding_mask: Real positions, `(batch, time)`, or None. Padded ones
            are left out both as queries and as keys.

    Returns:
        float32 `(batch, heads, queries, keys)` and a bool tensor that
        broadcasts to it.
    """
    layer = records["attention"].layer
    query, key = records["query"].output, records["key"].output
    rotate = getattr(layer, "rotary_embedding_layer", None)
    if rotate is not None:
        query, key = rotate(query), rotate(key)
    query, key = ops.cast(query, "float32"), ops.cast(key, "float32")
    # Grouped queries: a few heads of keys serve all of the queries.
    key = ops.repeat(key, query.shape[2] // key.shape[2], axis=2)
    scores = ops.einsum("bqhd,bkhd->bhqk", query, key)
    scores = scores / math.sqrt(query.shape[3])
    return scores, _mask(records["attention"].arguments, scores, padding_mask)


def _mask(arguments: Mapping[str, Any], scores: Any, padding: Any) -> Any:
    queries, keys = ops.shape(scores)[2:]
    mask = ops.ones((1, 1, queries, keys), "bool")
    if arguments.get("use_causal_mask"):
        causal = ops.arange(queries)[:, None] >= ops.arange(keys)[None, :]
        mask = ops.logical_and(mask, causal)
    given = arguments.get("attention_mask")
    if given is not None:
        given = ops.cast(given, "bool")
        given = given[:, None] if len(given.shape) == 3 else given
        mask = ops.logical_and(mask, given)
    # Keras hands these over where an `Embedding` masks zeros.
    by_query = (padding, arguments.get("query_mask"))
    by_key = (padding, arguments.get("value_mask"), arguments.get("key_mask"))
    for real in by_query:
        if real is not None:
            real = ops.cast(real, "bool")[:, None, :, None]
            mask = ops.logical_and(mask, real)
    for real in by_key:
        if real is not None:
            real = ops.cast(real, "bool")[:, None, None, :]
            mask = ops.logical_and(mask, real)
    return mask


def log_probabilities(scores: Any, mask: Any) -> Any:
    """Returns log softmax over the keys that count; the others far below.

    A query without any such key gets a uniform row, which no mask counts.

    Args:
        scores: float32 `(batch, heads, queries, keys)`.
        mask: bool, broadcasts to it.
    """
    return ops.log_softmax(ops.where(mask, scores, _FAR_BELOW), axis=-1)


def mean_over_heads(log_probs: Any) -> Any:
    """Returns the logarithm of the mean over heads, kept as one head."""
    total = ops.logsumexp(log_probs, axis=1, keepdims=True)
    return total - math.log(log_probs.shape[1])
