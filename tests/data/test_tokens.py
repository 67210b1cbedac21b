"""Tokenizers and windows, by hand."""

import keras
import numpy as np
import pytest

from kdtf import data

TEXT = "the cat and the hat\nthe cat sat\n" * 3


def test_frequent_pairs_become_tokens_and_text_survives():
    tokenizer = data.train_tokenizer(TEXT, vocabulary_size=270)
    assert tokenizer.vocabulary_size() == 270
    assert len(tokenizer("the cat")) < len("the cat") / 2
    # Bytes cover what training never saw.
    for text in ("the cat", "Zürich, 9 €!", " \n"):
        assert str(tokenizer.detokenize(tokenizer(text))) == text


def test_the_end_of_text_is_the_last_token_and_no_padding():
    tokenizer = data.train_tokenizer("the cat, the hat", vocabulary_size=260)
    words = tokenizer.vocabulary
    assert words["<|endoftext|>"] == tokenizer.end_token_id == len(words) - 1
    assert sorted(words.values()) == list(range(len(words)))


def test_keras_writes_more_than_the_prompt():
    import keras_nlp

    tokenizer = data.train_tokenizer("the cat, the hat", vocabulary_size=260)
    keras.utils.set_random_seed(0)
    backbone = keras_nlp.models.GPT2Backbone(
        vocabulary_size=tokenizer.vocabulary_size(),
        num_layers=1,
        num_heads=1,
        hidden_dim=8,
        intermediate_dim=8,
        max_sequence_length=8,
    )
    preprocessor = keras_nlp.models.GPT2CausalLMPreprocessor(
        tokenizer, sequence_length=8
    )
    model = keras_nlp.models.GPT2CausalLM(backbone, preprocessor)
    written = model.generate("the cat")
    assert written.startswith("the cat")
    assert len(written) > len("the cat")


def test_training_is_deterministic():
    first, second = (
        data.train_tokenizer(TEXT, vocabulary_size=270) for _ in range(2)
    )
    assert first.get_vocabulary() == second.get_vocabulary()
    assert first.merges == second.merges


def test_a_vocabulary_below_the_bytes_is_refused():
    with pytest.raises(ValueError, match="at least 258.*vocabulary_size=257"):
        data.train_tokenizer(TEXT, vocabulary_size=257)


def test_a_text_with_nothing_to_merge_is_refused():
    with pytest.raises(ValueError, match="nothing to merge.*text='a'"):
        data.train_tokenizer("a", vocabulary_size=300)


def test_windows_do_not_overlap_and_labels_are_one_later():
    x, y = data.token_windows(np.arange(10), length=4)
    assert x.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert y.tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert x.dtype == y.dtype == np.int32


def test_stride_moves_the_windows():
    x, y = data.token_windows([5, 6, 7, 8], length=2, stride=1)
    assert (x.tolist(), y.tolist()) == ([[5, 6], [6, 7]], [[6, 7], [7, 8]])


def test_exactly_one_window_and_too_few_tokens():
    x, y = data.token_windows([1, 2, 3], length=2)
    assert (x.tolist(), y.tolist()) == ([[1, 2]], [[2, 3]])
    with pytest.raises(ValueError, match="2 tokens, length=2"):
        data.token_windows([1, 2], length=2)
    with pytest.raises(ValueError, match="stride=0"):
        data.token_windows([1, 2, 3], length=1, stride=0)
