"""Codebooks: weights as indices into a few float32 values.

`kmeans_codebook` makes one from an array, in NumPy; the other functions are
TensorFlow, and run eagerly or in a `tf.function`.
"""

import typing
from typing import Any

import numpy as np
from keras import ops

from kdtf.quantization.kmeans import INITIALIZATIONS
from kdtf.quantization.kmeans import SortedValues
from kdtf.quantization.kmeans import lloyd

__all__ = [
    "NORMAL_FLOAT4",
    "BlockCodes",
    "kmeans_codebook",
    "look_up",
    "nearest_indices",
    "normal_float4",
    "places",
    "updated_codebook",
]

# NF4, appendix E of https://arxiv.org/abs/2305.14314: 7 negative and 8
# positive quantiles of the normal distribution over the greatest, and 0.
NORMAL_FLOAT4 = np.array(
    [
        *(-1.0, -0.6961928009986877, -0.5250730514526367),
        *(-0.39491748809814453, -0.28444138169288635),
        *(-0.18477343022823334, -0.09105003625154495, 0.0),
        *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634),
        *(0.33791524171829224, 0.44070982933044434),
        *(0.5626170039176941, 0.7229568362236023, 1.0),
    ],
    "float32",
)
NORMAL_FLOAT4.setflags(write=False)


class BlockCodes(typing.NamedTuple):
    """Values in blocks, each block with a scale.

    Attributes:
        values: `scale * codebook[index]`, float32, the shape given.
        indices: int32, the shape given.
        scales: max |value| of each block, float32, the shape given but the
            last axis, which holds one for each block.
    """

    values: Any
    indices: Any
    scales: Any


def kmeans_codebook(
    values: Any,
    num_entries: int,
    *,
    keep_zero: bool = True,
    num_iterations: int = 100,
    initialization: str = "linear",
    seed: int = 0,
) -> np.ndarray:
    """Returns the values that represent all the others best, by k-means.

    With `keep_zero` one entry is exactly 0 and never moves. Zeros are its
    own: they pull at no mean, and pruned weights stay pruned. What is nearer
    to 0 than to any other entry is 0's as well, here as in `nearest_indices`,
    so a few more weights become zeros; the others are fit on what is left.

    With no more distinct values than entries, these are the entries, and the
    last one is repeated; where all values are zeros, the others are 1.

    Args:
        values: Any shape, real; computed in float32.
        num_entries: 2 to 256, the kept zero included.
        keep_zero: Whether one entry is 0. Defaults to True.
        num_iterations: At most so many; stops when no value changes its
            entry. 256 entries can take hundreds; they cost little.
        initialization: "linear" from the least to the greatest value, which
            keeps entries for the few large weights and is what Deep
            Compression found best; "density", quantiles; or "kmeans++",
            drawn by squared distance, the least error by far where there
            are many entries.
        seed: For "kmeans++".

    Returns:
        `(num_entries,)`, float32, sorted.

    Raises:
        TypeError: `num_entries` is no integer.
        ValueError: An argument is out of range, or a value not finite.

    Example:
        >>> weights = [0.0, 0.0, -2.0, 1.0, 1.5, -2.5]
        >>> kmeans_codebook(weights, 3).tolist()
        [-2.25, 0.0, 1.25]

    Reference:
        Han et al. 2016, https://arxiv.org/abs/1510.00149 (section 3.1, 3.2)
    """
    _check_kmeans_arguments(num_entries, num_iterations, initialization)
    ordered = np.sort(_finite(values, "values").ravel())
    if not ordered.size:
        raise ValueError(
            "`values` must hold at least one value. Received: values of "
            f"shape {np.shape(values)}. Leave empty weights as they are."
        )
    if keep_zero:
        first, last = np.searchsorted(ordered, [0.0, np.nextafter(0.0, 1.0)])
        ordered = np.concatenate([ordered[:first], ordered[last:]])
    data = SortedValues(ordered)
    if data.num_distinct <= num_entries - keep_zero:
        return _all_values(data.distinct, num_entries, keep_zero)
    start = INITIALIZATIONS[initialization](data, num_entries, keep_zero, seed)
    return lloyd(
        data, start, num_iterations=num_iterations, keep_zero=keep_zero
    )


