"""`kdtf run`: the steps of a recipe, one after the other."""

import os
import pathlib
import time
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import keras
import rich.console
import rich.text
import tensorflow as tf

from kdtf.batches import first_examples
from kdtf.evaluation import Comparison
from kdtf.evaluation import compare
from kdtf.export import export_tflite
from kdtf.recipes.recipe_files.arrays import read_data
from kdtf.recipes.recipe_files.checks import attached_by
from kdtf.recipes.recipe_files.keeper import Keeper
from kdtf.recipes.recipe_files.keeper import Made
from kdtf.recipes.recipe_files.keeper import save_model
from kdtf.recipes.recipe_files.keys import Keys
from kdtf.recipes.recipe_files.reading import read_recipe
from kdtf.recipes.recipe_files.result import RecipeResult
from kdtf.recipes.recipe_files.result import lineage_text
from kdtf.recipes.recipe_files.schema import Recipe
from kdtf.recipes.recipe_files.schema import Step
from kdtf.recipes.recipe_files.steps import Bench
from kdtf.recipes.recipe_files.steps import apply
from kdtf.recipes.recipe_files.steps import attach
from kdtf.recipes.recipe_files.steps import load_model

__all__ = ["run_recipe"]

# An export compares on at most so many.
_NUM_VERIFIED = 100


def run_recipe(
    path: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str] | None = None,
    tensorboard: str | os.PathLike[str] | None = None,
    console: rich.console.Console | None = None,
) -> RecipeResult:
    """Runs a recipe: distil, shrink, prune, quantize, export, in its order.

    Everything is checked before anything runs. Each step's result stays in
    the recipe's `out`, with `lineage.json`, which says how it came about. A
    second run goes on where the first was stopped, and makes again only what
    a change of the recipe, the model or the data concerns. Each step goes on
    from the file of the one before and has its own seed, so that a run that
    was interrupted gives the same as one that was not.

    Args:
        path: The recipe, YAML or JSON; `kdtf run --schema` says what it may
            hold. Files in it are found from its folder.
        out: Folder for the results, in place of the recipe's.
        tensorboard: Folder for TensorBoard's logs of each training step.
            Defaults to `tensorboard` in `out` if the recipe wants them.
        console: Says what is being done. Defaults to the terminal.

    Returns:
        What was made; it prints itself.

    Raises:
        FileNotFoundError: There is no such file.
        RecipeError: Something is wrong with the recipe; says everything.
        ValueError: A step refuses its model or data, or its training
            diverged; what was made before stays.
        ImportError: TensorBoard is wanted and not installed.
    """
    recipe = read_recipe(path)
    path = pathlib.Path(path)
    folder = pathlib.Path(out) if out else path.parent / recipe.out
    logs = pathlib.Path(tensorboard) if tensorboard else None
    if logs is None and recipe.tensorboard:
        logs = folder / "tensorboard"
    return _Run(
        recipe, path, folder, logs, console or rich.console.Console()
    ).finish()


