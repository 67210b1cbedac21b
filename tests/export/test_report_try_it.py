"""A report whose rows can be tried in the browser."""

import json
import re

import keras
import pytest

from kdtf.evaluation import Comparison
from kdtf.evaluation import Row
from kdtf.export import export_tflite
from kdtf.export.web import runtime as runtimes


@pytest.fixture(scope="module")
def runtime(tmp_path_factory):
    """A folder in which npm seems to have installed LiteRT.js."""
    modules = tmp_path_factory.mktemp("npm") / "node_modules"
    for name in (*runtimes._FILES, "@litertjs/core/package.json"):
        path = modules / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"version": "2.5.9"}))
    return modules


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    path = tmp_path_factory.mktemp("file") / "m.tflite"
    return export_tflite(model, path).path


def comparison_of(*names):
    sizes = {
        "num_parameters": 8,
        "num_nonzero": 8,
        "size_bytes": 9,
        "gzip_size_bytes": 9,
    }
    rows = [Row(name=name, kind="tflite", **sizes) for name in names]
    return Comparison(rows=tuple(rows))


def test_rows_link_to_pages_beside_the_report(tmp_path, runtime, file):
    path = comparison_of("float", "int8 <b>/x", "other").to_html(
        tmp_path / "r.html",
        try_it={"float": file, "int8 <b>/x": file},
        runtime=runtime,
    )
    links = re.findall(r'<a href="([^"]*)">try it</a>', path.read_text())
    assert links == [
        "r-try-it/1-float/index.html",
        "r-try-it/2-int8-b-x/index.html",
    ]
    assert "python -m http.server" in path.read_text()
    for link in links:
        page = tmp_path / link
        model = page.with_name("model.tflite")
        assert model.read_bytes() == file.read_bytes()
    assert "<h1>int8 &lt;b&gt;/x</h1>" in page.read_text()
    # A report is written again over an older one.
    comparison_of("float").to_html(
        path, try_it={"float": file}, runtime=runtime
    )
    assert path.read_text().count("try it</a>") == 1


def test_without_files_there_is_nothing_to_try(tmp_path):
    path = comparison_of("float").to_html(tmp_path / "r.html")
    assert "<a " not in path.read_text()
    assert [p.name for p in tmp_path.iterdir()] == ["r.html"]


def test_rows_that_are_not_there_are_refused(tmp_path, runtime, file):
    with pytest.raises(ValueError, match=r"\['float'\]. Received: \['int9'\]"):
        comparison_of("float").to_html(
            tmp_path / "r.html", try_it={"int9": file}, runtime=runtime
        )
    with pytest.raises(ValueError, match="npm install"):
        comparison_of("float").to_html(
            tmp_path / "r.html", try_it={"float": file}, runtime=tmp_path
        )
    assert not list(tmp_path.iterdir())
