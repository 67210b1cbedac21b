"""What is searched: named choices, each from a finite list.

A point of a space is an index into each list, in the order of the choices.
Every strategy works on these indices; `decode` turns them into what `build`
gets. A choice whose condition does not hold keeps its index but is left out
there, so points that differ in nothing else are the same model.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import cast

import numpy as np

__all__ = ["Choice", "Space", "as_space"]

Point = tuple[int, ...]
Chosen = dict[str, Any]

_PLAIN = (str, int, float, bool, type(None))


@dataclasses.dataclass(frozen=True)
class Choice:
    """One decision, from a list.

    Args:
        options: At least one; strings, numbers, booleans, None or tuples of
            them, all different.
        when: Called with what was chosen before (a dict of the choices
            declared earlier that are in force); where it gives False the
            choice does not exist. Defaults to always.

    Raises:
        ValueError: There are no options, or one twice.
        TypeError: One is of another kind: what is stored must come back the
            same.

    Example:
        >>> kernel = Choice([3, 5], when=lambda chosen: chosen["op"] == "conv")
        >>> kernel.options
        (3, 5)
    """

    options: Sequence[Any]
    when: Callable[[Chosen], bool] | None = None

    def __post_init__(self) -> None:
        """Checks the options and makes plain values of them."""
        # Sets have no order to rely on: each process may have its own.
        if isinstance(self.options, str | bytes) or not isinstance(
            self.options, Sequence | np.ndarray
        ):
            raise TypeError(
                "`options` must be a list. Received: "
                f"options={self.options!r}. One option is a list, too."
            )
        options = tuple(_plain(option) for option in self.options)
        keys = {(type(option), option) for option in options}
        if not options or len(keys) < len(options):
            raise ValueError(
                "`options` must be at least one, and all different. Received: "
                f"options={list(options)!r}."
            )
        object.__setattr__(self, "options", options)

    @property
    def is_ordered(self) -> bool:
        """Whether the options are rising numbers, so that near ones are alike.

        Example:
            >>> Choice([1, 2, 4]).is_ordered, Choice(["relu"]).is_ordered
            (True, False)
        """
        return all(
            isinstance(option, int | float) and not isinstance(option, bool)
            for option in self.options
        ) and all(a < b for a, b in itertools.pairwise(self.options))


@dataclasses.dataclass(frozen=True)
class Space:
    """Named choices, and which combinations of them make sense.

    Args:
        choices: Name to a `Choice`, or just to its options: a list or range.
        valid: Called with what was chosen, a dict; gives True, or False or a
            sentence why not. What is not valid is never built. Defaults to
            all are valid.

    Raises:
        ValueError: There is no choice, or one is malformed.
        TypeError: A name is no string.

    Example:
        >>> space = Space(
        ...     {"width": [32, 48, 64], "heads": [2, 4]},
        ...     valid=lambda chosen: chosen["width"] % chosen["heads"] == 0,
        ... )
        >>> space.size
        6
        >>> space.decode((1, 0))
        {'width': 48, 'heads': 2}
    """

    choices: Mapping[str, Choice | Sequence[Any]]
    valid: Callable[[Chosen], bool | str] | None = None

    def __post_init__(self) -> None:
        """Checks the choices and makes a `Choice` of each."""
        if not isinstance(self.choices, Mapping) or not self.choices:
            raise ValueError(
                "A space must have at least one choice. Received: "
                f"{self.choices!r}. Write for example "
                "{'layers': range(1, 5), 'width': [32, 64]}."
            )
        choices = {}
        for name, choice in self.choices.items():
            if not isinstance(name, str):
                raise TypeError(
                    f"Names of choices must be strings. Received: {name!r}."
                )
            try:
                found = choice if isinstance(choice, Choice) else Choice(choice)
            except (TypeError, ValueError) as error:
                raise type(error)(f"Choice {name!r}: {error}") from error
            choices[name] = found
        object.__setattr__(self, "choices", choices)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all choices, in order."""
        return tuple(self.choices)

    @property
    def counts(self) -> tuple[int, ...]:
        """How many options each choice has."""
        return tuple(len(self.options(name)) for name in self.names)

    @property
    def size(self) -> int:
        """How many points there are, valid or not."""
        return math.prod(self.counts)

    def options(self, name: str) -> tuple[Any, ...]:
        """Returns the options of a choice."""
        return tuple(self._choice(name).options)

    def is_ordered(self, name: str) -> bool:
        """Whether the options of a choice are rising numbers."""
        return self._choice(name).is_ordered

    def random(self, rng: np.random.Generator) -> Point:
        """Returns a point, each option as likely as the next."""
        return tuple(int(rng.integers(count)) for count in self.counts)

    def points(self) -> Iterator[Point]:
        """Gives all points, the last choice changing fastest."""
        return itertools.product(*(range(count) for count in self.counts))

    def check(self, point: Any) -> None:
        """Refuses what is no point, such as a strategy may propose.

        Raises:
            ValueError: It is no index for each choice.
        """
        is_point = isinstance(point, tuple) and len(point) == len(self.names)
        if not is_point or any(
            not isinstance(index, int) or not 0 <= index < count
            for index, count in zip(point, self.counts, strict=True)
        ):
            raise ValueError(
                "A point must be a tuple of an index for each choice, below "
                f"{self.counts}. Received: {point!r}."
            )

    def decode(self, point: Point) -> Chosen:
        """Returns what `build` gets: the choices in force, by name."""
        chosen: Chosen = {}
        for name, index in zip(self.names, point, strict=True):
            choice = self._choice(name)
            if choice.when is None or choice.when(dict(chosen)):
                chosen[name] = choice.options[index]
        return chosen

    def encode(self, chosen: Mapping[str, Any]) -> Point:
        """Returns the point of what was chosen; others have index 0.

        Raises:
            ValueError: A name or an option is not in the space.
        """
        unknown = set(chosen) - set(self.names)
        if unknown:
            raise ValueError(
                f"Choices must be among {list(self.names)}. Received: "
                f"{sorted(unknown)}."
            )
        point = []
        for name in self.names:
            options = list(self._choice(name).options)
            value = _plain(chosen.get(name, options[0]))
            if value not in options:
                raise ValueError(
                    f"{name!r} must be one of {options}. Received: {value!r}."
                )
            # 1, 1.0 and True are equal, and may all be options.
            kinds = [(type(option), option) for option in options]
            kind = (type(value), value)
            found = kinds.index(kind) if kind in kinds else options.index(value)
            point.append(found)
        return tuple(point)

    def checked(self, chosen: Mapping[str, Any]) -> Point:
        """Returns the point of what was chosen, if it is valid.

        Raises:
            ValueError: It is not, or lacks a choice that is in force.
        """
        point = self.encode(chosen)
        in_force = set(self.decode(point))
        refusal = self.refusal(point)
        if set(chosen) != in_force:
            refusal = f"in force are {sorted(in_force)}"
        if refusal is not None:
            raise ValueError(
                "Choices must be a valid point of the space. Received: "
                f"{dict(chosen)!r}: {refusal}."
            )
        return point

    def key(self, point: Point) -> tuple[int | None, ...]:
        """Returns what two points share if they are the same model."""
        chosen = self.decode(point)
        return tuple(
            index if name in chosen else None
            for name, index in zip(self.names, point, strict=True)
        )

    def refusal(self, point: Point) -> str | None:
        """Returns why a point is not valid, or None."""
        if self.valid is None:
            return None
        answer = self.valid(self.decode(point))
        if isinstance(answer, str):
            return answer
        return None if answer else "not valid in this space"

    def describe(self) -> dict[str, list[Any]]:
        """Returns the options by name, as they are stored with a study."""
        return {
            name: [_stored(option) for option in self._choice(name).options]
            for name in self.names
        }

    def _choice(self, name: str) -> Choice:
        # `__post_init__` made one of whatever was given.
        return cast("Choice", self.choices[name])


def as_space(space: Any) -> Space:
    """Returns a `Space`, made of a mapping if need be."""
    return space if isinstance(space, Space) else Space(space)


def _plain(option: Any) -> Any:
    """Gives an option without NumPy's types, lists as tuples."""
    if isinstance(option, np.generic):
        option = option.item()
    if isinstance(option, list | tuple):
        return tuple(_plain(part) for part in option)
    if not isinstance(option, _PLAIN) or option != option:
        raise TypeError(
            "Options must be strings, numbers (not nan), booleans, None or "
            f"tuples of them. Received: {option!r}. Choose a name, and let "
            "`build` look up what it stands for."
        )
    return option


def _stored(option: Any) -> Any:
    if isinstance(option, tuple):
        return [_stored(part) for part in option]
    return option
