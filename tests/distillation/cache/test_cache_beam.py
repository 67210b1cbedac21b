"""Shards written by tasks, in any order and process, are the local ones."""

import os
import pathlib
import pickle

import keras
import numpy as np
import pytest

from kdtf.distillation.cache import CacheSettings
from kdtf.distillation.cache import cache_teacher
from kdtf.distillation.cache.beam import ShardTask
from kdtf.distillation.cache.beam import write_on_beam

ROWS = np.random.default_rng(0).normal(size=(10, 4)).astype("float32")


def read(index):
    """Gives the one batch of a shard: four rows, in the last one two."""
    return [ROWS[4 * index : 4 * index + 4]]


@pytest.fixture
def saved(tmp_path):
    teacher = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5)])
    path = tmp_path / "teacher.keras"
    teacher.save(path)
    return path


@pytest.fixture
def local(tmp_path, saved):
    """The files that `cache_teacher` writes, one batch a shard."""
    cache_teacher(
        keras.saving.load_model(saved),
        (ROWS,),
        tmp_path / "local",
        top_k=2,
        batch_size=4,
        shard_megabytes=1e-6,
        verbose=0,
    )
    return contents(tmp_path / "local")


@pytest.fixture
def task(tmp_path, saved):
    settings = CacheSettings(top_k=2)
    return ShardTask(tmp_path / "tasks", saved, read, settings=settings)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_tasks_in_any_order_write_the_local_files(task, local, tmp_path):
    for index in (2, 0, 1):
        # As an engine does it: every call on a worker of its own.
        assert pickle.loads(pickle.dumps(task))(index) == index
    assert len(task.finish(3)) == 10
    assert contents(tmp_path / "tasks") == local


def test_a_shard_that_is_there_is_not_written_again(task, tmp_path):
    task(0)
    (shard,) = (
        path
        for path in (tmp_path / "tasks").iterdir()
        if path.suffix not in (".json",)
    )
    before = shard.stat().st_mtime_ns
    task(0)
    assert shard.stat().st_mtime_ns == before


@pytest.mark.slow
def test_beam_writes_the_local_files(task, local, tmp_path, monkeypatch):
    beam = pytest.importorskip("apache_beam")
    # Workers are processes that must find `read`, which is in this file.
    here = str(pathlib.Path(__file__).parent)
    known = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([here, *known]))
    options = beam.options.pipeline_options.PipelineOptions(
        [], direct_running_mode="multi_processing", direct_num_workers=2
    )
    with beam.Pipeline(runner="DirectRunner", options=options) as pipeline:
        write_on_beam(pipeline, task, 3)
    assert len(task.finish(3)) == 10
    assert contents(tmp_path / "tasks") == local
