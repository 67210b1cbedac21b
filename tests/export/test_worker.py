"""The process in which a file is tried out."""

import subprocess
import sys

import keras
import numpy as np
import pytest

from kdtf.export import ExportError
from kdtf.export import export_tflite
from kdtf.export.worker import run_isolated

KERNEL = np.array([[1.0, 0.0], [2.0, 3.0]], "float32")
ROWS = np.array([[1, 1], [0, 2], [-1, 4]], "float32")


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A Dense layer that multiplies by `KERNEL`."""
    model = keras.Sequential(
        [keras.Input((2,), name="x"), keras.layers.Dense(2)]
    )
    model.set_weights([KERNEL, np.zeros(2)])
    path = tmp_path_factory.mktemp("worker") / "dense.tflite"
    return export_tflite(model, path).path


def test_outputs_come_back_by_name(file):
    outcome = run_isolated(file, {"x": ROWS})
    assert list(outcome.outputs) == ["output_0"]
    np.testing.assert_allclose(outcome.outputs["output_0"], ROWS @ KERNEL)
    assert outcome.latency_ms is None


def test_a_baseline_is_timed_in_turn(file):
    outcome = run_isolated(file, {"x": ROWS}, baseline=file)
    # The same file twice: the best of 15 runs differ by noise alone.
    assert 0.05 < outcome.latency_ms / outcome.baseline_latency_ms < 20


def test_the_runtimes_words_are_passed_on(file):
    with pytest.raises(ExportError, match="ended with code 1.*'x'"):
        run_isolated(file, {"picture": ROWS})


def test_the_process_starts_without_tensorflow():
    code = (
        "import sys, kdtf.export.worker; "
        "print([n for n in ('tensorflow', 'keras') if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]", done.stderr
