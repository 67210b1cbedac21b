"""How far two runtimes' integers are apart."""

import re

import numpy as np
import pytest

from kdtf.export.micro.agreement import Agreement
from kdtf.export.micro.agreement import agreement
from kdtf.export.micro.agreement import disagreement
from kdtf.flatbuffer import TensorSpec


def scores(*rows):
    return [np.array(rows, "int8")]


def spec(width, *, scale=0.5):
    return [TensorSpec(name="y", dtype="int8", shape=(1, width), scale=scale)]


def test_each_number_is_compared_with_the_nearer_kernel():
    found = agreement(
        scores([0, 10, 20, 100]),
        scores([1, 10, 29, 90]),
        scores([0, 50, 24, 91]),
        spec(4),
    )
    # Distances 0, 0, 4, 9; LiteRT's own 1, 40, 5, 1.
    assert found == Agreement(
        max_steps=9,
        within_three_steps=0.5,
        argmax_agreement=1.0,
        spread_steps=40,
        num_values=4,
        # The third is nearer than LiteRT's kernels are to each other.
        num_unexplained=1,
    )


def test_int8_differences_do_not_wrap():
    found = agreement(scores([-128]), scores([127]), scores([127]), spec(1))
    assert found.max_steps == 255
    assert found.argmax_agreement is None


@pytest.mark.parametrize(
    ("gap", "share"),
    # Both scores may be three steps off, so six apart is a tie.
    [(0, 1.0), (6, 1.0), (7, 0.5)],
)
def test_near_ties_count_as_the_same_argmax(gap, share):
    others = scores([20 + gap, 20], [0, 9])
    found = agreement(scores([20, 21], [0, 9]), others, others, spec(2))
    assert found.argmax_agreement == share


def test_integers_without_a_scale_must_be_equal():
    ours, theirs = scores([3], [4], [5]), scores([3], [5], [4])
    found = agreement(ours, theirs, theirs, spec(1, scale=None))
    assert found.num_unexplained == 2
    assert disagreement(found) is not None


def test_several_outputs_are_counted_together_and_have_no_argmax():
    ours = [np.zeros((2, 3), "int8"), np.full((2, 1), 5, "int8")]
    theirs = [np.zeros((2, 3), "int8"), np.zeros((2, 1), "int8")]
    found = agreement(ours, theirs, theirs, spec(3) + spec(1))
    assert (found.num_values, found.num_unexplained) == (8, 2)
    assert found.argmax_agreement is None


def facts(**changes):
    given = {
        "max_steps": 3,
        "within_three_steps": 1.0,
        "argmax_agreement": 1.0,
        "spread_steps": 0,
        "num_values": 1000,
        "num_unexplained": 0,
    }
    return Agreement(**{**given, **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_unexplained": 10},
        {"num_values": 16, "num_unexplained": 1},
        {"argmax_agreement": 0.95},
        {"argmax_agreement": None},
    ],
)
def test_what_rounding_does_is_let_through(changes):
    assert disagreement(facts(**changes)) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_unexplained": 11}, "11 of 1000 .*at most 10 may be"),
        ({"num_values": 16, "num_unexplained": 2}, "2 of 16 .*at most 1 may"),
        ({"argmax_agreement": 0.94}, r"only 94\.0% .*at least 95% must"),
    ],
)
def test_what_rounding_does_not_do_is_told_with_numbers(changes, message):
    assert re.search(message, disagreement(facts(**changes)))
