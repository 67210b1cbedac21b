"""A study that several real processes work on, and some are killed."""

import multiprocessing
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

# One process imports all and each worker is forked off it: importing takes
# seconds. A forked one is a process like any other, and can be killed.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["kdtf.search", "optuna"])


def work(pipe, study, diary, trials, halt):
    """Searches; notes each trial it begins, and waits in `halt` for its end."""
    pipe.send("ready")
    pipe.recv()

    def noted(chosen, trial):
        with open(diary, "a") as file:
            file.write(f"{trial.number}\n")
        if trial.number == halt:
            pipe.send("halted")
            pipe.recv()
        time.sleep(0.02)
        return objective(chosen)

    run(noted, study=study, trials=trials)
    pipe.send("done")


def objective(chosen):
    noise = float(np.random.normal())
    score = chosen["a"] + 2 * chosen["b"] + noise
    return {"score": score, "cost": 1 + chosen["a"]}


def run(objective, **options):
    return search(
        lambda chosen: chosen,
        SPACE,
        objective,
        seed=5,
        limits={"cost": 5},
        verbose=0,
        **options,
    )


class Worker:
    def __init__(self, study, diary, *, trials, halt=-1):
        self.pipe, end = PROCESSES.Pipe()
        self.process = PROCESSES.Process(
            target=work, args=(end, study, diary, trials, halt)
        )
        self.process.start()
        # Else the end of the worker would not end the pipe.
        end.close()

    def is_ready(self):
        return self.pipe.recv() == "ready"

    @property
    def name(self):
        return f"{socket.gethostname()}:{self.process.pid}"

    def go(self):
        self.pipe.send("go")

    def finish(self):
        assert self.pipe.recv() == "done"
        self.process.join(120)
        assert self.process.exitcode == 0

    def halts(self):
        assert self.pipe.recv() == "halted"

    def kill(self):
        self.process.kill()
        self.process.join(120)
        assert self.process.exitcode == -signal.SIGKILL


@pytest.fixture
def begin(tmp_path):
    """Starts workers that wait for `go`."""
    begun = []

    def start(study, name, **options):
        begun.append(Worker(study, tmp_path / name, **options))
        assert begun[-1].is_ready()
        return begun[-1]

    yield start
    for worker in begun:
        worker.process.kill()
        worker.process.join()
        worker.pipe.close()


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


@pytest.mark.slow
def test_two_workers_share_a_study(begin, tmp_path):
    study = tmp_path / "study.log"
    one = begin(study, "one", trials=40)
    other = begin(study, "other", trials=40)
    one.go()
    other.go()
    one.finish()
    other.finish()
    trials = trials_of(study)
    check_all_complete(trials, 40)
    both = diary(tmp_path, "one") + diary(tmp_path, "other")
    # Nothing was even begun twice.
    assert sorted(both) == list(range(40))
    assert {trial.worker for trial in trials} == {one.name, other.name}


@pytest.mark.slow
def test_a_killed_process_s_trial_is_taken_up_and_the_story_is_the_same(
    begin, tmp_path
):
    study = tmp_path / "study.log"
    first = begin(study, "first", trials=30, halt=11)
    first.go()
    first.halts()
    second = begin(study, "second", trials=30)
    assert [(t.number, t.status) for t in trials_of(study)][11:] == [
        (11, "running")
    ]
    choices = trials_of(study)[11].choices
    first.kill()
    # A half line may be all that was left of its next write.
    with study.open("ab") as file:
        file.write(b'{"op_code":8,"worker_id":"gone","tri')
    second.go()
    second.finish()
    trials = trials_of(study)
    check_all_complete(trials, 30)
    assert trials[11].choices == choices
    assert diary(tmp_path, "first") == list(range(12))
    assert diary(tmp_path, "second") == list(range(11, 30))

    whole = run(objective, trials=30)
    assert story(trials) == story(whole.trials)


@pytest.mark.slow
def test_a_living_worker_takes_up_what_another_was_killed_in(begin, tmp_path):
    study = tmp_path / "study.log"
    victim = begin(study, "victim", trials=25, halt=0)
    other = begin(study, "other", trials=25)
    victim.go()
    victim.halts()
    choices = trials_of(study)[0].choices
    other.go()
    # The other has run all that is left and waits for the first.
    while sum(t.status == "complete" for t in trials_of(study)) < 24:
        assert other.process.is_alive()
        time.sleep(0.1)
    assert trials_of(study)[0].status == "running"
    victim.kill()
    other.finish()
    trials = trials_of(study)
    check_all_complete(trials, 25)
    assert trials[0].choices == choices
    assert trials[0].worker == other.name
    assert diary(tmp_path, "victim") == [0]
    assert diary(tmp_path, "other") == [*range(1, 25), 0]


@pytest.mark.slow
def test_a_study_survives_many_kills_at_any_moment(begin, tmp_path):
    study = tmp_path / "study.log"
    kept = begin(study, "kept", trials=60)
    victims = [begin(study, f"victim{i}", trials=60) for i in range(4)]
    kept.go()
    for number, victim in enumerate(victims):
        victim.go()
        # Some 30 ms apart in the life of a trial.
        time.sleep(0.4 + 0.031 * number)
        if victim.process.is_alive():
            victim.kill()
    kept.finish()
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
        victim.go()
        victim.halts()
        other.go()
        while sum(t.status == "complete" for t in trials_of(study)) < 19:
            assert other.process.is_alive()
            time.sleep(0.1)
        victim.kill()
        other.finish()
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
