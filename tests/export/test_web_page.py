"""The page's folder, without a browser: tests/deploy/test_web.py has one."""

import json
import re
import subprocess

import keras
import numpy as np
import pytest

from kdtf.export import ExportError
from kdtf.export import TextMetadata
from kdtf.export import export_tflite
from kdtf.export import write_web_page
from kdtf.export.web import runtime as runtimes
from kdtf.export.web.inputs import text_spec
from kdtf.flatbuffer import TensorSpec


@pytest.fixture
def runtime(tmp_path):
    """A folder in which npm seems to have installed LiteRT.js."""
    modules = tmp_path / "app" / "node_modules"
    for name in (*runtimes._FILES, "@litertjs/core/package.json"):
        path = modules / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    facts = {"name": "@litertjs/core", "version": "2.5.9"}
    (modules / "@litertjs/core/package.json").write_text(json.dumps(facts))
    return modules


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A picture and three numbers in; scores and two numbers out."""
    layers = keras.layers
    image = keras.Input((8, 9, 1), name="image")
    more = keras.Input((3,), name="more")
    both = layers.Concatenate()([layers.Flatten()(image), more])
    outputs = {"scores": layers.Dense(4)(both), "pair": layers.Dense(2)(both)}
    path = tmp_path_factory.mktemp("web") / "two<b>.tflite"
    return export_tflite(keras.Model([image, more], outputs), path).path


def spec_in(page):
    text = (page.path / "index.html").read_text()
    return json.loads(re.search(r"const spec = (.*);", text)[1])


def test_the_folder_holds_all_it_needs(tmp_path, file, runtime):
    page = write_web_page(file, tmp_path / "page", runtime=runtime)
    files = sorted(
        str(path.relative_to(page.path))
        for path in page.path.rglob("*")
        if path.is_file()
    )
    assert files == [
        "index.html",
        "litert/core.js",
        "litert/wasm-utils.js",
        "litert/wasm/litert_wasm_compat_internal.js",
        "litert/wasm/litert_wasm_compat_internal.wasm",
        "litert/wasm/litert_wasm_internal.js",
        "litert/wasm/litert_wasm_internal.wasm",
        "model.tflite",
        "wordpiece.js",
    ]
    assert (page.path / "model.tflite").read_bytes() == file.read_bytes()
    core = (page.path / "litert/core.js").read_text()
    assert core == "@litertjs/core/dist/index.js"
    sizes = [f.stat().st_size for f in page.path.rglob("*") if f.is_file()]
    assert (page.size_bytes, page.model_bytes) == (
        sum(sizes),
        file.stat().st_size,
    )
    assert page.runtime_version == "2.5.9"
    assert f"http.server --bind 127.0.0.1 -d {page.path}" in str(page)
    # Nothing is fetched from elsewhere.
    assert "http" not in (page.path / "index.html").read_text()


def test_the_page_knows_names_types_and_pictures(tmp_path, file, runtime):
    page = write_web_page(
        file,
        tmp_path / "page",
        runtime=runtime,
        labels=["a", "</script>", "c", "d"],
        mean=[1, 2, 3],
        std=127.5,
    )
    assert spec_in(page) == {
        "inputs": [
            {
                "name": "image",
                "dtype": "float32",
                "shape": [1, 8, 9, 1],
                "kind": "picture",
            },
            {
                "name": "more",
                "dtype": "float32",
                "shape": [1, 3],
                "kind": "numbers",
            },
        ],
        "outputs": [
            {"name": "scores", "dtype": "float32", "shape": [1, 4]},
            {"name": "pair", "dtype": "float32", "shape": [1, 2]},
        ],
        "labels": ["a", "</script>", "c", "d"],
        "mean": [1.0, 2.0, 3.0],
        "std": [127.5, 127.5, 127.5],
        "text": None,
    }
    text = (page.path / "index.html").read_text()
    assert text.count("</script>") == 2
    # The file's name is the heading, and no tag.
    assert "<h1>two&lt;b&gt;</h1>" in text


def test_what_the_file_says_of_itself_is_taken(tmp_path, runtime):
    from kdtf.export import ImageMetadata

    image = keras.Input((8, 8, 3), name="image")
    scores = keras.layers.Dense(2)(keras.layers.Flatten()(image))
    said = ImageMetadata(labels=["cat", "dog"], mean=9.0, std=3.0)
    path = tmp_path / "m.tflite"
    export_tflite(keras.Model(image, scores), path, metadata=said)
    spec = spec_in(write_web_page(path, tmp_path / "page", runtime=runtime))
    assert spec["labels"] == ["cat", "dog"]
    assert (spec["mean"], spec["std"]) == ([9.0] * 3, [3.0] * 3)


def int32_specs(*names, shape=(1, 8)):
    return [TensorSpec(name=n, dtype="int32", shape=shape) for n in names]


@pytest.mark.parametrize(
    "names",
    [
        ("token_ids", "segment_ids", "padding_mask"),
        ("input_ids", "token_type_ids", "attention_mask"),
        ("input_word_ids", "input_type_ids", "input_mask"),
        ("ids", "segment_ids", "mask"),
    ],
)
def test_a_text_becomes_the_three_inputs_of_a_bert(names):
    tokens = ["[UNK]", "[CLS]", "[SEP]"]
    spec = text_spec(TextMetadata(tokenizer=tokens), int32_specs(*names))
    parts = dict(zip(("ids", "segments", "mask"), names, strict=True))
    assert spec == {"vocabulary": tokens, "inputs": parts, "length": 8}


def test_without_a_vocabulary_or_its_inputs_there_is_no_text():
    names = ("token_ids", "segment_ids", "padding_mask")
    said = TextMetadata(tokenizer=["[UNK]", "[CLS]", "[SEP]"])
    assert text_spec(None, int32_specs(*names)) is None
    assert text_spec(TextMetadata(), int32_specs(*names)) is None
    assert text_spec(said, int32_specs("ids", "mask")) is None
    assert text_spec(said, int32_specs("ids", "more", "mask")) is None
    assert text_spec(said, int32_specs(*names, shape=(8,))) is None
    assert text_spec(said, int32_specs(*names, shape=(1, 1))) is None


def test_pixels_become_zero_to_one_by_default(tmp_path, file, runtime):
    spec = spec_in(write_web_page(file, tmp_path / "page", runtime=runtime))
    assert (spec["mean"], spec["std"]) == ([0.0] * 3, [255.0] * 3)
    assert spec["labels"] == []


def test_the_runtime_is_looked_for_as_node_does(
    tmp_path, file, runtime, monkeypatch
):
    below = runtime.parent / "src" / "deep"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    page = write_web_page(file, tmp_path / "page")
    assert page.runtime_version == "2.5.9"
    assert runtimes.find_runtime(runtime.parent) == runtime


def test_a_missing_runtime_is_told(tmp_path, file, runtime, monkeypatch):
    with pytest.raises(ValueError, match="`runtime='npm'` to have that done"):
        write_web_page(file, tmp_path / "page", runtime=tmp_path)
    (runtime / "@litertjs/wasm-utils/dist/index.js").unlink()
    with pytest.raises(
        ValueError, match="where @litertjs/wasm-utils.* missing"
    ):
        write_web_page(file, tmp_path / "page", runtime=runtime)
    monkeypatch.setattr(runtimes.shutil, "which", lambda name: None)
    with pytest.raises(ValueError, match="no `npm` on the path"):
        write_web_page(file, tmp_path / "page", runtime="npm")
    assert not (tmp_path / "page").exists()


def test_npms_words_are_passed_on(tmp_path, file, monkeypatch):
    monkeypatch.setattr(runtimes.shutil, "which", lambda name: "/bin/npm")
    failed = subprocess.CompletedProcess([], 1, stdout="", stderr="no network")
    commands = []
    monkeypatch.setattr(
        runtimes.subprocess,
        "run",
        lambda command, **options: commands.append(command) or failed,
    )
    with pytest.raises(ExportError, match="code 1: no network"):
        write_web_page(file, tmp_path / "page", runtime="npm")
    assert commands[0][:2] == ["/bin/npm", "install"]
    assert commands[0][-1] == "@litertjs/core@2.5.3"
    assert not (tmp_path / "page").exists()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"labels": ["a"]}, r"1 labels for outputs of \[2, 4\] numbers"),
        ({"mean": [1, 2]}, r"`mean` must be one finite number, or three"),
        ({"mean": np.nan}, "mean=nan"),
        ({"std": [1, 0, 1]}, r"`std` must not be 0"),
    ],
)
def test_wrong_arguments_are_refused(
    tmp_path, file, runtime, arguments, message
):
    with pytest.raises(ValueError, match=message):
        write_web_page(file, tmp_path / "page", runtime=runtime, **arguments)
    assert not (tmp_path / "page").exists()


def test_files_for_microcontrollers_are_refused(tmp_path, rng, runtime):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    x = rng.normal(size=(20, 4)).astype("float32")
    path = tmp_path / "iot.tflite"
    export_tflite(model, path, target="iot", representative_data=x)
    with pytest.raises(ValueError, match=r"'input_0' of int8 \[1, 4\]"):
        write_web_page(path, tmp_path / "page", runtime=runtime)


def test_other_files_are_not_replaced(tmp_path, file, runtime):
    write_web_page(file, tmp_path / "page", runtime=runtime)
    write_web_page(file, tmp_path / "page", runtime=runtime, title="Again")
    text = (tmp_path / "page" / "index.html").read_text()
    assert "<h1>Again</h1>" in text
    (tmp_path / "page" / "style.css").write_text("mine")
    with pytest.raises(ValueError, match="style.css"):
        write_web_page(file, tmp_path / "page", runtime=runtime)
    assert (tmp_path / "page" / "style.css").read_text() == "mine"
