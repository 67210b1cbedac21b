"""Random architectures are exported and verified, or refused in our words.

Twelve here; five hundred with `python tests/benchmarks/deploy_fuzz.py`.
"""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest

SCRIPT = pathlib.Path(__file__).parents[1] / "benchmarks" / "deploy_fuzz.py"
NUMBER = int(os.environ.get("KDTF_FUZZ_NUMBER", "12"))


@pytest.fixture(scope="module")
def fuzz():
    spec = importlib.util.spec_from_file_location("deploy_fuzz", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_random_models_export_or_are_refused(tmp_path):
    log = tmp_path / "fuzz.jsonl"
    command = [sys.executable, SCRIPT, "--number", str(NUMBER), "--log", log]
    paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
    done = subprocess.run(
        list(map(str, command)),
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    records = [json.loads(line) for line in log.read_text().splitlines()]
    assert [record["seed"] for record in records] == list(range(NUMBER))
    outcomes = {record["outcome"] for record in records}
    assert "exported" in outcomes
    assert outcomes <= {"exported", "refused"}


def test_errors_that_came_through_are_told_from_ours(fuzz):
    """Or the test above could not fail."""
    from kdtf.export import targets

    def outcome_of(function):
        try:
            function()
        except ValueError as error:
            return fuzz.judge(error)["outcome"]
        raise AssertionError("it raised nothing")

    assert outcome_of(lambda: targets.get_target("tv")) == "refused"
    assert outcome_of(lambda: int("Received: x")) == "unclear"


def test_a_process_that_dies_is_counted(fuzz, tmp_path, monkeypatch, capsys):
    child = tmp_path / "child.py"
    # Dies at seed 2, the first time it comes to it.
    child.write_text(
        "import json, os, sys\n"
        "for seed in map(int, sys.argv[2:]):\n"
        "    if seed == 2:\n"
        "        os.abort()\n"
        "    facts = {'seed': seed, 'outcome': 'exported'}\n"
        "    print(json.dumps(facts), flush=True)\n"
    )
    monkeypatch.setattr(fuzz, "__file__", str(child))
    with (tmp_path / "log").open("w+") as log:
        fuzz.drive(range(4), log)
        log.seek(0)
        records = [json.loads(line) for line in log]
    assert [(r["seed"], r["outcome"]) for r in records] == [
        (0, "exported"),
        (1, "exported"),
        (2, "died"),
        (3, "exported"),
    ]
    assert "code -6" in records[2]["error"]
    fuzz.summarize(records)
    assert "exported 3, died 1" in capsys.readouterr().out
