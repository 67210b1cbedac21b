"""What was tried is found again, and nothing else is."""

import pytest

from kdtf.recipes.compression.candidate import Candidate
from kdtf.recipes.compression.ledger import Ledger

STEPS = {"quantize_aware": {"scheme": "int8"}, "export": {"quantize": None}}


def made(folder, steps=STEPS, content=b"file"):
    (folder / "one.tflite").write_bytes(content)
    return Candidate(
        name="one",
        stage="post-training",
        settings=steps,
        status="complete",
        file="one.tflite",
        size_bytes=float(len(content)),
    )


def test_found_again_by_another_process(tmp_path):
    Ledger(tmp_path, {"seed": 0}).add(made(tmp_path))
    found = Ledger(tmp_path, {"seed": 0}).find(STEPS)
    assert (found.name, found.size_bytes) == ("one", 4.0)
    assert Ledger(tmp_path, {"seed": 1}).find(STEPS) is None
    assert Ledger(tmp_path, {"seed": 0}).find({"export": {}}) is None


def test_both_settings_are_kept(tmp_path):
    for seed in (0, 1):
        Ledger(tmp_path, {"seed": seed}).add(made(tmp_path))
    assert all(Ledger(tmp_path, {"seed": s}).find(STEPS) for s in (0, 1))


@pytest.mark.parametrize("content", [b"flie", b"", None])
def test_an_altered_file_is_not_used(tmp_path, content):
    ledger = Ledger(tmp_path, {})
    ledger.add(made(tmp_path))
    path = tmp_path / "one.tflite"
    path.unlink() if content is None else path.write_bytes(content)
    assert ledger.find(STEPS) is None


def test_a_failure_is_remembered(tmp_path):
    failed = Candidate(
        name="one", stage="", settings=STEPS, status="failed", reason="nan"
    )
    Ledger(tmp_path, {}).add(failed)
    assert Ledger(tmp_path, {}).find(STEPS).reason == "nan"


def test_a_damaged_list_is_named(tmp_path):
    (tmp_path / "candidates.json").write_text('[{"setting": ')
    with pytest.raises(ValueError, match=r"candidates\.json is damaged"):
        Ledger(tmp_path, {})
