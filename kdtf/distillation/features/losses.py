"""How far a student's features are from its teacher's: pure functions.

All take the teacher's features first and give float32 of shape `(batch,)`,
one number per sample, not yet weighted or averaged. They compute in float32,
whatever the dtype of the features. Positions that a mask leaves out have no
part: neither in the sum nor in the number it is divided by.
"""

import math
from typing import Any

from keras import ops

from kdtf.distillation import losses

__all__ = [
    "attention_kl",
    "attention_mse",
    "hidden_mse",
    "pairwise_angle",
    "pairwise_distance",
    "pool",
    "relation_kl",
]


def hidden_mse(teacher: Any, student: Any, mask: Any = None) -> Any:
    """Gives the mean over width and positions of (teacher - student)^2.

    Args:
        teacher: Features of shape `(batch, ..., width)`.
        student: The same shape; project it before where widths differ.
        mask: Real positions, `(batch, time)`, or None. Defaults to None.

    Returns:
        A float32 tensor of shape `(batch,)`.

    Example:
        >>> teacher, student = [[[1.0, 2.0], [9.0, 9.0]]], [[[0.0, 4.0]] * 2]
        >>> float(hidden_mse(teacher, student, [[True, False]])[0])
        2.5

    Reference:
        Jiao et al. 2020 (TinyBERT), https://arxiv.org/abs/1909.10351
        (equation 8)
    """
    error = ops.square(_float(teacher) - _float(student))
    return _mean(ops.mean(error, axis=-1), mask)


def attention_mse(teacher: Any, student: Any, mask: Any = None) -> Any:
    """Gives the mean over heads and pairs of (teacher - student)^2.

    Args:
        teacher: Attention scores or probabilities, of shape
            `(batch, heads, queries, keys)`.
        student: The same shape.
        mask: Pairs that count, of a shape that broadcasts to it, or None.
            Defaults to None.

    Returns:
        A float32 tensor of shape `(batch,)`.

    Example:
        >>> teacher, student = [[[[1.0, 9.0]]]], [[[[3.0, 0.0]]]]
        >>> float(attention_mse(teacher, student, [[[[True, False]]]])[0])
        4.0

    Reference:
        Jiao et al. 2020 (TinyBERT), https://arxiv.org/abs/1909.10351
        (equation 7)
    """
    return _mean(ops.square(_float(teacher) - _float(student)), mask)


def attention_kl(teacher: Any, student: Any, mask: Any = None) -> Any:
    """Gives KL(softmax(teacher) || softmax(student)), averaged over rows.

    The softmax is over the keys that the mask leaves; queries without any
    have no part.

    Args:
        teacher: Attention scores, or logarithms of probabilities, of shape
            `(batch, heads, queries, keys)`.
        student: The same shape.
        mask: Pairs that count, of a shape that broadcasts to it, or None.
            Defaults to None.

    Returns:
        A float32 tensor of shape `(batch,)`.

    Example:
        >>> value = attention_kl([[[[2.0, 0.0]]]], [[[[0.0, 0.0]]]])
        >>> round(float(value[0]), 4)
        0.3278

    Reference:
        Wang et al. 2020 (MiniLM), https://arxiv.org/abs/2002.10957
        (equation 7)
    """
    teacher, student = _float(teacher), _float(student)
    if mask is None:
        return _mean(losses.kl_divergence(teacher, student), None)
    mask = ops.broadcast_to(ops.cast(mask, "bool"), ops.shape(teacher))
    rows = ops.any(mask, axis=-1)
    # A softmax over no key at all would be nan, in the gradient as well.
    keep = ops.logical_or(mask, ops.logical_not(rows)[..., None])
    teacher, student = (
        ops.where(keep, scores, -math.inf) for scores in (teacher, student)
    )
    return _mean(losses.kl_divergence(teacher, student), rows)


def relation_kl(
    teacher: Any, student: Any, mask: Any = None, *, relation_heads: int
) -> Any:
    """Gives the divergence of how positions are related within each model.

    Vectors are cut into `relation_heads` parts; part r of position i relates
    to that of position j by the softmax over j of their scaled dot product.
    Widths and numbers of heads may differ, for only relations are compared.

    Args:
        teacher: Queries, keys or values of shape `(batch, time, width)`, or
            `(batch, time, heads, dim)`.
        student: The same of the student; its width may differ.
        mask: Real positions, `(batch, time)`, or None. Defaults to None.
        relation_heads: Number of parts; divides both widths.

    Returns:
        A float32 tensor of shape `(batch,)`: the mean over parts and real
        positions of KL(teacher || student).

    Raises:
        ValueError: `relation_heads` does not divide a width.

    Example:
        >>> teacher, student = [[[1.0, 0.0], [0.0, 1.0]]], [[[1.0], [1.0]]]
        >>> value = relation_kl(teacher, student, relation_heads=1)
        >>> round(float(value[0]), 4)  # softmax([1, 0] / sqrt(2)) and [1/2] * 2
        0.0588

    Reference:
        Wang et al. 2021 (MiniLMv2), https://arxiv.org/abs/2012.15828
        (equations 2 to 4)
    """
    pairs = None
    if mask is not None:
        mask = ops.cast(mask, "bool")
        pairs = ops.logical_and(mask[:, None, :, None], mask[:, None, None, :])
    return attention_kl(
        _relations(teacher, relation_heads),
        _relations(student, relation_heads),
        pairs,
    )


