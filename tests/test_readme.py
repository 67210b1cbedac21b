"""Every block of the README runs, in order, as it stands there.

Those about language models run in `test_readme_language_models.py`: a file is
one process's work, and all blocks are a minute's.
"""

import pathlib
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import kdtf

README = pathlib.Path(__file__).parent.parent / "README.md"


def blocks(language):
    pattern = rf"```{language}\n(.*?)```"
    return re.findall(pattern, README.read_text(), flags=re.DOTALL)


def is_of_language_models(block):
    return "_lm" in block


def classifier(width):
    layers = keras.layers
    hidden = layers.Conv2D(width, 3, activation="relu")
    pool = layers.GlobalAveragePooling2D()
    image = keras.Input((8, 8, 1), name="image")
    return keras.Sequential([image, hidden, pool, layers.Dense(4)])


@pytest.fixture
def namespace(batch, rng):
    """What a reader brings along: models and data."""
    data = tf.data.Dataset.from_tensor_slices(batch).batch(8)
    return {
        "teacher": classifier(16),
        "student": classifier(4),
        "train": data,
        "test": data,
    }


@pytest.fixture
def files(namespace, batch, tmp_path, monkeypatch):
    """A folder with what the README's commands and recipes are about."""
    monkeypatch.chdir(tmp_path)
    for name in ("teacher", "student"):
        namespace[name].save(f"{name}.keras")
    for name in ("train", "test"):
        np.savez(f"{name}.npz", x=batch[0], y=batch[1])
    for index, text in enumerate(blocks("yaml")):
        (tmp_path / f"recipe{index or ''}.yaml").write_text(text)
    return tmp_path


def test_python_blocks_run(namespace, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    found = blocks("python")
    assert len(found) == 10
    stripped = False
    for block in filter(lambda block: not is_of_language_models(block), found):
        exec(compile(block, "README.md", "exec"), namespace)
        if "student.save(" in block:
            weights = namespace["student"].get_weights()
        if "kdtf.strip(student)" in block:
            check_zeros(namespace["student"], 0.8)
            stripped = True
    assert stripped
    printed = capsys.readouterr().out
    assert "student.tflite" in printed and "on the phone" in printed
    written = {path.name for path in tmp_path.iterdir()}
    assert namespace["result"].path.stat().st_size <= 20_000
    assert written == {
        "kdtf-compress",
        "report.html",
        "student.keras",
        "student.tflite",
        "student-int8.tflite",
        "study.log",
    }
    assert namespace["found"].best.values["bytes"] <= 4000
    loaded = keras.saving.load_model(tmp_path / "student.keras")
    for a, b in zip(weights, loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def check_zeros(model, sparsity):
    report = kdtf.sparsity_report(model)
    pruned = [k for k in report.kernels if k.note or k.sparsity > 0.4]
    assert pruned
    for kernel in pruned:
        # Kernels this small round their share.
        assert abs(kernel.sparsity - sparsity) < 0.05, kernel


# Minutes long: their options are read, and a recipe is checked.
LONG = {"search", "run", "compress", "reference"}


@pytest.mark.slow
def test_commands_run(files, capsys):
    from kdtf.cli import main
    from kdtf.cli import make_parser

    listed = [
        line.split()[1:]
        for block in blocks("bash")
        for line in block.splitlines()
        if line.startswith("kdtf ")
    ]
    assert {words[0] for words in listed} == {
        "inspect",
        "export",
        "benchmark",
        "advise",
        "compress",
        "run",
        "search",
    }
    for words in listed:
        if words[0] == "run":
            assert main([*words, "--check"]) == 0
        elif words[0] in LONG:
            assert make_parser().parse_args(words).run
        else:
            assert main(words) == 0, capsys.readouterr().err
    # The recipes of the README are right, whether a command names them or not.
    for path in files.glob("recipe*.yaml"):
        assert main(["run", str(path), "--check"]) == 0
    assert (files / "student.tflite").exists()
    assert "teacher.keras" in (files / "report.html").read_text()
