"""Windows of prompt and answer, by hand."""

import warnings

import numpy as np
import pytest

from kdtf import data
from kdtf.data.instructions import instruction_windows

END, PAD = 1, 0


def windows(pairs, length, **kwargs):
    return instruction_windows(
        pairs, length=length, end_id=END, pad_id=PAD, **kwargs
    )


def test_only_the_answer_and_its_end_are_learned():
    x, y, weight = windows([([5, 6], [7, 8]), ([9], [])], length=6)
    assert x["token_ids"].tolist() == [[5, 6, 7, 8, 1, 0], [9, 1, 0, 0, 0, 0]]
    assert x["padding_mask"].tolist() == [
        [1, 1, 1, 1, 1, 0],
        [1, 1, 0, 0, 0, 0],
    ]
    assert y.tolist() == [[6, 7, 8, 1, 0, 0], [1, 0, 0, 0, 0, 0]]
    assert weight.tolist() == [[0, 1, 1, 1, 0, 0], [1, 0, 0, 0, 0, 0]]
    assert x["token_ids"].dtype == y.dtype == np.int32
    assert weight.dtype == np.float32


def test_end_and_padding_tokens_count_by_their_place():
    # The prompt holds both, and the answer holds padding's value.
    x, y, weight = windows([([END, PAD, END], [PAD, 7])], length=7)
    assert x["token_ids"].tolist() == [[1, 0, 1, 0, 7, 1, 0]]
    assert x["padding_mask"].tolist() == [[1, 1, 1, 1, 1, 1, 0]]
    assert y[weight == 1].tolist() == [PAD, 7, END]


def test_a_pair_that_just_fits_is_whole():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x, y, weight = windows([([5, 6], [7])], length=3)
    assert (x["token_ids"].tolist(), y.tolist()) == ([[5, 6, 7]], [[6, 7, 1]])
    assert weight.tolist() == [[0, 1, 1]]


def test_long_prompts_are_cut_at_the_left_and_counted():
    pairs = [([2, 3, 4, 5], [7]), ([5], [6, 7, 8]), ([5], [6])]
    with pytest.warns(
        UserWarning, match="Of 3 pairs, 1 were cut .* and 1 dropped.*length=3"
    ):
        x, y, weight = windows(pairs, length=3)
    assert x["token_ids"].tolist() == [[4, 5, 7], [5, 6, 1]]
    assert y.tolist() == [[5, 7, 1], [6, 1, 0]]
    assert weight.tolist() == [[0, 1, 1], [1, 1, 0]]


def test_one_token_of_a_prompt_stays():
    with pytest.warns(UserWarning, match="1 were cut"):
        x, _, _ = windows([([2, 3, 4], [7, 8])], length=3)
    assert x["token_ids"].tolist() == [[4, 7, 8]]


def test_long_pairs_may_be_dropped():
    pairs = [([2, 3, 4, 5], [7]), ([5], [6])]
    with pytest.warns(UserWarning, match="0 were cut .* and 1 dropped"):
        x, _, _ = windows(pairs, length=3, too_long="drop")
    assert x["token_ids"].tolist() == [[5, 6, 1]]


def test_texts_go_through_the_format_and_the_tokenizer():
    tokenizer = data.train_tokenizer("the cat, the hat", vocabulary_size=260)
    end_id = tokenizer.end_token_id
    x, y, weight = instruction_windows(
        [("cat", "hat"), ("hat", "")],
        length=16,
        end_id=end_id,
        tokenizer=tokenizer,
        format=lambda prompt, answer: (f"Q: {prompt}\nA: ", answer),
    )
    rows = zip(x["token_ids"], x["padding_mask"], strict=True)
    texts = [str(tokenizer.detokenize(t[m == 1])) for t, m in rows]
    end = data.tokens.END_OF_TEXT
    assert texts == [f"Q: cat\nA: hat{end}", f"Q: hat\nA: {end}"]
    learned = [
        str(tokenizer.detokenize(labels[w == 1]))
        for labels, w in zip(y, weight, strict=True)
    ]
    assert learned == [f"hat{end}", end]


def test_what_makes_no_window_is_refused():
    with pytest.raises(ValueError, match="length=0"):
        windows([([5], [6])], length=0)
    with pytest.raises(ValueError, match="too_long='keep'"):
        windows([([5], [6])], length=3, too_long="keep")
    with pytest.raises(ValueError, match="pair 1 with an empty prompt"):
        windows([([5], [6]), ([], [6])], length=3)
    with pytest.raises(ValueError, match="0 pairs"):
        windows([], length=3)
    with pytest.raises(ValueError, match="1 pairs, of which 1 were dropped"):
        windows([([5], [6, 7, 8, 9])], length=3)
    with pytest.raises(TypeError, match="pass a `tokenizer`"):
        windows([("cat", "hat")], length=3)
