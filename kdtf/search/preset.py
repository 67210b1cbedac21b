"""What a ready-made space comes with, and checks of what it is made from."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from kdtf.search.space import Chosen
from kdtf.search.space import Space

__all__ = ["Preset", "integers", "middle", "numbers"]


@dataclasses.dataclass(frozen=True)
class Preset:
    """A space, what builds its models, and a point to beat.

    Args:
        space: What is searched.
        build: Gives a fresh model of what was chosen.
        default: The middle-of-the-road point, as somebody would choose it by
            hand: try it first, and compare with it what the search found.

    Raises:
        ValueError: `default` is no valid point of the space.

    Example:
        >>> from kdtf.search.space import Space
        >>> space = Space({"width": [8, 16]})
        >>> preset = Preset(space, lambda chosen: ..., {"width": 8})
        >>> preset.space.encode(preset.default)
        (0,)
    """

    space: Space
    build: Callable[[Chosen], keras.Model]
    default: Chosen

    def __post_init__(self) -> None:
        """Checks the default."""
        self.space.checked(self.default)


def middle(space: Space) -> Chosen:
    """Returns the valid choices nearest the middle of each list.

    Args:
        space: Small enough to be enumerated, if its middle is not valid.

    Raises:
        ValueError: No point is valid.

    Example:
        >>> from kdtf.search.space import Space
        >>> middle(Space({"a": [1, 2, 3], "b": [4, 5]}))
        {'a': 2, 'b': 4}
    """
    center = tuple((count - 1) // 2 for count in space.counts)
    if space.refusal(center) is None:
        return space.decode(center)
    valid = [point for point in space.points() if space.refusal(point) is None]
    if not valid:
        raise ValueError(
            "Some combination of the options must be valid. Received: "
            f"{space.describe()}, of which the first is refused: "
            f"{space.refusal(next(space.points()))}."
        )

    def distance(point: tuple[int, ...]) -> int:
        return sum(abs(a - b) for a, b in zip(point, center, strict=True))

    return space.decode(min(valid, key=distance))


def integers(name: str, values: Any) -> tuple[int, ...]:
    """Returns options after checking that they are integers from 1 on.

    Args:
        name: Of the user's argument, for the message.
        values: What the user gave for it.

    Raises:
        ValueError: They are not, there are none, or one is there twice.

    Example:
        >>> integers("layers", range(1, 4))
        (1, 2, 3)
    """
    return _options(
        name,
        values,
        kind=int,
        holds=lambda value: value >= 1,
        rule="integers from 1 on, such as [1, 2, 4]",
    )


def numbers(
    name: str, values: Any, *, holds: Callable[[Any], bool], rule: str
) -> tuple[float, ...]:
    """Returns options after checking that they are numbers in a range.

    Args:
        name: Of the user's argument, for the message.
        values: What the user gave for it.
        holds: Whether a number is in the range.
        rule: What they must be, in words.

    Raises:
        ValueError: They are not, there are none, or one is there twice.

    Example:
        >>> numbers("alpha", [0.5, 1], holds=lambda a: a <= 1, rule="low")
        (0.5, 1)
    """
    return _options(name, values, kind=int | float, holds=holds, rule=rule)


def _options(
    name: str,
    values: Any,
    *,
    kind: Any,
    holds: Callable[[Any], bool],
    rule: str,
) -> tuple[Any, ...]:
    is_listed = hasattr(values, "__iter__") and not isinstance(values, str)
    found = [
        value.item() if isinstance(value, np.generic) else value
        for value in (values if is_listed else ())
    ]
    fits = all(
        isinstance(value, kind) and not isinstance(value, bool) and holds(value)
        for value in found
    )
    if not found or not fits or len(set(found)) < len(found):
        raise ValueError(
            f"`{name}` must be a list of options, all different: {rule}. "
            f"Received: {name}={values!r}."
        )
    return tuple(found)
