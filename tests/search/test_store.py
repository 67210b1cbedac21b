"""Where trials are kept: claims, lost processes, damaged files."""

import contextlib
import math
import os
import random
import shutil
import socket
import sqlite3
import threading
import time

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from kdtf.search.space import Choice
from kdtf.search.space import Space
from kdtf.search.store import GRACE
from kdtf.search.store import Store

SPACE = Space({"a": range(3), "b": range(4)})
# Above the highest process number Linux gives.
NO_PROCESS = 2**22 + 1


def open_store(location, space=SPACE, *, seed=0, minimize=False):
    return Store(location, space, seed=seed, minimize=minimize)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "study.log"


@pytest.fixture(params=["journal", "sqlite"])
def location(request, tmp_path):
    if request.param == "journal":
        return tmp_path / "study.log"
    return f"sqlite:///{tmp_path / 'study.db'}"


def die(claim):
    """Makes a claim look like that of a process that is gone."""
    claim._note("process", NO_PROCESS)


def move(claim, *, seconds_ago):
    """Makes a claim look like another machine's, with such a last beat."""
    claim._note("host", "elsewhere")
    claim._note("beat", time.time() - seconds_ago)


def end(claim, reward=1.0):
    return claim.finish(
        "complete", values={"quality": reward}, reward=reward, seconds=0.5
    )


def statuses(store):
    return [(trial.number, trial.status) for trial in store.trials()]


def file_of(path, content):
    path.write_bytes(content)
    return path


def test_of_two_claims_to_one_number_the_first_wins(location):
    one, other = open_store(location), open_store(location)
    first = one.claim(0, (0, 0), 7)
    assert first.number == 0
    assert first.point == (0, 0)
    assert other.claim(0, (1, 1), 7) is None
    for store in (one, other, open_store(location)):
        assert statuses(store) == [(0, "running")]
        assert store.trials()[0].choices == {"a": 0, "b": 0}
        assert store.keys() == {(0, 0)}
        assert store.trials()[0].point == (0, 0)
    # What ended keeps its number.
    end(first)
    assert other.claim(0, (1, 1), 7) is None
    assert statuses(other) == [(0, "complete")]


@pytest.mark.parametrize("status", ["complete", "failed", "infeasible"])
def test_a_model_is_not_claimed_under_two_numbers(path, status):
    one, other = open_store(path), open_store(path)
    claim = one.claim(0, (2, 3), 7)
    assert other.claim(1, (2, 3), 8) is None
    claim.finish(status, reward=1.0 if status == "complete" else None)
    assert other.claim(1, (2, 3), 8) is None
    assert statuses(other) == [(0, status)]
    assert other.claim(1, (2, 2), 8).number == 1


def test_points_that_are_one_model_are_one_claim(path):
    space = Space(
        {
            "kind": ["plain", "wide"],
            "width": Choice([1, 2], when=lambda c: c["kind"] == "wide"),
        }
    )
    store = open_store(path, space)
    assert store.claim(0, (0, 0), 1)
    assert store.claim(1, (0, 1), 1) is None
    assert store.claim(1, (1, 0), 1)
    assert store.claim(2, (1, 1), 1)
    assert store.keys() == {(0, None), (1, 0), (1, 1)}


def test_an_abandoned_trial_is_claimed_again(location):
    one, other = open_store(location), open_store(location)
    one.claim(0, (1, 2), 7).finish("abandoned")
    assert statuses(other) == [(0, "abandoned")]
    # It is no other number's model meanwhile.
    assert other.keys() == {(1, 2)}
    again = other.claim(0, other.trials()[0].point, 7)
    assert statuses(one) == [(0, "running")]
    assert one.claim(0, (1, 2), 7) is None
    end(again, 2.5)
    assert statuses(one) == [(0, "complete")]
    assert one.trials()[0].values == {"quality": 2.5}


