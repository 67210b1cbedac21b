"""Texts become token ids, and what holds token ids is taken as it is."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kdtf.recipes.preprocessing import fit_arrays
from kdtf.recipes.preprocessing import tokenized

TEXTS = np.array(["good day", "bad"])
IDS = [[2, 5, 7, 3, 0, 0], [2, 6, 3, 0, 0, 0]]
LABELS = np.array([1, 0])


@pytest.mark.parametrize("texts", [TEXTS, list(TEXTS), TEXTS.astype(object)])
def test_texts_become_ids(word_task, texts):
    x, y, weights = tokenized(word_task, (texts, LABELS, LABELS + 1.0), "train")
    assert x["token_ids"].tolist() == IDS
    assert x["padding_mask"].tolist() == np.sign(IDS).tolist()
    assert (y.tolist(), weights.tolist()) == ([1, 0], [2.0, 1.0])


def test_a_tuple_of_texts_is_rows_of_segments(word_task):
    ((x, _),) = [tokenized(word_task, ((TEXTS, TEXTS[::-1]), LABELS), "train")]
    assert x["token_ids"][0].tolist() == [2, 5, 7, 3, 6, 3]
    assert x["segment_ids"][0].tolist() == [0, 0, 0, 0, 1, 1]


def test_batches_of_texts_become_ids(word_task):
    data = tf.data.Dataset.from_tensor_slices((TEXTS, LABELS)).batch(2)
    found = tokenized(word_task, data, "train")
    assert int(found.cardinality()) == 1
    ((x, y),) = found
    assert (x["token_ids"].numpy().tolist(), y.numpy().tolist()) == (
        IDS,
        [1, 0],
    )


def test_numbers_stay_as_they_are(word_task):
    data = {"token_ids": np.array(IDS)}, LABELS
    assert tokenized(word_task, data, "train") is data
    batches = tf.data.Dataset.from_tensor_slices(data).batch(2)
    assert tokenized(word_task, batches, "train") is batches


def test_texts_without_a_preprocessor_are_refused(word_task, monkeypatch):
    monkeypatch.setattr(word_task, "preprocessor", None)
    with pytest.raises(ValueError, match="`validation` must hold arrays of"):
        tokenized(word_task, (TEXTS, LABELS), "validation")


def test_arrays_are_shuffled_and_not_preprocessed(word_task):
    seen = []

    def loss(labels, outputs):
        tf.py_function(lambda y: seen.extend(y.numpy().ravel()), [labels], [])
        return keras.ops.mean(outputs, axis=-1)

    word_task.compile("sgd", loss, metrics=[])
    x = {
        "token_ids": np.tile(IDS, (32, 1)),
        "padding_mask": np.ones((64, 6), "int32"),
        "segment_ids": np.zeros((64, 6), "int32"),
    }
    fit_arrays(word_task, x=x, y=np.arange(64.0), verbose=0)
    assert sorted(seen) == list(range(64)) != seen
