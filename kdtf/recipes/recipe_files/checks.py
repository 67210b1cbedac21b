"""What a recipe's table cannot say: order of steps, files, Keras's names."""

import collections
import pathlib
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import keras

from kdtf.evaluation.loading import file_kind
from kdtf.evaluation.metrics import check_metrics
from kdtf.pruning.criteria import get as get_criterion
from kdtf.pruning.structures import NM
from kdtf.pruning.structures import get as get_structure
from kdtf.recipes.recipe_files.schema import Recipe
from kdtf.recipes.recipe_files.schema import Step
from kdtf.recipes.recipe_files.schema import Training

__all__ = ["attached_by", "find_mistakes", "needs_labels"]

# These stay on the model, as masks and grids, until `strip`.
_ATTACHING = ("prune", "quantize_aware", "quantize", "cluster")
_QUANTIZING = _ATTACHING[1:]
# After these there is another model.
_CHANGING = ("fit", "distil", "shrink", "strip", *_ATTACHING)

_Mistake = tuple[tuple[str | int, ...], str]


def find_mistakes(recipe: Recipe, folder: pathlib.Path) -> Iterator[_Mistake]:
    """Finds what is wrong with a recipe whose names and types are right.

    Args:
        recipe: The recipe.
        folder: Where its files are found from.

    Yields:
        Each mistake's place, and what is wrong.
    """
    yield from _files(recipe, folder)
    yield from _names(recipe)
    before: list[Step] = []
    for index, step in enumerate(recipe.steps):
        at = ("steps", index, step.verb)
        yield from (
            ((*at, *place), message)
            for place, message in [
                *_arguments(step, recipe),
                *_order(step, before),
            ]
        )
        before.append(step)
    yield from _outputs(recipe)


def _files(recipe: Recipe, folder: pathlib.Path) -> Iterator[_Mistake]:
    models: list[_Mistake] = [(("model",), recipe.model)]
    for index, step in enumerate(recipe.steps):
        if step.distil is not None:
            for name in ("student", "teacher"):
                path = getattr(step.distil, name)
                if path is not None:
                    models.append((("steps", index, "distil", name), path))
    for place, path in models:
        if not (folder / path / "config.json").is_file():
            yield from _refused(place, _check_model, folder / path)
    data = [(("data", "train"), recipe.data.train)]
    if isinstance(recipe.data.validation, str):
        data.append((("data", "validation"), recipe.data.validation))
    for place, path in data:
        if not (folder / path).is_file():
            yield place, f"there is no file {str(folder / path)!r}"


def _check_model(path: pathlib.Path) -> None:
    if path.is_dir():
        raise ValueError(
            f"{str(path)!r} is no folder of keras-nlp's (a preset has a "
            "config.json)"
        )
    if file_kind(path) == "tflite":
        raise ValueError(
            f"{str(path)!r} is a .tflite file, which cannot be trained; give "
            "the .keras file it was made from"
        )


def _names(recipe: Recipe) -> Iterator[_Mistake]:
    """Finds names that Keras does not know."""
    if recipe.loss is not None:
        yield from _refused(("loss",), keras.losses.get, recipe.loss)
    if recipe.metrics:
        yield from _refused(("metrics",), check_metrics, recipe.metrics)
    for index, step in enumerate(recipe.steps):
        if isinstance(step.arguments, Training):
            name = step.arguments.optimizer
            place = ("steps", index, step.verb, "optimizer")
            yield from _refused(place, keras.optimizers.get, name)


def needs_labels(step: Step) -> bool:
    """Returns whether a step learns from labels.

    Example:
        >>> from kdtf.recipes.recipe_files.schema import Distil
        >>> [needs_labels(Step(distil=Distil(alpha=a))) for a in (0.0, 0.1)]
        [False, True]
    """
    arguments = step.arguments
    if step.distil is not None and step.distil.alpha == 0:
        return False
    criterion = getattr(arguments, "criterion", None)
    if criterion is not None and get_criterion(criterion).needs_labels:
        return True
    return isinstance(arguments, Training) and arguments.epochs > 0


