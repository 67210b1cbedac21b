"""Places the names beside the points of a picture so that none overlap."""

import math
from collections.abc import Sequence

# Left, bottom, right, top; in any unit, as long as all use the same.
Box = tuple[float, float, float, float]
Point = tuple[float, float]

Line = tuple[Point, Point]

_NUM_ANGLES = 24
# As bad as covering so much area.
_CROSSING = 400.0
_REACHES = (1.0, 1.8, 2.8, 4.0, 5.5, 7.5, 10.0, 13.0, 17.0)
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
    and takes the first that covers no point, no earlier name and no earlier
    name's line, whose own line covers none, and that stays within the bounds.
    If there is none, the least bad, names staying readable first.

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
    lines: list[Line] = []
    for point, size in zip(points, sizes, strict=True):
        others = [
            mark
            for mark, other in zip(marks, points, strict=True)
            if other != point
        ]

        def cost(
            box: Box, point: Point = point, others: list[Box] = others
        ) -> tuple[float, float]:
            crossed = sum(crosses(line, box) for line in lines)
            if is_far(box, point, gap):
                own = (point, nearest_in(box, point))
                crossed += sum(crosses(own, name) for name in placed)
            hidden = _covered(box, placed) + _outside(box, bounds)
            # Unreadable names are worst; then what makes them hard to read.
            return hidden, _CROSSING * crossed + _covered(box, others)

        best = min(_candidates(point, size, gap), key=cost)
        placed.append(best)
        if is_far(best, point, gap):
            lines.append((point, nearest_in(best, point)))
    return placed


def crosses(line: Line, box: Box) -> bool:
    """Returns whether a line runs through the inside of a box.

    Example:
        >>> crosses(((0, 0), (9, 9)), (2, 2, 4, 4))
        True
        >>> crosses(((0, 0), (9, 0)), (2, 2, 4, 4))
        False
    """
    (x, y), (end_x, end_y) = line
    enter, leave = 0.0, 1.0
    # Liang and Barsky 1984: clip the line at each pair of sides.
    for start, step, low, high in (
        (x, end_x - x, box[0], box[2]),
        (y, end_y - y, box[1], box[3]),
    ):
        if step == 0:
            if not low < start < high:
                return False
            continue
        first, second = sorted(((low - start) / step, (high - start) / step))
        enter, leave = max(enter, first), min(leave, second)
    return enter < leave


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
        # 0, 1, -1, 2, -2, ... steps of a turn away from the right.
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


def _covered(box: Box, others: Sequence[Box]) -> float:
    """Gives the area of others that a box covers, 0 if only rounding."""
    return round(sum(overlap(box, other) for other in others), 6)


def _outside(box: Box, bounds: Box) -> float:
    """Gives the area of a box beyond the bounds, 0 if only rounding."""
    area = (box[2] - box[0]) * (box[3] - box[1])
    return round(area - overlap(box, bounds), 6)
