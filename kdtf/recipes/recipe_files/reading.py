"""Reads a recipe, and says all that is wrong with it and where."""

import difflib
import os
import pathlib
from collections.abc import Iterable
from collections.abc import Iterator
from typing import Any

import pydantic
import yaml

from kdtf.recipes.recipe_files.checks import find_mistakes
from kdtf.recipes.recipe_files.schema import Recipe

__all__ = ["RecipeError", "read_recipe"]

# A place in the file: names of tables and numbers in lists.
_Place = tuple[str | int, ...]


class RecipeError(ValueError):
    """What is wrong with a recipe.

    Args:
        path: The file.
        problems: All that is wrong, each with its place.
    """

    def __init__(
        self, path: str | os.PathLike[str], problems: Iterable[str]
    ) -> None:
        self.problems = tuple(problems)
        number = len(self.problems)
        what = "one mistake" if number == 1 else f"{number} mistakes"
        self.headline = f"{os.fspath(path)} has {what}:"
        super().__init__("\n  ".join((self.headline, *self.problems)))


def read_recipe(path: str | os.PathLike[str]) -> Recipe:
    """Reads a recipe from a YAML or JSON file and checks all of it.

    Names, types, ranges, the order of the steps and whether files exist are
    checked; no model is loaded.

    Args:
        path: The file. Paths in it are found from its folder.

    Returns:
        The recipe, its defaults filled in.

    Raises:
        FileNotFoundError: There is no such file.
        RecipeError: It is no recipe; says everything that is wrong.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"A recipe must be a file. Received: {str(path)!r}, where there is "
            f"{'a folder' if path.is_dir() else 'nothing'}."
        )
    values, lines = _parse(path)
    try:
        recipe = Recipe.model_validate(values)
    except pydantic.ValidationError as error:
        found = _merged(
            (_written(line, lines), _explain(line))
            for line in error.errors(include_url=False)
        )
    else:
        found = list(find_mistakes(recipe, path.parent))
        if not found:
            return recipe
    # By line, not in the order of the schema.
    found.sort(key=lambda mistake: _line_of(mistake[0], lines))
    raise RecipeError(
        path,
        (f"{_place(at, lines)}: {message}" for at, message in found),
    ) from None


def _parse(path: pathlib.Path) -> tuple[Any, dict[_Place, int]]:
    """Returns the file's content, and the line of each place in it."""
    try:
        text = path.read_text(encoding="utf-8")
        if any(isinstance(e, yaml.AliasEvent) for e in yaml.parse(text)):
            raise RecipeError(
                path, ["aliases (`*name`) are not read; write it out"]
            )
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        lines: dict[_Place, int] = {}
        twice = []
        for place, line in _places(root):
            if place in lines:
                twice.append(
                    f"line {line}, {_name(place)}: stands there twice; first "
                    f"in line {lines[place]}"
                )
            lines[place] = line
        if twice:
            raise RecipeError(path, twice)
        # JSON is YAML, too.
        return yaml.safe_load(text), lines
    except UnicodeDecodeError as error:
        raise RecipeError(path, [f"it is no UTF-8 text: {error}"]) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        what = getattr(error, "problem", None) or str(error)
        raise RecipeError(path, [f"{where}it is no YAML: {what}"]) from error


def _places(node: Any, place: _Place = ()) -> Iterator[tuple[_Place, int]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = (*place, key.value)
            yield inner, key.start_mark.line + 1
            yield from _places(value, inner)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            inner = (*place, index)
            yield inner, value.start_mark.line + 1
            yield from _places(value, inner)


def _explain(error: Any) -> str:
    """Returns one of pydantic's errors in our words."""
    *table, name = error["loc"] or ("",)
    kind, received = error["type"], error["input"]
    if kind == "extra_forbidden":
        return _unknown("key", name, _known_names(table))
    if kind == "missing":
        return "must be given"
    if kind == "literal_error" and isinstance(received, str):
        choices = error["ctx"]["expected"].replace(" or ", ", ")
        return _unknown(
            "value", received, [c.strip("'") for c in choices.split(", ")]
        )
    message = error["msg"].removeprefix("Value error, ")
    message = message.replace("Input should", "must")
    # A whole table would bury what is wrong with it.
    if isinstance(received, dict | list) and received:
        return message
    return f"{message}. Received: {received!r}"


def _unknown(what: str, name: Any, known: list[str]) -> str:
    close = difflib.get_close_matches(str(name), known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known: {known}"
    return f"unknown {what} {name!r}; {hint}"


def _known_names(table: Iterable[str | int]) -> list[str]:
    """Returns the names that a table of the schema has."""
    schema = Recipe.model_json_schema(by_alias=True)

    def resolved(part: Any) -> Any:
        # None or a table: what is not None.
        part = part.get("anyOf", [part])[0]
        name = part.get("$ref", "").rpartition("/")[2]
        return schema["$defs"][name] if name else part

    part = schema
    for step in table:
        inner = (
            part["items"] if isinstance(step, int) else part["properties"][step]
        )
        part = resolved(inner)
    return list(part["properties"])


def _merged(
    errors: Iterable[tuple[_Place, str]],
) -> list[tuple[_Place, str]]:
    """Joins what is said of one place: none of several types would do."""
    by_place: dict[_Place, list[str]] = {}
    for place, message in errors:
        by_place.setdefault(place, []).append(message)
    return [
        (place, " Or: ".join(dict.fromkeys(messages)))
        for place, messages in by_place.items()
    ]


def _written(error: Any, lines: dict[_Place, int]) -> _Place:
    """Returns an error's place, without the type that pydantic tried there."""
    place: _Place = error["loc"]
    # What is missing has no line of its own, but a name.
    while error["type"] != "missing" and place and place not in lines:
        place = place[:-1]
    return place


def _line_of(place: _Place, lines: dict[_Place, int]) -> int:
    while place and place not in lines:
        place = place[:-1]
    return lines.get(place, 1)


def _place(place: _Place, lines: dict[_Place, int]) -> str:
    name = _name(place)
    return f"line {_line_of(place, lines)}" + (f", {name}" if name else "")


def _name(place: _Place) -> str:
    """Writes a place as Python would.

    Example:
        >>> _name(("steps", 1, "distil", "alpha"))
        'steps[1].distil.alpha'
    """
    text = "".join(
        f"[{part}]" if isinstance(part, int) else f".{part}" for part in place
    )
    return text.removeprefix(".")