def pairwise_distance(teacher: Any, student: Any) -> Any:
    """Gives how samples differ in their distances to the others of a batch.

    Distances are divided by their mean over the pairs of the batch, in each
    model, and compared by the Huber loss. Needs `batch^2 * width` numbers.

    Args:
        teacher: One vector per sample, `(batch, width)`.
        student: The same; its width may differ.

    Returns:
        A float32 tensor of shape `(batch,)`: for each sample the mean over
        its pairs with the others; their mean is the loss of the paper. 0 for
        a batch of one.

    Example:
        >>> teacher = [[0.0], [1.0], [3.0]]  # distances 1, 2, 3; mean 2
        >>> student = [[0.0], [5.0], [5.0]]  # 5, 0, 5; mean 10/3
        >>> [round(float(v), 4) for v in pairwise_distance(teacher, student)]
        [0.25, 0.5, 0.25]

    Reference:
        Park et al. 2019 (RKD), https://arxiv.org/abs/1904.05068
        (equations 4 to 7)
    """
    others = _others(teacher)
    error = _huber(
        _relative_distances(teacher, others),
        _relative_distances(student, others),
    )
    return _mean(error, others)


def pairwise_angle(teacher: Any, student: Any) -> Any:
    """Gives how samples differ in the angles at which they see two others.

    Cosines of the angle at sample j between samples i and k, compared by the
    Huber loss. Needs `batch^2 * (width + batch)` numbers.

    Args:
        teacher: One vector per sample, `(batch, width)`.
        student: The same; its width may differ.

    Returns:
        A float32 tensor of shape `(batch,)`: for each sample the mean over
        pairs of others; their mean is the loss of the paper. 0 for a batch
        of less than three. An angle at two equal samples has the cosine 0.

    Example:
        >>> teacher = [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]  # cosines 0, .7, .7
        >>> student = [[0.0], [1.0], [2.0]]  # on a line: 1, -1, 1
        >>> [round(float(v), 4) for v in pairwise_angle(teacher, student)]
        [0.5, 1.2071, 0.0429]

    Reference:
        Park et al. 2019 (RKD), https://arxiv.org/abs/1904.05068
        (equations 8 to 10)
    """
    others = _others(teacher)
    triples = ops.logical_and(
        ops.logical_and(others[:, :, None], others[:, None, :]), others[None]
    )
    error = _huber(_cosines(teacher), _cosines(student))
    return _mean(error, triples)


def pool(features: Any, mask: Any = None) -> Any:
    """Gives one vector per sample: the mean over its real positions.

    Args:
        features: Shape `(batch, ..., width)`.
        mask: Real positions, `(batch, time)`, or None. Defaults to None.

    Returns:
        A float32 tensor of shape `(batch, width)`.

    Example:
        >>> pooled = pool([[[2.0], [4.0], [9.0]]], [[True, True, False]])
        >>> float(pooled[0][0])
        3.0
    """
    features = _float(features)
    if mask is not None and len(features.shape) == 3:
        mask = ops.cast(mask, "float32")[..., None]
        count = ops.maximum(ops.sum(mask, axis=1), 1.0)
        return ops.sum(features * mask, axis=1) / count
    middle = tuple(range(1, len(features.shape) - 1))
    return ops.mean(features, axis=middle) if middle else features


def _float(values: Any) -> Any:
    return ops.cast(ops.convert_to_tensor(values), "float32")


def _mean(values: Any, mask: Any) -> Any:
    """Returns the mean over all axes but the first, 0 where nothing counts."""
    axes = tuple(range(1, len(values.shape)))
    if not axes:
        return values
    if mask is None:
        return ops.mean(values, axis=axes)
    mask = ops.broadcast_to(ops.cast(mask, "bool"), ops.shape(values))
    count = ops.sum(ops.cast(mask, "float32"), axis=axes)
    total = ops.sum(ops.where(mask, values, 0.0), axis=axes)
    return total / ops.maximum(count, 1.0)


def _relations(vectors: Any, relation_heads: int) -> Any:
    """Returns scaled dot products `(batch, relation_heads, time, time)`."""
    vectors = _float(vectors)
    width = math.prod(vectors.shape[2:])
    if width % relation_heads:
        raise ValueError(
            "`relation_heads` must divide the width of queries, keys and "
            f"values. Received: relation_heads={relation_heads}, width {width}."
        )
    dim = width // relation_heads
    batch, time = ops.shape(vectors)[:2]
    parts = ops.reshape(vectors, (batch, time, relation_heads, dim))
    return ops.einsum("bqhd,bkhd->bhqk", parts, parts) / math.sqrt(dim)


def _others(features: Any) -> Any:
    """Returns which samples of a batch are two, bool `(batch, batch)`."""
    index = ops.arange(ops.shape(ops.convert_to_tensor(features))[0])
    return index[:, None] != index[None, :]


def _differences(features: Any) -> tuple[Any, Any]:
    """Returns x_i - x_j at [j, i], and its length."""
    features = _float(features)
    # Not from dot products, which lose the distance of near neighbours.
    differences = features[None, :, :] - features[:, None, :]
    squares = ops.sum(ops.square(differences), axis=-1)
    # The slope of the root at 0 is infinite, and 0 * inf is nan.
    apart = squares > 0
    lengths = ops.sqrt(ops.where(apart, squares, 1.0))
    return differences, ops.where(apart, lengths, 0.0)


def _relative_distances(features: Any, others: Any) -> Any:
    _, distances = _differences(features)
    count = ops.maximum(ops.sum(ops.cast(others, "float32")), 1.0)
    mean = ops.sum(distances) / count
    return distances / ops.where(mean > 0, mean, 1.0)


def _cosines(features: Any) -> Any:
    differences, lengths = _differences(features)
    lengths = ops.where(lengths > 0, lengths, 1.0)
    directions = differences / lengths[..., None]
    return ops.einsum("jid,jkd->jik", directions, directions)


def _huber(teacher: Any, student: Any) -> Any:
    error = ops.abs(teacher - student)
    return ops.where(error <= 1.0, 0.5 * ops.square(error), error - 0.5)
