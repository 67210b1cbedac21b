"""The embedded data: real, whole, and nothing held out is learned from."""

import numpy as np
import pytest

from kdtf import data
from kdtf.data import embedded


def test_digits_are_scaled_and_split_in_order():
    (x, y), (x_test, y_test) = data.digits()
    assert (x.shape, x_test.shape) == ((1347, 8, 8, 1), (450, 8, 8, 1))
    assert (x.dtype, y.dtype) == (np.float32, np.int32)
    assert x.min() == 0.0 and x.max() == 1.0
    # The set begins with 0, 1, 2, ... 9; the first zero's top row, by eye.
    assert y[:10].tolist() == list(range(10))
    np.testing.assert_allclose(x[0, 0, :, 0] * 16, [0, 0, 5, 13, 9, 1, 0, 0])
    assert np.bincount(np.concatenate([y, y_test])).tolist() == [
        178, 182, 177, 183, 181, 182, 181, 179, 174, 180
    ]  # fmt: skip


def test_digits_take_another_share():
    train, test = data.digits(test_share=0.5)
    assert (len(train[1]), len(test[1])) == (898, 899)


def test_no_held_out_paragraph_is_in_the_training_text():
    train, test = data.documentation_text()
    known = {" ".join(p.split()) for p in train.split("\n\n")}
    held_out = {" ".join(p.split()) for p in test.split("\n\n")}
    assert len(held_out) > 100
    assert not known & held_out


def test_held_out_share_is_about_what_was_asked():
    train, test = data.documentation_text(test_share=0.25)
    assert 0.2 < len(test) / (len(train) + len(test)) < 0.3


def test_paragraphs_are_kept_once_whatever_their_line_breaks():
    texts = ["\n\na b\nc\n\n  d", "a b c\n \n\ne\n", "d\n\n"]
    assert embedded._unique_paragraphs(texts) == ["a b\nc", "  d", "e"]


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5])
def test_a_share_that_leaves_one_part_empty_is_refused(share):
    for load in (data.digits, data.documentation_text):
        with pytest.raises(ValueError, match=rf"in \(0, 1\).*={share}"):
            load(test_share=share)
