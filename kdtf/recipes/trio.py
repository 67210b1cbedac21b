"""Teacher, student alone, student distilled: the fair comparison."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import keras

from kdtf.distillation import Distiller
from kdtf.recipes.workspace import Workspace

__all__ = ["Role", "train_trio"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Role:
    """How the teacher, or the student, comes about.

    Attributes:
        build: Gives a fresh model.
        fit: Compiles and trains one, or the Distiller around one.
        title: What it is, for people.
    """

    build: Callable[[], Any]
    fit: Callable[[Any], None]
    title: str


def train_trio(
    workspace: Workspace,
    *,
    teacher: Role,
    student: Role,
    settings: dict[str, Any],
    finish: Callable[[Any], None] | None = None,
) -> dict[str, Any]:
    """Trains a teacher, and the student once alone and once from it.

    Both students start from the same seed: the same initial weights, the
    same batches, as many steps.

    Args:
        workspace: Keeps the finished models.
        teacher: How the teacher comes about.
        student: How the students come about.
        settings: All that decides how the models turn out, plain data; with
            "seed", "alpha" and "temperature".
        finish: Called with each trained model before it is kept.

    Returns:
        The models as "teacher", "student alone" and "student distilled".
    """
    seed = settings["seed"]

    def stage(name: str, title: str, make: Callable[[], Any]) -> Any:
        kept = settings | {"model": name}
        file = name.replace(" ", "-")
        return workspace.model(file, settings=kept, make=make, title=title)

    def finished(model: Any) -> Any:
        if finish is not None:
            finish(model)
        return model

    def make_teacher() -> Any:
        keras.utils.set_random_seed(seed)
        model = teacher.build()
        teacher.fit(model)
        return finished(model)

    def make_student(taught_by: Any) -> Any:
        keras.utils.set_random_seed(seed + 1)
        model = student.build()
        if taught_by is None:
            student.fit(model)
        else:
            student.fit(
                Distiller(
                    taught_by,
                    model,
                    alpha=settings["alpha"],
                    temperature=settings["temperature"],
                )
            )
        return finished(model)

    expert = stage("teacher", f"Teacher: {teacher.title}", make_teacher)
    models = {"teacher": expert}
    for how, taught_by in (("alone", None), ("distilled", expert)):
        models[f"student {how}"] = stage(
            f"student {how}",
            f"Student, {how}: {student.title}",
            functools.partial(make_student, taught_by),
        )
    return models