def test_who_lost_a_claim_is_not_seen_before_it_is_withdrawn(path, monkeypatch):
    """Between a claim's writing and its withdrawal others may look."""
    one, other = open_store(path), open_store(path)
    first = one.claim(0, (0, 0), 7)
    seen = []

    def look(claim, status, **found):
        seen.append(one.trials())
        assert status == "withdrawn"

    with monkeypatch.context() as patch:
        patch.setattr("kdtf.search.store.Claim.finish", look)
        assert other.claim(0, (1, 1), 7) is None
    [[trial]] = seen
    assert trial.choices == {"a": 0, "b": 0}
    assert one.trials()[0].point == (0, 0)
    end(first)
    assert statuses(one) == [(0, "complete")]


@pytest.mark.parametrize("first_ends", [True, False])
def test_who_dies_before_withdrawing_leaves_no_trial(
    path, monkeypatch, first_ends
):
    one, other = open_store(path), open_store(path)
    first = one.claim(0, (0, 0), 7)
    with monkeypatch.context() as patch:
        patch.setattr("kdtf.search.store.Claim.finish", lambda *_, **__: None)
        patch.setattr("kdtf.search.store.os.getpid", lambda: NO_PROCESS)
        assert other.claim(0, (1, 1), 7) is None
    if first_ends:
        end(first)
    else:
        die(first)
    one.release_lost()
    expected = "complete" if first_ends else "abandoned"
    assert statuses(other) == [(0, expected)]
    # The winner's point is the one to take up.
    assert other.trials()[0].choices == {"a": 0, "b": 0}
    assert other.keys() == {(0, 0)}
    assert other.claim(1, (1, 1), 7)
    if not first_ends:
        assert other.claim(0, other.trials()[0].point, 7)


def test_the_trial_of_a_dead_process_is_released(location):
    store = open_store(location)
    die(store.claim(0, (0, 0), 7))
    alive = store.claim(1, (0, 1), 7)
    assert statuses(store) == [(0, "running"), (1, "running")]
    open_store(location).release_lost()
    assert statuses(store) == [(0, "abandoned"), (1, "running")]
    assert end(alive)


def test_another_machine_is_dead_when_it_is_silent_for_long(path):
    store = open_store(path)
    move(store.claim(0, (0, 0), 7), seconds_ago=GRACE - 60)
    move(store.claim(1, (0, 1), 7), seconds_ago=GRACE + 60)
    # Its process numbers say nothing here.
    third = store.claim(2, (0, 2), 7)
    move(third, seconds_ago=0)
    die(third)
    store.release_lost()
    assert statuses(store) == [(0, "running"), (1, "abandoned"), (2, "running")]


def test_another_user_s_process_lives(path, monkeypatch):
    def refuse(process, signal):
        assert (process, signal) == (os.getpid(), 0)
        raise PermissionError

    store = open_store(path)
    store.claim(0, (0, 0), 7)
    monkeypatch.setattr("kdtf.search.store.os.kill", refuse)
    store.release_lost()
    assert statuses(store) == [(0, "running")]


def test_what_ended_is_never_released(path):
    store = open_store(path)
    for number, status in enumerate(("complete", "stopped", "failed")):
        claim = store.claim(number, (0, number), 7)
        die(claim)
        claim.finish(status, reward=None if status == "failed" else 1.0)
    before = store.trials()
    store.release_lost()
    assert store.trials() == before


def test_a_result_that_comes_after_release_changes_nothing(location):
    owner, other = open_store(location), open_store(location)
    late = owner.claim(0, (0, 0), 7)
    die(late)
    other.release_lost()
    before = other.trials()
    assert end(late, 9.0) is False
    assert late.finish("failed", error="late") is False
    assert other.trials() == owner.trials() == before
    again = other.claim(0, other.trials()[0].point, 7)
    assert end(late, 9.0) is False
    assert statuses(other) == [(0, "running")]
    assert end(again, 2.0) is True
    assert end(late, 9.0) is False
    assert owner.trials()[0].values == {"quality": 2.0}
    # Nor does a second result of its own.
    assert end(again, 3.0) is False
    assert owner.trials()[0].values == {"quality": 2.0}


def test_what_is_reported_after_release_stops_the_trial(path):
    store = open_store(path)
    late = store.claim(0, (0, 0), 7)
    assert late.report(1, 0.25, None) is False
    die(late)
    store.release_lost()
    assert late.report(2, 0.5, None) is True
    assert late.last_report() == 0.5
    # Also as the first report, of which the storage has none.
    other = store.claim(1, (0, 1), 7)
    die(other)
    store.release_lost()
    assert other.report(1, 0.75, None) is True
    assert other.last_report() == 0.75