class _Run:
    """A recipe on its way: what was done, and what there is."""

    def __init__(
        self,
        recipe: Recipe,
        path: pathlib.Path,
        out: pathlib.Path,
        logs: pathlib.Path | None,
        console: rich.console.Console,
    ) -> None:
        self._start = time.monotonic()
        self._recipe = recipe
        self._path = path
        self._console = console
        train, validation = read_data(recipe, path.parent)
        self._bench = Bench(
            folder=path.parent,
            teacher=recipe.model,
            loss=recipe.loss,
            metrics=tuple(recipe.metrics),
            train=train,
            validation=validation,
            logs=logs,
        )
        self._keys = Keys(recipe, path.parent)
        self._keeper = Keeper(
            out, console=console, judged_by=self._keys.judged_by
        )
        self._model = path.parent / recipe.model
        self._done: list[Step] = []
        self._made: list[Made] = []
        self._files: dict[str, pathlib.Path] = {}
        self._comparison: Comparison | None = None

    def finish(self) -> RecipeResult:
        """Does all steps."""
        steps = self._recipe.steps
        for number, step in enumerate(steps, start=1):
            title = f"Step {number} of {len(steps)}: {step}"
            try:
                self._do(step, title)
            # Labels beyond the classes are TensorFlow's own error.
            except (
                ValueError,
                TypeError,
                tf.errors.InvalidArgumentError,
            ) as error:
                raise ValueError(
                    f"Step {number} of {len(steps)} ({step.verb}) failed: "
                    f"{_reason(error)} What the steps before made stays in "
                    f"{self._keeper.folder}; the next run goes on from there."
                ) from error
        return RecipeResult(
            out=self._keeper.folder,
            made=tuple(self._made),
            comparison=self._comparison,
            seconds=time.monotonic() - self._start,
        )

    def _do(self, step: Step, title: str) -> None:
        if step.verb == "compare":
            self._rule(title)
            self._compare(step.arguments)
        elif step.verb == "export":
            self._export(step, title)
        else:
            self._change(step, title)

    def _change(self, step: Step, title: str) -> None:
        """Makes the next model, or finds it made."""
        label = f"{len(self._done) + 1}-{step.verb}"
        name = f"{label}.keras"

        def make(path: pathlib.Path) -> tuple[Any, str]:
            model = apply(self._live(), step, self._bench, name=label)
            save_model(model, path)
            return model, ""

        found = self._made_by(step, name, title, make)
        self._done.append(step)
        self._model = self._keeper.folder / name
        self._note(name, self._done, found, self._live)

    def _export(self, step: Step, title: str) -> None:
        """Writes the model as it is now, or finds it written."""
        arguments = step.arguments

        def make(path: pathlib.Path) -> tuple[Any, str]:
            held = first_examples(self._bench.validation, _NUM_VERIFIED)
            result = export_tflite(
                self._live(),
                path,
                representative_data=self._bench.inputs,
                verify_data=held,
                **arguments.model_dump(exclude={"file"}),
            )
            self._console.print(str(result), markup=False, highlight=False)
            return path, str(result)

        found = self._made_by(step, arguments.file, title, make)
        path = self._files[arguments.file] = (
            self._keeper.folder / arguments.file
        )
        self._note(arguments.file, [*self._done, step], found, lambda: path)

    def _made_by(
        self,
        step: Step,
        name: str,
        title: str,
        make: Callable[[pathlib.Path], tuple[Any, str]],
    ) -> tuple[Any, str] | None:
        """Makes a file, and returns what `make` does; None if it was there."""
        path = self._keeper.folder / name
        settings = self._keys.of([*self._done, step])
        if self._keeper.is_current(name, settings):
            self._console.print(
                f"{title}: reusing {path}", style="dim", markup=False
            )
            return None
        self._rule(title)
        begin = time.monotonic()
        # Of its own, whatever was made or found before.
        keras.utils.set_random_seed(self._recipe.seed + len(self._done))
        made = make(path)
        self._keeper.keep(name, settings, seconds=time.monotonic() - begin)
        return made

    def _compare(self, arguments: Any) -> None:
        first = pathlib.PurePath(self._recipe.model)
        rows: dict[str, Any] = {
            first.stem: load_model(self._path.parent / first)
        }
        # A quantized model cannot be timed as it is; its files can.
        if self._done and not (self._files and attached_by(self._done)):
            rows[self._model.name] = self._live()
        self._comparison = compare(
            rows | self._files,
            self._bench.validation,
            metrics=self._recipe.metrics,
            latency_runs=arguments.latency_runs,
            num_threads=arguments.num_threads,
        )
        self._console.print(
            str(self._comparison), markup=False, highlight=False, soft_wrap=True
        )
        if arguments.html:
            self._comparison.to_html(
                self._keeper.folder / arguments.html,
                title=f"kdtf run {self._path.name}",
                notes=self._notes(),
            )
        if arguments.json_file:
            self._comparison.to_json(self._keeper.folder / arguments.json_file)

    def _rule(self, title: str) -> None:
        # Lists in a recipe may look like markup.
        self._console.rule(rich.text.Text(title), align="left")

    def _live(self) -> Any:
        """Returns the model as the last step left it, from its file."""
        model = load_model(self._model)
        attached = attached_by(self._done)
        for step in attached:
            model = attach(model, step, self._bench)
        if attached:
            # keras-nlp's models compile themselves, and miss its variables.
            model.optimizer = None
            # Weights, masks, ranges and steps, as they were trained.
            model.load_weights(self._model)
        return model

    def _note(
        self,
        name: str,
        steps: Sequence[Step],
        found: tuple[Any, str] | None,
        load: Callable[[], Any],
    ) -> None:
        """Takes a file among what was made, with its metrics."""

        def measure() -> tuple[dict[str, float], str]:
            model, result = found or (load(), "")
            return self._bench.score(model), result

        entry = self._keeper.judge(name, measure)
        self._made.append(
            Made(
                name=name,
                steps=tuple(str(step) for step in steps),
                size_bytes=(self._keeper.folder / name).stat().st_size,
                seconds=entry.get("seconds"),
                metrics=entry["metrics"],
                is_reused=found is None,
                result=entry.get("result", ""),
            )
        )

    def _notes(self) -> dict[str, str]:
        results = {made.name: made.result for made in self._made if made.result}
        return {
            "Lineage": lineage_text(self._made, first=self._recipe.model),
            **results,
            "Recipe": self._path.read_text(encoding="utf-8"),
            "Again": f"kdtf run {self._path}",
        }


def _reason(error: Exception) -> str:
    """Returns what an error says, of TensorFlow's without the graph's trace."""
    text = str(error)
    if isinstance(error, tf.errors.OpError):
        text = text.rpartition("\n\n")[2].partition("\n")[0]
    return f"{text.rstrip('.')}."
