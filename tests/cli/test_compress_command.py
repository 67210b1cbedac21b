"""`kdtf advise` and `kdtf compress`."""

import json

import keras
import numpy as np
import pytest

from kdtf.cli import main


@pytest.fixture
def files(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 64)).astype("float32")
    np.savez(tmp_path / "data.npz", x=x, y=(x[:, 0] > 0).astype("int32"))
    layers = [keras.layers.Dense(64, "relu"), keras.layers.Dense(2, "softmax")]
    model = keras.Sequential([keras.Input((64,)), *layers])
    model.save(tmp_path / "model.keras")
    return tmp_path


def argv(files, command, *more):
    words = [command, files / "model.keras", "--data", files / "data.npz"]
    return [str(word) for word in (*words, *more)]


def test_compress_makes_the_file_and_says_where(files, capsys):
    words = argv(files, "compress", "--validation", files / "data.npz")
    words += ["--max-size", "9kB", "--out", str(files / "out")]
    assert main([*words, "--html", str(files / "page.html")]) == 0
    *_, last = capsys.readouterr().out.strip().splitlines()
    assert last.endswith(".tflite")
    with open(last, "rb") as file:
        assert len(file.read()) <= 9_000
    assert "Chosen:" in (files / "page.html").read_text()


@pytest.mark.slow
def test_workers_share_the_work(files, capsys):
    words = argv(files, "compress", "--validation", files / "data.npz")
    words += ["--max-size", "9kB", "--out", str(files / "out")]
    assert main([*words, "--workers", "2"]) == 0
    assert "Chosen:" in capsys.readouterr().out
    entries = json.loads((files / "out" / "candidates.json").read_text())
    names = [entry["candidate"]["name"] for entry in entries]
    assert len(set(names)) == len(names) >= 4


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ([], "A budget needs a limit"),
        (["--max-size", "2 XB"], "`max_size` must be a number of bytes"),
        (["--max-size", "9kB", "--loss", "mine"], "mine"),
    ],
)
@pytest.mark.parametrize("command", ["advise", "compress"])
def test_bad_arguments_are_one_line(files, capsys, command, more, words):
    more = [*more, "--out", files / "out"] if command == "compress" else more
    judged = ["--validation", files / "data.npz"] * (command == "compress")
    assert main(argv(files, command, *judged, *more)) == 2
    error = capsys.readouterr().err
    assert words in error.splitlines()[-1]