def test_the_last_report_is_that_of_the_last_step(path):
    claim = open_store(path).claim(0, (0, 0), 7)
    for step, value in ((2, 0.5), (10, 0.25), (9, 0.75)):
        claim.report(step, value, None)
    assert claim.last_report() == 0.25


def test_a_process_that_dies_as_it_records_loses_no_result(path, monkeypatch):
    store = open_store(path)
    claim = store.claim(0, (0, 0), 7)
    with monkeypatch.context() as patch:
        patch.setattr(
            store.storage, "set_trial_state_values", lambda *_, **__: None
        )
        end(claim, 4.0)
    # Nobody takes it for ended.
    assert statuses(store) == [(0, "running")]
    assert store.trials()[0].values == {}
    die(claim)
    open_store(path).release_lost()
    assert statuses(store) == [(0, "complete")]
    assert store.trials()[0].values == {"quality": 4.0}
    assert store.trials()[0].reward == 4.0


@pytest.mark.parametrize("moment", range(4))
def test_an_end_is_never_half_of_one_process_and_half_of_another(
    path, monkeypatch, moment
):
    """One that only slept ends its trial while another releases it."""
    owner, other = open_store(path), open_store(path)
    claim = owner.claim(0, (0, 0), 7)
    die(claim)
    writes, ended = [], []

    def between(write):
        def interfere(*arguments):
            if len(writes) == moment:
                ended.append(end(claim, 4.0))
            writes.append(write)
            return write(*arguments)

        return interfere

    for name in ("set_trial_user_attr", "set_trial_state_values"):
        monkeypatch.setattr(
            other.storage, name, between(getattr(other.storage, name))
        )
    other.release_lost()
    [trial] = other.trials()
    expected = ("complete", {"quality": 4.0}, 4.0, 0.5)
    if not ended:
        assert end(claim, 4.0) is False
        expected = ("abandoned", {}, None, None)
    assert ended in ([], [True])
    found = (trial.status, trial.values, trial.reward, trial.seconds)
    assert found == expected


def test_signs_of_life_are_given_while_it_runs(path, monkeypatch):
    monkeypatch.setattr("kdtf.search.store.BEAT", 0.005)
    store = open_store(path)
    claim = store.claim(0, (0, 0), 7)
    move(claim, seconds_ago=GRACE + 60)
    with claim.alive():
        # Until it is seen; a test that hangs here has found a bug.
        while store._all()[0].user_attrs["beat"] < time.time() - GRACE:
            time.sleep(0.005)
        store.release_lost()
    assert statuses(store) == [(0, "running")]
    threads = [thread.name for thread in threading.enumerate()]
    assert not [name for name in threads if "(beat)" in name]


def test_a_storage_that_is_away_for_a_moment_stops_no_beats(path, monkeypatch):
    monkeypatch.setattr("kdtf.search.store.BEAT", 0.005)
    claim = open_store(path).claim(0, (0, 0), 7)
    calls, enough = [], threading.Event()

    def away(key, value):
        calls.append(key)
        if len(calls) == 3:
            enough.set()
        raise ConnectionError

    monkeypatch.setattr(claim, "_note", away)
    with claim.alive():
        assert enough.wait(60)


# What is kept ----------------------------------------------------------------

NAMES = ("größe", "层 1", "a'b\"c\\", "{x}", "")
OPTIONS = (
    (3, 5, 7),
    (0.1, 1e-300, -0.0),
    (True, 1, None, "1"),
    ((1, (2.5, "ü")), ("x",), ()),
    ("\n", "…", "\U0001f642"),
)
WIDE = Space(dict(zip(NAMES, OPTIONS, strict=True)))


