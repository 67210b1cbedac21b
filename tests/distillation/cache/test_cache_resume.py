"""A killed caching goes on after its last whole shard, to the same bytes."""

import pathlib
import signal
import subprocess
import sys

import pytest

SCRIPT = pathlib.Path(__file__).with_name("cache_kill_script.py")


def run(*arguments):
    command = [sys.executable, "-W", "ignore", str(SCRIPT)]
    done = subprocess.run(
        [*command, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    return done.returncode, done.stdout, done.stderr


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["top_k", "samples"])
def test_killed_and_resumed_caching_gives_the_same_bytes(kind, tmp_path):
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    code, ran, errors = run(straight, kind)
    assert (code, ran) == (0, "6\n"), errors
    # In the middle of the second shard.
    code, _, _ = run(resumed, kind, "--die-at", 3)
    assert code == -signal.SIGKILL
    left = set(files(resumed))
    assert {"teacher-00000.json", "teacher-00000.tfrecord"} <= left
    assert not left & {"teacher-00001.json", "teacher-00001.tfrecord"}
    code, ran, errors = run(resumed, kind)
    assert code == 0, errors
    # All but the first shard's two batches.
    assert ran == "4\n"
    assert files(straight) == files(resumed)