def nearest_indices(values: Any, codebook: Any) -> Any:
    """Returns the index of the entry nearest to each value.

    A value in the middle goes to the lower entry, the first of equal ones.

    Args:
        values: Any shape.
        codebook: `(entries,)`, sorted, finite.

    Returns:
        int32, the values' shape.

    Raises:
        ValueError: A NumPy array holds nan. In a tensor it goes unseen.

    Example:
        >>> found = nearest_indices([-9.0, 0.4, 0.5, 0.6], [-1.0, 0.0, 1.0])
        >>> np.asarray(found).tolist()
        [0, 1, 1, 2]
    """
    if isinstance(values, np.ndarray):
        _refuse_nan(values)
    # Halves first: the sum of two great float32 may overflow.
    half = 0.5 * ops.cast(codebook, "float32")
    middles = half[:-1] + half[1:]
    return places(middles, ops.cast(values, "float32"), side="left")


def places(boundaries: Any, values: Any, *, side: str) -> Any:
    """Returns how many boundaries are below each value.

    Args:
        boundaries: `(n,)`, sorted.
        values: Any shape, the boundaries' dtype.
        side: "left" does not count boundaries equal to the value, "right"
            does.

    Returns:
        int32, the values' shape.

    Example:
        >>> boundaries, values = np.array([1.0, 2.0]), np.array([[2.0, 0.0]])
        >>> np.asarray(places(boundaries, values, side="right")).tolist()
        [[2, 0]]
    """
    # Keras 3.15 documents any shape, but TensorFlow takes one axis only.
    flat = ops.reshape(values, (-1,))
    found = ops.searchsorted(boundaries, flat, side=side)
    return ops.reshape(ops.cast(found, "int32"), ops.shape(values))


def look_up(indices: Any, codebook: Any) -> Any:
    """Returns the entries at the indices.

    The gradient of an entry is the sum over all weights that use it.

    Args:
        indices: Integers in [0, entries), any shape.
        codebook: `(entries,)`.

    Returns:
        float32, the indices' shape.

    Example:
        >>> np.asarray(look_up([[2, 0], [1, 1]], [-1.0, 0.0, 1.0])).tolist()
        [[1.0, -1.0], [0.0, 0.0]]

    Reference:
        Han et al. 2016, https://arxiv.org/abs/1510.00149 (equation 3)
    """
    indices = ops.cast(indices, "int32")
    return ops.take(ops.cast(codebook, "float32"), indices, axis=0)


def updated_codebook(
    values: Any, indices: Any, codebook: Any, *, keep_zero: bool = True
) -> Any:
    """Returns each entry at the mean of its members: one step of Lloyd's.

    An entry without members stays where it is. Sorted stays sorted as long
    as `indices` are `nearest_indices(values, codebook)`: members of a lower
    entry are all lower. Assignments of an earlier codebook give the right
    means too, but values that moved past each other may swap the order.

    Args:
        values: Any shape.
        indices: Which entry each value belongs to, the values' shape.
        codebook: `(entries,)`.
        keep_zero: Whether an entry that is exactly 0 stays 0.

    Returns:
        `(entries,)`, float32.

    Example:
        >>> values, codebook = [-1.0, 0.125, 1.0, 2.0], [-2.0, 0.0, 1.0, 9.0]
        >>> new = updated_codebook(values, [0, 1, 2, 2], codebook)
        >>> np.asarray(new).tolist()
        [-1.0, 0.0, 1.5, 9.0]
    """
    codebook = ops.cast(codebook, "float32")
    num_entries = codebook.shape[0]
    flat = ops.reshape(ops.cast(indices, "int32"), (-1,))
    # In float32 long sums lose their last terms; and as float64 rounds to
    # float32 in order, rounding cannot swap two neighbours.
    terms = ops.cast(ops.reshape(values, (-1,)), "float64")
    sums = ops.segment_sum(terms, flat, num_segments=num_entries)
    counts = ops.segment_sum(
        ops.ones_like(flat), flat, num_segments=num_entries
    )
    means = sums / ops.cast(ops.maximum(counts, 1), "float64")
    stays = counts == 0
    if keep_zero:
        stays = ops.logical_or(stays, codebook == 0)
    return ops.where(stays, codebook, ops.cast(means, "float32"))


