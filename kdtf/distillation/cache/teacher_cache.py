"""`TeacherCache`: reads what a teacher said, and puts it beside a dataset."""

import functools
import hashlib
import os
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from kdtf import batches
from kdtf import console
from kdtf.distillation import checks
from kdtf.distillation import targets
from kdtf.distillation.cache import encoding
from kdtf.distillation.cache import fingerprints
from kdtf.distillation.cache import shards
from kdtf.distillation.cache.records import CacheError
from kdtf.distillation.cache.records import RowFormat

__all__ = ["TeacherCache"]

# Mapped files stay open, and a process may open 1024 of them.
_MAX_OPEN_SHARDS = 256


class TeacherCache:
    """A teacher's outputs on disk, found again by the example's content.

    Args:
        path: The folder that `cache_teacher` wrote.
        verify: "sha256" reads every shard once and compares; "size", for
            caches that take minutes to read, compares the sizes only.

    Attributes:
        kind: "dense" (all logits), "top_k" or "samples".
        temperature: Of the probabilities kept; 1.0 for logits.
        head: "softmax" or "sigmoid".
        output_shape: The teacher's, `(None, ..., classes)`.
        num_classes: Of them.
        num_rows: Examples.
        bytes: Size of all shards.
        bytes_per_token: Size of one distribution, the row's share included.
        fingerprint: SHA-256 that changes with anything in the cache.
        teacher_fingerprint: SHA-256 of the teacher's weights.
        data_fingerprint: SHA-256 of the examples, in order.

    Raises:
        CacheError: There is no finished cache, or a shard is missing or
            damaged; it is named.

    Example:
        See `cache_teacher`.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, verify: str = "sha256"
    ) -> None:
        checks.check_choice("verify", verify, ("sha256", "size"))
        self.path = pathlib.Path(path)
        manifest = _read_manifest(self.path)
        self._shards = [shards.Shard(**s) for s in manifest["shards"]]
        for shard in self._shards:
            shards.check_shard(self.path, shard, verify=verify)
        self.rows = RowFormat.from_config(manifest["rows"])
        settings = self.rows.settings
        self.kind = settings.kind
        self.temperature = settings.temperature
        self.head = self.rows.head
        self.output_shape = (None, *self.rows.output_shape)
        self.num_classes = self.rows.output_shape[-1]
        self.num_rows = sum(shard.rows for shard in self._shards)
        self.bytes = sum(shard.bytes for shard in self._shards)
        self.bytes_per_token = self.rows.frame.itemsize / self.rows.positions
        text = (self.path / shards.MANIFEST).read_bytes()
        self.fingerprint = hashlib.sha256(text).hexdigest()
        self.teacher_fingerprint = manifest["teacher"]
        self.data_fingerprint = manifest["data"]
        self._map = functools.lru_cache(_MAX_OPEN_SHARDS)(self._map_shard)
        # Row i of the cache lies in the shard that begins at or before i.
        sizes = [shard.rows for shard in self._shards]
        self._begins = np.cumsum([0, *sizes[:-1]])
        keys = np.concatenate([self._key_column(i) for i in range(len(sizes))])
        self._order = np.argsort(keys, kind="stable")
        self._sorted_keys = keys[self._order]

    def __len__(self) -> int:
        """Returns the number of examples."""
        return self.num_rows

    def __repr__(self) -> str:
        """Returns what is in the cache, for people."""
        slots = "" if self.kind == "dense" else f" {self.rows.slots}"
        return (
            f"TeacherCache({str(self.path)!r}: {self.kind}{slots}, "
            f"{self.rows.settings.dtype}, temperature {self.temperature:g}, "
            f"outputs {self.output_shape}, {self.num_rows} rows, "
            f"{console.format_bytes(self.bytes)}, "
            f"{self.bytes_per_token:.4g} bytes per token)"
        )

    def check_teacher(self, model: Any) -> None:
        """Raises unless `model` has the weights of the cached teacher.

        Raises:
            CacheError: It is another teacher.
        """
        received = fingerprints.of_model(model)
        if received != self.teacher_fingerprint:
            raise CacheError(
                f"{self.path} is of another teacher. Received: "
                f"{model.name!r} with weights {received[:12]}, cached "
                f"{self.teacher_fingerprint[:12]}. Cache this one with "
                "`cache_teacher(..., overwrite=True)`."
            )

    def attach(
        self,
        dataset: Any,
        *,
        key: Callable[[Any], Any] | None = None,
        inputs: Callable[[Any], Any] | None = None,
        batch_size: int = 32,
    ) -> Any:
        """Gives a dataset with the teacher's outputs beside every example.

        Any order and any choice of the cached examples will do: shuffle
        before batching, or shuffle the batches, before or after this. What
        changes examples (augmentation, cropping) belongs before *caching* if
        it is the same each time, and after `attach` if it is random and
        changes nothing that the teacher would see otherwise.

        Args:
            dataset: A `tf.data.Dataset` of batches `x`, `(x, y)` or `(x, y,
                sample_weight)`; or a tuple of such arrays.
            key: As for `cache_teacher`, and needed if it was given there.
            inputs: Maps `x` to what the student is fed, once the row is
                found: to drop an id, for example. Defaults to the same.
            batch_size: Examples per batch, for arrays.

        Returns:
            A `tf.data.Dataset` for `Distiller(cache, student).fit`, whose
            inputs are those of `kdtf.distillation.targets.join`.

        Raises:
            CacheError: The inputs have another form than those cached, or the
                first batch holds an example that is not in the cache. Later
                ones stop the training with the same message.
        """
        if self.rows.has_ids != (key is not None):
            raise CacheError(
                "`attach` must be called with the `key` of `cache_teacher`. "
                f"Received: key={key}, but the cache was made "
                f"{'with' if self.rows.has_ids else 'without'} one."
            )
        if not batches.is_dataset(dataset):
            parts = dataset if isinstance(dataset, tuple | list) else (dataset,)
            dataset = tf.data.Dataset.from_tensor_slices(tuple(parts))
            dataset = dataset.batch(batch_size)
        self._check_inputs(dataset.element_spec)

        def add(*element: Any) -> Any:
            x, *others = element
            keys = fingerprints.row_keys(x, key)
            joined = targets.join(
                x if inputs is None else inputs(x), self._look_up(*keys)
            )
            return (joined, *others) if others or is_tuple else joined

        is_tuple = isinstance(dataset.element_spec, tuple)
        for element in dataset.take(1):
            # Here an error is one of Python, with its own type.
            first = element[0] if is_tuple else element
            keys = fingerprints.row_keys(first, key)
            self._read(*(part.numpy() for part in keys))
        return dataset.map(
            add, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
        ).prefetch(tf.data.AUTOTUNE)

    def _look_up(self, ids: Any, content: Any) -> dict[str, Any]:
        """Returns the targets of a batch, as tensors of static shape."""
        example = encoding.targets_of(np.zeros(1, self.rows.payload), self.rows)
        tensors = tf.numpy_function(
            lambda *keys: list(self._read(*keys).values()),
            [ids, content],
            [tf.as_dtype(array.dtype) for array in example.values()],
            stateful=False,
        )
        found = dict(zip(example, tensors, strict=True))
        for name, tensor in found.items():
            tensor.set_shape((ids.shape[0], *example[name].shape[1:]))
        return found

    def _read(
        self, ids: np.ndarray, content: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Returns the targets of a batch of rows."""
        place = np.searchsorted(self._sorted_keys, ids)
        place = np.minimum(place, self.num_rows - 1)
        unknown = self._sorted_keys[place] != ids
        if unknown.any():
            raise CacheError(
                f"{int(unknown.sum())} of {len(ids)} examples of a batch are "
                f"not in the cache {self.path}: new ones, or changed after "
                "caching, for example by a random augmentation. Received: row "
                f"{int(np.argmax(unknown))} of the batch. Cache them too; or "
                "put the augmentation after `attach`, or make its seed part "
                "of `key`."
            )
        row = self._order[place]
        shard = np.searchsorted(self._begins, row, side="right") - 1
        # Shard by shard into one array: `take` writes to its place at once,
        # six times as fast as an index does.
        order = np.argsort(shard, kind="stable")
        records = np.empty((len(ids), self.rows.frame.itemsize), np.uint8)
        numbers, starts = np.unique(shard[order], return_index=True)
        stops = [*starts[1:], len(ids)]
        for index, start, stop in zip(numbers, starts, stops, strict=True):
            np.take(
                self._map(index),
                row[order[start:stop]] - self._begins[index],
                axis=0,
                out=records[start:stop],
                # "raise", the default, would write to a buffer first.
                mode="clip",
            )
        payload = records.view(self.rows.frame)[:, 0]["payload"]
        if self.rows.has_ids:
            self._check_content(ids[order], payload["content"], content[order])
        return {
            name: _in_order(values, order)
            for name, values in encoding.targets_of(payload, self.rows).items()
        }

    def _check_content(
        self, ids: np.ndarray, cached: np.ndarray, received: np.ndarray
    ) -> None:
        if (cached != received).any():
            raise CacheError(
                "An example has the id of a cached one and another content, "
                "for example by a random augmentation whose seed is not part "
                f"of `key`. Received: id {int(ids[cached != received][0])}. "
                "Make the seed part of `key`."
            )

    def _check_inputs(self, spec: Any) -> None:
        first = spec[0] if isinstance(spec, tuple) else spec
        received = fingerprints.describe_inputs(first)
        cached = self._shards[0].inputs
        if fingerprints.differing_inputs(cached, received):
            raise CacheError(
                "`dataset` must give the inputs that were cached, with the "
                f"same names, dtypes and shapes. Received: {received}, cached "
                f"{cached}."
            )

    def _map_shard(self, index: int) -> np.ndarray:
        return shards.map_rows(self.path, self._shards[index], self.rows)

    def _key_column(self, index: int) -> np.ndarray:
        # Copied, so that the file need not stay open for its keys.
        records = self._map_shard(index).view(self.rows.frame)[:, 0]
        return np.array(records["payload"]["key"])


def _in_order(values: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Puts what was read shard by shard back in the batch's order."""
    result = np.empty(values.shape, values.dtype)
    result[order] = values
    return result


def _read_manifest(path: pathlib.Path) -> dict[str, Any]:
    file = path / shards.MANIFEST
    if not file.exists():
        raise CacheError(
            f"There is no cache at {path}: it has no {shards.MANIFEST}. Make "
            "one with `cache_teacher(teacher, dataset, path)`."
        )
    manifest = shards.read_json(file)
    if manifest.get("version") != shards.VERSION:
        raise CacheError(
            f"{file} must be of version {shards.VERSION}. Received: version="
            f"{manifest.get('version')}. Cache again with `overwrite=True`."
        )
    if "shards" not in manifest:
        raise CacheError(
            f"The cache at {path} is not finished. Call `cache_teacher` "
            "again: it goes on after the last whole shard."
        )
    return manifest
