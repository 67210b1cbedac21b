import numpy as np
import pytest

from kdtf.evaluation.agreement import count_agreeing
from kdtf.evaluation.agreement import decide
from kdtf.evaluation.agreement import decision_kind
from kdtf.evaluation.agreement import threshold_of


@pytest.mark.parametrize(
    ("outputs", "labels", "kind"),
    [
        (np.zeros((2, 3)), np.array([0, 2]), "classes"),
        (np.zeros((2, 3)), np.array([[0], [2]]), "classes"),
        (np.zeros((2, 3)), np.eye(3)[:2], "classes"),
        (np.zeros((2, 3)), np.array([[0.5, 0.25, 0.25]] * 2), "classes"),
        (np.zeros((2, 5, 3)), np.ones((2, 5), "int32"), "classes"),
        (np.zeros((2, 3)), np.array([0.0, 2.0]), "classes"),
        (np.zeros((2, 3)), None, "classes"),
        (np.zeros((2, 1)), np.array([0, 1]), "binary"),
        (np.zeros(2), np.array([True, False]), "binary"),
        (np.zeros((2, 3)), np.array([[1, 1, 0], [0, 0, 0]]), "binary"),
        (np.zeros((2, 1)), np.array([0.5, 17.0]), None),
        (np.zeros((2, 3)), np.array([[1.5, -2.0, 4.0]] * 2), None),
        (np.zeros((2, 1)), None, None),
    ],
)
def test_what_a_model_decides_follows_from_labels(outputs, labels, kind):
    assert decision_kind(outputs, labels) == kind


def test_the_greatest_output_wins_and_the_first_of_equals():
    outputs = np.array([[-3.0, -1.0, -2.0], [5.0, 5.0, 0.0]])
    assert decide(outputs, "classes").tolist() == [1, 0]


def test_a_unit_says_yes_above_the_threshold_only():
    outputs = np.array([[0.5], [0.6], [0.4]])
    assert decide(outputs, "binary").tolist() == [False, True, False]
    assert decide(outputs, "binary", threshold=0.45).tolist() == [
        True,
        True,
        False,
    ]


def test_labels_of_a_multi_label_head_are_decided_one_by_one():
    outputs = np.array([[0.9, 0.1], [0.6, 0.7]])
    assert decide(outputs, "binary").tolist() == [[True, False], [True, True]]


@pytest.mark.parametrize(
    ("values", "threshold"),
    [([0.0, 1.0], 0.5), ([0.2, 1.2], 0.0), ([-0.1, 0.9], 0.0)],
)
def test_values_between_0_and_1_are_probabilities(values, threshold):
    assert threshold_of(np.array(values)) == threshold


def test_padding_is_left_out_per_position():
    decided = np.array([[1, 2, 9, 9], [3, 4, 5, 9]])
    reference = np.array([[1, 0, 9, 9], [3, 4, 0, 0]])
    weights = np.array([[1, 1, 0, 0], [0.5, 2.0, 1, 0]])
    assert count_agreeing(decided, reference, weights) == (3, 5)


def test_a_weight_of_zero_leaves_out_a_whole_example():
    decided = np.array([[1, 2], [3, 4]])
    weights = np.array([0.0, 1.0])
    assert count_agreeing(decided, decided + [[0, 0], [0, 1]], weights) == (
        1,
        2,
    )


def test_weights_may_have_a_last_axis_of_one():
    decided = np.array([1, 2, 3])
    weights = np.array([[1.0], [0.0], [1.0]])
    assert count_agreeing(decided, np.array([1, 2, 0]), weights) == (1, 2)


def test_without_weights_every_position_counts():
    decided = np.array([[1, 2], [3, 4]])
    assert count_agreeing(decided, decided, None) == (4, 4)


def test_nothing_but_padding_counts_nothing():
    decided = np.array([1, 2])
    assert count_agreeing(decided, decided, np.zeros(2)) == (0, 0)
