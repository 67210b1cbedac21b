"""Reads a model from whatever file it lies in."""

import contextlib
import os
import pathlib
import warnings
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any
from typing import Literal

import keras

FileKind = Literal["keras", "h5", "tflite"]


def file_kind(path: str | os.PathLike[str]) -> FileKind:
    """Tells what a model file is by its first bytes, whatever its name.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no model file this package reads.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        found = "a folder" if path.is_dir() else "nothing there"
        raise FileNotFoundError(
            f"A model file must exist. Received: path={str(path)!r} ({found})."
        )
    with path.open("rb") as file:
        head = file.read(8)
    if head[4:8] == b"TFL3":
        return "tflite"
    if head[:2] == b"PK":
        return "keras"
    if head == b"\x89HDF\r\n\x1a\n":
        return "h5"
    raise ValueError(
        "A model file must be a .keras, .h5 or .tflite file. Received: "
        f"path={str(path)!r}, which starts with {head!r}: it is damaged or "
        "something else."
    )


def load_keras_model(path: str | os.PathLike[str]) -> Any:
    """Loads a `.keras` or `.h5` file, uncompiled and in safe mode.

    Keras 3 is tried first; what only legacy Keras can read is loaded with
    `tf_keras`. Code inside the file (a `Lambda` layer's) is refused by both.

    Args:
        path: The file.

    Returns:
        A `keras.Model`, or a `tf_keras.Model`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Neither Keras can read it; says what each found.

    Example:
        >>> import keras, os, tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "tiny.keras")
        >>> layers = [keras.Input((3,)), keras.layers.Dense(2)]
        >>> keras.Sequential(layers, name="tiny").save(path)
        >>> load_keras_model(path).name
        'tiny'
    """
    kind = file_kind(path)
    if kind == "tflite":
        raise ValueError(
            "A Keras model file must be a .keras or .h5 file. Received: "
            f"path={str(path)!r}, which is a .tflite file: it cannot become "
            "a Keras model again; pass the one it was made from."
        )
    reasons = []
    loaders: dict[str, Callable[[Any], Any]] = {
        "Keras 3": _load_with_keras,
        "tf_keras": _load_with_tf_keras,
    }
    with _named_by_content(pathlib.Path(path), kind) as readable:
        for loader_name, load in loaders.items():
            try:
                return load(readable)
            # Loaders raise whatever a damaged or foreign file leads them
            # to; every reason is given below.
            except Exception as error:
                reasons.append(f"{loader_name}: {_first_sentence(error)}")
    raise ValueError(
        "A model file must be loadable by Keras 3 or tf_keras. Received: "
        f"path={str(path)!r}. {'; '.join(reasons)}. If you know its classes, "
        "or trust code in it, load it yourself and pass the model."
    )


def _load_with_keras(path: pathlib.Path) -> Any:
    with warnings.catch_warnings():
        # They address whoever wrote the model's code, not its reader.
        warnings.simplefilter("ignore")
        return keras.saving.load_model(path, compile=False, safe_mode=True)


def _load_with_tf_keras(path: pathlib.Path) -> Any:
    import tf_keras

    # load_model(safe_mode=True) covers .keras files only: a Lambda in an .h5
    # file is run unless this scope, which has no public name, says no.
    from tf_keras.src.saving.serialization_lib import SafeModeScope

    with warnings.catch_warnings(), SafeModeScope(True):
        warnings.simplefilter("ignore")
        return tf_keras.models.load_model(path, compile=False)


@contextlib.contextmanager
def _named_by_content(
    path: pathlib.Path, kind: FileKind
) -> Iterator[pathlib.Path]:
    """Gives the file a name whose suffix says what it is, as Keras needs."""
    import tempfile

    suffixes = {"keras": {".keras"}, "h5": {".h5", ".hdf5"}}[kind]
    if path.suffix in suffixes:
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        link = pathlib.Path(folder, f"model.{kind}")
        link.symlink_to(path.resolve())
        yield link


def _first_sentence(error: Exception) -> str:
    """Shortens Keras's page-long messages, which print whole configs."""
    text = " ".join(str(error).split()) or type(error).__name__
    sentence = text.split(". ", 1)[0].rstrip(".")
    return sentence if len(sentence) <= 160 else f"{sentence[:157]}..."
