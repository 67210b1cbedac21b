"""The notebooks run top to bottom, shortened by replacing text."""

import pathlib

import nbclient
import nbformat
import pytest

FOLDER = pathlib.Path(__file__).parent.parent / "notebooks"
# What makes a notebook long, and what to run in its place.
SHORTER = {
    "1-distill.ipynb": {
        "PASSES = 60": "PASSES = 2",
        "EPOCHS, LENGTH = 6, 64": "EPOCHS, LENGTH = 1, 64",
        "[:150_000]": "[:20_000]",
    },
    "2-prune.ipynb": {"PASSES = 30": "PASSES = 3"},
    "3-quantize.ipynb": {"PASSES = 20": "PASSES = 2"},
    "4-search.ipynb": {
        "TRIALS, PASSES, SEEDS = 12, 8, 100": "TRIALS, PASSES, SEEDS = 3, 1, 3"
    },
    "5-deploy.ipynb": {
        "TAUGHT, EPOCHS = 20, 10, 8": "TAUGHT, EPOCHS = 3, 1, 1",
        # Else what is hardly trained would set off a search.
        '"max_quality_loss": 0.02': '"max_quality_loss": 1.0',
        '("16kB", "7kB")': '("16kB",)',
        "tokenizer(text.train)": "tokenizer(text.train[:20_000])",
    },
}
MARKS = {"5-deploy.ipynb": pytest.mark.deploy}
# What the last cell has to print.
PRINTS = dict.fromkeys(SHORTER, "latency of one call at batch 1 on LiteRT")


def test_every_notebook_is_known_here():
    assert {path.name for path in FOLDER.glob("*.ipynb")} == set(SHORTER)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=MARKS.get(name, ())) for name in SHORTER],
)
def test_notebook_runs(name, tmp_path):
    notebook = nbformat.read(FOLDER / name, as_version=4)
    for old, new in SHORTER[name].items():
        cells = [cell for cell in notebook.cells if old in cell.source]
        assert cells, f"{old!r} is not in {name} any more"
        for cell in cells:
            cell.source = cell.source.replace(old, new)
    client = nbclient.NotebookClient(
        notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    errors = [
        output
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if output.output_type == "error"
    ]
    assert errors == []
    assert PRINTS[name] in nbformat.writes(notebook)
