"""A killed training goes on as if nothing had happened."""

import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest

SCRIPT = pathlib.Path(__file__).with_name("resume_script.py")


def run(*arguments):
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        pytest.param([], id="plain"),
        pytest.param(["--prune"], id="pruned", marks=pytest.mark.slow),
    ],
)
def test_killed_and_resumed_training_gives_the_same_weights(options, tmp_path):
    straight, resumed = tmp_path / "straight.npz", tmp_path / "resumed.npz"
    code, errors = run(tmp_path / "backup_a", straight, *options)
    assert code == 0, errors
    backup = tmp_path / "backup_b"
    code, _ = run(backup, resumed, *options, "--die-after", 3)
    assert code == -signal.SIGKILL and not resumed.exists()
    code, errors = run(backup, resumed, *options)
    assert code == 0, errors
    a, b = np.load(straight), np.load(resumed)
    assert a["step"] == b["step"] == 20
    for name in a.files:
        np.testing.assert_array_equal(a[name] == 0, b[name] == 0)
        # Sums over threads may be ordered differently in another process.
        np.testing.assert_allclose(a[name], b[name], atol=1e-6)
    if options:
        # 80% of 5 x 4 weights, reached after the kill.
        assert (a["arr_0"] == 0).sum() == 16
