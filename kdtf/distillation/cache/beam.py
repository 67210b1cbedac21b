"""Caching a corpus on many machines: one task a shard, on Apache Beam or else.

Nothing here needs Beam but `write_on_beam`; a `ShardTask` is a function of a
shard's number that can be pickled, and any engine that maps will do.
"""

import os
from collections.abc import Callable
from collections.abc import Iterable
from typing import Any

import keras

from kdtf.distillation import teachers
from kdtf.distillation.cache import CacheSettings
from kdtf.distillation.cache import CacheWriter
from kdtf.distillation.cache import TeacherCache
from kdtf.distillation.cache import caching
from kdtf.distillation.cache import shards

__all__ = ["ShardTask", "write_on_beam"]


class ShardTask:
    """Writes the shard whose number it is called with, wherever that is.

    All workers write into one folder on storage that they share. With the
    batches that `cache_teacher` would put into a shard, the files are the
    same, byte for byte. A shard that is there is not computed again, so a
    job that was killed is just run again.

    Args:
        path: The cache's folder.
        teacher: Path of the saved teacher; loaded once by each worker.
        read: Gives the inputs of a shard's batches for its number. Like any
            function that travels to workers it must be importable there.
        settings: What to keep. Defaults to all logits, in float16.
        outputs: "auto", "logits" or "probabilities", as for `cache_teacher`.
        head: "auto", "softmax" or "sigmoid", as for `cache_teacher`.
        key: As for `cache_teacher`.

    Example:
        >>> import pathlib, tempfile
        >>> import numpy as np
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> layers = [keras.Input((4,)), keras.layers.Dense(3)]
        >>> keras.Sequential(layers).save(folder / "teacher.keras")
        >>> rows = np.eye(4, dtype="float32")
        >>> task = ShardTask(
        ...     folder / "cache",
        ...     folder / "teacher.keras",
        ...     read=lambda index: [rows[2 * index : 2 * index + 2]],
        ... )
        >>> [task(index) for index in (1, 0)]
        [1, 0]
        >>> len(task.finish(2))
        4
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        teacher: str | os.PathLike[str],
        read: Callable[[int], Iterable[Any]],
        *,
        settings: CacheSettings | None = None,
        outputs: str = "auto",
        head: str = "auto",
        key: Callable[[Any], Any] | None = None,
    ) -> None:
        self.path = os.fspath(path)
        self.teacher = os.fspath(teacher)
        self.read = read
        self.settings = settings
        self.outputs = outputs
        self.head = head
        self.key = key
        self._tools: Any = None

    def __getstate__(self) -> dict[str, Any]:
        """Leaves the loaded teacher behind."""
        return {**self.__dict__, "_tools": None}

    def __call__(self, index: int) -> int:
        """Writes shard `index` unless it is there, and returns the number."""
        run, writer = self._load()
        if shards.find_shard(writer.path, index) is None:
            writer.write(index, ((x, run(x)) for x in self.read(index)))
        return index

    def finish(self, num_shards: int) -> TeacherCache:
        """Writes the manifest when all shards are there; opens the cache.

        Args:
            num_shards: How many there must be.

        Raises:
            CacheError: One is missing, damaged or one too many.
        """
        _, writer = self._load()
        return writer.finish(num_shards)

    def _load(self) -> Any:
        if self._tools is None:
            teacher = keras.saving.load_model(self.teacher, compile=False)
            first = next(iter(self.read(0)))
            run = caching.Runner(
                teachers.ModelTeacher(teacher), first, self.outputs, self.head
            )
            writer = CacheWriter(
                self.path,
                (None, *run.output_shape),
                teacher=teacher,
                settings=self.settings,
                head=run.head,
                key=self.key,
            )
            self._tools = run, writer
        return self._tools


def write_on_beam(pipeline: Any, task: ShardTask, num_shards: int) -> Any:
    """Adds the writing of all shards to an Apache Beam pipeline.

    When it has run, call `task.finish(num_shards)`, once.

    Args:
        pipeline: A `beam.Pipeline`.
        task: What writes a shard.
        num_shards: How many there are.

    Returns:
        The collection of the written shards' numbers.
    """
    import apache_beam as beam

    numbers = pipeline | "shards" >> beam.Create(range(num_shards))
    # Without it the numbers stay on the one worker that made them.
    return numbers | "deal" >> beam.Reshuffle() | "write" >> beam.Map(task)
