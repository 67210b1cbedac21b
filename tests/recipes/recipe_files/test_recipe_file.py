"""A recipe is checked as a whole, before anything runs."""

import inspect
import json
from typing import get_args

import keras
import numpy as np
import pytest

import kdtf
from kdtf.recipes.recipe_files.reading import RecipeError
from kdtf.recipes.recipe_files.reading import read_recipe
from kdtf.recipes.recipe_files.schema import VERBS
from kdtf.recipes.recipe_files.schema import Recipe
from kdtf.recipes.recipe_files.schema import Step
from kdtf.recipes.recipe_files.schema import Training


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, data, and what is neither."""
    folder = tmp_path_factory.mktemp("recipes")
    layers = [keras.Input((4,)), keras.layers.Dense(3)]
    keras.Sequential(layers).save(folder / "teacher.keras")
    np.savez(folder / "train.npz", x=np.ones((8, 4)), y=np.zeros(8))
    (folder / "file.tflite").write_bytes(b"\0\0\0\0TFL3")
    (folder / "empty").mkdir()
    return folder


HEAD = """\
model: teacher.keras
data: {train: train.npz, validation: 0.25}
loss: sparse_categorical_crossentropy
metrics: [accuracy]
steps:
"""


def read(folder, text, name="recipe.yaml"):
    path = folder / name
    path.write_text(text)
    return read_recipe(path)


def problems_of(folder, text):
    with pytest.raises(RecipeError) as caught:
        read(folder, text)
    assert str(folder / "recipe.yaml") in str(caught.value)
    return list(caught.value.problems)


def test_defaults_are_filled_in_and_steps_say_what_was_given(folder):
    recipe = read(folder, f"{HEAD}  - shrink: {{by: macs}}\n  - strip\n"[:-10])
    assert (recipe.seed, recipe.out, recipe.tensorboard) == (0, "out", False)
    (step,) = recipe.steps
    assert (step.verb, str(step)) == ("shrink", "shrink by=macs")
    assert step.arguments.keep == 0.5
    assert step.described()["shrink"]["round_to"] == 8


def test_json_is_read_like_yaml(folder):
    recipe = {
        "model": "teacher.keras",
        "data": {"train": "train.npz"},
        "steps": [{"quantize": {"scheme": "int4"}}, {"strip": {}}],
    }
    read_back = read(folder, json.dumps(recipe, indent=1), "recipe.json")
    assert [step.verb for step in read_back.steps] == ["quantize", "strip"]


def test_a_verb_stands_alone_and_numbers_may_have_exponents(folder):
    steps = "  - prune: {sparsity: 5e-1}\n  - strip\n  - fit:\n"
    recipe = read(folder, HEAD + steps)
    assert [s.verb for s in recipe.steps] == ["prune", "strip", "fit"]
    assert recipe.steps[0].arguments.sparsity == 0.5


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "  - shrink: {kep: 0.5}\n",
            "line 6, steps[0].shrink.kep: unknown key 'kep'; did you mean "
            "'keep'?",
        ),
        (
            "  - distill: {alpha: 0.5}\n",
            "line 6, steps[0].distill: unknown key 'distill'; did you mean "
            "'distil'?",
        ),
        (
            "  - shrnk\n",
            "line 6, steps[0]: unknown key 'shrnk'; did you mean 'shrink'?",
        ),
        (
            "  - shrink: {by: mac}\n",
            "line 6, steps[0].shrink.by: unknown value 'mac'; did you mean "
            "'macs'?",
        ),
        (
            "  - strip: {zzz: 1}\n",
            "line 6, steps[0].strip.zzz: unknown key 'zzz'; known: []",
        ),
        (
            "  - shrink:\n      keep: 1.5\n",
            "line 7, steps[0].shrink.keep: must be less than or equal to 1. "
            "Received: 1.5",
        ),
        (
            "  - fit: {epochs: yes}\n",
            "line 6, steps[0].fit.epochs: must be a valid integer. Received: "
            "True",
        ),
        (
            "  - fit: {epochs: 2.0}\n",
            "line 6, steps[0].fit.epochs: must be a valid integer. Received: "
            "2.0",
        ),
        (
            "  - fit: {learning_rate: fast}\n",
            "line 6, steps[0].fit.learning_rate: must be a valid number. "
            "Received: 'fast'",
        ),
        (
            "  - fit: {learning_rate: .nan}\n",
            "line 6, steps[0].fit.learning_rate: must be a finite number. "
            "Received: nan",
        ),
        (
            "  - fit: {}\n    strip: {}\n",
            "line 6, steps[0]: a step has one verb; begin each with a dash",
        ),
        (
            "  - export: {}\n",
            "line 6, steps[0].export.file: must be given",
        ),
        (
            "  - fit\nseeds: 1\n",
            "line 7, seeds: unknown key 'seeds'; did you mean 'seed'?",
        ),
        (
            "  - fit:\n      epochs: 1\n      epochs: 2\n",
            "line 8, steps[0].fit.epochs: stands there twice; first in line 7",
        ),
        (
            "  - &a fit\n  - *a\n",
            "aliases (`*name`) are not read; write it out",
        ),
        ("  - {fit\n", "line 7: it is no YAML: expected ',' or '}', but got"),
    ],
)
def test_a_mistake_is_named_with_its_line(folder, text, problem):
    (found,) = problems_of(folder, HEAD + text)
    assert found.startswith(problem)


def test_what_no_type_takes_is_said_once(folder):
    text = HEAD.replace("0.25", "[1]") + "  - fit\n"
    (found,) = problems_of(folder, text)
    assert found.startswith("line 2, data.validation: must be a valid string")
    assert "must be a valid number" in found


@pytest.mark.parametrize("text", ["", "- fit\n", "fit", "model: [\n"])
def test_what_is_no_table_is_refused(folder, text):
    assert problems_of(folder, text)


def test_bytes_are_refused(folder):
    (folder / "recipe.yaml").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(RecipeError, match="no UTF-8"):
        read_recipe(folder / "recipe.yaml")


def test_a_missing_recipe_is_told_from_a_folder(folder):
    with pytest.raises(FileNotFoundError, match=r"gone\.yaml.*nothing"):
        read_recipe(folder / "gone.yaml")
    with pytest.raises(FileNotFoundError, match="a folder"):
        read_recipe(folder)


def test_all_mistakes_come_at_once_in_the_order_of_the_file(folder):
    text = "metrics: [accuracy]\nsteps:\n  - fit: {epoch: 1}\n  - stripp\n"
    assert problems_of(folder, text) == [
        "line 1, model: must be given",
        "line 1, data: must be given",
        "line 3, steps[0].fit.epoch: unknown key 'epoch'; did you mean "
        "'epochs'?",
        "line 4, steps[1]: unknown key 'stripp'; did you mean 'strip'?",
    ]


@pytest.mark.parametrize(
    ("steps", "place", "words"),
    [
        ("  - strip\n", "steps[0].strip", "nothing is attached"),
        (
            "  - prune: {sparsity: 0.5}\n  - shrink\n",
            "steps[1].shrink",
            "comes after `prune`; `strip` before it",
        ),
        (
            "  - quantize\n  - quantize_aware\n",
            "steps[1].quantize_aware",
            "quantized by `quantize`; `strip` first",
        ),
        (
            "  - prune: {sparsity: 0.5}\n  - prune: {sparsity: 0.8}\n",
            "steps[1].prune",
            "pruned already",
        ),
        ("  - distil\n", "steps[0].distil", "its own teacher"),
        (
            "  - shrink\n  - distil: {student: teacher.keras}\n",
            "steps[1].distil.student",
            "would replace what the steps before made",
        ),
        ("  - prune: {}\n", "steps[0].prune", "needs `sparsity`"),
        (
            "  - prune: {sparsity: 0.5, schedule: cosine}\n",
            "steps[0].prune",
            "needs `epochs` here, or `end_step`",
        ),
        (
            "  - prune: {sparsity: 0.5, end_step: 9}\n",
            "steps[0].prune",
            "are a `schedule`'s",
        ),
        (
            "  - prune: {sparsity: 0.5, schedule: cosine, begin_step: 9, "
            "end_step: 9}\n",
            "steps[0].prune.end_step",
            "greater than `begin_step`",
        ),
        (
            "  - prune: {sparsity: 0.5, structure: blocks}\n",
            "steps[0].prune.structure",
            "structure='blocks'",
        ),
        (
            "  - fit: {optimizer: adamm}\n",
            "steps[0].fit.optimizer",
            "adamm",
        ),
        ("  - export: {file: a.bin}\n", "steps[0].export.file", ".tflite"),
        (
            "  - export: {file: ../a.tflite}\n",
            "steps[0].export.file",
            "must lie in `out`",
        ),
        (
            "  - compare: {json: lineage.json}\n",
            "steps[0].compare.json",
            "a file of the run itself",
        ),
        (
            "  - distil: {student: file.tflite}\n",
            "steps[0].distil.student",
            "cannot be trained",
        ),
        (
            "  - distil: {teacher: gone.keras}\n",
            "steps[0].distil.teacher",
            "gone.keras",
        ),
    ],
)
def test_what_cannot_be_done_is_refused(folder, steps, place, words):
    (found,) = problems_of(folder, HEAD + steps)
    assert f", {place}: " in found and words in found


def test_a_file_is_not_written_twice(folder):
    steps = "  - export: {file: a.tflite}\n" * 2
    first, second = problems_of(folder, HEAD + steps)
    assert first.startswith("line 6") and second.startswith("line 7")
    assert "'a.tflite' is written twice" in first


def test_files_and_names_are_checked_together(folder):
    text = (
        "model: empty\ndata: {train: gone.npz, validation: too.npz}\n"
        "loss: accurracy\nmetrics: [tact]\nsteps: [fit]\n"
    )
    found = problems_of(folder, text)
    assert [line.split(":")[0] for line in found] == [
        "line 1, model",
        "line 2, data.train",
        "line 2, data.validation",
        "line 3, loss",
        "line 4, metrics",
    ]
    assert "config.json" in found[0] and "gone.npz" in found[1]


def test_training_needs_a_loss_unless_only_the_teacher_teaches(folder):
    head = "\n".join(line for line in HEAD.splitlines() if "loss" not in line)
    (found,) = problems_of(folder, f"{head}\n  - fit\n")
    assert "learns from labels, which needs the recipe's `loss`" in found
    steps = "  - shrink\n  - distil: {alpha: 0}\n  - prune: {sparsity: 0.1}\n"
    assert len(read(folder, f"{head}\n{steps}").steps) == 3


def test_the_structure_tells_the_sparsity(folder):
    recipe = read(folder, f"{HEAD}  - prune: {{structure: '2:4'}}\n")
    assert recipe.steps[0].arguments.sparsity is None


@pytest.mark.parametrize("verb", sorted(set(VERBS) - {"fit", "compare"}))
def test_arguments_have_the_names_of_the_python_call(verb):
    names = {"distil": "Distiller", "export": "export_tflite"}
    call = getattr(kdtf, names.get(verb, verb))
    call = call.__init__ if inspect.isclass(call) else call
    table = Step.model_fields[verb].annotation
    (table,) = [kind for kind in get_args(table) if kind is not type(None)]
    ours = set(table.model_fields) - set(Training.model_fields)
    ours -= {"file", "begin_step", "end_step"}
    parameters = inspect.signature(call).parameters
    assert ours <= set(parameters)
    for name in ours:
        default = table.model_fields[name].get_default(
            call_default_factory=True
        )
        own = parameters[name].default
        if own is inspect.Parameter.empty:
            assert default is None
        else:
            assert default == (list(own) if isinstance(own, tuple) else own)


def test_choices_are_those_of_the_code():
    from kdtf.distillation.losses import LOSSES
    from kdtf.export.targets import MODES
    from kdtf.export.targets import TARGETS
    from kdtf.pruning.criteria import CRITERIA
    from kdtf.quantization.clustering import INITIALIZATIONS
    from kdtf.quantization.post_training import METHODS
    from kdtf.quantization.schemes import SCHEMES

    schema = Recipe.model_json_schema()["$defs"]

    def choices(table, name):
        part = schema[table]["properties"][name]
        while "enum" not in part:
            part = part.get("anyOf", [part.get("items")])[0]
        return set(part["enum"])

    assert choices("Distil", "soft_loss") == set(LOSSES)
    assert choices("Quantize", "scheme") == set(SCHEMES)
    assert choices("Quantize", "method") == set(METHODS)
    assert choices("Prune", "criterion") == set(CRITERIA)
    assert choices("Export", "target") == set(TARGETS)
    assert choices("Export", "quantize") == set(MODES) - {None}
    # Centroids at random are tfmot's.
    assert choices("Cluster", "initialization") == (
        set(INITIALIZATIONS) - {"random"}
    )
