import json
import re

import numpy as np
import pytest

from kdtf.cli import main
from kdtf.cli.arrays import read_arrays
from kdtf.cli.benchmark import row_names


def test_inspect_prints_what_is_in_a_file(models, capsys):
    assert main(["inspect", str(models / "tiny.keras")]) == 0
    assert re.search(r"logits +Dense +float32", capsys.readouterr().out)
    assert main(["inspect", str(models / "tiny.tflite")]) == 0
    assert "FULLY_CONNECTED" in capsys.readouterr().out


def test_export_writes_a_checked_file_and_prints_the_result(
    models, tmp_path, capsys
):
    path = tmp_path / "out.tflite"
    argv = ["export", str(models / "tiny.keras"), "-o", str(path)]
    argv += ["--data", str(models / "data.npz"), "--quantize", "float16"]
    assert main(argv) == 0
    assert path.read_bytes()[4:8] == b"TFL3"
    out = capsys.readouterr().out
    assert "out.tflite" in out and "float16" in out


def test_export_of_what_the_target_refuses_leaves_no_file(
    models, tmp_path, capsys
):
    path = tmp_path / "out.tflite"
    argv = ["export", str(models / "tiny.keras"), "-o", str(path)]
    assert main([*argv, "--target", "iot"]) == 2
    assert "representative_data" in capsys.readouterr().err
    assert not path.exists()


def test_benchmark_compares_files_and_writes_both_reports(
    models, tmp_path, capsys
):
    json_path, html_path = tmp_path / "r.json", tmp_path / "r.html"
    argv = ["benchmark", str(models / "tiny.keras")]
    argv += [str(models / "tiny.tflite"), "--data", str(models / "data.npz")]
    argv += ["--metric", "accuracy", "--runs", "3", "--threads", "2"]
    argv += ["--json", str(json_path), "--html", str(html_path)]
    assert main(argv) == 0
    out = capsys.readouterr().out
    assert "3 runs each" in out and f"wrote {json_path}" in out
    rows = json.loads(json_path.read_text())["rows"]
    assert [row["name"] for row in rows] == ["tiny.keras", "tiny.tflite"]
    # The labels are what the model itself said.
    assert [row["metrics"] for row in rows] == [{"accuracy": 1.0}] * 2
    assert rows[1]["agreement"] == 1.0
    assert rows[1]["latency"]["num_threads"] == 2
    assert "tiny.tflite" in html_path.read_text()


def test_benchmark_without_data_times_random_inputs(models, capsys):
    files = [str(models / "tiny.keras"), str(models / "tiny.tflite")]
    assert main(["benchmark", "--runs", "2", *files]) == 0
    out = capsys.readouterr().out
    assert "Agreement" not in out
    assert "2 runs each" in out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["inspect", "gone.keras"], "gone.keras"),
        (["inspect", "{corrupt}"], "corrupt.tflite"),
        (["benchmark", "{tflite}", "{corrupt}"], "corrupt.tflite"),
        (["benchmark", "{tflite}", "{tflite}"], "must be given once"),
        (["benchmark", "{tflite}", "--metric", "accuracy"], "data=None"),
        (
            ["benchmark", "{tflite}", "--data", "{data}", "--metric", "tact"],
            "metric='tact'",
        ),
        (["benchmark", "{tflite}", "--data", "gone.npz"], "gone.npz"),
        (["benchmark", "{tflite}", "--data", "{tflite}"], "must be an .npz"),
        (["export", "{tflite}", "-o", "o.tflite"], "cannot become a Keras"),
        (["export", "gone.keras", "-o", "o.tflite"], "gone.keras"),
    ],
)
def test_bad_input_gets_one_line_that_names_it(
    argv, message, models, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    corrupt = tmp_path / "corrupt.tflite"
    corrupt.write_bytes((models / "tiny.tflite").read_bytes()[:200])
    places = {
        "tflite": models / "tiny.tflite",
        "corrupt": corrupt,
        "data": models / "data.npz",
    }
    assert main([part.format(**places) for part in argv]) == 2
    err = capsys.readouterr().err
    assert err.startswith("kdtf: error: ")
    assert err.count("\n") == 1
    assert message in err
    assert not (tmp_path / "o.tflite").exists()


def test_one_array_is_the_input_and_y_the_labels(tmp_path):
    path = tmp_path / "data.npz"
    np.savez(path, x=np.ones((2, 3)), y=np.zeros(2))
    x, y, sample_weight = read_arrays(path)
    assert (x.shape, y.shape, sample_weight) == ((2, 3), (2,), None)


def test_named_arrays_are_a_dict_of_inputs(tmp_path):
    path = tmp_path / "data.npz"
    np.savez(path, ids=np.ones(2), mask=np.zeros(2), sample_weight=np.ones(2))
    x, y, sample_weight = read_arrays(path)
    assert sorted(x) == ["ids", "mask"]
    assert y is None
    assert sample_weight.tolist() == [1.0, 1.0]


def test_pickled_objects_are_refused(tmp_path):
    path = tmp_path / "objects.npz"
    np.savez(path, x=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ValueError, match="objects.npz.*allow_pickle=False"):
        read_arrays(path)


def test_a_single_array_file_is_refused(tmp_path):
    path = tmp_path / "one.npy"
    np.save(path, np.ones(3))
    with pytest.raises(ValueError, match=r"must be an \.npz file"):
        read_arrays(path)


def test_a_truncated_file_is_refused(tmp_path, models):
    path = tmp_path / "cut.npz"
    path.write_bytes((models / "data.npz").read_bytes()[:100])
    with pytest.raises(ValueError, match=r"cut\.npz"):
        read_arrays(path)


def test_labels_alone_are_no_inputs(tmp_path):
    path = tmp_path / "labels.npz"
    np.savez(path, y=np.ones(3))
    with pytest.raises(ValueError, match="without any"):
        read_arrays(path)


def test_names_are_short_unless_they_clash():
    assert row_names(["a/x.tflite", "y.keras"]) == ["x.tflite", "y.keras"]
    assert row_names(["a/x.tflite", "b/x.tflite"]) == [
        "a/x.tflite",
        "b/x.tflite",
    ]


def test_a_file_given_twice_is_refused():
    with pytest.raises(ValueError, match="given once"):
        row_names(["a.tflite", "a.tflite"])
