"""The sample app: its structure, since no Android SDK is here."""

import os
import re
import xml.etree.ElementTree

import keras
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from kdtf.export import ImageMetadata
from kdtf.export import Metadata
from kdtf.export import TextMetadata
from kdtf.export import export_tflite
from kdtf.export import write_android_project
from kdtf.export.android.project import _kotlin
from kdtf.export.metadata import attach
from kdtf.export.metadata import describe_model
from kdtf.flatbuffer import TensorSpec
from kdtf.flatbuffer import read_model
from kdtf.flatbuffer import write_model

ANDROID = "{http://schemas.android.com/apk/res/android}"
TOKENS = ["[UNK]", "[CLS]", "[SEP]"]


@pytest.fixture(scope="module")
def tflite(tmp_path_factory):
    """A file with a picture and ids, the first under a name with a dollar."""
    inputs = {
        "a$picture": keras.Input((8, 6, 3), name="a$picture"),
        "ids": keras.Input((2,), dtype="int32", name="ids"),
    }
    pooled = keras.layers.GlobalAveragePooling2D()(inputs["a$picture"])
    numbers = keras.ops.cast(inputs["ids"], "float32")
    outputs = {"scores": pooled[:, :2] + numbers}
    path = tmp_path_factory.mktemp("android") / "two inputs.tflite"
    export_tflite(keras.Model(inputs, outputs), path)
    return path


@pytest.fixture
def with_metadata(tflite, tmp_path):
    """Gives the file with metadata, whether they fit or not."""

    def make(said, *specs):
        outputs = {"scores": np.zeros((1, 2))}
        described = describe_model(said, None, inputs=specs, outputs=outputs)
        path = tmp_path / "described.tflite"
        path.write_bytes(attach(tflite.read_bytes(), described))
        return path

    return make


def files_in(folder):
    found = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path.relative_to(folder).as_posix() for path in found)


def activity_of(folder):
    (path,) = folder.rglob("MainActivity.kt")
    return path.read_text()


def assert_balanced(code):
    """Checks the brackets, and that a list's last comma closes it."""
    plain = re.sub(r'"(\\.|[^"\\])*"|//[^\n]*|/\*.*?\*/', "", code)
    open_ones = []
    for sign in plain:
        if sign in "({[":
            open_ones.append(sign)
        elif sign in ")}]":
            assert open_ones, code
            assert open_ones.pop() + sign in ("()", "{}", "[]")
    assert not open_ones
    assert "{{" not in code and "{%" not in code


def test_the_project_has_what_gradle_looks_for(tflite, tmp_path):
    folder = write_android_project(
        tflite, tmp_path / "new" / "app", package="com.acme.my_app"
    )
    assert folder == tmp_path / "new" / "app"
    assert files_in(folder) == [
        "README.md",
        "app/build.gradle.kts",
        "app/src/main/AndroidManifest.xml",
        "app/src/main/assets/model.tflite",
        "app/src/main/java/com/acme/my_app/MainActivity.kt",
        "build.gradle.kts",
        "gradle.properties",
        "settings.gradle.kts",
    ]
    assert os.listdir(folder.parent) == ["app"]
    asset = folder / "app/src/main/assets/model.tflite"
    assert asset.read_bytes() == tflite.read_bytes()
    assert 'include(":app")' in (folder / "settings.gradle.kts").read_text()
    build = (folder / "app/build.gradle.kts").read_text()
    assert 'namespace = "com.acme.my_app"' in build
    assert 'noCompress += "tflite"' in build
    for path in folder.rglob("*.kt*"):
        assert_balanced(path.read_text())


def test_the_manifest_starts_the_activity(tflite, tmp_path):
    folder = write_android_project(tflite, tmp_path / "app")
    path = folder / "app/src/main/AndroidManifest.xml"
    root = xml.etree.ElementTree.parse(path).getroot()
    activity = root.find("application/activity")
    assert activity.get(f"{ANDROID}name") == ".MainActivity"
    assert activity.get(f"{ANDROID}exported") == "true"
    names = [item.get(f"{ANDROID}name") for item in activity.iter()]
    assert "android.intent.action.MAIN" in names
    assert activity_of(folder).startswith("package org.example.kdtf\n")


def test_litert_is_called_with_the_signatures_names(tflite, tmp_path):
    folder = write_android_project(tflite, tmp_path / "app")
    code = activity_of(folder)
    assert 'private const val SIGNATURE = "serving_default"' in code
    assert 'model.createInputBuffer("a\\$picture", SIGNATURE)' in code
    assert "// float32, shape [1, 8, 6, 3]" in code
    assert ".writeFloat(FloatArray(144))" in code
    assert "// int32, shape [1, 2]" in code
    assert ".writeInt(IntArray(2))" in code
    assert 'outputs.getValue("scores")\n' in code and ".readFloat()" in code
    build = (folder / "app/build.gradle.kts").read_text()
    assert "com.google.ai.edge.litert:litert:" in build
    assert "mediapipe" not in code + build


