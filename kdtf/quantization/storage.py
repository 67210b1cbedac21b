"""What weights of a codebook take when stored, to the byte."""

import dataclasses
import heapq
import math
from typing import Any

import numpy as np

from kdtf.quantization.codebook import nearest_indices

__all__ = [
    "StoredSize",
    "decode_sparse_streams",
    "entropy_bits",
    "huffman_bits",
    "index_bits",
    "sparse_code_streams",
    "stored_size",
]

_CODEBOOK_BYTES_PER_ENTRY = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoredSize:
    """The bytes of one set of weights, in each form of storage.

    Each form is whole: `*_bytes` of a form hold the codebook in float32, and
    with Huffman coding its tables, one byte for each symbol: the length of
    its code, which is all that a canonical code needs.

    Attributes:
        num_weights: All weights.
        num_nonzero: Those whose entry is not 0.
        codebook_bytes: float32 entries; part of every form.
        fixed_bytes: Every index in `index_bits`.
        huffman_bytes: Every index, Huffman-coded.
        sparse_bytes: Differences and codes of `sparse_code_streams`, in a
            fixed number of bits; None if no entry is 0.
        sparse_huffman_bytes: Both of them Huffman-coded; None likewise.
        entropy_bytes: What no code of single indices can be below, with the
            codebook but no table. A bound, not a form.
    """

    num_weights: int
    num_nonzero: int
    codebook_bytes: int
    fixed_bytes: int
    huffman_bytes: int
    sparse_bytes: int | None
    sparse_huffman_bytes: int | None
    entropy_bytes: int

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes by form: "fixed", "huffman", "sparse", "sparse_huffman"."""
        sizes = {
            "fixed": self.fixed_bytes,
            "huffman": self.huffman_bytes,
            "sparse": self.sparse_bytes,
            "sparse_huffman": self.sparse_huffman_bytes,
        }
        return {form: size for form, size in sizes.items() if size is not None}

    @property
    def form(self) -> str:
        """The form that is smallest, of equal ones the simplest."""
        return min(self.sizes, key=self.sizes.__getitem__)

    @property
    def size_bytes(self) -> int:
        """Bytes in the smallest form."""
        return self.sizes[self.form]

    @property
    def bits_per_weight(self) -> float:
        """Bits in the smallest form, over all weights."""
        return 8 * self.size_bytes / self.num_weights

    def __str__(self) -> str:
        """Lists the forms, the smallest marked."""
        lines = [
            f"{self.num_weights:,} weights, {self.num_nonzero:,} of them not "
            f"0: {self.size_bytes:,} bytes, {self.bits_per_weight:.3f} bits a "
            f"weight, {32 / self.bits_per_weight:.1f}x smaller than float32"
        ]
        for form, size in self.sizes.items():
            mark = "  smallest" if form == self.form else ""
            lines.append(f"  {form:<15}{size:>14,} bytes{mark}")
        lines.append(f"  {'entropy bound':<15}{self.entropy_bytes:>14,} bytes")
        if self.sparse_bytes is None:
            lines.append("  no sparse form: no entry of the codebook is 0")
        return "\n".join(lines)


def index_bits(num_entries: int) -> int:
    """Returns the bits of an index of fixed length.

    Example:
        >>> [index_bits(n) for n in (1, 2, 16, 17, 256)]
        [0, 1, 4, 5, 8]
    """
    if num_entries < 1:
        raise ValueError(
            "`num_entries` must be at least 1. Received: "
            f"num_entries={num_entries}."
        )
    return (num_entries - 1).bit_length()


def entropy_bits(indices: Any) -> float:
    """Returns Shannon's entropy, -sum(p * log2(p)), in bits per index.

    Args:
        indices: Integers >= 0, any shape; of none it is 0.

    Example:
        >>> entropy_bits([0, 0, 1, 2])
        1.5
    """
    counts = _counts(indices)
    shares = counts / max(counts.sum(), 1)
    # Of one symbol the sum is -0.0.
    return float(abs(np.sum(shares * np.log2(shares))))


def huffman_bits(indices: Any) -> float:
    """Returns the mean length of a Huffman code, in bits per index.

    Args:
        indices: Integers >= 0, any shape. A single symbol takes 0 bits: the
            table tells it, and the shape how often.

    Example:
        >>> huffman_bits([0, 0, 0, 1, 2])
        1.4
    """
    return _huffman_total(indices) / max(np.size(indices), 1)


def sparse_code_streams(
    indices: Any, zero_index: int, difference_bits: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the non-zeros' codes and how far each is from the one before.

    A difference is 1 to `2 ** difference_bits`, stored less 1. Where zeros
    run on for longer, a padding zero is stored at the greatest difference.
    Zeros after the last non-zero are not stored.

    Args:
        indices: Integers >= 0, any shape, read in row-major order.
        zero_index: The index of the codebook's 0.
        difference_bits: 1 to 8; Deep Compression takes 8 for convolutions and
            5 for dense layers.

    Returns:
        Differences and codes, int32, of the same length. The first difference
        counts from the place before the first weight. (In the paper's figure
        from the first weight: then a non-zero there would need a 0.)

    Raises:
        ValueError: `difference_bits` is out of range.

    Example:
        >>> codes = [0, 1, 0, 0, 2] + [0] * 10 + [3]
        >>> streams = sparse_code_streams(codes, 0, 3)
        >>> [stream.tolist() for stream in streams]
        [[2, 3, 8, 3], [1, 2, 0, 3]]

    Reference:
        Han et al. 2016, https://arxiv.org/abs/1510.00149 (section 2, figure 2)
    """
    if difference_bits not in range(1, 9):
        raise ValueError(
            "`difference_bits` must be an integer of 1 to 8. Received: "
            f"difference_bits={difference_bits!r}. Take about log2 of the mean "
            "distance of non-zeros, and 1 or 2 more."
        )
    flat = _checked(indices)
    greatest = 2**difference_bits
    places = np.flatnonzero(flat != zero_index)
    gaps = np.diff(places, prepend=-1)
    num_paddings = (gaps - 1) // greatest
    ends = np.cumsum(num_paddings + 1) - 1
    num_stored = int(ends[-1]) + 1 if ends.size else 0
    differences = np.full(num_stored, greatest, "int32")
    codes = np.full(num_stored, zero_index, "int32")
    differences[ends] = gaps - num_paddings * greatest
    codes[ends] = flat[places]
    return differences, codes


