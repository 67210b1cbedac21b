"""`kdtf search`: the student worth training, found for a budget."""

import math
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
from kdtf.evaluation.macs import macs_of_file
from kdtf.export import export_tflite
from kdtf.recipes.student_tasks import TASKS
from kdtf.recipes.student_tasks import StudentTask
from kdtf.recipes.workspace import Workspace
from kdtf.search import DeviceObjective
from kdtf.search import LatencyModel
from kdtf.search import SearchResult
from kdtf.search import search

__all__ = ["costs_of", "distilled_file", "objective_of", "run_search"]

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
    is_helper: bool = False,
) -> SearchResult:
    """Searches a student for a teacher and a budget, trains and ships it.

    Each trial distils a student for a part of the steps, exports and verifies
    it, and measures quality, bytes, multiply-accumulates and the
    latency on LiteRT. What is over the budget in bytes or operations is not
    trained at all. The best student and a hand-made one are then distilled
    with all steps and compared on data that the search has not seen.

    All stays in `out`; a second run goes on from there.

    Args:
        space: "decoder" (a language model), "encoder" (a transformer that
            classifies), "cnn".
        budget: Limits on "bytes", "macs", "latency_ms". Defaults to the bytes
            and operations of the hand-made student.
        strategy: As for `kdtf.search`.
        trials: How many students are tried.
        workers: Processes that share the trials.
        out: Folder for the results.
        seed: Seeds everything.
        quick: A few steps only, to see it work.
        is_helper: Only run trials of a search that another process leads,
            within the `budget` that it gives.

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
    console = rich.console.Console(quiet=is_helper)
    workspace = Workspace(pathlib.Path(out) / space, console=console)
    task = TASKS[space](seed=seed, quick=quick)
    teacher = task.trained_teacher(workspace)

    def searched(limits: Mapping[str, float]) -> SearchResult:
        return search(
            task.preset.build,
            task.preset.space,
            objective_of(task, teacher),
            strategy=strategy,
            trials=trials,
            limits=limits,
            direction="min",
            first=[task.preset.default],
            study=workspace.folder / "study.log",
            seed=seed,
            verbose=0 if is_helper else 1,
        )

    # Who leads has made all else, and gives the limits.
    if is_helper:
        return searched(budget or {})
    by_hand = distilled_file(workspace, task, teacher, None, name="by-hand")
    limits = dict(budget) if budget else costs_of(by_hand)
    helpers = [
        _start_helper(space, limits, strategy, trials, out, seed, quick)
        for _ in range(workers - 1)
    ]
    shown = ", ".join(f"{name} {limit:,.6g}" for name, limit in limits.items())
    console.rule(f"Search by {strategy}: at most {shown}", align="left")
    try:
        result = searched(limits)
    finally:
        for helper in helpers:
            helper.wait()
    console.print(str(result), markup=False, highlight=False, soft_wrap=True)
    title = f"kdtf search: {space}, seed {seed}"
    pages = _report(workspace, task, teacher, by_hand, result, title)
    seconds = time.monotonic() - start
    console.print(f"Reports: {pages}  ({seconds:.0f} s)", highlight=False)
    return result


def _report(
    workspace: Workspace,
    task: StudentTask,
    teacher: Any,
    by_hand: pathlib.Path,
    result: SearchResult,
    title: str,
) -> str:
    """Trains what was found, compares, and names the pages it wrote."""
    chosen = result.best.choices
    found = distilled_file(workspace, task, teacher, chosen, name="found")
    workspace.console.rule("Comparison on data not seen before", align="left")
    comparison = compare(
        {"teacher": teacher, "by hand": by_hand, "found": found},
        task.test,
        metrics=[task.metric()],
    )
    comparison.print()
    page = result.to_html(workspace.folder / "search.html", title=title)
    report = comparison.to_html(
        workspace.folder / "report.html",
        title=title,
        notes={"Found": str(chosen)},
    )
    return f"{page}, {report}"


def objective_of(
    task: StudentTask, teacher: Any, *, latency: LatencyModel | None = None
) -> DeviceObjective:
    """Returns what a trial is worth: distilled shortly, exported, measured.

    Args:
        task: What students are trained and judged by.
        teacher: The trained teacher.
        latency: Predicts latencies in place of measuring them.
    """

    def fit(model: Any) -> None:
        task.distil(teacher, model, task.epochs[0])

    return DeviceObjective(
        fit,
        task.quality,
        export=task.export,
        costs=_COSTS,
        representative_data=task.calibration,
        name=task.choosing().name,
        hard=True,
        # Some of these models take two microseconds.
        num_runs=500,
        latency=latency,
    )


def distilled_file(
    workspace: Workspace,
    task: StudentTask,
    teacher: Any,
    choices: dict[str, Any] | None,
    *,
    name: str,
    seed: int = 1,
) -> pathlib.Path:
    """Distils a student with all steps, and returns its verified file.

    Args:
        workspace: Keeps model and file.
        task: What it is trained by.
        teacher: The trained teacher.
        choices: The student's point of the space; None for the hand-made
            student.
        name: Of the files, after "student-".
        seed: Added to the task's own.
    """

    def make() -> Any:
        keras.utils.set_random_seed(task.settings["seed"] + seed)
        model = task.preset.build(choices) if choices else task.by_hand()
        task.distil(teacher, model, task.epochs[1], verbose="auto")
        task.finish(model)
        return model

    model = workspace.model(
        f"student-{name}",
        settings=task.settings | {"choices": choices, "student": seed},
        make=make,
        title=f"Student {name}: {choices or 'as in the demo'}",
    )
    path = workspace.folder / f"student-{name}.tflite"
    export_tflite(
        model, path, representative_data=task.calibration, **task.export
    )
    return path


def costs_of(path: pathlib.Path) -> dict[str, float]:
    """Returns what a file costs, whatever else this machine does.

    Args:
        path: A `.tflite` file.
    """
    return {
        # Up to a whole kB: names alone make some hundred bytes.
        "bytes": 1000.0 * math.ceil(path.stat().st_size / 1000),
        "macs": float(macs_of_file(path)),
    }


def _start_helper(
    space: str,
    limits: Mapping[str, float],
    strategy: str,
    trials: int,
    out: str | os.PathLike[str],
    seed: int,
    quick: bool,
) -> "subprocess.Popen[bytes]":
    """Starts a process that runs trials of the same study."""
    budget = ",".join(f"{name}={limit!r}" for name, limit in limits.items())
    options = {
        "--space": space,
        "--budget": budget,
        "--strategy": strategy,
        "--trials": str(trials),
        "--out": os.fspath(out),
        "--seed": str(seed),
    }
    words = [word for pair in options.items() for word in pair]
    flags = ["--worker", *(["--quick"] if quick else [])]
    return subprocess.Popen(  # noqa: S603  Our own program, no shell.
        [sys.executable, "-m", "kdtf", "search", *words, *flags],
        stdout=subprocess.DEVNULL,
    )
