"""`kdtf.compress` of a keras-nlp task, from texts and from their ids."""

import keras
import numpy as np
import pytest

from kdtf.copies import copied
from kdtf.recipes.compression import compress
from kdtf.recipes.compression.teaching import Teaching

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@pytest.fixture(scope="module")
def texts():
    labels = np.arange(32) % 2
    words = np.where(labels, "good", "bad")
    return np.char.add(words, " day"), labels


@pytest.mark.slow
def test_texts_and_their_ids_are_the_same_to_it(word_task, texts, tmp_path):
    x, y = texts
    ids = keras.tree.map_structure(np.asarray, word_task.preprocessor(x))

    def run(data):
        return compress(
            word_task,
            data,
            data,
            loss=LOSS,
            max_size="1MB",
            out=tmp_path,
            verbose=0,
        )

    first, again = run((x, y)), run((ids, y))
    assert {one.stage for one in first.candidates} == {"post-training"}
    assert first.is_met
    # The second one found all of the first.
    assert str(again) == str(first)


@pytest.mark.parametrize(
    ("loss", "distils"), [(LOSS, True), ("mean_squared_error", False)]
)
def test_a_task_is_taught_on_ids(word_task, texts, tmp_path, loss, distils):
    """By the original, and by labels that its own metrics do not suit."""
    x, y = texts
    ids = keras.tree.map_structure(np.asarray, word_task.preprocessor(x))
    labels = y if distils else np.eye(2, dtype="float32")[y]
    teaching = Teaching(
        train=(ids, labels),
        loss=loss,
        rate=0.01,
        epochs=1,
        batch_size=16,
        verbose=0,
    )
    assert teaching.distils is distils
    student = copied(word_task)
    preprocessor, before = student.preprocessor, student.get_weights()
    teaching(
        student,
        word_task,
        alpha=0.5,
        temperature=1.0,
        rate=0.01,
        epochs=1,
        backup=tmp_path / "backup",
    )
    assert student.preprocessor is preprocessor is not None
    moved = [
        not np.array_equal(old, new)
        for old, new in zip(before, student.get_weights(), strict=True)
    ]
    assert sum(moved) > len(moved) / 2


def test_texts_that_nothing_reads_are_refused_at_once(texts, tmp_path):
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match="`train` must hold arrays of numbers"):
        compress(
            model,
            texts,
            texts,
            loss=LOSS,
            max_size="1MB",
            out=tmp_path / "out",
            verbose=0,
        )
    assert not (tmp_path / "out").exists()
