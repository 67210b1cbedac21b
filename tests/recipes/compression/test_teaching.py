"""What a training is told."""

import keras
import pytest

from kdtf.recipes.compression.teaching import Teaching


def teaching_of(loss):
    data = None, None
    return Teaching(train=data, loss=loss, rate=0.1, epochs=1, batch_size=1)


def own_loss(labels, outputs):
    return labels - outputs


def test_losses_that_are_told_otherwise_are_told_apart():
    kind = keras.losses.SparseCategoricalCrossentropy
    losses = [
        kind(from_logits=True),
        kind(from_logits=False),
        keras.losses.MeanSquaredError(),
        "mean_squared_error",
        own_loss,
    ]
    words = [teaching_of(loss).told for loss in losses]
    assert len(set(words)) == len(words)
    again = kind(from_logits=True)
    assert teaching_of(again).told == words[0]
    assert words[3:] == ["mean_squared_error", "own_loss"]


@pytest.mark.parametrize(
    ("loss", "distils"),
    [
        (keras.losses.CategoricalCrossentropy(), True),
        ("sparse_categorical_crossentropy", True),
        ("mse", False),
        (own_loss, False),
    ],
)
def test_the_original_teaches_where_there_are_classes(loss, distils):
    assert teaching_of(loss).distils is distils
