import os
import subprocess
import sys
import time

import pytest

from kdtf.cli import inspect
from kdtf.cli import main


def run_with(monkeypatch, error):
    """Runs `kdtf inspect` with a verb that fails."""

    def fail(args):
        raise error

    monkeypatch.setattr(inspect, "run", fail)


def test_version_is_printed(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == "kdtf 0.1.0\n"


def test_help_names_every_command(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    for command in ("demo", "inspect", "export", "benchmark"):
        assert f"\n    {command} " in out or f"\n    {command}\n" in out


@pytest.mark.parametrize("command", ["demo", "inspect", "export", "benchmark"])
def test_every_command_has_help(command, capsys):
    assert main([command, "--help"]) == 0
    assert f"usage: kdtf {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "arguments are required: COMMAND (see `kdtf --help`)"),
        (["fly"], "invalid choice: 'fly'"),
        (["inspect"], "required: MODEL (see `kdtf inspect --help`)"),
        (["inspect", "a", "--frobnicate"], "--frobnicate"),
        (["export", "a.keras"], "required: -o/--output"),
        (["export", "a", "-o", "b", "--target", "pc"], "invalid choice: 'pc'"),
        # Options must be spelled in full: a prefix may mean another tomorrow.
        (["export", "a", "-o", "b", "--quant", "int8"], "--quant"),
        (["benchmark", "a", "--runs", "0"], "at least 1, not '0'"),
        (["benchmark", "a", "--threads", "x"], "at least 1, not 'x'"),
        (["demo", "--task", "chess"], "invalid choice: 'chess'"),
    ],
)
def test_wrong_arguments_get_one_line_and_code_2(argv, message, capsys):
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("kdtf: error: ")
    assert err.count("\n") == 1
    assert message in err


@pytest.mark.parametrize(
    "error",
    [
        ValueError("first\n  second"),
        TypeError("first\n  second"),
        FileNotFoundError("first second"),
        PermissionError("first second"),
    ],
)
def test_refused_input_gets_one_line_and_code_2(error, monkeypatch, capsys):
    run_with(monkeypatch, error)
    assert main(["inspect", "model"]) == 2
    assert capsys.readouterr().err == "kdtf: error: first second\n"


def test_an_error_without_words_says_its_name(monkeypatch, capsys):
    run_with(monkeypatch, ValueError())
    assert main(["inspect", "model"]) == 2
    assert capsys.readouterr().err == "kdtf: error: ValueError\n"


def test_traceback_shows_where_an_error_comes_from(monkeypatch):
    run_with(monkeypatch, ValueError("because"))
    with pytest.raises(ValueError, match="because"):
        main(["inspect", "model", "--traceback"])


def test_a_mistake_of_ours_is_not_called_bad_input(monkeypatch):
    run_with(monkeypatch, ZeroDivisionError("ours"))
    with pytest.raises(ZeroDivisionError, match="ours"):
        main(["inspect", "model"])


def test_control_c_ends_quietly(monkeypatch, capsys):
    run_with(monkeypatch, KeyboardInterrupt())
    assert main(["inspect", "model"]) == 130
    assert capsys.readouterr() == ("", "")


def test_the_demo_gets_what_was_asked_for(monkeypatch):
    pytest.importorskip("kdtf.recipes.demo")
    seen = {}
    monkeypatch.setattr(
        "kdtf.recipes.demo.run_demo", lambda **kwargs: seen.update(kwargs)
    )
    argv = ["demo", "--task", "image", "--out", "d", "--seed", "7", "--quick"]
    assert main(argv) == 0
    assert seen == {"task": "image", "out": "d", "seed": 7, "quick": True}
    assert main(["demo"]) == 0
    assert seen == {
        "task": "text",
        "out": "kdtf-demo",
        "seed": 0,
        "quick": False,
    }


def run_program(*command):
    environment = {k: v for k, v in os.environ.items() if "TF_CPP" not in k}
    return subprocess.run(
        command, capture_output=True, text=True, env=environment
    )


def test_help_answers_at_once():
    """Generous for a busy machine; TensorFlow alone takes 5 s."""
    start = time.perf_counter()
    done = run_program(sys.executable, "-m", "kdtf", "--help")
    assert done.returncode == 0
    assert time.perf_counter() - start < 2.0


@pytest.mark.slow
def test_a_whole_run_prints_its_result_and_no_start_up_logs(tiny_tflite):
    done = run_program(
        *(sys.executable, "-m", "kdtf", "benchmark", "--runs", "2"),
        str(tiny_tflite),
    )
    assert done.returncode == 0
    assert "tiny.tflite" in done.stdout
    assert done.stderr == ""


def test_an_unexpected_error_shows_its_traceback_and_the_logs():
    code = (
        "import os, sys\n"
        "from kdtf.cli import inspect, main\n"
        "def fail(args):\n"
        "    os.write(2, b'native words\\n')\n"
        "    raise ZeroDivisionError('ours')\n"
        "inspect.run = fail\n"
        "sys.exit(main(['inspect', 'model']))\n"
    )
    done = run_program(sys.executable, "-c", code)
    assert done.returncode == 1
    assert "native words" in done.stderr
    assert done.stderr.rstrip().endswith("ZeroDivisionError: ours")


@pytest.mark.slow
def test_a_reader_that_goes_away_is_no_error(tiny_tflite):
    command = f"{sys.executable} -m kdtf inspect {tiny_tflite} | true"
    done = run_program("bash", "-c", f"set -o pipefail; {command}")
    assert (done.returncode, done.stderr) == (0, "")
