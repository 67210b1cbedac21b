"""A study that several real processes work on, and some are killed."""

import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from kdtf.search import search
from kdtf.search.space import Space
from kdtf.search.store import Store

SPACE = {"a": range(8), "b": range(8), "c": ["x", "y"]}

# Each trial is noted in a file of the process's own as it begins. A trial of
# `halt` tells its number and waits to be killed.
WORKER = """
import sys, time
import numpy as np
from kdtf.search import search

study, diary, trials, halt = sys.argv[1:5]

def objective(chosen, trial):
    with open(diary, "a") as file:
        file.write(f"{trial.number}\\n")
    if trial.number == int(halt):
        print(trial.number, flush=True)
        time.sleep(600)
    time.sleep(0.02)
    noise = float(np.random.normal())
    return {"score": chosen["a"] + 2 * chosen["b"] + noise,
            "cost": 1 + chosen["a"]}

space = {"a": range(8), "b": range(8), "c": ["x", "y"]}
print("ready", flush=True)
sys.stdin.readline()
search(lambda chosen: chosen, space, objective, study=study, seed=5,
       trials=int(trials), limits={"cost": 5}, verbose=0)
print("done", flush=True)
"""


@pytest.fixture
def begin(tmp_path):
    """Starts workers that have imported all and wait for `go`."""
    begun = []

    def start(study, name, *, trials, halt=-1):
        script = tmp_path / "worker.py"
        script.write_text(WORKER)
        process = subprocess.Popen(
            [
                *(sys.executable, "-W", "ignore", os.fspath(script)),
                *(os.fspath(study), os.fspath(tmp_path / name)),
                *(str(trials), str(halt)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        begun.append(process)
        return process

    yield start
    for process in begun:
        process.kill()
        process.communicate()


def go(*processes):
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()


def finish(process):
    assert process.stdout.readline() == "done\n"
    assert process.wait(timeout=120) == 0


def kill(process):
    process.send_signal(signal.SIGKILL)
    # Until it is reaped its number is in use.
    assert process.wait(timeout=120) == -signal.SIGKILL


def trials_of(study):
    return Store(study, Space(SPACE), seed=None, minimize=False).trials()


def diary(tmp_path, name):
    return [int(line) for line in (tmp_path / name).read_text().split()]


def story(trials):
    return [(t.number, t.choices, t.values, t.reward, t.seed) for t in trials]


def check_all_complete(trials, num_trials):
    assert [trial.number for trial in trials] == list(range(num_trials))
    assert {trial.status for trial in trials} == {"complete"}
    models = {tuple(trial.choices.items()) for trial in trials}
    assert len(models) == num_trials


def test_two_workers_share_a_study(begin, tmp_path):
    study = tmp_path / "study.log"
    one = begin(study, "one", trials=40)
    other = begin(study, "other", trials=40)
    go(one, other)
    finish(one)
    finish(other)
    trials = trials_of(study)
    check_all_complete(trials, 40)
    both = diary(tmp_path, "one") + diary(tmp_path, "other")
    # Nothing was even begun twice.
    assert sorted(both) == list(range(40))
    workers = {f"{socket.gethostname()}:{p.pid}" for p in (one, other)}
    assert {trial.worker for trial in trials} == workers


def test_a_killed_process_s_trial_is_taken_up_and_the_story_is_the_same(
    begin, tmp_path
):
    study = tmp_path / "study.log"
    first = begin(study, "first", trials=30, halt=11)
    go(first)
    assert first.stdout.readline() == "11\n"
    second = begin(study, "second", trials=30)
    assert [(t.number, t.status) for t in trials_of(study)][11:] == [
        (11, "running")
    ]
    choices = trials_of(study)[11].choices
    kill(first)
    # A half line may be all that was left of its next write.
    with study.open("ab") as file:
        file.write(b'{"op_code":8,"worker_id":"gone","tri')
    go(second)
    finish(second)
    trials = trials_of(study)
    check_all_complete(trials, 30)
    assert trials[11].choices == choices
    assert diary(tmp_path, "first") == list(range(12))
    assert diary(tmp_path, "second") == list(range(11, 30))

    def objective(chosen):
        noise = float(np.random.normal())
        return {
            "score": chosen["a"] + 2 * chosen["b"] + noise,
            "cost": 1 + chosen["a"],
        }

    whole = search(
        lambda chosen: chosen,
        SPACE,
        objective,
        trials=30,
        seed=5,
        limits={"cost": 5},
        verbose=0,
    )
    assert story(trials) == story(whole.trials)


def test_a_living_worker_takes_up_what_another_was_killed_in(begin, tmp_path):
    study = tmp_path / "study.log"
    victim = begin(study, "victim", trials=25, halt=0)
    other = begin(study, "other", trials=25)
    go(victim)
    assert victim.stdout.readline() == "0\n"
    choices = trials_of(study)[0].choices
    go(other)
    # The other has run all that is left and waits for the first.
    while sum(t.status == "complete" for t in trials_of(study)) < 24:
        assert other.poll() is None
        time.sleep(0.1)
    assert trials_of(study)[0].status == "running"
    kill(victim)
    finish(other)
    trials = trials_of(study)
    check_all_complete(trials, 25)
    assert trials[0].choices == choices
    assert trials[0].worker == f"{socket.gethostname()}:{other.pid}"
    assert diary(tmp_path, "victim") == [0]
    assert diary(tmp_path, "other") == [*range(1, 25), 0]


@pytest.mark.slow
def test_a_study_survives_many_kills_at_any_moment(begin, tmp_path):
    study = tmp_path / "study.log"
    kept = begin(study, "kept", trials=60)
    victims = [begin(study, f"victim{i}", trials=60) for i in range(4)]
    go(kept)
    for number, victim in enumerate(victims):
        go(victim)
        # Some 30 ms apart in the life of a trial.
        time.sleep(0.4 + 0.031 * number)
        if victim.poll() is None:
            kill(victim)
    finish(kept)
    check_all_complete(trials_of(study), 60)


SERVER = """
import sys
import optuna

storage = optuna.storages.get_storage(sys.argv[1])
optuna.storages.run_grpc_proxy_server(
    storage, host="localhost", port=int(sys.argv[2]))
"""


@pytest.mark.slow
def test_workers_of_several_machines_share_a_server(begin, tmp_path):
    pytest.importorskip("grpc")
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    url = f"sqlite:///{tmp_path / 'study.db'}"
    server = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", SERVER, url, str(port)]
    )
    try:
        study = f"grpc://localhost:{port}"
        victim = begin(study, "victim", trials=20, halt=0)
        other = begin(study, "other", trials=20)
        go(victim)
        assert victim.stdout.readline() == "0\n"
        go(other)
        while sum(t.status == "complete" for t in trials_of(study)) < 19:
            assert other.poll() is None
            time.sleep(0.1)
        kill(victim)
        finish(other)
        trials = trials_of(study)
        check_all_complete(trials, 20)
        assert diary(tmp_path, "other") == [*range(1, 20), 0]
        store = Store(study, Space(SPACE), seed=None, minimize=False)
        late = store.claim(20, (7, 7, 1), 0)
        if late is None:
            late = store.claim(20, (7, 7, 0), 0)
        late.finish("abandoned")
        assert late.finish("complete", values={"q": 1.0}, reward=1.0) is False
        assert store.trials()[20].status == "abandoned"
    finally:
        server.kill()
        server.wait()
    # The file is the same study.
    assert story(trials_of(url))[:20] == story(trials)
