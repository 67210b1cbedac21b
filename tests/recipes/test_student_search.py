"""`kdtf search`, shortened: every stage runs and leaves what it promises."""

import numpy as np
import pytest

from kdtf.cli import main
from kdtf.cli import make_parser
from kdtf.evaluation.macs import macs_of_file
from kdtf.recipes.student_search import costs_of
from kdtf.recipes.student_search import run_search
from kdtf.recipes.student_tasks import TASKS
from kdtf.search.searching import STRATEGIES

QUICK = {"quick": True, "trials": 2}


@pytest.mark.parametrize("space", TASKS)
def test_tasks_choose_on_data_that_is_in_no_other_part(space):
    task = TASKS[space](seed=0, quick=False)

    def rows(x):
        x = x["token_ids"] if isinstance(x, dict) else x
        return {row.tobytes() for row in x}

    held_out, test = rows(task.held_out[0]), rows(task.test[0])
    assert held_out
    assert test
    assert not held_out & test
    assert not held_out & rows(task.calibration)
    model = task.by_hand()
    assert np.asarray(task.quality(model)) > 0


@pytest.mark.slow
def test_a_search_leaves_its_study_and_two_reports(tmp_path, capsys):
    result = run_search(space="cnn", out=tmp_path, **QUICK)
    folder = tmp_path / "cnn"
    assert {path.name for path in folder.iterdir()} == {
        "report.html",
        "search.html",
        "stages.json",
        "student-by-hand.keras",
        "student-by-hand.tflite",
        "student-found.keras",
        "student-found.tflite",
        "study.log",
        "teacher.keras",
    }
    limits = costs_of(folder / "student-by-hand.tflite")
    assert result.limits == limits
    assert limits["macs"] == macs_of_file(folder / "student-by-hand.tflite")
    found = folder / "student-found.tflite"
    assert found.stat().st_size <= limits["bytes"]
    assert macs_of_file(found) == result.best.values["macs"]
    assert "<svg" in (folder / "search.html").read_text()
    assert "student-found" not in (folder / "search.html").read_text()
    printed = capsys.readouterr().out
    assert "Comparison on data not seen before" in printed
    # Nothing is left to do.
    again = run_search(space="cnn", out=tmp_path, **QUICK)
    assert again.trials == result.trials
    assert capsys.readouterr().out.count("reusing") == 3


@pytest.mark.slow
def test_workers_share_the_trials(tmp_path):
    result = run_search(
        space="cnn",
        out=tmp_path,
        budget={"bytes": 20_000},
        workers=2,
        quick=True,
        trials=4,
    )
    assert len({trial.worker for trial in result.trials}) == 2
    numbers = [trial.number for trial in result.trials]
    assert numbers == list(range(len(numbers)))
    assert len(result.complete) == 4


def test_a_task_or_cost_that_is_none_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"\['decoder', .*space='rnn'"):
        run_search(space="rnn", out=tmp_path)
    with pytest.raises(ValueError, match=r"\['bytes', .*Received: \['watts'\]"):
        run_search(budget={"watts": 1}, out=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_command_reads_a_budget(capsys):
    words = ["search", "--budget", "bytes=1e5, latency_ms=0.5"]
    arguments = make_parser().parse_args(words)
    assert arguments.budget == {"bytes": 1e5, "latency_ms": 0.5}
    assert main(["search", "--budget", "100kB"]) == 2
    error = capsys.readouterr().err
    assert "such as bytes=100000,latency_ms=0.5, not '100kB'" in error
    assert main(["search", "--budget", "watts=3"]) == 2
    assert "Received: ['watts']" in capsys.readouterr().err
    assert main(["search", "--space", "rnn"]) == 2


def test_the_command_offers_what_there_is():
    # Written out there, so that `kdtf --help` imports nothing heavy.
    for option, names in (("--space", TASKS), ("--strategy", STRATEGIES)):
        for name in names:
            make_parser().parse_args(["search", option, name])
