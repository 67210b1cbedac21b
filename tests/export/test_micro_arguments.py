"""What the front door refuses before it works."""

import importlib.util

import pytest

from kdtf.export import export_microcontroller


@pytest.mark.parametrize(
    "name", ["", "2fast", "wake word", "a__b", "_a", "a_", "a/b", "é", "a\n"]
)
def test_names_must_be_parts_of_c_names(tmp_path, name):
    with pytest.raises(ValueError, match="`name` must be letters"):
        export_microcontroller("m.tflite", tmp_path / "out", name=name)


@pytest.mark.parametrize("labels", ["yes", ["yes", 1], None])
def test_labels_must_be_texts(tmp_path, labels):
    with pytest.raises(TypeError, match="`labels` must be a list of texts"):
        export_microcontroller("m.tflite", tmp_path / "out", labels=labels)


def test_budgets_must_be_positive(tmp_path):
    with pytest.raises(ValueError, match="ram_bytes=0"):
        export_microcontroller("m.tflite", tmp_path / "out", ram_bytes=0)


def test_without_the_interpreter_the_error_says_what_to_install(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'pip install "kdtf\[deploy\]"'):
        export_microcontroller("m.tflite", tmp_path / "out")
    assert not list(tmp_path.iterdir())
