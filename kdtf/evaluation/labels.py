"""Places the names beside the points of a picture so that none overlap."""

import math
from collections.abc import Sequence

# Left, bottom, right, top; in any unit, as long as all use the same.
Box = tuple[float, float, float, float]
Point = tuple[float, float]

_NUM_ANGLES = 16
_REACHES = (1.0, 1.8, 2.8, 4.0, 5.5, 7.5, 10.0, 13.0)
# Past this reach a line has to say which point a name belongs to.
FAR = 2.0


def place_labels(
    points: Sequence[Point],
    sizes: Sequence[Point],
    bounds: Box,
    *,
    gap: float = 6.0,
) -> list[Box]:
    """Gives each name a box near its point, in order of the points.

    Tries places around the point, first to the right, at growing distance,
    and takes the first that covers no point and no earlier name and stays
    within the bounds. If there is none, the one that covers least.

    Args:
        points: Where the points are.
        sizes: Width and height of each name.
        bounds: What the names must stay within.
        gap: Space between a point and its name.

    Returns:
        The boxes.

    Example:
        >>> bounds = (0.0, 0.0, 100.0, 100.0)
        >>> place_labels([(50.0, 50.0)], [(20.0, 10.0)], bounds)
        [(56.0, 45.0, 76.0, 55.0)]
    """
    marks = [(x - gap, y - gap, x + gap, y + gap) for x, y in points]
    placed: list[Box] = []
    for point, size in zip(points, sizes, strict=True):
        # Its own mark is part of the gap, save for the point itself.
        others = [
            mark
            for mark, other in zip(marks, points, strict=True)
            if other != point
        ]
        taken = placed + others + [(*point, *point)]
        candidates = _candidates(point, size, gap)
        placed.append(
            min(candidates, key=lambda box: _cost(box, taken, bounds))
        )
    return placed


def overlap(first: Box, second: Box) -> float:
    """Gives the area two boxes share.

    Example:
        >>> overlap((0, 0, 4, 4), (3, 2, 9, 9))
        2
    """
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    return max(0, width) * max(0, height)


def nearest_in(box: Box, point: Point) -> Point:
    """Gives the place in a box that is nearest to a point.

    Example:
        >>> nearest_in((0, 0, 4, 4), (9, 3))
        (4, 3)
    """
    x, y = point
    return min(max(x, box[0]), box[2]), min(max(y, box[1]), box[3])


def is_far(box: Box, point: Point, gap: float = 6.0) -> bool:
    """Returns whether a name lies so far off that it needs a line."""
    return math.dist(nearest_in(box, point), point) > FAR * gap


def _candidates(point: Point, size: Point, gap: float) -> list[Box]:
    """Lists boxes around a point, the nearest and rightmost first."""
    boxes = []
    for reach in _REACHES:
        # 0, 1, -1, 2, -2, ... sixteenths of a turn away from the right.
        for step in range(_NUM_ANGLES):
            turn = (step + 1) // 2 * (1 if step % 2 else -1)
            angle = 2 * math.pi * turn / _NUM_ANGLES
            boxes.append(_box_at(point, size, angle, gap * reach))
    return boxes


def _box_at(point: Point, size: Point, angle: float, away: float) -> Box:
    width, height = size
    along, up = math.cos(angle), math.sin(angle)
    center_x = point[0] + along * (away + width / 2)
    center_y = point[1] + up * (away + height / 2)
    return (
        center_x - width / 2,
        center_y - height / 2,
        center_x + width / 2,
        center_y + height / 2,
    )


def _cost(box: Box, taken: Sequence[Box], bounds: Box) -> float:
    """Gives 0 for a free place; `min` then keeps the first such."""
    area = (box[2] - box[0]) * (box[3] - box[1])
    outside = area - overlap(box, bounds)
    covered = sum(overlap(box, other) for other in taken)
    # Rounding would make a box on the very edge count as outside.
    return round(2 * outside + covered, 6)
