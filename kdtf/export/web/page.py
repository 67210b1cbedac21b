"""Writes the page: the model, LiteRT.js and a form to try it with."""

import contextlib
import dataclasses
import math
import os
import pathlib
import shutil
import tempfile
from collections.abc import Sequence
from typing import Any

import jinja2
import numpy as np

from kdtf.console import format_bytes
from kdtf.export.metadata import ImageMetadata
from kdtf.export.metadata import TextMetadata
from kdtf.export.metadata import read_metadata
from kdtf.export.web.inputs import facts
from kdtf.export.web.inputs import input_spec
from kdtf.export.web.inputs import text_spec
from kdtf.export.web.runtime import NPM
from kdtf.export.web.runtime import copy_runtime
from kdtf.export.web.runtime import find_runtime
from kdtf.export.web.runtime import install_runtime
from kdtf.files import whole_folder
from kdtf.flatbuffer import FileDescription
from kdtf.flatbuffer import Signature
from kdtf.flatbuffer import TensorSpec
from kdtf.flatbuffer import describe

__all__ = ["WebPage", "check_page", "write_web_page"]

_TOKENIZER = "wordpiece.js"
NAMES = frozenset({"index.html", "model.tflite", "litert", _TOKENIZER})
# What LiteRT.js has arrays for.
_DTYPES = ("float32", "int32", "uint8")
# Pixels in [0, 255] become [0, 1] if nobody says how the model was trained.
_MEAN, _STD = 0.0, 255.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class WebPage:
    """A folder for a web server; prints how to look at it.

    Args:
        path: The folder; its page is `index.html`.
        size_bytes: Of all its files together.
        model_bytes: Of the model.
        runtime_version: LiteRT.js's.
    """

    path: pathlib.Path
    size_bytes: int
    model_bytes: int
    runtime_version: str

    def __str__(self) -> str:
        """Returns sizes, and a command that serves the page."""
        return (
            f"{self.path}: {format_bytes(self.size_bytes)}, of which the model "
            f"{format_bytes(self.model_bytes)}; LiteRT.js "
            f"{self.runtime_version}\n"
            f"  look at it: python -m http.server --bind 127.0.0.1 -d "
            f"{self.path}, then http://127.0.0.1:8000"
        )


def write_web_page(
    path: str | os.PathLike[str],
    directory: str | os.PathLike[str],
    *,
    runtime: str | os.PathLike[str] | None = None,
    title: str | None = None,
    labels: Sequence[str] | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
) -> WebPage:
    """Writes a folder with a web page that runs a `.tflite` in the browser.

    The page holds the model and LiteRT.js, and needs nothing from other
    servers. It has a field to draw or load a picture for inputs that look
    like one, a field for text if the file has a BERT vocabulary
    (`TextMetadata`; it is split as keras-nlp's `BertTokenizer` with
    `lowercase=True` does), numbers for others, and the outputs as bars or
    numbers; scripts call `await kdtf.run({name: numbers})`. It must come from
    a web server: browsers load no WebAssembly from `file:`. It is written
    beside `directory` first and then takes its place. No browser is started
    here.

    Args:
        path: The file; inputs and outputs of float32, int32 or uint8 and
            fixed shapes, as `export_tflite` writes them for "android".
        directory: The folder to write: a new one, or an older page, which is
            replaced.
        runtime: Where LiteRT.js is: a `node_modules`, or a folder that has
            one. "npm" has npm fetch it. Defaults to the `node_modules` of the
            working directory, or above it.
        title: The heading. Defaults to the file's name.
        labels: Names of the output's numbers. Defaults to those in the file's
            metadata, else to counting.
        mean: A pixel in [0, 255] becomes `(pixel - mean) / std`; one number,
            or one for each channel. Defaults to the metadata's, else 0.
        std: Likewise. Defaults to the metadata's, else 255.

    Returns:
        The sizes, and how to look at it.

    Raises:
        ValueError: The file has inputs that LiteRT.js lacks arrays for,
            LiteRT.js is not found, or an argument does not fit.
        ExportError: npm failed.
    """
    description = describe(path)
    signature = _signature(description, os.fspath(path))
    known = read_metadata(path)
    if labels is None and isinstance(known, ImageMetadata | TextMetadata):
        labels = known.labels
    if isinstance(known, ImageMetadata):
        # None were given if the model takes pixels as they are.
        mean = (known.mean or None) if mean is None else mean
        std = (known.std or None) if std is None else std
    means, stds = _numbers("mean", mean, _MEAN), _numbers("std", std, _STD)
    if 0 in stds:
        raise ValueError(f"`std` must not be 0. Received: std={std}.")
    model = {
        "inputs": [input_spec(spec) for spec in signature.inputs],
        "outputs": [facts(spec) for spec in signature.outputs],
        "labels": _checked_labels(labels, signature.outputs),
        "text": text_spec(known, signature.inputs),
        "mean": means,
        "std": stds,
    }
    with (
        _modules(runtime) as modules,
        whole_folder(directory, NAMES) as staging,
    ):
        version = copy_runtime(modules, staging / "litert")
        shutil.copyfile(path, staging / "model.tflite")
        script = pathlib.Path(__file__).with_name(_TOKENIZER)
        shutil.copyfile(script, staging / _TOKENIZER)
        page = _render(
            title=title or pathlib.Path(path).stem,
            model=model,
            size=format_bytes(description.size_bytes),
            version=version,
        )
        (staging / "index.html").write_text(page, encoding="utf-8")
        sizes = [f.stat().st_size for f in staging.rglob("*") if f.is_file()]
    return WebPage(
        path=pathlib.Path(directory),
        size_bytes=sum(sizes),
        model_bytes=description.size_bytes,
        runtime_version=version,
    )


