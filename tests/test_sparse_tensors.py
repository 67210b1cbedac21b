"""The encoding of block-sparse matrices, by hand and there and back."""

import numpy as np
import pytest

from kdtf.sparse_tensors import decode
from kdtf.sparse_tensors import encode_blocks
from kdtf.sparse_tensors import index_bytes
from kdtf.sparse_tensors import to_sparsity


def test_two_rows_of_eight_are_encoded_as_by_hand():
    matrix = np.zeros((2, 8), "float32")
    matrix[0, 4:] = [1, 0, 2, 0]
    matrix[1, :4] = [0, 0, 0, 3]
    matrix[1, 4:] = [4, 5, 6, 7]
    encoded = encode_blocks(matrix, 4)
    assert encoded.values.tolist() == [[1, 0, 2, 0], [0, 0, 0, 3], [4, 5, 6, 7]]
    assert encoded.segments.tolist() == [0, 1, 3]
    assert encoded.indices.tolist() == [1, 0, 1]
    # 12 floats, 3 + 3 indices of a byte.
    assert encoded.num_bytes == 54
    assert encoded.zero_share == 0.25

    sparsity = to_sparsity(encoded)
    rows, columns, inner = sparsity.dimMetadata
    assert (rows.format, rows.denseSize) == (0, 2)
    assert (inner.format, inner.denseSize) == (0, 4)
    assert (columns.format, columns.denseSize) == (1, 0)
    # 3 is Uint8Vector in the schema's union.
    assert (columns.arraySegmentsType, columns.arrayIndicesType) == (3, 3)
    assert (sparsity.traversalOrder, sparsity.blockMap) == ([0, 1, 2], [1])
    assert index_bytes(sparsity) == 6
    assert index_bytes(None) == 0


@pytest.mark.parametrize("dtype, block", [("float32", 4), ("int8", 16)])
@pytest.mark.parametrize(
    "blocks, index_dtype", [(7, "uint8"), (300, "uint16"), (70_000, "int32")]
)
def test_decoding_gives_the_matrix_back(rng, dtype, block, blocks, index_dtype):
    for keep in (0.0, 0.02, 0.5, 1.0):
        matrix = rng.integers(-9, 10, size=(3, blocks * block)).astype(dtype)
        matrix *= np.repeat(rng.random((3, blocks)) < keep, block, axis=1)
        matrix[:, -block:] = 1
        encoded = encode_blocks(matrix, block)
        assert encoded.indices.dtype == index_dtype
        stored = encoded.values.ravel()
        decoded = decode(stored, to_sparsity(encoded), matrix.shape)
        np.testing.assert_array_equal(decoded, matrix)


def test_an_empty_matrix_keeps_one_block():
    encoded = encode_blocks(np.zeros((3, 8), "float32"), 4)
    assert encoded.values.tolist() == [[0, 0, 0, 0]]
    assert encoded.segments.tolist() == [0, 1, 1, 1]
    decoded = decode(encoded.values.ravel(), to_sparsity(encoded), (3, 8))
    assert not decoded.any()


def test_blocks_must_divide_the_columns():
    with pytest.raises(ValueError, match=r"block=4, matrix of shape \(2, 6\)"):
        encode_blocks(np.zeros((2, 6)), 4)


def test_blocks_that_stick_out_are_cut_off():
    # As the converter writes 6 columns in blocks of 4.
    encoded = encode_blocks(np.arange(8.0).reshape(1, 8), 4)
    decoded = decode(encoded.values.ravel(), to_sparsity(encoded), (1, 6))
    assert decoded.tolist() == [[0, 1, 2, 3, 4, 5]]


def test_an_index_that_does_not_fit_is_refused():
    sparsity = to_sparsity(encode_blocks(np.ones((2, 4)), 4))
    with pytest.raises(ValueError, match="7 values, 8 places"):
        decode(np.ones(7), sparsity, (2, 4))


def test_single_zeros_of_the_converter_are_decoded():
    """Its form without blocks: traversal order [0, 1], no block map."""
    sparsity = to_sparsity(encode_blocks(np.array([[0, 7, 0], [8, 0, 9]]), 1))
    sparsity.traversalOrder = [0, 1]
    sparsity.dimMetadata = sparsity.dimMetadata[:2]
    sparsity.blockMap = None
    decoded = decode(np.array([7, 8, 9]), sparsity, (2, 3))
    assert decoded.tolist() == [[0, 7, 0], [8, 0, 9]]