def normal_float4(values: Any, *, group_size: int = 64) -> BlockCodes:
    """Returns values in 4 bits, at quantiles of the normal distribution.

    Each block of `group_size` values along the last axis is divided by its
    max |value| and rounded to `NORMAL_FLOAT4`. A scale in float32 adds
    `32 / group_size` bits to each weight's 4. Zeros stay zeros.

    Args:
        values: `(..., n)`, n a multiple of `group_size`.
        group_size: Values that share a scale. Defaults to 64, the paper's.

    Raises:
        ValueError: `group_size` does not divide the last axis, or a NumPy
            array holds nan.

    Example:
        >>> codes = normal_float4(np.array([0.0, -4.0, 1.0, 2.0]),
        ...                       group_size=2)
        >>> np.asarray(codes.indices).tolist()
        [7, 0, 12, 15]
        >>> np.asarray(codes.scales).tolist()
        [4.0, 2.0]
        >>> [round(float(x), 4) for x in codes.values]
        [0.0, -4.0, 0.8814, 2.0]

    Reference:
        Dettmers et al. 2023, https://arxiv.org/abs/2305.14314 (section 3)
    """
    if isinstance(values, np.ndarray):
        _refuse_nan(values)
    values = ops.cast(values, "float32")
    shape = tuple(values.shape)
    if group_size < 1 or not shape or shape[-1] % group_size:
        raise ValueError(
            "`group_size` must be at least 1 and divide the values' last "
            f"axis. Received: group_size={group_size}, values of shape "
            f"{shape}. Reshape the values to `(..., group_size)`, or pad "
            "them with zeros."
        )
    blocks = (*shape[:-1], shape[-1] // group_size, group_size)
    grouped = ops.reshape(values, blocks)
    scales = ops.max(ops.abs(grouped), axis=-1, keepdims=True)
    # A block of zeros is 0 in any unit.
    indices = nearest_indices(
        grouped / ops.where(scales > 0, scales, 1.0), NORMAL_FLOAT4
    )
    rounded = scales * look_up(indices, NORMAL_FLOAT4)
    return BlockCodes(
        values=ops.reshape(rounded, shape),
        indices=ops.reshape(indices, shape),
        scales=ops.squeeze(scales, axis=-1),
    )


def _all_values(
    distinct: np.ndarray, num_entries: int, keep_zero: bool
) -> np.ndarray:
    """Returns the distinct values and the zero, filled up with the last."""
    filler = distinct[-1] if distinct.size else 1.0
    num_missing = num_entries - keep_zero - distinct.size
    added = np.array([filler] * num_missing + [0.0] * keep_zero, "float32")
    return np.sort(np.concatenate([distinct, added]))


def _finite(values: Any, name: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        array = np.asarray(values).astype("float32")
    if not np.isfinite(array).all():
        raise ValueError(
            f"`{name}` must be finite in float32. Received: "
            f"{np.count_nonzero(~np.isfinite(array))} values of "
            f"{array.size} that are nan or infinite. Train the weights "
            "again, or mend them first."
        )
    return array


def _refuse_nan(values: np.ndarray) -> None:
    if np.isnan(values).any():
        raise ValueError(
            "`values` must not hold nan, which is near to no entry. "
            f"Received: {np.count_nonzero(np.isnan(values))} nan of "
            f"{values.size} values. Mend the weights first."
        )


def _check_kmeans_arguments(
    num_entries: Any, num_iterations: int, initialization: Any
) -> None:
    if not isinstance(num_entries, int) or isinstance(num_entries, bool):
        raise TypeError(
            "`num_entries` must be an integer. Received: "
            f"num_entries={num_entries!r} of type "
            f"{type(num_entries).__name__}. 16 entries are 4 bits a weight."
        )
    if not 2 <= num_entries <= 256:
        raise ValueError(
            "`num_entries` must be 2 to 256, so that an index fits a byte. "
            f"Received: num_entries={num_entries}. 16 is a good start."
        )
    if num_iterations < 0:
        raise ValueError(
            "`num_iterations` must be 0 or more. Received: "
            f"num_iterations={num_iterations}. 0 keeps the initialization."
        )
    if initialization not in INITIALIZATIONS:
        raise ValueError(
            f"`initialization` must be one of {sorted(INITIALIZATIONS)}. "
            f"Received: initialization={initialization!r}."
        )
