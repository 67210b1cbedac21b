"""`kdtf search`: the student worth training, found for a budget."""

import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

import keras
import rich.console

from kdtf.evaluation import compare
from kdtf.export import export_tflite
from kdtf.recipes.student_tasks import TASKS
from kdtf.recipes.student_tasks import StudentTask
from kdtf.recipes.workspace import Workspace
from kdtf.search import DeviceObjective
from kdtf.search import RunningTrial
from kdtf.search import SearchResult
from kdtf.search import search

__all__ = ["run_search"]

_COSTS = ("bytes", "macs", "latency_ms")


def run_search(
    *,
    space: str = "decoder",
    budget: Mapping[str, float] | None = None,
    strategy: str = "evolution",
    trials: int = 12,
    workers: int = 1,
    out: str | os.PathLike[str] = "kdtf-search",
    seed: int = 0,
    quick: bool = False,
    helps: bool = False,
) -> SearchResult:
    """Searches a student for a teacher and a budget, trains and ships it.

    Each trial distils a student for a quarter of the steps, exports and
    verifies it, and measures quality, bytes, multiply-accumulates and the
    latency on LiteRT. What is over the budget in bytes or operations is not
    trained at all. The best student and a hand-made one are then distilled
    with all steps and compared on data that the search has not seen.

    All stays in `out`; a second run goes on from there.

    Args:
        space: "decoder" (a language model), "encoder" (a transformer that
            classifies), "cnn".
        budget: Limits on "bytes", "macs", "latency_ms". Defaults to the bytes
            and the latency of the hand-made student.
        strategy: As for `kdtf.search`.
        trials: How many students are tried.
        workers: Processes that share the trials.
        out: Folder for the results.
        seed: Seeds everything.
        quick: A few steps only, to see it work.
        helps: Only run trials of a search that another process leads.

    Returns:
        What was found.

    Raises:
        ValueError: An argument is unknown, or nothing is within the budget.
    """
    if space not in TASKS:
        raise ValueError(
            f"`space` must be one of {list(TASKS)}. Received: space={space!r}."
        )
    unknown = set(budget or ()) - set(_COSTS)
    if unknown:
        raise ValueError(
            f"`budget` must name costs among {list(_COSTS)}. Received: "
            f"{sorted(unknown)}."
        )
    start = time.monotonic()
    console = rich.console.Console(quiet=helps)
    workspace = Workspace(pathlib.Path(out) / space, console=console)
    task = TASKS[space](seed=seed, quick=quick)
    teacher = task.trained_teacher(workspace)
    by_hand = _by_hand(workspace, task, teacher)
    limits = dict(budget) if budget else _limits_of(task, by_hand)
    helpers = _start_helpers(workers - 1, helps=helps)
    console.rule(f"Search: {strategy}, limits {_shown(limits)}", align="left")
    try:
        result = search(
            task.preset.build,
            task.preset.space,
            _objective(task, teacher, hard=bool(limits)),
            strategy=strategy,
            trials=trials,
            limits=limits,
            direction=task.direction,
            study=workspace.folder / "study.log",
            seed=seed,
            verbose=0 if helps else 1,
        )
    finally:
        for helper in helpers:
            helper.wait()
    if helps:
        return result
    console.print(str(result), markup=False, highlight=False)
    page = result.to_html(workspace.folder / "search.html")
    found = _student(workspace, task, teacher, result.best.choices, "found")
    comparison = _compare(workspace, task, teacher, by_hand, found)
    comparison.print()
    report = workspace.folder / "report.html"
    comparison.to_html(
        report,
        title=f"kdtf search: {space}, seed {seed}",
        notes={
            "Found": str(result.best.choices),
            "By hand": str(task.preset.default),
            "Search": str(result),
        },
    )
    seconds = time.monotonic() - start
    console.print(f"Search: {page}  Report: {report}  ({seconds:.0f} s)")
    return result


def _objective(
    task: StudentTask, teacher: Any, *, hard: bool
) -> DeviceObjective:
    def fit(model: Any, trial: RunningTrial) -> None:
        del trial
        task.distil(teacher, model, task.epochs[0])

    return DeviceObjective(
        fit,
        task.quality,
        export=task.export,
        costs=_COSTS,
        representative_data=task.calibration,
        name=task.metric().name,
        hard=hard,
    )


def _by_hand(workspace: Workspace, task: StudentTask, teacher: Any) -> Any:
    return _student(workspace, task, teacher, task.preset.default, "by hand")


def _student(
    workspace: Workspace,
    task: StudentTask,
    teacher: Any,
    choices: dict[str, Any],
    name: str,
) -> Any:
    """Gives a student that was distilled with all steps."""

    def make() -> Any:
        keras.utils.set_random_seed(task.settings["seed"] + 1)
        model = task.preset.build(choices)
        task.distil(teacher, model, task.epochs[1], verbose="auto")
        task.finish(model)
        return model

    return workspace.model(
        f"student-{name.replace(' ', '-')}",
        settings=task.settings | {"choices": choices},
        make=make,
        title=f"Student {name}: {choices}",
    )