def _arguments(step: Step, recipe: Recipe) -> Iterator[_Mistake]:
    """Finds arguments of one step that do not go together."""
    if recipe.loss is None and needs_labels(step):
        yield (), "learns from labels, which needs the recipe's `loss`"
    if step.prune is not None:
        yield from _prune_arguments(step.prune)


def _prune_arguments(prune: Any) -> Iterator[_Mistake]:
    is_pattern = False
    if prune.structure is not None:
        mistakes = list(
            _refused(("structure",), get_structure, prune.structure)
        )
        yield from mistakes
        is_pattern = not mistakes and isinstance(
            get_structure(prune.structure), NM
        )
    if prune.sparsity is None and (prune.schedule or not is_pattern):
        yield (), "needs `sparsity`, the fraction of zeros"
    last = prune.end_step
    if prune.schedule is None:
        if last is not None or prune.begin_step:
            yield (), "`begin_step` and `end_step` are a `schedule`'s"
    elif last is None and not prune.epochs:
        yield (), "`schedule` needs `epochs` here, or `end_step`"
    elif last is not None and last <= prune.begin_step:
        yield ("end_step",), "must be greater than `begin_step`"


def _order(step: Step, before: list[Step]) -> Iterator[_Mistake]:
    """Finds what cannot be done after what was done before."""
    attached = attached_by(before)
    names = [earlier.verb for earlier in attached]
    is_changed = any(earlier.verb in _CHANGING for earlier in before)
    if step.verb == "strip" and not attached:
        yield (
            (),
            f"nothing is attached to strip off: no {_list(_ATTACHING)} yet",
        )
    if step.verb == "shrink" and attached:
        yield (
            (),
            f"comes after {_list(names)}; `strip` before it, or shrink first",
        )
    if step.verb in _QUANTIZING and set(names) & set(_QUANTIZING):
        yield (), f"the model is quantized by {_list(names)}; `strip` first"
    if step.prune is not None and step.prune.select is None:
        if any(
            e.prune is not None and e.prune.select is None for e in attached
        ):
            yield (), "the model is pruned already; `strip` first, or `select`"
    if step.distil is not None:
        if step.distil.student is None and not is_changed:
            if step.distil.teacher is None:
                yield (
                    (),
                    "the model would be its own teacher: give a `student` or "
                    "a `teacher` file, or `shrink` before",
                )
        elif step.distil.student is not None and is_changed:
            yield ("student",), "would replace what the steps before made"


def attached_by(steps: list[Step]) -> list[Step]:
    """Returns those steps whose effects are on the model still."""
    attached: list[Step] = []
    for step in steps:
        if step.verb == "strip":
            attached = []
        elif step.verb in _ATTACHING:
            attached.append(step)
    return attached


def _outputs(recipe: Recipe) -> Iterator[_Mistake]:
    """Finds names of files that would be written twice, or elsewhere."""
    named: list[tuple[tuple[str | int, ...], str, str]] = []
    for index, step in enumerate(recipe.steps):
        at = ("steps", index, step.verb)
        if step.export is not None:
            named.append(((*at, "file"), step.export.file, ".tflite"))
        if step.compare is not None:
            for name, suffix in (("html", ".html"), ("json", ".json")):
                file = step.compare.model_dump(by_alias=True)[name]
                if file is not None:
                    named.append(((*at, name), file, suffix))
    counts = collections.Counter(file for _, file, _ in named)
    for place, file, suffix in named:
        path = pathlib.PurePath(file)
        if path.suffix != suffix:
            yield place, f"must end in {suffix}. Received: {file!r}"
        elif path.is_absolute() or ".." in path.parts:
            yield place, f"must lie in `out`. Received: {file!r}"
        elif counts[file] > 1:
            yield place, f"{file!r} is written twice"
        elif file in ("lineage.json", "stages.json"):
            yield place, f"{file!r} is a file of the run itself"


def _refused(
    place: tuple[str | int, ...], check: Callable[[Any], Any], value: Any
) -> Iterator[_Mistake]:
    """Turns what a check raises into a mistake."""
    try:
        check(value)
    # Keras raises what comes up for a configuration that is none.
    except Exception as error:
        yield place, " ".join(str(error).split())


def _list(verbs: Any) -> str:
    return ", ".join(f"`{verb}`" for verb in verbs)
