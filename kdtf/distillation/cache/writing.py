"""`CacheWriter`: writes shards, on one machine or on many."""

import hashlib
import os
import pathlib
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from typing import Any

import numpy as np

from kdtf.distillation.cache import fingerprints
from kdtf.distillation.cache import shards
from kdtf.distillation.cache.encoding import Encoder
from kdtf.distillation.cache.records import CacheError
from kdtf.distillation.cache.records import CacheSettings
from kdtf.distillation.cache.records import RowFormat
from kdtf.distillation.cache.teacher_cache import TeacherCache

__all__ = ["CacheWriter"]


class CacheWriter:
    """Writes the shards of a cache from outputs that are already computed.

    For workers of Beam, Ray and the like: each makes a writer with the same
    arguments on one folder and writes shards of its own; when all are done,
    one calls `finish`. What is written does not depend on who wrote it.
    On one machine use `cache_teacher`.

    Args:
        path: The cache's folder.
        output_shape: The teacher's, `(None, ..., classes)`.
        teacher: The model whose outputs they are, or its fingerprint
            (`fingerprints.of_model`).
        settings: What to keep. Defaults to all logits, in float16.
        head: "softmax" or "sigmoid". Defaults to "softmax".
        key: As for `cache_teacher`.

    Raises:
        CacheError: The folder holds a cache of another teacher or settings.
        ValueError: The settings do not fit the outputs.

    Example:
        >>> import tempfile
        >>> x = np.eye(4, dtype="float32")
        >>> writer = CacheWriter(
        ...     tempfile.mkdtemp(), (None, 3), teacher="the one of Tuesday"
        ... )
        >>> shard = writer.write(0, [(x[:2], np.zeros((2, 3), "float32"))])
        >>> shard = writer.write(1, [(x[2:], np.ones((2, 3), "float32"))])
        >>> len(writer.finish())
        4
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        output_shape: tuple[int | None, ...],
        *,
        teacher: Any,
        settings: CacheSettings | None = None,
        head: str = "softmax",
        key: Callable[[Any], Any] | None = None,
    ) -> None:
        self.path = pathlib.Path(path)
        self.key = key
        self.rows = RowFormat(
            settings=settings or CacheSettings(),
            output_shape=tuple(output_shape[1:]),  # type: ignore[arg-type]
            head=head,
            has_ids=key is not None,
        )
        if not isinstance(teacher, str):
            teacher = fingerprints.of_model(teacher)
        self._header = {
            "version": shards.VERSION,
            "rows": self.rows.get_config(),
            "teacher": teacher,
        }
        self._encode = Encoder(self.rows)
        self._take_folder()

    def write(
        self, index: int, batches: Iterable[tuple[Any, Any]]
    ) -> shards.Shard:
        """Writes one shard, in the place of an older one.

        Args:
            index: Its number, from 0; no two workers share one.
            batches: Pairs of a batch's inputs and the teacher's *logits*
                `(batch, ..., classes)`; may be a generator.

        Raises:
            CacheError: A number does not fit the dtype, or the disk is full.
            ValueError: There are no batches, or their shapes differ.
        """
        inputs: list[dict[str, Any]] = []
        payloads = self._payloads(batches, inputs)
        return shards.write_shard(self.path, index, payloads, inputs)

    def check(self, index: int, shard: shards.Shard, xs: Iterable[Any]) -> None:
        """Raises unless a shard is whole and of these inputs.

        Args:
            index: The shard's number.
            shard: What is noted of it.
            xs: The inputs of its batches, in order.

        Raises:
            CacheError: It is damaged, or of other data.
        """
        shards.check_shard(self.path, shard, verify="sha256")
        stored = self._columns(shard)
        pairs = [fingerprints.row_keys(x, self.key) for x in xs]
        ids, content = (
            np.concatenate(part) for part in zip(*pairs, strict=True)
        )
        given = [ids, content] if self.rows.has_ids else [ids]
        if len(ids) != len(stored[0]) or any(
            (a != b).any() for a, b in zip(stored, given, strict=True)
        ):
            raise CacheError(
                f"`dataset` must give the cached examples in the same order "
                f"and batches. Received: other ones for shard {index}, "
                f"{self.path / shard.name} ({len(ids)} rows, {len(stored[0])} "
                "cached). Cache without shuffling and with the same "
                "`batch_size` and `shard_megabytes`, or start anew with "
                "`overwrite=True`."
            )

    def finish(self, num_shards: int | None = None) -> TeacherCache:
        """Writes the manifest over all shards and opens the cache.

        Args:
            num_shards: How many there must be. Defaults to those there are.

        Raises:
            CacheError: There are more, a shard is missing or damaged, the
                shards' inputs differ, or an id stands for two contents.
        """
        found = self._all_shards(num_shards)
        digest = hashlib.sha256()
        for columns in map(self._columns, found):
            for column in columns:
                digest.update(column.tobytes())
        manifest = {
            **self._header,
            "data": digest.hexdigest(),
            "shards": [vars(shard) for shard in found],
        }
        shards.write_json(self.path / shards.MANIFEST, manifest)
        shards.remove(self.path, leftovers_only=True)
        return TeacherCache(self.path, verify="size")

    def _take_folder(self) -> None:
        """Writes the cache's header, or compares with the one there."""
        path = self.path / shards.MANIFEST
        if path.exists():
            differences = _differences(shards.read_json(path), self._header)
            if differences:
                raise CacheError(
                    f"{self.path} holds another cache. Received: "
                    f"{'; '.join(differences)}. Take another folder, or start "
                    "anew with `overwrite=True`."
                )
        elif shards.shard_indices(self.path):
            raise CacheError(
                f"{self.path} holds shards without a {shards.MANIFEST}, whose "
                "cannot be told. Take another folder, or start anew with "
                "`overwrite=True`."
            )
        else:
            shards.write_json(path, self._header)

    def _payloads(
        self, batches: Iterable[tuple[Any, Any]], inputs: list[Any]
    ) -> Iterator[np.ndarray]:
        for x, logits in batches:
            described = fingerprints.describe_inputs(x)
            inputs[:] = inputs or described
            keys = fingerprints.row_keys(x, self.key)
            yield self._encode(logits, *(part.numpy() for part in keys))
        if not inputs:
            raise ValueError(
                "`batches` must hold at least one batch. Received: none."
            )

    def _columns(self, shard: shards.Shard) -> list[np.ndarray]:
        """Returns a shard's keys and, with ids, contents."""
        records = shards.map_rows(self.path, shard, self.rows)
        payload = records.view(self.rows.frame)[:, 0]["payload"]
        names = ["key", "content"] if self.rows.has_ids else ["key"]
        return [np.array(payload[name]) for name in names]

    def _all_shards(self, num_shards: int | None) -> list[shards.Shard]:
        there = max(shards.shard_indices(self.path), default=0) + 1
        if num_shards is not None and there > num_shards:
            raise CacheError(
                f"{self.path} holds more shards than the data fill. Received: "
                f"data for {num_shards} shards, {there} are there. Start anew "
                "with `overwrite=True`."
            )
        found = []
        for index in range(there if num_shards is None else num_shards):
            shard = shards.find_shard(self.path, index)
            if shard is None:
                raise CacheError(
                    f"Shard {index} of {self.path} is missing. Write it, and "
                    "call `finish` again."
                )
            shards.check_shard(self.path, shard, verify="size")
            found.append(shard)
        if any(shard.inputs != found[0].inputs for shard in found):
            raise CacheError(
                "All shards must be of inputs of one form. Received: "
                f"{[shard.inputs for shard in found]}."
            )
        if self.rows.has_ids:
            self._check_ids(found)
        return found

    def _check_ids(self, found: list[shards.Shard]) -> None:
        ids, content = np.concatenate(
            [self._columns(shard) for shard in found], axis=1
        )
        order = np.argsort(ids, kind="stable")
        ids, content = ids[order], content[order]
        clash = (ids[1:] == ids[:-1]) & (content[1:] != content[:-1])
        if clash.any():
            raise CacheError(
                "An id must stand for one example. Received: id "
                f"{int(ids[1:][clash][0])} with two contents. Was it augmented "
                "at random? Make the seed part of `key`."
            )


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Returns what differs between a cache's header and another."""

    def flat(header: dict[str, Any]) -> dict[str, Any]:
        rows = dict(header.get("rows", {}))
        settings = rows.pop("settings", {})
        others = {k: header.get(k) for k in ("version", "teacher")}
        return {**settings, **rows, **others}

    before, now = flat(old), flat(new)
    return [
        f"{name}={_short(now[name])}, cached {_short(before.get(name))}"
        for name in now
        if before.get(name) != now[name]
    ]


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) < 40 else f"{text[:12]}..."
