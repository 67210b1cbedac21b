"""The process in which a file is tried out."""

import subprocess
import sys

import numpy as np
import pytest

from kdtf.export import ExportError
from kdtf.export import export_tflite
from kdtf.export.worker import run_isolated


@pytest.fixture
def file(tiny_cnn, tmp_path):
    return export_tflite(tiny_cnn, tmp_path / "cnn.tflite").path


def test_outputs_come_back_by_name(tiny_cnn, file, images):
    outcome = run_isolated(file, {"image": images})
    expected = np.asarray(tiny_cnn(images))
    assert list(outcome.outputs) == ["output_0"]
    np.testing.assert_allclose(outcome.outputs["output_0"], expected, atol=1e-6)
    assert outcome.latency_ms is None


def test_a_baseline_is_timed_in_turn(file, images):
    outcome = run_isolated(file, {"image": images}, baseline=file)
    # The same file twice: the best of 15 runs differ by noise alone.
    assert 0.05 < outcome.latency_ms / outcome.baseline_latency_ms < 20


def test_the_runtimes_words_are_passed_on(file, images):
    with pytest.raises(ExportError, match="ended with code 1.*'image'"):
        run_isolated(file, {"picture": images})


def test_the_process_starts_without_tensorflow():
    code = (
        "import sys, kdtf.export.worker; "
        "print([n for n in ('tensorflow', 'keras') if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]", done.stderr
