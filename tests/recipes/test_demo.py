"""The main job, shortened: every stage runs and leaves what it promises."""

import json

import keras
import numpy as np
import pytest

from kdtf.recipes import demo_text
from kdtf.recipes import run_demo


@pytest.mark.slow
def test_image_demo_leaves_verified_files_and_reuses_them(tmp_path, capsys):
    comparison = run_demo(task="image", out=tmp_path, quick=True)
    folder = tmp_path / "image"
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "android-float.tflite",
        "android-int8.tflite",
        "iot-int8.tflite",
        "report.html",
        "report.json",
        "stages.json",
        "student-alone.keras",
        "student-distilled.keras",
        "teacher.keras",
    }
    rows = [row.name for row in comparison]
    assert rows[:3] == ["teacher", "student alone", "student distilled"]
    report = json.loads((folder / "report.json").read_text())
    assert [row["name"] for row in report["rows"]] == rows
    # Verified files decide as the student does, give or take int8 ties.
    student, exact = (
        comparison["student distilled"],
        comparison["android float"],
    )
    assert student.metrics == exact.metrics
    assert abs(comparison["iot int8"].metrics["accuracy"]
               - student.metrics["accuracy"]) < 0.02  # fmt: skip
    before = (folder / "teacher.keras").read_bytes()
    capsys.readouterr()
    again = run_demo(task="image", out=tmp_path, quick=True)
    assert capsys.readouterr().out.count("reusing") == 3
    assert (folder / "teacher.keras").read_bytes() == before
    assert again["teacher"].metrics == comparison["teacher"].metrics


@pytest.mark.slow
# keras-nlp models compile themselves when loaded and miss their optimizer.
@pytest.mark.filterwarnings("ignore:Skipping variable loading:UserWarning")
def test_text_demo_leaves_models_that_write(tmp_path):
    comparison = run_demo(task="text", out=tmp_path, quick=True)
    folder = tmp_path / "text"
    assert [row.name for row in comparison] == [
        "teacher",
        "student alone",
        "student distilled",
        "student int8 .tflite",
    ]
    distilled = comparison["student distilled"]
    shipped = comparison["student int8 .tflite"]
    # 512 tokens, hardly trained: below chance level, and int8 next to it.
    assert distilled.metrics["perplexity"] < 512
    np.testing.assert_allclose(
        shipped.metrics["perplexity"],
        distilled.metrics["perplexity"],
        rtol=0.02,
    )
    assert shipped.size_bytes < 0.5 * distilled.size_bytes
    student = keras.saving.load_model(folder / "student-distilled.keras")
    text = student.generate("A class definition", max_length=12)
    assert text.startswith("A class definition")
    assert "A class definition" in (folder / "report.html").read_text()


def test_writing_follows_the_likeliest_tokens():
    import kdtf.data

    tokenizer = kdtf.data.train_tokenizer("abc " * 50, vocabulary_size=258)
    settings = demo_text.TextSettings(seed=0, window=24)
    seen = []

    def always_x(ids):
        seen.append(ids.copy())
        logits = np.full((1, 24, 258), -100.0)
        logits[..., tokenizer.token_to_id("x")] = 100.0
        return logits

    text = demo_text.write(tokenizer, settings, always_x)
    assert text == "A class definition" + "x" * 6
    # Asked once for each new token, with all former ones in place.
    assert len(seen) == 6 and (seen[-1][0] != 0).sum() == 23


def test_unknown_task_is_refused():
    with pytest.raises(ValueError, match="'image'.*task='audio'"):
        run_demo(task="audio")