def test_records_come_back_bit_for_bit(location):
    values = {
        "loss": 0.1 + 0.2,
        "größe": 5e-324,
        "third": -1 / 3,
        "large": 1.7976931348623157e308,
        "negative zero": -0.0,
        "whole": 2.0**53,
    }
    store = open_store(location, WIDE, minimize=True)
    points = [(0, 0, 0, 0, 0), (1, 2, 1, 1, 2), (2, 1, 2, 2, 1)]
    claims = [
        store.claim(number, point, 2**31 - 1 - number)
        for number, point in enumerate(points)
    ]
    claims[0].finish(
        "complete", values=values, reward=-(0.1 + 0.2), seconds=0.1
    )
    claims[1].finish("failed", error="ü\n\x00 \ud800 [red]", seconds=1e-9)
    claims[2].finish("infeasible", values={"größe": 1.0})

    found = open_store(location, WIDE, minimize=True, seed=None).trials()
    assert [trial.number for trial in found] == [0, 1, 2]
    assert list(found[0].values.items()) == list(values.items())
    assert math.copysign(1, found[0].values["negative zero"]) == -1
    assert found[0].reward == -(0.1 + 0.2)
    assert found[0].seconds == 0.1
    assert found[1].error == "ü\n\x00 \ud800 [red]"
    assert found[1].reward is None
    assert found[2].values == {"größe": 1.0}
    assert [trial.seed for trial in found] == [2**31 - 1 - i for i in range(3)]
    for trial, point in zip(found, points, strict=True):
        expected = {
            n: o[i] for n, o, i in zip(NAMES, OPTIONS, point, strict=True)
        }
        # As text: True is not 1, and -0.0 is not 0.0.
        assert repr(trial.choices) == repr(expected)
        assert trial.worker == f"{socket.gethostname()}:{os.getpid()}"


def test_optuna_shows_the_options_in_its_own_pictures(path):
    store = open_store(path, WIDE)
    end(store.claim(0, (1, 1, 2, 0, 0), 7))
    [trial] = store.study.get_trials()
    assert list(trial.params.values()) == [
        5,
        1e-300,
        None,
        "(1, (2.5, 'ü'))",
    ] + ["\n"]
    assert trial.value == 1.0
    assert store.study.best_trial.number == 0


def test_the_seed_is_drawn_once(location):
    drawn = open_store(location, seed=None).seed
    assert 0 <= drawn < 2**31
    assert open_store(location, seed=None).seed == drawn
    assert open_store(location, seed=drawn).seed == drawn
    with pytest.raises(ValueError, match=f"seed={drawn + 1}, not {drawn}"):
        open_store(location, seed=drawn + 1)


@pytest.mark.parametrize(
    "other",
    [
        {"b": range(4), "a": range(3)},
        {"a": [0, 2, 1], "b": range(4)},
        {"a": range(3), "b": range(5)},
        {"a": range(3)},
        {"a": [False, True, 2], "b": range(4)},
        {"a": [0.0, 1.0, 2.0], "b": range(4)},
    ],
)
def test_a_study_of_another_space_is_refused(path, other):
    """Indices are stored: the order of names and options counts, too."""
    store = open_store(path)
    end(store.claim(0, (2, 0), 7))
    with pytest.raises(ValueError, match="with the space it was.*Received: "):
        open_store(path, Space(other))
    # And is not changed by that.
    assert open_store(path).trials() == store.trials()


def test_a_process_killed_as_it_began_a_study_leaves_it_usable(path):
    open_store(path, seed=3)
    lines = path.read_bytes().splitlines(keepends=True)
    for kept in range(len(lines)):
        file_of(path, b"".join(lines[:kept]))
        store = open_store(path, seed=4)
        assert store.seed == 4
        assert store.claim(0, (0, 0), 7)


def test_a_study_in_memory_is_its_own():
    one, other = open_store(None), open_store(None)
    assert one.claim(0, (0, 0), 7)
    assert other.trials() == []


def test_a_journal_cut_anywhere_in_its_last_line_is_continued(path):
    store = open_store(path)
    end(store.claim(0, (0, 0), 7), 1.0)
    end(store.claim(1, (0, 1), 7), 2.0)
    content = path.read_bytes()
    last = content.rstrip(b"\n").rfind(b"\n") + 1
    for cut in (last + 1, last + 9, last + 11, last + 40, len(content) - 1):
        file_of(path, content[:cut])
        store = open_store(path)
        assert statuses(store) == [(0, "complete"), (1, "running")]
        end(store.claim(2, (0, 2), 7), 3.0)
        assert statuses(open_store(path)) == [
            (0, "complete"),
            (1, "running"),
            (2, "complete"),
        ]


