"""What the commands show of exported files beside their numbers."""

import json
import re

import pytest

from kdtf.cli import main
from kdtf.export import Metadata
from kdtf.export.metadata import attach
from kdtf.export.metadata import describe_model
from kdtf.export.web import runtime


@pytest.fixture(scope="session")
def litert_js(tmp_path_factory):
    """A folder in which npm seems to have installed LiteRT.js."""
    modules = tmp_path_factory.mktemp("npm") / "node_modules"
    for name in (*runtime._FILES, "@litertjs/core/package.json"):
        path = modules / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"version": "2.5.9"}))
    return modules.parent


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


def test_cloud_writes_a_saved_model_that_was_run(models, tmp_path, capsys):
    argv = ["export", str(models / "tiny.keras"), "--target", "cloud"]
    argv += ["--data", str(models / "data.npz")]
    assert main([*argv, "-o", str(tmp_path / "served")]) == 0
    out = capsys.readouterr().out
    assert "serving_default(features: float32 [None, 3])" in out
    assert (
        "verified on 40 samples of verify_data, in batches of 1 and 40" in out
    )
    assert (tmp_path / "served/saved_model.pb").exists()


def test_export_writes_a_web_page(models, tmp_path, litert_js, capsys):
    path, page = tmp_path / "out.tflite", tmp_path / "page"
    argv = ["export", str(models / "tiny.keras"), "-o", str(path)]
    argv += ["--web-page", str(page), "--web-runtime", str(litert_js)]
    assert main(argv) == 0
    assert f"http.server --bind 127.0.0.1 -d {page}" in capsys.readouterr().out
    assert (page / "model.tflite").read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    "options, message",
    [
        (["--target", "cloud", "--quantize", "int8"], "cloud.*--quantize"),
        (["--target", "cloud", "--sparse"], "Received: --sparse"),
        (["--target", "cloud", "--web-page", "p"], "Received: --web-page"),
        (
            ["--target", "cloud", "--sparse", "--android-project", "p"],
            "Received: --sparse, --android-project",
        ),
        (["--target", "cloud"], "-o .*out.tflite. Name a folder"),
        (["--target", "iot", "--web-page", "p"], "no int8 arrays"),
        (["--web-runtime", "npm"], "no --web-page"),
        (["--web-page", "p", "--web-runtime", "p"], "no @litertjs/core in 'p'"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    tmp_path, capsys, monkeypatch, options, message
):
    monkeypatch.chdir(tmp_path)
    # The model is not even looked for.
    argv = ["export", "none.keras", "-o", "out.tflite"]
    assert main([*argv, *options]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


def test_a_page_does_not_replace_other_files(
    tmp_path, litert_js, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.txt").write_text("mine")
    argv = ["export", "none.keras", "-o", "o.tflite", "--web-page", "."]
    assert main([*argv, "--web-runtime", str(litert_js)]) == 2
    assert "with mine.txt in it" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


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


def test_a_page_of_a_benchmark_links_to_models_to_try(
    models, tmp_path, litert_js, capsys
):
    page = tmp_path / "report.html"
    argv = [
        "benchmark",
        str(models / "tiny.keras"),
        str(models / "tiny.tflite"),
    ]
    argv += ["--runs", "2", "--html", str(page), "--try-it"]
    assert main([*argv, "--web-runtime", str(litert_js)]) == 0
    assert f"wrote {page}" in capsys.readouterr().out
    (link,) = re.findall(r'href="(\S+)">try it', page.read_text())
    model = (tmp_path / link).with_name("model.tflite")
    assert model.read_bytes() == (models / "tiny.tflite").read_bytes()


def test_trying_needs_a_page(capsys):
    assert main(["benchmark", "a.tflite", "--try-it"]) == 2
    assert "Received: no --html" in capsys.readouterr().err
