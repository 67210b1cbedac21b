import keras
import numpy as np
import pytest

import kdtf
from kdtf.transforms import attach


class Doubled(attach.Attachment):
    """An attachment of another technique."""

    def __call__(self, w):
        return w

    def bake(self, variable):
        variable.assign(2 * variable)


@pytest.fixture
def model():
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])


def test_every_attachment_is_baked_and_taken_off(model):
    kernel, bias = model.weights
    own = keras.constraints.NonNeg()
    kernel.constraint = Doubled(inner=own)
    bias.constraint = own
    before = np.array(kernel)
    assert [v.path for v, _ in attach.attachments(model)] == [kernel.path]
    assert kdtf.strip(model) is model
    np.testing.assert_array_equal(kernel, 2 * before)
    assert kernel.constraint is own and bias.constraint is own


def test_a_part_of_a_model_can_be_stripped():
    inner = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4)])
    model = keras.Sequential([inner, keras.layers.Dense(4)])
    kdtf.prune(model, 0.5)
    kdtf.strip(inner)
    assert len(list(attach.attachments(model))) == 1
    kdtf.strip(model)
    assert not list(attach.attachments(model))


def test_state_of_inner_models_goes_too():
    inner = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4)])
    kdtf.prune(inner, 0.5)
    model = keras.Sequential([inner, keras.layers.Dense(4)])
    model.build((None, 4))
    assert attach.recall(inner, "kdtf_pruning") is not None
    kdtf.strip(model)
    assert attach.recall(inner, "kdtf_pruning") is None


def test_the_stamp_changes_when_attachments_do(model):
    empty = attach.stamp(model)
    kdtf.prune(model, 0.5)
    pruned = attach.stamp(model)
    assert pruned != empty == ()
    kdtf.strip(model)
    assert attach.stamp(model) == empty


def test_only_models_can_be_stripped():
    with pytest.raises(TypeError, match="must be a `keras.Model`"):
        kdtf.strip([1, 2])