def test_a_journal_cut_in_its_first_line_begins_anew(path):
    open_store(path)
    first = path.read_bytes().split(b"\n")[0]
    for cut in (1, 5, 10, 30, len(first)):
        file_of(path, first[:cut])
        assert open_store(path).trials() == []


def test_others_survive_one_that_is_killed_in_the_middle_of_a_line(path):
    """A living process writes on behind the half line of a dead one."""
    store = open_store(path)
    end(store.claim(0, (0, 0), 7))
    with path.open("ab") as file:
        file.write(b'{"op_code":8,"worker_id":"x","trial_id":0,"user_a')
    assert end(store.claim(1, (0, 1), 7))
    assert statuses(store) == [(0, "complete"), (1, "complete")]
    assert statuses(open_store(path)) == [(0, "complete"), (1, "complete")]


def test_a_lock_of_a_dead_process_is_broken(path, monkeypatch):
    """Also where the path was relative, or the folder was moved since."""
    open_store(path)
    moved = path.parent / "moved"
    moved.mkdir()
    shutil.copy(path, moved)
    clock = time.monotonic
    # Optuna waits for 30 s; here they pass more quickly.
    monkeypatch.setattr(
        "optuna.storages.journal._file.time.monotonic", lambda: clock() * 1000
    )
    monkeypatch.chdir(path.parent)
    for name in ("study.log", "moved/study.log"):
        file_of(path.parent / f"{name}.lock", b"")
        assert open_store(name).claim(0, (0, 0), 7)


def test_a_relative_path_holds_if_the_folder_is_changed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = open_store("deep/er/study.log")
    monkeypatch.chdir("/")
    assert store.claim(0, (0, 0), 7)
    assert statuses(open_store(tmp_path / "deep/er/study.log")) == [
        (0, "running")
    ]


def bytes_of_a_database(tmp_path):
    path = tmp_path / "own.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("create table mine (x)")
    connection.close()
    return path.read_bytes()


@pytest.mark.parametrize(
    "content",
    [
        b"name,value\na,1\nb,2\n",
        b"name,value\n",
        b"name,value",
        b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR",
        b"\x00\x01\x02\xff",
        b"\n",
        b"\n\n{}\n",
        b'{"my": "settings"}',
        b'{"my": "settings"}\n',
        b'{\n  "my": "settings"\n}',
        b"{",
        b"[1, 2]\n",
        "ü\n".encode(),
        bytes_of_a_database,
    ],
)
def test_a_file_that_is_no_journal_is_refused_and_not_touched(
    tmp_path, content
):
    if callable(content):
        content = content(tmp_path)
    path = file_of(tmp_path / "mine.txt", content)
    if content == b"{":
        # As much as this may be the beginning of a journal's first line.
        assert open_store(path).trials() == []
        return
    with pytest.raises(ValueError, match=r"`study`.*Received: .*mine\.txt'"):
        open_store(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    "damaged",
    [
        b"\n",
        b"nonsense\n",
        b'{"op_code":\n',
        b'{"op_code":99}\n',
        b'{"op_code":8}\n',
        b'{"op_code":8,"wor{"op_code":8,"worker_id":"x"}\n',
        b"\x00\x00\x00\n",
        b"\xff\xfe\n",
    ],
)
@pytest.mark.parametrize("place", [0, 3, 5, -1])
def test_a_damaged_line_is_an_error_that_names_the_file(path, damaged, place):
    store = open_store(path)
    end(store.claim(0, (0, 0), 7))
    lines = path.read_bytes().splitlines(keepends=True)
    at = len(lines) if place == -1 else place
    lines.insert(at, damaged)
    file_of(path, b"".join(lines))
    with pytest.raises(ValueError, match=r"`study`.*Received: .*study\.log'"):
        open_store(path)
    assert path.read_bytes() == b"".join(lines)
    # And nobody is locked out of it.
    assert os.listdir(path.parent) == ["study.log"]


