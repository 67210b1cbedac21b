"""Puts metadata into a `.tflite` file, and takes it out again.

The tables are a buffer of the file that its list of metadata names; the files
they speak of are a zip archive behind the flatbuffer, whose readers start at
the front and do not see it, as those of an archive start at the end.
"""

import dataclasses
import io
import os
import pathlib
import zipfile
from typing import Any

import numpy as np

from kdtf.export.compact import compact
from kdtf.export.metadata.description import AXIS_LABELS
from kdtf.export.metadata.description import Described
from kdtf.export.metadata.records import ImageMetadata
from kdtf.export.metadata.records import Metadata
from kdtf.export.metadata.records import TextMetadata
from kdtf.export.metadata.tables import read_tables
from kdtf.export.metadata.tables import write_tables
from kdtf.flatbuffer import read_model
from kdtf.flatbuffer import write_model

__all__ = ["attach", "read_metadata"]

_ENTRY = "TFLITE_METADATA"
# Kept in the archive; one date for all, so that equal exports are equal files.
_DATE = (1980, 1, 1, 0, 0, 0)


def attach(content: bytes, described: Described) -> bytes:
    """Returns the `.tflite` file with metadata in it and files behind it.

    Args:
        content: The bytes of the file.
        described: What to put in; it replaces older metadata.
    """
    from ai_edge_litert import schema_py_generated as schema

    model = read_model(content)
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(write_tables(described.tables), np.uint8)
    entry = schema.MetadataT()
    entry.name, entry.buffer = _ENTRY.encode(), len(model.buffers)
    model.buffers.append(buffer)
    others = [e for e in model.metadata or [] if e.name != entry.name]
    model.metadata = [*others, entry]
    # Writing a file out again undoes what `compact` did to it.
    packed = io.BytesIO(compact(write_model(model), drop_names=False))
    if described.files:
        with zipfile.ZipFile(packed, "a", zipfile.ZIP_STORED) as archive:
            for name, data in described.files.items():
                archive.writestr(zipfile.ZipInfo(name, _DATE), data)
    return packed.getvalue()


def read_metadata(path: str | os.PathLike[str]) -> Metadata | None:
    """Returns what a `.tflite` file says of itself.

    Files of other makers are read too, as far as `ImageMetadata` and
    `TextMetadata` have words for it.

    Args:
        path: The file.

    Returns:
        The metadata it was exported with, and the numbers of `mean` and `std`
        as float32; None if it has none.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no `.tflite`, or what it holds is damaged.
    """
    content = pathlib.Path(path).read_bytes()
    model = read_model(content, name=os.fspath(path))
    found = [e for e in model.metadata or [] if e.name == _ENTRY.encode()]
    if not found:
        return None
    try:
        data = model.buffers[found[0].buffer].data
        return _metadata(read_tables(bytes(data)), content)
    except (IndexError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise ValueError(
            "A file's metadata must be whole. Received: "
            f"path={os.fspath(path)!r}, where a part is missing: {error}. "
            "Export or download it again."
        ) from error


def _metadata(tables: dict[str, Any], content: bytes) -> Metadata:
    texts = {
        field.name: tables.get(field.name, "")
        for field in dataclasses.fields(Metadata)
    }
    subgraph = tables.get("subgraphs", [{}])[0]
    inputs, outputs = subgraph.get("inputs"), subgraph.get("outputs")
    files = outputs[0].get("files", []) if outputs else []
    listed = [f["name"] for f in files if f.get("type") == AXIS_LABELS]
    labels = _lines(content, listed[0]) if listed else None
    tokenizer = _options(subgraph, "input_units", "BertTokenizerOptions")
    if tokenizer:
        tokens = _lines(content, tokenizer["vocabulary"][0]["name"])
        return TextMetadata(labels=labels, tokenizer=tokens, **texts)
    content_of = inputs[0].get("content", {}) if inputs else {}
    kind, _ = content_of.get("properties", ("", {}))
    if kind == "ImageProperties":
        numbers = _options(inputs[0], "units", "NormalizationOptions")
        return ImageMetadata(labels=labels, **numbers, **texts)
    return Metadata(**texts)


def _options(table: dict[str, Any], field: str, kind: str) -> dict[str, Any]:
    """Gives the options of the first processing unit of a kind."""
    units = (unit.get("options") for unit in table.get(field, []))
    return next((unit[1] for unit in units if unit and unit[0] == kind), {})


def _lines(content: bytes, name: str) -> list[str]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return archive.read(name).decode().removesuffix("\n").split("\n")
