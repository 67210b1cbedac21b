"""A killed training goes on as if nothing had happened."""

import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest

SCRIPT = pathlib.Path(__file__).with_name("quantized_resume_script.py")
SCHEMES = ("int8", "learned")


def run(*arguments):
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stderr


@pytest.mark.slow
def test_killed_and_resumed_training_gives_the_same_state(tmp_path):
    straight, resumed = tmp_path / "straight.npz", tmp_path / "resumed.npz"
    code, errors = run(tmp_path / "a", straight, *SCHEMES)
    assert code == 0, errors
    for scheme in SCHEMES:
        code, _ = run(tmp_path / "b", resumed, scheme, "--die-after", 2)
        assert code == -signal.SIGKILL and not resumed.exists()
    code, errors = run(tmp_path / "b", resumed, *SCHEMES)
    assert code == 0, errors
    a, b = np.load(straight), np.load(resumed)
    assert [int(b[f"{scheme}_step"]) for scheme in SCHEMES] == [16] * 2
    for name in a.files:
        # Sums over threads may be ordered differently in another process.
        np.testing.assert_allclose(b[name], a[name], atol=1e-5, err_msg=name)
