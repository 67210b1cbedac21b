"""`kdtf demo`: the whole way from a teacher to a verified file, in minutes."""

import os
import pathlib
import time
from typing import Any

import keras
import rich.console

from kdtf.recipes.workspace import Workspace

__all__ = ["run_demo"]

_TASKS = ("text", "image")


def run_demo(
    *,
    task: str = "text",
    out: str | os.PathLike[str] = "kdtf-demo",
    seed: int = 0,
    quick: bool = False,
) -> Any:
    """Trains a teacher, distils a student, ships it and says what it cost.

    "text": a GPT-2-style keras-nlp language model on the Python language
    reference. "image": a CNN on scikit-learn's handwritten digits. The student
    is trained twice with the same seed, batches and steps: alone and from the
    teacher. Results stay in `out`: `.keras` models, `.tflite` files,
    `report.html` and `report.json`. A second run reuses what is finished.

    Args:
        task: "text" or "image". Defaults to "text".
        out: Folder for the results. Defaults to "kdtf-demo".
        seed: Seeds initial weights, batches and dropout. Defaults to 0.
        quick: A few steps only, to see it work, not to see it learn.

    Returns:
        The `kdtf.Comparison` of teacher, students and files on held-out data.

    Raises:
        ValueError: The task is unknown, or `out` is a file.
    """
    if task not in _TASKS:
        raise ValueError(
            f"`task` must be one of {list(_TASKS)}. Received: task={task!r}."
        )
    console = rich.console.Console()
    workspace = Workspace(pathlib.Path(out) / task, console=console)
    start = time.monotonic()
    keras.utils.set_random_seed(seed)
    if task == "text":
        from kdtf.recipes.demo_text import run_text_demo as run
    else:
        from kdtf.recipes.demo_image import run_image_demo as run
    comparison, notes = run(workspace, seed=seed, quick=quick)
    comparison.to_json(workspace.folder / "report.json")
    page = workspace.folder / "report.html"
    title = f"kdtf demo: {task}, seed {seed}"
    comparison.to_html(page, title=title, notes=notes)
    comparison.print()
    for heading, text in notes.items():
        console.print(heading, style="bold", markup=False)
        # What a model writes may look like markup, and would end the demo.
        console.print(f"{text}\n", markup=False, highlight=False)
    seconds = time.monotonic() - start
    console.print(f"Report: {page}  ({seconds:.0f} s)", highlight=False)
    return comparison
