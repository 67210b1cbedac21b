"""`kdtf run`: what it takes and what it says."""

import json

import pytest

from kdtf.cli import main

RECIPE = """\
model: tiny.keras
data: {train: data.npz}
loss: sparse_categorical_crossentropy
metrics: [accuracy]
steps:
  - prune: {sparsity: 0.5}
  - strip
"""


@pytest.fixture
def recipe(models, tmp_path):
    """A recipe beside its model and data."""
    for name in ("tiny.keras", "data.npz"):
        (tmp_path / name).write_bytes((models / name).read_bytes())
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return path


def test_a_recipe_runs_from_anywhere_and_says_what_was_made(
    recipe, tmp_path, capsys
):
    assert main(["run", str(recipe), "--out", str(tmp_path / "there")]) == 0
    out = capsys.readouterr().out
    assert "Step 2 of 2: strip" in out and "2-strip.keras" in out
    assert (tmp_path / "there/lineage.json").exists()
    assert not (tmp_path / "out").exists()


def test_check_says_the_steps_and_does_nothing(recipe, tmp_path, capsys):
    assert main(["run", str(recipe), "--check"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "Step 1 of 2: prune sparsity=0.5",
        "Step 2 of 2: strip",
    ]
    assert not (tmp_path / "out").exists()


def test_each_mistake_gets_a_line(recipe, capsys):
    recipe.write_text(RECIPE.replace("sparsity", "sparseness").lower() + "x: 1")
    assert main(["run", str(recipe)]) == 2
    first, *others = capsys.readouterr().err.splitlines()
    assert first == f"kdtf: error: {recipe} has 2 mistakes:"
    assert [line.split(":")[0] for line in others] == [
        "  line 6, steps[0].prune.sparseness",
        "  line 8, x",
    ]


def test_a_missing_recipe_is_one_line(capsys):
    assert main(["run", "gone.yaml"]) == 2
    assert "'gone.yaml', where there is nothing" in capsys.readouterr().err
    assert main(["run"]) == 2
    err = capsys.readouterr().err
    assert err == ("kdtf: error: RECIPE is required (see `kdtf run --help`)\n")


def test_the_schema_is_json_that_names_every_verb(capsys):
    from kdtf.recipes.recipe_files.schema import VERBS

    assert main(["run", "--schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    step = schema["$defs"]["Step"]
    assert tuple(step["properties"]) == VERBS
    assert step["additionalProperties"] is False
    assert (step["minProperties"], step["maxProperties"]) == (1, 1)
    assert "json" in schema["$defs"]["Compare"]["properties"]
