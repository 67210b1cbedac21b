"""Which layer of a student learns from which layer of its teacher."""

import difflib
import numbers
from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any

from kdtf.layers import walk_layers

__all__ = ["blocks", "check_layers", "find_layer", "find_path", "pair_layers"]

_WORDS = ("uniform", "last")


def check_layers(layers: Any) -> Any:
    """Returns a `layers` argument as a word or a tuple of pairs, if it is one.

    Args:
        layers: "uniform", "last", or a dict or list of pairs (student layer,
            teacher layer), each a path, a name or a block's index.

    Raises:
        ValueError: It is none of these, or empty.

    Example:
        >>> check_layers({0: 1, "encoder/block_1": -1})
        ((0, 1), ('encoder/block_1', -1))
    """
    if layers in _WORDS:
        return layers
    pairs: Any = ()
    if isinstance(layers, Mapping):
        pairs = tuple(layers.items())
    elif isinstance(layers, Iterable) and not isinstance(layers, str):
        pairs = tuple(layers)
    if not pairs or not all(_is_pair(pair) for pair in pairs):
        raise ValueError(
            "`layers` must be 'uniform', 'last', or pairs of a student's and "
            "a teacher's layer, each a path, a name or the index of a block. "
            f"Received: layers={layers!r}. For example {{0: 1, 1: -1}}, or "
            "{'student_block': 'teacher_block'}."
        )
    return tuple((_plain(s), _plain(t)) for s, t in pairs)


def blocks(model: Any) -> list[str]:
    """Gives the paths of a model's repeated transformer blocks, in order.

    They are the most layers of one class, below one parent, that hold an
    attention each.

    Args:
        model: A built Keras 3 model.

    Returns:
        An empty list if the model has no such layers. Two stacks of the
        same length (an encoder and a decoder) are not told apart: the first
        one is given.

    Example:
        >>> import keras
        >>> blocks(keras.Sequential([keras.layers.Dense(2)]))
        []
    """
    siblings: dict[tuple[str, type], list[str]] = {}
    for path, layer in walk_layers(model):
        if any(_is_attention(inner) for _, inner in walk_layers(layer)):
            key = (path.rpartition("/")[0], type(layer))
            siblings.setdefault(key, []).append(path)
    # A lone backbone holds attention too: its blocks lie deeper.
    return max(siblings.values(), key=lambda s: (len(s), _depth(s)), default=[])


def find_path(model: Any, name: Any) -> str:
    """Returns the path of the layer that a path, name or index means.

    Args:
        model: A built Keras 3 model.
        name: A path as `kdtf.layers.walk_layers` gives it, the end of one
            that no other layer has, or the index of a block.

    Raises:
        ValueError: No layer or several are meant.

    Example:
        >>> import keras
        >>> inner = keras.Sequential([keras.layers.ReLU(name="relu")], name="a")
        >>> find_path(keras.Sequential([inner]), "relu")
        'a/relu'
    """
    if not isinstance(name, str):
        return _block_path(model, name)
    paths = [path for path, _ in walk_layers(model)]
    if name in paths:
        return name
    ends = [path for path in paths if path.endswith(f"/{name}")]
    if len(ends) == 1:
        return ends[0]
    if ends:
        raise ValueError(
            f"A layer's name must be the only one of its kind. Received: "
            f"{name!r}, which is {_some(ends)}. Give the whole path."
        )
    short = {path.rpartition("/")[2]: path for path in reversed(paths)}
    near = difflib.get_close_matches(name, paths, n=3, cutoff=0.5)
    near += [
        short[end]
        for end in difflib.get_close_matches(
            name.rpartition("/")[2], short, n=3, cutoff=0.5
        )
        if short[end] not in near
    ]
    raise ValueError(
        f"`layers` must name layers of the model. Received: {name!r}, which "
        f"{model.name!r} does not have. "
        + (f"Near to it: {_some(near)}." if near else f"It has {_some(paths)}.")
    )


def find_layer(model: Any, name: Any) -> Any:
    """Returns the layer that a path, name or index means.

    Args:
        model: A built Keras 3 model.
        name: As for `find_path`.

    Raises:
        ValueError: No layer or several are meant.
    """
    path = find_path(model, name)
    return next(layer for at, layer in walk_layers(model) if at == path)


def pair_layers(
    layers: Any, student: Any, teacher: Any
) -> list[tuple[str, str]]:
    """Gives the pairs of paths (student, teacher) that `layers` means.

    With n blocks in the student and m in the teacher, "uniform" pairs block i
    with block (i + 1) * m / n - 1, counted from 0 and rounded down: the last
    one learns from the last one.

    Args:
        layers: What `check_layers` gave.
        student: A built Keras 3 model.
        teacher: A built Keras 3 model.

    Raises:
        ValueError: A layer is not there, or the student has more blocks.

    Reference:
        Jiao et al. 2020 (TinyBERT), https://arxiv.org/abs/1909.10351
        (section 4.1)
    """
    if layers == "last":
        layers = ((-1, -1),)
    elif layers == "uniform":
        n, m = len(_blocks(student)), len(_blocks(teacher))
        if m < n:
            raise ValueError(
                "`layers='uniform'` spreads a teacher's blocks over the "
                f"student's, of which there may be no more. Received: {n} "
                f"blocks in the student, {m} in the teacher. Name pairs, such "
                "as {0: 0, 1: 0}."
            )
        layers = [(i, (i + 1) * m // n - 1) for i in range(n)]
    return [(find_path(student, s), find_path(teacher, t)) for s, t in layers]


def _blocks(model: Any) -> list[str]:
    found = blocks(model)
    if not found:
        raise ValueError(
            "Blocks are counted in transformers: repeated layers of one class "
            f"with attention in them. Received: {model.name!r}, which has "
            "none. Name the layers: layers={'student_layer': 'teacher_layer'}."
        )
    return found


def _block_path(model: Any, index: int) -> str:
    found = _blocks(model)
    if not -len(found) <= index < len(found):
        raise ValueError(
            f"`layers` must count blocks from {-len(found)} to "
            f"{len(found) - 1}. Received: {index}, of {model.name!r}."
        )
    return found[index]


def _is_attention(layer: Any) -> bool:
    return "Attention" in type(layer).__name__


def _is_pair(pair: Any) -> bool:
    return (
        isinstance(pair, (tuple, list))
        and len(pair) == 2
        and all(
            isinstance(name, (str, numbers.Integral))
            and not isinstance(name, bool)
            for name in pair
        )
    )


def _plain(name: Any) -> Any:
    return name if isinstance(name, str) else int(name)


def _depth(paths: list[str]) -> int:
    return paths[0].count("/")


def _some(paths: list[str]) -> str:
    shown = ", ".join(repr(path) for path in paths[:6])
    more = len(paths) - 6
    return f"{shown} and {more} more" if more > 0 else shown
