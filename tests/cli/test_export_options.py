"""What the commands show of exported files beside their numbers."""

from kdtf.cli import main
from kdtf.export import Metadata
from kdtf.export.metadata import attach
from kdtf.export.metadata import describe_model


def test_export_writes_an_android_project(models, tmp_path, capsys):
    path, app = tmp_path / "out.tflite", tmp_path / "app"
    argv = ["export", str(models / "tiny.keras"), "-o", str(path)]
    assert main([*argv, "--android-project", str(app)]) == 0
    assert "app: an Android project" in capsys.readouterr().out
    asset = app / "app/src/main/assets/model.tflite"
    assert asset.read_bytes() == path.read_bytes()


def test_a_full_project_folder_is_refused_before_the_export(
    models, tmp_path, capsys
):
    (tmp_path / "mine.txt").write_text("mine")
    path = tmp_path / "out.tflite"
    argv = ["export", str(models / "tiny.keras"), "-o", str(path)]
    assert main([*argv, "--android-project", str(tmp_path)]) == 2
    assert "must not be there yet" in capsys.readouterr().err
    assert not path.exists()


def test_inspect_shows_delegates_when_asked(tiny_tflite, capsys):
    assert main(["inspect", str(tiny_tflite)]) == 0
    assert "xnnpack" not in capsys.readouterr().out
    assert main(["inspect", str(tiny_tflite), "--delegates"]) == 0
    out = capsys.readouterr().out
    assert "xnnpack: 2 of 2 operators" in out
    assert "nnapi: 2 of 2 operators" in out


def test_inspect_shows_metadata(tiny_tflite, tmp_path, capsys):
    described = describe_model(
        Metadata(author="me"), None, inputs=(), outputs={}
    )
    path = tmp_path / "said.tflite"
    path.write_bytes(attach(tiny_tflite.read_bytes(), described))
    assert main(["inspect", str(path)]) == 0
    assert "Metadata: author 'me'" in capsys.readouterr().out
