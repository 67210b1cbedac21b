"""TFLite's encoding of sparse tensors: to it and back.

A sparse tensor stores its nonzero blocks one after the other, row by row, and
an index that says where they lie. Pure NumPy; the schema's objects come in and
go out where a name says `sparsity`.
"""

import dataclasses
import math
from typing import Any

import numpy as np

# The narrowest type that holds an index makes the smallest file.
_INDEX_VECTORS = {
    "uint8": "Uint8Vector",
    "uint16": "Uint16Vector",
    "int32": "Int32Vector",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockSparse:
    """A matrix as its nonzero blocks of `1 x block` elements.

    Attributes:
        shape: Of the matrix.
        block: Neighbours in a row that are stored or dropped together.
        values: The nonzero blocks, row by row, `(num_blocks, block)`.
        segments: The blocks of row `i` are `segments[i]` up to, but not
            including, `segments[i + 1]`; `(rows + 1,)`.
        indices: Where in its row each block lies, counted in blocks,
            `(num_blocks,)`.
    """

    shape: tuple[int, int]
    block: int
    values: np.ndarray
    segments: np.ndarray
    indices: np.ndarray

    @property
    def num_bytes(self) -> int:
        """What values and index take in the file."""
        arrays = (self.values, self.segments, self.indices)
        return sum(array.nbytes for array in arrays)

    @property
    def zero_share(self) -> float:
        """The fraction of blocks that are dropped, in [0, 1]."""
        num_blocks = math.prod(self.shape) // self.block
        return 1.0 - len(self.values) / max(1, num_blocks)


def encode_blocks(matrix: np.ndarray, block: int) -> BlockSparse:
    """Gives the nonzero blocks of a matrix and their index.

    Args:
        matrix: `(rows, columns)`; for a FULLY_CONNECTED `(outputs, inputs)`.
        block: Columns per block; they must divide the columns: a kernel
            would read past the end of its input in a last block cut short.

    Raises:
        ValueError: `block` does not divide the columns.

    Example:
        >>> import numpy as np
        >>> encoded = encode_blocks(np.array([[0, 0, 1, 2], [0, 0, 0, 0]]), 2)
        >>> encoded.values.tolist(), encoded.segments.tolist()
        ([[1, 2]], [0, 1, 1])
        >>> encoded.indices.tolist(), encoded.zero_share
        ([1], 0.75)
    """
    if matrix.ndim != 2 or matrix.shape[1] % block:
        raise ValueError(
            "`block` must divide the columns of a matrix. Received: "
            f"block={block}, matrix of shape {matrix.shape}."
        )
    rows, columns = matrix.shape
    blocks = matrix.reshape(rows, columns // block, block)
    is_kept = (blocks != 0).any(axis=-1)
    # A tensor without any bytes would count as computed, not as stored.
    is_kept[:1, :1] |= not is_kept.any()
    segments = np.concatenate([[0], np.cumsum(is_kept.sum(axis=1))])
    return BlockSparse(
        shape=(rows, columns),
        block=block,
        values=blocks[is_kept],
        segments=_narrowed(segments),
        indices=_narrowed(np.nonzero(is_kept)[1]),
    )


def to_sparsity(encoded: BlockSparse) -> Any:
    """Gives the schema's description (`SparsityParametersT`) of a matrix.

    Dimension 0 is stored whole, dimension 1 by its nonzero blocks, and the
    inside of a block, a dimension of its own, whole again: the one form that
    LiteRT's FULLY_CONNECTED reads without unpacking it first.
    """
    from ai_edge_litert import schema_py_generated as schema

    dense = schema.DimensionType.DENSE
    rows, columns, inner = (schema.DimensionMetadataT() for _ in range(3))
    rows.format, rows.denseSize = dense, encoded.shape[0]
    inner.format, inner.denseSize = dense, encoded.block
    columns.format = schema.DimensionType.SPARSE_CSR
    segments, indices = _vector(encoded.segments), _vector(encoded.indices)
    columns.arraySegmentsType, columns.arraySegments = segments
    columns.arrayIndicesType, columns.arrayIndices = indices
    sparsity = schema.SparsityParametersT()
    sparsity.traversalOrder = [0, 1, 2]
    sparsity.blockMap = [1]
    sparsity.dimMetadata = [rows, columns, inner]
    return sparsity


def decode(
    values: np.ndarray, sparsity: Any, shape: tuple[int, ...]
) -> np.ndarray:
    """Gives the dense array of a sparse tensor of any rank and form.

    Args:
        values: What its buffer holds, `(num_stored,)`.
        sparsity: Its `SparsityParametersT`.
        shape: Of the dense array.

    Raises:
        ValueError: The index does not fit the values.
    """
    pairs = zip(sparsity.traversalOrder, sparsity.dimMetadata, strict=True)
    levels = {int(dim): _Level(metadata) for dim, metadata in pairs}
    places: dict[int, np.ndarray] = {}
    num_parents = 1
    for dim, level in levels.items():
        counts, children = level.children(num_parents)
        places = {d: np.repeat(own, counts) for d, own in places.items()}
        places[dim] = children
        num_parents = len(children)
    if num_parents != len(values):
        raise ValueError(
            "A sparse tensor must store as many values as its index names. "
            f"Received: {len(values)} values, {num_parents} places."
        )
    blocked = [] if sparsity.blockMap is None else sparsity.blockMap
    for number, dim in enumerate(blocked):
        inner = len(shape) + number
        size = levels[inner].size
        places[int(dim)] = places[int(dim)] * size + places[inner]
    return _scattered(values, [places[d] for d in range(len(shape))], shape)


def index_bytes(sparsity: Any) -> int:
    """Gives the bytes that a tensor's index takes; 0 for a dense one."""
    metadata = [] if sparsity is None else sparsity.dimMetadata
    return sum(
        len(vector.values) * _item_bytes(vector)
        for dim in metadata
        for vector in (dim.arraySegments, dim.arrayIndices)
        if vector is not None and vector.values is not None
    )


class _Level:
    """One dimension of the encoding, stored whole or by an index."""

    def __init__(self, metadata: Any) -> None:
        self.size = int(metadata.denseSize)
        self.is_whole = metadata.arraySegments is None
        if not self.is_whole:
            self.segments = _integers(metadata.arraySegments)
            self.indices = _integers(metadata.arrayIndices)

    def children(self, num_parents: int) -> tuple[Any, np.ndarray]:
        """Gives how many entries each parent has, and where they lie."""
        if self.is_whole:
            return self.size, np.tile(np.arange(self.size), num_parents)
        return np.diff(self.segments), self.indices


def _scattered(
    values: np.ndarray, places: list[np.ndarray], shape: tuple[int, ...]
) -> np.ndarray:
    dense = np.zeros(shape, values.dtype)
    # Blocks may stick out where they do not divide a dimension.
    is_inside = np.ones(len(values), bool)
    for place, size in zip(places, shape, strict=True):
        is_inside &= place < size
    dense[tuple(place[is_inside] for place in places)] = values[is_inside]
    return dense


def _narrowed(indices: np.ndarray) -> np.ndarray:
    top = indices.max(initial=0)
    fitting = (d for d in _INDEX_VECTORS if top <= np.iinfo(d).max)
    return indices.astype(next(fitting))


def _vector(indices: np.ndarray) -> tuple[int, Any]:
    """Gives the schema's union of three index vectors: number, object."""
    from ai_edge_litert import schema_py_generated as schema

    name = _INDEX_VECTORS[indices.dtype.name]
    vector = getattr(schema, f"{name}T")()
    vector.values = indices
    return getattr(schema.SparseIndexVector, name), vector


def _integers(vector: Any) -> np.ndarray:
    # An empty vector comes back as none at all.
    values = [] if vector is None or vector.values is None else vector.values
    return np.asarray(values, "int64")


def _item_bytes(vector: Any) -> int:
    name = type(vector).__name__.removesuffix("T")
    dtypes = {vector: dtype for dtype, vector in _INDEX_VECTORS.items()}
    return np.dtype(dtypes[name]).itemsize
