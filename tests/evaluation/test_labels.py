import itertools

import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies

from kdtf.evaluation.labels import crosses
from kdtf.evaluation.labels import is_far
from kdtf.evaluation.labels import nearest_in
from kdtf.evaluation.labels import overlap
from kdtf.evaluation.labels import place_labels

BOUNDS = (0.0, 0.0, 300.0, 200.0)


def test_a_lone_name_stands_to_the_right():
    (box,) = place_labels([(100.0, 100.0)], [(40.0, 10.0)], BOUNDS)
    assert box == (106.0, 95.0, 146.0, 105.0)


def test_at_the_right_edge_a_name_turns_away():
    (box,) = place_labels([(295.0, 100.0)], [(40.0, 10.0)], BOUNDS)
    assert box[2] <= 300.0
    assert overlap(box, BOUNDS) == pytest.approx(400.0)


def test_the_same_point_twice_gets_two_places():
    points = [(100.0, 100.0)] * 2
    first, second = place_labels(points, [(40.0, 10.0)] * 2, BOUNDS)
    assert overlap(first, second) == 0


@settings(deadline=None)  # a busy machine is no failure
@given(
    strategies.lists(
        strategies.tuples(
            strategies.floats(10, 290), strategies.floats(10, 190)
        ),
        min_size=1,
        max_size=6,
    )
)
def test_names_of_a_few_points_never_overlap(points):
    boxes = place_labels(points, [(70.0, 12.0)] * len(points), BOUNDS)
    for first, second in itertools.combinations(boxes, 2):
        assert overlap(first, second) < 1e-3
    for box in boxes:
        assert overlap(box, BOUNDS) == pytest.approx(70 * 12)


def test_a_line_to_a_far_name_crosses_no_name():
    """Four points in a heap: a name must go far."""
    points = [(100.0 + 4 * i, 100.0) for i in range(4)]
    boxes = place_labels(points, [(60.0, 12.0)] * 4, BOUNDS)
    far = [
        pair for pair in zip(points, boxes, strict=True) if is_far(*pair[::-1])
    ]
    assert far
    for point, own in far:
        line = (point, nearest_in(own, point))
        assert not any(crosses(line, box) for box in boxes if box != own)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (((0, 3), (9, 3)), True),
        (((3, 9), (3, 0)), True),
        (((0, 0), (1, 1)), False),
        (((0, 2), (9, 2)), False),
        (((3, 3), (9, 9)), True),
        (((0, 5), (2, 9)), False),
    ],
)
def test_a_line_crosses_a_box_when_it_runs_inside(line, expected):
    assert crosses(line, (2, 2, 4, 4)) is expected


def test_more_names_than_fit_are_placed_all_the_same():
    points = [(5.0, 5.0)] * 30
    assert len(place_labels(points, [(9.0, 9.0)] * 30, (0, 0, 10, 10))) == 30


def test_overlap_is_the_shared_area():
    assert overlap((0, 0, 2, 2), (1, 1, 3, 3)) == 1
    assert overlap((0, 0, 2, 2), (2, 0, 3, 3)) == 0
    assert overlap((0, 0, 9, 9), (2, 2, 4, 5)) == 6


@pytest.mark.parametrize(
    ("point", "nearest", "far"),
    [
        ((5, 5), (5, 5), False),
        ((16, 5), (10, 5), False),
        ((30, 14), (10, 10), True),
    ],
)
def test_far_names_need_a_line(point, nearest, far):
    box = (0, 0, 10, 10)
    assert nearest_in(box, point) == nearest
    assert is_far(box, point) is far