def check_page(
    directory: str | os.PathLike[str],
    runtime: str | os.PathLike[str] | None = None,
) -> None:
    """Refuses what `write_web_page` could not write to, or not find.

    For those who have long work to do before they call it.

    Args:
        directory: As for `write_web_page`.
        runtime: Likewise.

    Raises:
        ValueError: `directory` holds other files, or LiteRT.js is not found.
    """
    with contextlib.suppress(_OnlyTried), whole_folder(directory, NAMES):
        raise _OnlyTried
    if runtime != NPM:
        find_runtime(runtime)


class _OnlyTried(Exception):
    """Leaves a folder as it was: that it could be begun is all one asked."""


def _signature(description: FileDescription, path: str) -> Signature:
    if len(description.signatures) != 1:
        raise ValueError(
            "`path` must be a file with one signature. Received: "
            f"path={path!r} with {len(description.signatures)}. Export it "
            "with `kdtf.export_tflite`."
        )
    (signature,) = description.signatures
    for spec in signature.inputs + signature.outputs:
        if spec.dtype not in _DTYPES or None in spec.shape:
            raise ValueError(
                f"LiteRT.js takes arrays of {', '.join(_DTYPES)} and fixed "
                f"shapes. Received: {spec.name!r} of {spec.dtype} "
                f"{list(spec.shape)} in path={path!r}. Export with "
                "target='android'."
            )
    return signature


def _checked_labels(
    labels: Sequence[str] | None, outputs: Sequence[TensorSpec]
) -> list[str]:
    listed = [str(label) for label in labels or ()]
    sizes = {math.prod(dim or 1 for dim in spec.shape) for spec in outputs}
    if listed and len(listed) not in sizes:
        raise ValueError(
            "`labels` must have one name for each number of an output. "
            f"Received: {len(listed)} labels for outputs of {sorted(sizes)} "
            "numbers."
        )
    return listed


def _numbers(argument: str, given: Any, default: float) -> list[float]:
    """Gives one number for each of three channels."""
    value = default if given is None else given
    listed = [float(number) for number in np.atleast_1d(value)]
    if len(listed) not in (1, 3) or not all(map(math.isfinite, listed)):
        raise ValueError(
            f"`{argument}` must be one finite number, or three. Received: "
            f"{argument}={given}."
        )
    return listed * (3 // len(listed))


@contextlib.contextmanager
def _modules(runtime: Any) -> Any:
    if runtime != NPM:
        yield find_runtime(runtime)
        return
    with tempfile.TemporaryDirectory(prefix="kdtf-npm-") as folder:
        yield install_runtime(folder)


def _render(**values: Any) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("kdtf.export.web", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(**values)
