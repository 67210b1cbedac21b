"""The files of a cache: shards of rows, a note on each, and a manifest.

teacher-00000.tfrecord   rows
teacher-00000.json       their number, and the shard's size and SHA-256;
                         written last: without it there is no shard
cache.json               what the rows hold, whose they are, all shards
"""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import tensorflow as tf

from kdtf.distillation.cache.records import CacheError
from kdtf.distillation.cache.records import RowFormat
from kdtf.files import atomic_path

__all__ = [
    "MANIFEST",
    "VERSION",
    "Shard",
    "check_shard",
    "find_shard",
    "map_rows",
    "read_json",
    "remove",
    "shard_indices",
    "write_json",
    "write_shard",
]

MANIFEST = "cache.json"
# Of the layout of the files; another one is not read.
VERSION = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shard:
    """What is noted of a shard.

    Attributes:
        name: Of its file.
        rows: How many it holds.
        bytes: Its size.
        sha256: Of its bytes.
        inputs: What the rows' inputs were; see
            `fingerprints.describe_inputs`.
    """

    name: str
    rows: int
    bytes: int
    sha256: str
    inputs: list[dict[str, Any]]


def write_shard(
    folder: pathlib.Path,
    index: int,
    payloads: Iterable[np.ndarray],
    inputs: list[dict[str, Any]],
) -> Shard:
    """Writes a shard and its note, each whole or not at all.

    Args:
        folder: The cache's.
        index: The shard's number.
        payloads: Structures of `RowFormat.payload`, batch by batch; may be a
            generator.
        inputs: What the rows' inputs are; may be filled by `payloads`.

    Raises:
        CacheError: The disk is full.
    """
    target = folder / _name(index)
    rows = 0
    try:
        with atomic_path(target) as temporary:
            with tf.io.TFRecordWriter(str(temporary)) as writer:
                for payload in payloads:
                    data, size = payload.tobytes(), payload.itemsize
                    for start in range(0, len(data), size):
                        writer.write(data[start : start + size])
                    rows += len(payload)
            # As written, not as named: `target` may be an older shard.
            size_bytes, digest = temporary.stat().st_size, _digest(temporary)
            # A note on other bytes must not survive them.
            _note(target).unlink(missing_ok=True)
        shard = Shard(
            name=target.name,
            rows=rows,
            bytes=size_bytes,
            sha256=digest,
            inputs=inputs,
        )
        write_json(_note(target), dataclasses.asdict(shard))
    except (OSError, tf.errors.OpError) as error:
        raise CacheError(
            f"{target} could not be written: {error}. Make room on the disk "
            "and call again: it goes on after the last whole shard."
        ) from error
    return shard


def find_shard(folder: pathlib.Path, index: int) -> Shard | None:
    """Returns what is noted of a shard; None if it is not there."""
    path = folder / _name(index)
    if not path.exists() or not _note(path).exists():
        return None
    return Shard(**read_json(_note(path)))


def check_shard(folder: pathlib.Path, shard: Shard, *, verify: str) -> None:
    """Raises unless a shard is as it was written.

    Args:
        folder: The cache's.
        shard: What was noted of it.
        verify: "sha256", or "size" to read no more than its length.

    Raises:
        CacheError: It is missing, cut short, or has other bytes.
    """
    path = folder / shard.name
    way_out = (
        f"Delete {path} and call `cache_teacher` again: it is made anew, and "
        "the other shards stay."
    )
    if not path.exists():
        raise CacheError(f"A shard is missing: {path}. {way_out}")
    size = path.stat().st_size
    if size != shard.bytes:
        raise CacheError(
            f"A shard is damaged: {path} must have {shard.bytes} bytes. "
            f"Received: {size}. {way_out}"
        )
    if verify == "sha256" and _digest(path) != shard.sha256:
        raise CacheError(
            f"A shard is damaged: the bytes of {path} are not those that were "
            f"written (its SHA-256 differs). {way_out}"
        )


def map_rows(folder: pathlib.Path, shard: Shard, rows: RowFormat) -> np.ndarray:
    """Returns a shard's records as bytes `(rows, size)`, mapped from disk."""
    size = rows.frame.itemsize
    if shard.bytes != size * shard.rows:
        raise CacheError(
            f"A shard is of another cache: {folder / shard.name} must hold "
            f"{shard.rows} rows of {size} bytes. Received: {shard.bytes} "
            "bytes. Start anew with `overwrite=True`."
        )
    return np.memmap(
        folder / shard.name, np.uint8, "r", shape=(shard.rows, size)
    )


def shard_indices(folder: pathlib.Path) -> list[int]:
    """Returns the numbers of the shards that are there."""
    # A note whose shard was deleted tells that there was one.
    numbers = {
        int(path.stem.removeprefix("teacher-"))
        for path in folder.glob("teacher-*")
    }
    return sorted(numbers)


def remove(folder: pathlib.Path, *, leftovers_only: bool = False) -> None:
    """Deletes a cache's files, or only what a killed run left behind."""
    patterns = [".teacher-*", ".cache-*"]
    if not leftovers_only:
        # The manifest last: without one the rest would belong to nobody.
        patterns += ["teacher-*.json", "teacher-*.tfrecord", MANIFEST]
    for pattern in patterns:
        for path in folder.glob(pattern):
            path.unlink()


def read_json(path: pathlib.Path) -> Any:
    """Returns what is in a JSON file.

    Raises:
        CacheError: It is damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CacheError(
            f"{path} is damaged: {error}. Delete it and call `cache_teacher` "
            "again."
        ) from error


def write_json(path: pathlib.Path, content: Any) -> None:
    """Writes a JSON file, whole or not at all."""
    text = json.dumps(content, indent=2, sort_keys=True)
    with atomic_path(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def _name(index: int) -> str:
    return f"teacher-{index:05d}.tfrecord"


def _note(path: pathlib.Path) -> pathlib.Path:
    return path.with_suffix(".json")


def _digest(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
