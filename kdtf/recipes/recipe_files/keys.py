"""What decides what a file of a recipe holds, to tell whether it still does."""

import hashlib
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from kdtf.recipes.recipe_files.schema import Recipe
from kdtf.recipes.recipe_files.schema import Step

__all__ = ["Keys", "digest_of"]


class Keys:
    """Reads the files a recipe names, once, and tells them by their content.

    Args:
        recipe: The recipe.
        folder: Where its files are found from.
    """

    def __init__(self, recipe: Recipe, folder: pathlib.Path) -> None:
        self._recipe = recipe
        data = recipe.data
        learned_from: dict[str, Any] = {
            data.train: digest_of(folder / data.train)
        }
        judged_by: dict[str, Any] = {"metrics": recipe.metrics}
        if isinstance(data.validation, str):
            judged_by[data.validation] = digest_of(folder / data.validation)
        else:
            # What is kept from training is decided by both.
            learned_from |= {"validation": data.validation, "seed": recipe.seed}
            judged_by |= learned_from
        self._learned_from = learned_from
        self._models = {
            path: digest_of(folder / path)
            for path in (recipe.model, *_other_models(recipe.steps))
        }
        text = json.dumps(judged_by, sort_keys=True)
        self.judged_by = hashlib.sha256(text.encode()).hexdigest()

    def of(self, steps: Sequence[Step]) -> dict[str, Any]:
        """Returns all that decides what a file holds, as JSON has it.

        Args:
            steps: Those that led to it.
        """
        used = (self._recipe.model, *_other_models(steps))
        return {
            "models": {path: self._models[path] for path in used},
            "data": self._learned_from,
            "loss": self._recipe.loss,
            "seed": self._recipe.seed,
            "steps": [step.described() for step in steps],
        }


def _other_models(steps: Sequence[Step]) -> list[str]:
    """Returns the files of models that steps bring in."""
    return [
        path
        for step in steps
        if step.distil is not None
        for path in (step.distil.student, step.distil.teacher)
        if path is not None
    ]


def digest_of(path: str | os.PathLike[str]) -> str:
    """Returns the SHA-256 of a file, or of all files in a folder.

    Example:
        >>> import tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp(), "a")
        >>> _ = path.write_text("abc")
        >>> digest_of(path)[:8]
        'ba7816bf'
    """
    path = pathlib.Path(path)
    if path.is_dir():
        parts = [
            f"{inner.relative_to(path)}:{digest_of(inner)}"
            for inner in sorted(path.rglob("*"))
            if inner.is_file()
        ]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
