"""Writes a Gradle project that runs a `.tflite` file on Android."""

import json
import math
import os
import pathlib
import re
import shutil
import tempfile

import jinja2

from kdtf.export.metadata import ImageMetadata
from kdtf.export.metadata import Metadata
from kdtf.export.metadata import TextMetadata
from kdtf.export.metadata import read_metadata
from kdtf.flatbuffer import Signature
from kdtf.flatbuffer import TensorSpec
from kdtf.flatbuffer import describe

__all__ = ["check_directory", "write_android_project"]

_ASSET = "model.tflite"
_ENTRY = "serving_default"
_MAIN = "app/src/main"
# The project's files and their templates, but for the activity.
_FILES = {
    "README.md": "README.md",
    "build.gradle.kts": "build.gradle.kts",
    "gradle.properties": "gradle.properties",
    "settings.gradle.kts": "settings.gradle.kts",
    "app/build.gradle.kts": "app.gradle.kts",
    f"{_MAIN}/AndroidManifest.xml": "AndroidManifest.xml",
}
# What the methods of LiteRT's TensorBuffer are called, and what they take.
_KINDS = {
    "float32": ("Float", "FloatArray"),
    "int32": ("Int", "IntArray"),
    "int64": ("Long", "LongArray"),
    "int8": ("Int8", "ByteArray"),
    "bool": ("Boolean", "BooleanArray"),
}
_PACKAGE = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+")
# Words of Kotlin and Java that no part of a package may be.
_WORDS = frozenset(
    """
    abstract as assert boolean break byte case catch char class const continue
    default do double else enum extends false final finally float for fun goto
    if implements import in instanceof int interface is long native new null
    object package private protected public return short static super switch
    synchronized this throw throws transient true try typealias typeof val var
    void volatile when while
    """.split()
)
# By the template of the activity: what runs the model, and where Gradle gets
# it. Versions as of August 2026.
_RUNNERS = {
    "litert": (
        "LiteRT's CompiledModel, once on zeros",
        "com.google.ai.edge.litert:litert:2.3.0",
    ),
    "image": (
        "MediaPipe's ImageClassifier, which its metadata is for",
        "com.google.mediapipe:tasks-vision:0.10.35",
    ),
    "text": (
        "MediaPipe's TextClassifier, which its metadata is for",
        "com.google.mediapipe:tasks-text:0.10.35",
    ),
}


def write_android_project(
    tflite_path: str | os.PathLike[str],
    directory: str | os.PathLike[str],
    *,
    package: str = "org.example.kdtf",
) -> pathlib.Path:
    """Writes a minimal Kotlin app that has a `.tflite` file in it and runs it.

    With MediaPipe Tasks if the file has `ImageMetadata` or `TextMetadata`,
    else with LiteRT, by the names and shapes of its signature. The project is
    checked for its structure only: kdtf compiles nothing, since that takes
    the Android SDK; its README says so too. (The three activities were
    compiled once, by Kotlin 2.4 with LiteRT's own Kotlin sources and
    stand-ins for the classes of Android and MediaPipe.)

    Args:
        tflite_path: The file, such as `export_tflite` writes.
        directory: Where the project shall be; it may not be there yet, or be
            empty.
        package: The app's Java package. Defaults to "org.example.kdtf".

    Returns:
        The folder of the project.

    Raises:
        FileNotFoundError: There is no such file.
        FileExistsError: There is something in `directory`.
        ValueError: The file is no `.tflite`, has no signature with fixed
            shapes, or `package` is no package's name.

    Example:
        >>> import keras
        >>> from kdtf.export import export_tflite
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> _ = export_tflite(model, folder / "line.tflite")
        >>> app = write_android_project(folder / "line.tflite", folder / "app")
        >>> sorted(path.name for path in app.iterdir())[:3]
        ['README.md', 'app', 'build.gradle.kts']
    """
    _check_package(package)
    target = check_directory(directory)
    signature = _signature(tflite_path)
    metadata = read_metadata(tflite_path)
    kind = _kind(metadata)
    if kind == "litert":
        _check_types(signature)
    runs_with, library = _RUNNERS[kind]
    values = {
        "package": package,
        "asset": _ASSET,
        "file": pathlib.Path(tflite_path).name,
        "signature": signature,
        "metadata": metadata or "The file has no metadata.",
        "kinds": _KINDS,
        "runs_with": runs_with,
        "library": library,
    }
    source = f"{_MAIN}/java/{package.replace('.', '/')}/MainActivity.kt"
    files = {**_FILES, source: f"{kind}.kt"}
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        prefix=f".{target.name}-", dir=target.parent
    ) as folder:
        # One level deeper: it moves away from under the context manager.
        written = pathlib.Path(folder, "project")
        environment = _environment()
        for name, template in files.items():
            text = environment.get_template(template).render(values)
            _file(written / name).write_text(text, encoding="utf-8")
        shutil.copyfile(tflite_path, _file(written / _MAIN / "assets" / _ASSET))
        written.replace(target)
    return target


def check_directory(directory: str | os.PathLike[str]) -> pathlib.Path:
    """Returns the path of a folder that a project can be written to.

    Raises:
        FileExistsError: There is something in `directory`, or it is a file.
    """
    target = pathlib.Path(directory)
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise FileExistsError(
            "`directory` must not be there yet, or be empty. Received: "
            f"directory={os.fspath(directory)!r}. Choose another name."
        )
    return target


def _check_package(package: str) -> None:
    is_name = isinstance(package, str) and _PACKAGE.fullmatch(package)
    if not is_name or _WORDS.intersection(package.split(".")):
        raise ValueError(
            "`package` must be two or more words of small letters, digits and "
            "underscores with dots between, none a word of Kotlin or Java. "
            f"Received: package={package!r}. Use one like 'org.example.kdtf'."
        )


def _signature(path: str | os.PathLike[str]) -> Signature:
    known = {s.key: s for s in describe(path).signatures}
    signature = known.get(_ENTRY) or next(iter(known.values()), None)
    specs = signature.inputs + signature.outputs if signature else ()
    if signature is None or any(None in spec.shape for spec in specs):
        raise ValueError(
            "The file must have a signature with fixed shapes. Received: "
            f"path={os.fspath(path)!r} with {list(known.values())}. Write one "
            "with `export_tflite`."
        )
    return signature


def _kind(metadata: Metadata | None) -> str:
    if isinstance(metadata, ImageMetadata):
        return "image"
    return "text" if isinstance(metadata, TextMetadata) else "litert"


def _check_types(signature: Signature) -> None:
    specs = signature.inputs + signature.outputs
    wrong = {s.name: s.dtype for s in specs if s.dtype not in _KINDS}
    if wrong:
        raise ValueError(
            "LiteRT's Kotlin buffers take the types "
            f"{list(_KINDS)}. Received: {wrong}. Export a model with such "
            "inputs and outputs."
        )


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("kdtf.export.android", "templates"),
        # What it writes is Kotlin, where `&amp;` would be an error; the one
        # value in XML is a checked package name.
        autoescape=False,  # noqa: S701
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(kotlin=_kotlin, count=math.prod, grid=_grid)
    return environment


def _kotlin(text: str) -> str:
    """Writes a text as Kotlin does, where a dollar begins a variable."""
    return json.dumps(text).replace("$", "\\$")


def _grid(spec: TensorSpec) -> str:
    if spec.scale is None:
        return ""
    return f", real = (int - {spec.zero_point}) * {spec.scale:.9g}"


def _file(path: pathlib.Path) -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