def decode_sparse_streams(
    differences: Any, codes: Any, *, num_weights: int, zero_index: int
) -> np.ndarray:
    """Returns the indices that `sparse_code_streams` took apart.

    Args:
        differences: 1 or more each, `(stored,)`.
        codes: `(stored,)`.
        num_weights: Product of the shape that the indices had.
        zero_index: The index of what is not stored.

    Returns:
        `(num_weights,)`, int32, in row-major order.

    Raises:
        ValueError: The streams are not of one length, or run past the end.

    Example:
        >>> decode_sparse_streams([2, 1], [5, 4], num_weights=4,
        ...                       zero_index=0).tolist()
        [0, 5, 4, 0]
    """
    places = np.cumsum(np.asarray(differences, "int64")) - 1
    codes = np.asarray(codes)
    num_needed = int(places[-1]) + 1 if places.size else 0
    if codes.shape != places.shape or num_needed > num_weights:
        raise ValueError(
            "`differences` and `codes` must be of one length and end within "
            f"the weights. Received: {places.size} differences that end at "
            f"weight {num_needed}, codes of shape {codes.shape}, "
            f"num_weights={num_weights}. Give the product of the shape."
        )
    indices = np.full(num_weights, zero_index, "int32")
    indices[places] = codes
    return indices


