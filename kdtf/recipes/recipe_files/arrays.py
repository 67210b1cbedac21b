"""Reads the arrays a recipe learns from and is judged by."""

import pathlib
from typing import Any

import keras
import numpy as np

from kdtf.batches import num_examples_of
from kdtf.cli.arrays import read_arrays
from kdtf.recipes.recipe_files.checks import needs_labels
from kdtf.recipes.recipe_files.schema import Recipe

__all__ = ["read_data"]

_Arrays = tuple[Any, ...]


def read_data(recipe: Recipe, folder: pathlib.Path) -> tuple[_Arrays, _Arrays]:
    """Reads training and validation data, `(x, y, sample_weight)` of each.

    What a file has not is left out at the end. A share is drawn at random by
    the recipe's seed: files are often sorted by class.

    Args:
        recipe: The recipe.
        folder: Where its files are found from.

    Raises:
        ValueError: A file is damaged, its arrays differ in length, labels are
            missing, or a share leaves nothing.
    """
    train = _read(folder / recipe.data.train)
    held = recipe.data.validation
    if isinstance(held, str):
        validation = _read(folder / held)
    else:
        train, validation = _split(train, held, recipe.seed)
    if recipe.metrics or any(map(needs_labels, recipe.steps)):
        for name, arrays in {"train": train, "validation": validation}.items():
            if len(arrays) < 2:
                raise ValueError(
                    "`data` must hold labels, as `y`. Received: data."
                    f"{name} without. Without labels a recipe can shrink, "
                    "quantize, export and distil with alpha=0, and has no "
                    "`metrics`."
                )
    return train, validation


def _read(path: pathlib.Path) -> _Arrays:
    x, y, weight = read_arrays(path)
    if y is None and weight is not None:
        raise ValueError(
            "Sample weights belong to labels. Received: "
            f"path={str(path)!r} with `sample_weight` and no `y`."
        )
    arrays = tuple(part for part in (x, y, weight) if part is not None)
    num_examples_of(arrays)
    return arrays


def _split(arrays: _Arrays, share: float, seed: int) -> tuple[_Arrays, _Arrays]:
    total = num_examples_of(arrays)
    number = round(total * share)
    if not 0 < number < total:
        raise ValueError(
            "`data.validation` must leave examples on both sides. Received: "
            f"validation={share} of {total} examples."
        )
    order = np.random.default_rng(seed).permutation(total)
    return tuple(
        keras.tree.map_structure(lambda part, rows=rows: part[rows], arrays)
        for rows in (np.sort(order[number:]), order[:number])
    )