def test_the_damaged_line_is_numbered(path):
    open_store(path)
    content = path.read_bytes()
    number = content.count(b"\n") + 1
    file_of(path, content + b"nonsense\n" + content)
    with pytest.raises(ValueError, match=f"line {number} is none of a journal"):
        open_store(path)


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"Received: .*it is a folder; use '.*/study\.log'"
    ):
        open_store(tmp_path)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "name",
    [
        "a file/study.log",
        "a file/deeper/study.log",
        "/proc/no/study.log",
        "sqlite:////proc/no/study.db",
        "sqlite:///{}/a file",
        "nosuchdatabase://localhost/x",
        "grpc://localhost:port",
    ],
)
def test_a_place_that_cannot_be_used_is_named(tmp_path, name):
    file_of(tmp_path / "a file", b"not a database at all, but rather long")
    name = name.format(tmp_path)
    place = name if "://" in name else tmp_path / name
    last = name.split("/")[-1]
    with pytest.raises(
        ValueError, match=f"`study`.*Received: study='.*{last}'"
    ):
        open_store(place)


def test_a_file_with_studies_and_trials_of_others_is_used(path):
    storage = JournalStorage(JournalFileBackend(os.fspath(path)))
    silent = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        for name in ("other", "kdtf"):
            study = optuna.create_study(
                storage=storage, study_name=name, direction="maximize"
            )
            study.optimize(lambda t: t.suggest_float("a", 0, 1), n_trials=3)
        store = open_store(path)
        assert store.trials() == []
        end(store.claim(0, (0, 1), 7), 3.0)
        # While ours is open they go on with theirs.
        study.optimize(lambda t: t.suggest_float("x", 0, 1), n_trials=1)
        running = study.ask()
        store.release_lost()
        assert store.claim(1, (0, 1), 7) is None
        assert store.claim(1, (0, 2), 7)
        study.tell(running, 1.0)
    finally:
        optuna.logging.set_verbosity(silent)
    assert statuses(open_store(path)) == [(0, "complete"), (1, "running")]
    assert len(storage.get_all_trials(0)) == 3
    assert store.study.best_value == 3.0


def test_a_trial_that_another_tool_ended_is_taken_up_again(path):
    store = open_store(path)
    store.claim(0, (0, 0), 7)
    store.study.tell(0, state=optuna.trial.TrialState.FAIL)
    assert statuses(store) == [(0, "abandoned")]
    assert store.claim(0, store.trials()[0].point, 7)


@pytest.mark.parametrize(
    "kind, knows", [("journal", True), ("journal", False), ("sqlite", True)]
)
def test_claims_at_the_same_time_lose_and_double_nothing(tmp_path, kind, knows):
    """Each thread has a store of its own, like a process."""
    location = (
        tmp_path / "study.log"
        if kind == "journal"
        else f"sqlite:///{tmp_path / 'study.db'}"
    )
    num_threads, num_claims = 4, 25 if kind == "journal" else 8
    space = Space({"a": range(11), "b": range(11)})
    open_store(location, space)
    won, errors, barrier = [], [], threading.Barrier(num_threads)

    def work(seed):
        try:
            generator = random.Random(seed)
            store = open_store(location, space)
            barrier.wait()
            for _ in range(num_claims):
                known = store.trials()
                number = known[-1].number + 1 if known else 0
                # Who does not look often takes what another has.
                tried = store.keys() if knows else ()
                point = generator.choice(
                    [one for one in space.points() if one not in tried]
                )
                claim = store.claim(number, point, seed)
                if claim is None:
                    continue
                won.append((claim.number, claim.point))
                if generator.random() < 0.7:
                    end(claim, number)
        except Exception as error:
            errors.append(error)
            barrier.abort()

    threads = [
        threading.Thread(target=work, args=(seed,))
        for seed in range(num_threads)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    store = open_store(location, space)
    trials = store.trials()
    points = [tuple(trial.choices.values()) for trial in trials]
    assert sorted(won) == [
        (trial.number, point)
        for trial, point in zip(trials, points, strict=True)
    ]
    assert len(set(points)) == len(points) > 8
    assert store.keys() == set(points)
    numbers = [trial.number for trial in trials]
    assert len(set(numbers)) == len(numbers)
    if knows:
        assert numbers == list(range(len(numbers)))
