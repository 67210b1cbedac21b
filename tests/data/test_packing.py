"""Packed windows, by hand and against a plain loop."""

import numpy as np
import pytest

from kdtf.data.packing import pack_tokens


def test_documents_follow_each_other_with_end_tokens_between():
    x, y, weight = pack_tokens(
        [[5, 6], [7], [8, 9]], length=4, end_id=1, pad_id=0
    )
    # 5 6 1 7 1 8 9 1
    assert x["token_ids"].tolist() == [[5, 6, 1, 7], [1, 8, 9, 1]]
    assert y.tolist() == [[6, 1, 7, 1], [8, 9, 1, 0]]
    assert weight.tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]
    assert x["padding_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 1]]
    dtypes = [x["token_ids"].dtype, x["padding_mask"].dtype, y.dtype]
    assert dtypes == [np.int32] * 3 and weight.dtype == np.float32


def test_padding_is_masked_in_inputs_and_weights():
    x, y, weight = pack_tokens([[5, 6, 7, 8]], length=3, end_id=1, pad_id=0)
    # 5 6 7 8 1: the label after the first window is its neighbour's input.
    assert x["token_ids"].tolist() == [[5, 6, 7], [8, 1, 0]]
    assert y.tolist() == [[6, 7, 8], [1, 0, 0]]
    assert x["padding_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert weight.tolist() == [[1, 1, 1], [1, 0, 0]]


def test_padding_is_the_end_token_unless_told():
    x, _, _ = pack_tokens([[5, 6, 7, 8]], length=3, end_id=1)
    assert x["token_ids"][1].tolist() == [8, 1, 1]


def test_a_window_that_is_not_full_may_be_dropped():
    x, y, _ = pack_tokens(
        [[5, 6, 7, 8]], length=3, end_id=1, drop_remainder=True
    )
    assert x["token_ids"].tolist() == [[5, 6, 7]]
    assert y.tolist() == [[6, 7, 8]]


@pytest.mark.parametrize("length", [1, 2, 5, 16])
def test_each_token_but_the_first_is_a_label_once(rng, length):
    documents = [rng.integers(2, 50, size=n).tolist() for n in (3, 0, 1, 9)]
    x, y, weight = pack_tokens(iter(documents), length=length, end_id=1)
    stream = [t for d in documents if d for t in [*d, 1]]
    assert y[weight == 1].tolist() == stream[1:]
    inputs = x["token_ids"][weight == 1]
    assert inputs.tolist() == stream[:-1]


def test_exactly_full_windows_need_no_padding():
    for drop in (False, True):
        x, _, weight = pack_tokens(
            [[5, 6, 7, 8]], length=2, end_id=1, drop_remainder=drop
        )
        assert x["token_ids"].tolist() == [[5, 6], [7, 8]]
        assert weight.all()


def test_what_cannot_be_packed_is_refused():
    with pytest.raises(ValueError, match="length=0"):
        pack_tokens([[1]], length=0, end_id=0)
    for documents in ([], [[]]):
        with pytest.raises(ValueError, match="0 tokens, end tokens included"):
            pack_tokens(documents, length=2, end_id=0)
    with pytest.raises(ValueError, match="2 tokens.*drop_remainder=True"):
        pack_tokens([[5]], length=2, end_id=0, drop_remainder=True)
    with pytest.raises(TypeError, match=r"shape=\(\), dtype=<U3"):
        pack_tokens(["cat"], length=2, end_id=0)
    with pytest.raises(TypeError, match="dtype=float64"):
        pack_tokens([[0.5]], length=2, end_id=0)
