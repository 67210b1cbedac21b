import collections
import dataclasses
import math
import zlib

import numpy as np
import pytest

from kdtf.quantization import storage


def test_index_bits_are_the_logarithm_upwards():
    got = [storage.index_bits(n) for n in range(1, 300)]
    assert got == [math.ceil(math.log2(n)) for n in range(1, 300)]
    with pytest.raises(ValueError, match="num_entries=0"):
        storage.index_bits(0)


def test_entropy_by_hand_and_by_scipy(rng):
    from scipy.stats import entropy

    assert storage.entropy_bits([3, 3, 3]) == 0.0
    assert storage.entropy_bits([[0, 1], [2, 3]]) == 2.0
    indices = rng.integers(0, 9, 500) ** 2
    counts = np.unique(indices, return_counts=True)[1]
    got = storage.entropy_bits(indices)
    assert got == pytest.approx(entropy(counts, base=2), abs=1e-12)


def codes_of(indices):
    """A Huffman code with its bits, by repeated sorting."""
    counts = collections.Counter(indices)
    nodes = [(count, symbol) for symbol, count in counts.items()]
    while len(nodes) > 1:
        (a, left), (b, right), *nodes = sorted(nodes, key=lambda n: n[0])
        nodes.append((a + b, (left, right)))
    codes = {}

    def walk(node, code):
        if isinstance(node, tuple):
            walk(node[0], code + "0")
            walk(node[1], code + "1")
        else:
            codes[node] = code

    walk(nodes[0][1], "")
    return codes


def test_huffman_by_hand():
    # 8, 4, 2, 2: codes of 1, 2, 3 and 3 bits.
    indices = [0] * 8 + [1] * 4 + [2] * 2 + [3] * 2
    assert storage.huffman_bits(indices) == (8 + 8 + 6 + 6) / 16
    # 45, 13, 12, 16, 9, 5: the textbook's 224 bits.
    counts = (45, 13, 12, 16, 9, 5)
    assert storage.huffman_bits(np.repeat(range(6), counts)) == 2.24


def test_huffman_equals_the_length_of_coded_bits(rng):
    for _ in range(5):
        indices = (rng.exponential(3.0, 400)).astype(int).tolist()
        codes = codes_of(indices)
        coded = "".join(codes[i] for i in indices)
        assert storage.huffman_bits(indices) == len(coded) / 400
        bound = storage.entropy_bits(indices)
        assert bound <= storage.huffman_bits(indices) < bound + 1


def test_one_symbol_takes_no_bits_and_none_neither():
    assert storage.huffman_bits([7, 7, 7]) == 0.0
    assert storage.huffman_bits([0, 1, 1]) == 1.0
    assert storage.huffman_bits([]) == 0.0
    assert storage.entropy_bits([]) == 0.0


def test_only_integers_of_zero_or_more_are_coded():
    for bad in ([0.5], [-1, 2], [True, False]):
        with pytest.raises(ValueError, match="`indices` must be integers"):
            storage.huffman_bits(bad)


def test_streams_of_the_papers_figure():
    # Figure 2: weights at 1, 4 and 15, 3 bits of difference. The first
    # difference is 2 where the figure counts 1.
    indices = np.zeros((4, 4), int)
    indices.ravel()[[1, 4, 15]] = [3, 1, 2]
    differences, codes = storage.sparse_code_streams(indices, 0, 3)
    assert differences.tolist() == [2, 3, 8, 3]
    assert codes.tolist() == [3, 1, 0, 2]


@pytest.mark.parametrize(
    "gap, expected",
    [
        (1, [1]),
        (4, [4]),
        (5, [4, 1]),
        (8, [4, 4]),
        (9, [4, 4, 1]),
    ],
)
def test_padding_zeros_come_at_the_greatest_difference(gap, expected):
    indices = [7] * (gap - 1) + [2]
    differences, codes = storage.sparse_code_streams(indices, 7, 2)
    assert differences.tolist() == expected
    assert codes.tolist() == [7] * (len(expected) - 1) + [2]


def test_zeros_at_the_end_are_not_stored():
    differences, codes = storage.sparse_code_streams([5, 0, 0, 0], 0, 1)
    assert differences.tolist() == [1] and codes.tolist() == [5]
    for stream in storage.sparse_code_streams(np.zeros((2, 3), int), 0, 5):
        assert stream.size == 0


@pytest.mark.parametrize("difference_bits", range(1, 9))
@pytest.mark.parametrize("density", [0.0, 0.002, 0.1, 0.5, 1.0])
def test_streams_decode_to_the_indices(density, difference_bits, rng):
    indices = rng.integers(0, 16, (30, 70))
    zero = 6
    indices[rng.random((30, 70)) >= density] = zero
    differences, codes = storage.sparse_code_streams(
        indices, zero, difference_bits
    )
    if differences.size:
        assert differences.min() >= 1
        assert differences.max() <= 2**difference_bits
    got = storage.decode_sparse_streams(
        differences, codes, num_weights=indices.size, zero_index=zero
    )
    np.testing.assert_array_equal(got.reshape(30, 70), indices)


def test_streams_refuse_what_does_not_fit():
    for bits in (0, 9, 2.5):
        with pytest.raises(ValueError, match=f"difference_bits={bits}"):
            storage.sparse_code_streams([1], 0, bits)
    with pytest.raises(ValueError, match="weight 5.*num_weights=4"):
        storage.decode_sparse_streams(
            [2, 3], [1, 1], num_weights=4, zero_index=0
        )
    with pytest.raises(ValueError, match=r"2 differences.*codes of shape"):
        storage.decode_sparse_streams([1, 1], [1], num_weights=4, zero_index=0)