def stored_size(
    values: Any, codebook: Any, *, difference_bits: int = 5
) -> StoredSize:
    """Returns what weights take in each form, and which is smallest.

    Args:
        values: Weights, which are rounded to the codebook, or their indices
            if the dtype is an integer's. Any shape.
        codebook: `(entries,)`, sorted; sparse forms need one that is 0.
        difference_bits: Of the sparse forms, 1 to 8. Defaults to 5.

    Raises:
        ValueError: There are no weights, one is nan, an index has no entry,
            or `difference_bits` is out of range.

    Example:
        >>> indices = np.zeros((100, 100), int)
        >>> indices[::10, 0] = 1
        >>> size = stored_size(indices, [0.0, 1.0], difference_bits=8)
        >>> size.form, size.size_bytes, size.fixed_bytes, size.entropy_bytes
        ('sparse', 50, 1258, 23)

    Reference:
        Han et al. 2016, https://arxiv.org/abs/1510.00149 (sections 2 to 4)
    """
    entries = np.asarray(codebook, "float32")
    indices = _indices_of(values, entries)
    zeros = np.flatnonzero(entries == 0)
    num_entries, base = entries.size, entries.size * _CODEBOOK_BYTES_PER_ENTRY
    sparse = sparse_huffman = None
    num_nonzero = indices.size
    if zeros.size:
        streams = sparse_code_streams(indices, int(zeros[0]), difference_bits)
        num_nonzero = int(np.count_nonzero(indices != zeros[0]))
        bits = difference_bits + index_bits(num_entries)
        sparse = base + _bytes(bits * streams[0].size)
        parts = sum(_bytes(_huffman_total(stream)) for stream in streams)
        sparse_huffman = base + parts + num_entries + 2**difference_bits
    coded = _bytes(_huffman_total(indices))
    return StoredSize(
        num_weights=indices.size,
        num_nonzero=num_nonzero,
        codebook_bytes=base,
        fixed_bytes=base + _bytes(index_bits(num_entries) * indices.size),
        huffman_bytes=base + coded + num_entries,
        sparse_bytes=sparse,
        sparse_huffman_bytes=sparse_huffman,
        entropy_bytes=base + _bytes(entropy_bits(indices) * indices.size),
    )


def _bytes(bits: float) -> int:
    # A hair of rounding in an entropy is no byte.
    return math.ceil(bits / 8 - 1e-9)


def _indices_of(values: Any, entries: np.ndarray) -> np.ndarray:
    array = np.asarray(values)
    if not array.size:
        raise ValueError(
            "`values` must hold at least one weight. Received: values of "
            f"shape {array.shape}."
        )
    if not np.issubdtype(array.dtype, np.integer):
        array = np.asarray(nearest_indices(array, entries))
    indices = _checked(array)
    if indices.max() >= entries.size:
        raise ValueError(
            "`values` of an integer dtype are indices and must be below the "
            f"codebook's size. Received: an index of {indices.max()} for "
            f"{entries.size} entries. Give weights as floats."
        )
    return indices


def _checked(indices: Any) -> np.ndarray:
    flat = np.asarray(indices).ravel()
    if not flat.size:
        return flat.astype("int32")
    if not np.issubdtype(flat.dtype, np.integer) or flat.min() < 0:
        raise ValueError(
            "`indices` must be integers >= 0. Received: dtype "
            f"{flat.dtype}, least {flat.min()}. `nearest_indices` gives them."
        )
    return flat


def _counts(indices: Any) -> np.ndarray:
    counts = np.bincount(_checked(indices))
    return counts[counts > 0]


def _huffman_total(indices: Any) -> int:
    """Returns the bits of all indices together."""
    heap = _counts(indices).tolist()
    heapq.heapify(heap)
    total = 0
    # Each merge puts one more bit before every symbol below it.
    while len(heap) > 1:
        merged = heapq.heappop(heap) + heapq.heappop(heap)
        total += merged
        heapq.heappush(heap, merged)
    return total