def test_the_readme_says_what_was_not_done(tflite, tmp_path):
    folder = write_android_project(tflite, tmp_path / "app")
    text = (folder / "README.md").read_text()
    assert "# Sample for `two inputs.tflite`" in text
    assert "Not compiled where it was written" in text
    assert "- input `ids`: int32, shape [1, 2]" in text
    assert "- output `scores`: float32, shape [1, 2]" in text
    assert "no metadata" in text


def test_pictures_go_to_mediapipe(with_metadata, tmp_path):
    said = ImageMetadata(name="shapes", mean=0, std=1)
    picture = TensorSpec(name="x", dtype="float32", shape=(1, 8, 6, 3))
    folder = write_android_project(
        with_metadata(said, picture), tmp_path / "app"
    )
    code = activity_of(folder)
    assert_balanced(code)
    assert "ImageClassifier.createFromFile(this, MODEL)" in code
    assert "HEIGHT = 8\nprivate const val WIDTH = 6" in code
    build = (folder / "app/build.gradle.kts").read_text()
    assert "com.google.mediapipe:tasks-vision:" in build
    assert "'shapes'" in (folder / "README.md").read_text()


def test_texts_go_to_mediapipe(with_metadata, tmp_path):
    specs = [
        TensorSpec(name=name, dtype="int32", shape=(1, 5))
        for name in ("ids", "mask", "segment_ids")
    ]
    path = with_metadata(TextMetadata(tokenizer=TOKENS), *specs)
    folder = write_android_project(path, tmp_path / "app")
    code = activity_of(folder)
    assert_balanced(code)
    assert "TextClassifier.createFromFile(this, MODEL)" in code
    build = (folder / "app/build.gradle.kts").read_text()
    assert "com.google.mediapipe:tasks-text:" in build


def test_plain_metadata_stays_with_litert(with_metadata, tmp_path):
    spec = TensorSpec(name="x", dtype="int8", shape=(1,))
    path = with_metadata(Metadata(author="me"), spec)
    folder = write_android_project(path, tmp_path / "app")
    assert "CompiledModel" in activity_of(folder)


@pytest.mark.parametrize(
    "text, wanted",
    [
        ("a", '"a"'),
        ("$x", '"\\$x"'),
        ('a"b\\', '"a\\"b\\\\"'),
        ("é", '"\\u00e9"'),
    ],
)
def test_names_are_written_as_kotlin_writes_them(text, wanted):
    assert _kotlin(text) == wanted


@pytest.mark.parametrize(
    "package",
    ["app", "Org.example", "org.1a", "org.in.app", "a..b", "a.b ", "a/b", 3],
)
def test_package_names_are_checked(tflite, tmp_path, package):
    with pytest.raises(ValueError, match="`package` must be two or more words"):
        write_android_project(tflite, tmp_path / "app", package=package)
    assert not (tmp_path / "app").exists()


def test_a_folder_with_something_in_it_is_left_alone(tflite, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="not be there yet, or be empty"):
        write_android_project(tflite, tmp_path)
    with pytest.raises(FileExistsError, match="mine.txt"):
        write_android_project(tflite, tmp_path / "mine.txt")
    assert os.listdir(tmp_path) == ["mine.txt"]


def test_an_empty_folder_is_taken(tflite, tmp_path):
    (tmp_path / "app").mkdir()
    write_android_project(tflite, tmp_path / "app")
    assert "README.md" in os.listdir(tmp_path / "app")


def test_a_failure_leaves_nothing(tflite, tmp_path, monkeypatch):
    def fail(*arguments):
        raise OSError("disk full")

    monkeypatch.setattr("shutil.copyfile", fail)
    with pytest.raises(OSError, match="disk full"):
        write_android_project(tflite, tmp_path / "app")
    assert os.listdir(tmp_path) == []


def edited(tflite, tmp_path, edit):
    model = read_model(tflite.read_bytes())
    edit(model)
    path = tmp_path / "edited.tflite"
    path.write_bytes(write_model(model))
    return path


def test_files_without_a_signature_are_refused(tflite, tmp_path):
    def edit(model):
        model.signatureDefs = []

    path = edited(tflite, tmp_path, edit)
    with pytest.raises(ValueError, match="must have a signature.*edited"):
        write_android_project(path, tmp_path / "app")


def test_free_shapes_are_refused(tflite, tmp_path):
    def edit(model):
        graph = model.subgraphs[0]
        graph.tensors[graph.inputs[0]].shapeSignature = [-1, 8, 6, 3]

    path = edited(tflite, tmp_path, edit)
    with pytest.raises(ValueError, match="with fixed shapes"):
        write_android_project(path, tmp_path / "app")


def test_types_without_a_kotlin_method_are_refused(tflite, tmp_path):
    def edit(model):
        graph = model.subgraphs[0]
        graph.tensors[graph.inputs[0]].type = schema.TensorType.UINT8

    path = edited(tflite, tmp_path, edit)
    with pytest.raises(ValueError, match=r"'int8'.*\{'a\$picture': 'uint8'\}"):
        write_android_project(path, tmp_path / "app")