def test_stored_size_by_hand():
    # 16 weights of 4 entries, 0 is the second; non-zeros at 1, 4 and 15.
    indices = np.ones(16, int)
    indices[[1, 4, 15]] = [0, 2, 3]
    size = storage.stored_size(
        indices, [-1.0, 0.0, 1.0, 2.0], difference_bits=3
    )
    assert size == storage.StoredSize(
        num_weights=16,
        num_nonzero=3,
        codebook_bytes=16,
        # 2 bits each.
        fixed_bytes=16 + 4,
        # 13 of 1 bit, 1 of 2 and 2 of 3: 21 bits; 4 code lengths.
        huffman_bytes=16 + 3 + 4,
        # 4 stored of 3 + 2 bits.
        sparse_bytes=16 + 3,
        # Differences 2, 3, 8, 3: 6 bits; codes 0, 2, 1, 3: 8 bits; 4 + 8.
        sparse_huffman_bytes=16 + 1 + 1 + 12,
        # 16 * (13/16 log2(16/13) + 3/16 * 4) = 15.9 bits.
        entropy_bytes=16 + 2,
    )
    assert size.form == "sparse"
    assert size.size_bytes == 19
    assert size.bits_per_weight == 9.5


def test_weights_are_stored_as_their_indices(rng):
    codebook = np.array([-1.0, 0.0, 0.5, 2.0], "float32")
    weights = rng.normal(size=(20, 30)).astype("float32")
    indices = np.abs(weights[..., None] - codebook).argmin(axis=-1)
    got = storage.stored_size(weights, codebook)
    assert got == storage.stored_size(indices.astype("uint8"), codebook)
    assert got.num_nonzero == np.count_nonzero(indices != 1)


def test_no_zero_no_sparse_form(rng):
    size = storage.stored_size(rng.integers(0, 2, 100), [-1.0, 1.0])
    assert size.sparse_bytes is None and size.sparse_huffman_bytes is None
    assert sorted(size.sizes) == ["fixed", "huffman"]
    assert size.num_nonzero == 100
    assert size.form == "fixed"
    assert "no sparse form: no entry" in str(size)


def test_only_zeros_take_the_codebook():
    size = storage.stored_size(np.zeros(1000), [0.0, 1.0])
    assert size.form == "sparse"
    assert size.size_bytes == size.entropy_bytes == size.codebook_bytes == 8
    assert storage.stored_size([5.0], [0.0, 1.0]).num_weights == 1


def test_the_more_zeros_the_sparser_the_form(rng):
    values = rng.normal(size=50_000).astype("float32")
    codebook = np.linspace(-3, 3, 15).astype("float32")
    forms = []
    for sparsity in (0.0, 0.9, 0.999):
        kept = rng.random(50_000) >= sparsity
        size = storage.stored_size(values * kept, codebook, difference_bits=8)
        assert size.fixed_bytes == 60 + 25_000
        assert size.entropy_bytes < size.huffman_bytes
        forms.append(size.form)
    assert forms == ["huffman", "sparse_huffman", "sparse"]


def test_huffman_is_near_what_zlib_makes_of_the_indices(rng):
    # zlib's Huffman alone, without matches, on one index a byte.
    indices = np.clip(rng.normal(8, 2, 40_000), 0, 15).astype("uint8")
    compressor = zlib.compressobj(strategy=zlib.Z_HUFFMAN_ONLY)
    coded = compressor.compress(indices.tobytes()) + compressor.flush()
    size = storage.stored_size(indices, np.arange(16.0))
    # Theirs starts a new table for each block, and ends each.
    ours = size.huffman_bytes - size.codebook_bytes
    assert 0.98 * len(coded) <= ours <= len(coded) + 16


def test_text_names_every_form_and_marks_the_smallest():
    indices = np.ones(16, int)
    indices[[1, 4, 15]] = [0, 2, 3]
    size = storage.stored_size(
        indices, [-1.0, 0.0, 1.0, 2.0], difference_bits=3
    )
    lines = str(size).splitlines()
    assert lines[0] == (
        "16 weights, 3 of them not 0: 19 bytes, 9.500 bits a weight, "
        "3.4x smaller than float32"
    )
    assert [line.split()[0] for line in lines[1:]] == [
        *("fixed", "huffman", "sparse", "sparse_huffman", "entropy"),
    ]
    marked = [line for line in lines if line.endswith("smallest")]
    assert marked == ["  sparse                     19 bytes  smallest"]


def test_size_is_frozen():
    size = storage.stored_size([0], [0.0])
    with pytest.raises(dataclasses.FrozenInstanceError, match="num_weights"):
        size.num_weights = 2


def test_stored_size_refuses_what_it_cannot_store():
    with pytest.raises(ValueError, match="index of 2 for 2 entries"):
        storage.stored_size([0, 2], [0.0, 1.0])
    with pytest.raises(ValueError, match=r"at least one.*\(0,\)"):
        storage.stored_size([], [0.0, 1.0])
    with pytest.raises(ValueError, match="1 nan of 2"):
        storage.stored_size([0.0, np.nan], [0.0, 1.0])
    with pytest.raises(ValueError, match="difference_bits=9"):
        storage.stored_size([0], [0.0, 1.0], difference_bits=9)
