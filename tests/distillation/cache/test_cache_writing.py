"""What lies on disk, and what is refused there."""

import errno
import json
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

from kdtf.distillation.cache import CacheError
from kdtf.distillation.cache import CacheSettings
from kdtf.distillation.cache import CacheWriter
from kdtf.distillation.cache import TeacherCache
from kdtf.distillation.cache import cache_teacher
from kdtf.distillation.cache import caching

# Rows of 16 + 8 + 3 * 2 bytes; a shard of two batches of 4.
SMALL = {"batch_size": 4, "shard_megabytes": 8 * 30 / 1e6, "verbose": 0}


def classifier(activation=None, classes=3):
    return keras.Sequential(
        [keras.Input((5,)), keras.layers.Dense(classes, activation=activation)]
    )


@pytest.fixture
def x(rng):
    return rng.normal(size=(19, 5)).astype("float32")


@pytest.fixture
def ran(monkeypatch):
    """Counts the batches a teacher ran."""
    batches = []
    run = caching.Runner.__call__

    def counted(self, batch):
        batches.append(batch)
        return run(self, batch)

    monkeypatch.setattr(caching.Runner, "__call__", counted)
    return batches


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def flip(path, position):
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def test_shards_are_tfrecords_of_whole_batches(x, tmp_path):
    teacher = classifier()
    cache = cache_teacher(teacher, (x,), tmp_path, **SMALL)
    names = [f"teacher-{i:05d}" for i in range(3)]
    assert sorted(files(tmp_path)) == sorted(
        ["cache.json"]
        + [f"{name}.json" for name in names]
        + [f"{name}.tfrecord" for name in names]
    )
    # TensorFlow checks each record's checksum as it reads.
    records = [
        [r.numpy() for r in tf.data.TFRecordDataset(tmp_path / f"{n}.tfrecord")]
        for n in names
    ]
    assert [len(shard) for shard in records] == [8, 8, 3]
    flat = b"".join(record for shard in records for record in shard)
    rows = np.frombuffer(flat, cache.rows.payload)
    expected = teacher.predict(x, verbose=0).astype("float16")
    np.testing.assert_array_equal(rows["logits"], expected)


def test_a_cache_says_what_it_is(x, tmp_path):
    teacher = classifier()
    cache = cache_teacher(
        teacher, (x,), tmp_path, top_k=2, temperature=2.0, verbose=0
    )
    assert (cache.kind, cache.temperature, cache.head) == (
        ("top_k", 2.0, "softmax")
    )
    assert (cache.output_shape, cache.num_classes) == ((None, 3), 3)
    # 16 of the frame, 8 of the key, 2 * (2 + 2) + 2.
    assert (len(cache), cache.num_rows, cache.bytes_per_token) == (19, 19, 34)
    assert cache.bytes == 19 * 34
    for part in ("top_k 2", "float16", "temperature 2", "19 rows", "646 B"):
        assert part in repr(cache)
    again = TeacherCache(tmp_path)
    assert again.fingerprint == cache.fingerprint
    cache.check_teacher(teacher)
    with pytest.raises(CacheError, match="of another teacher"):
        cache.check_teacher(classifier())


def test_bytes_per_token_divides_by_the_positions(tmp_path):
    teacher = keras.Sequential(
        [keras.Input((4,)), keras.layers.Embedding(7, 2), keras.layers.Dense(7)]
    )
    ids = np.arange(12).reshape(3, 4) % 7
    cache = cache_teacher(teacher, (ids,), tmp_path, samples=3, verbose=0)
    assert cache.output_shape == (None, 4, 7)
    assert cache.bytes_per_token == (16 + 8 + 4 * 3 * (2 + 2 + 2)) / 4


def test_called_again_it_computes_nothing(x, tmp_path, ran):
    teacher = classifier()
    first = cache_teacher(teacher, (x,), tmp_path, **SMALL)
    assert len(ran) == 5
    before = files(tmp_path)
    second = cache_teacher(teacher, (x,), tmp_path, **SMALL)
    assert len(ran) == 5 and files(tmp_path) == before
    assert second.fingerprint == first.fingerprint


@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_deleted_shard_alone_is_made_anew(x, tmp_path, ran, index):
    teacher = classifier()
    cache_teacher(teacher, (x,), tmp_path, **SMALL)
    before = files(tmp_path)
    shard = tmp_path / f"teacher-{index:05d}.tfrecord"
    shard.unlink()
    with pytest.raises(CacheError, match=f"missing: {shard}"):
        TeacherCache(tmp_path)
    ran.clear()
    cache_teacher(teacher, (x,), tmp_path, **SMALL)
    assert len(ran) == [2, 2, 1][index] and files(tmp_path) == before


@pytest.mark.parametrize("position", [0, 9, 40, -1])
def test_a_flipped_bit_is_found_and_the_shard_named(x, tmp_path, position):
    teacher = classifier()
    cache_teacher(teacher, (x,), tmp_path, **SMALL)
    before = files(tmp_path)
    shard = tmp_path / "teacher-00001.tfrecord"
    flip(shard, position)
    for again in (
        lambda: TeacherCache(tmp_path),
        lambda: cache_teacher(teacher, (x,), tmp_path, **SMALL),
    ):
        with pytest.raises(CacheError, match=f"Delete {shard} and call"):
            again()
    assert len(TeacherCache(tmp_path, verify="size")) == 19
    # The way out that the message names.
    shard.unlink()
    cache_teacher(teacher, (x,), tmp_path, **SMALL)
    assert files(tmp_path) == before


def test_a_shard_cut_short_is_found_by_its_size(x, tmp_path):
    cache_teacher(classifier(), (x,), tmp_path, **SMALL)
    shard = tmp_path / "teacher-00002.tfrecord"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(CacheError, match=f"{shard} must have 90 bytes.*: 89"):
        TeacherCache(tmp_path, verify="size")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"teacher": classifier}, "another cache.*teacher="),
        ({"top_k": 2}, "top_k=2, cached None"),
        ({"dtype": "float32"}, "dtype=float32, cached float16"),
        ({"key": lambda x: tf.bitcast(x[:, 0], tf.int32)}, "has_ids=True"),
        ({"head": "sigmoid"}, "head=sigmoid, cached softmax"),
        ({"batch_size": 3}, "same `batch_size`"),
        ({"shard_megabytes": 1}, "8 cached.*`shard_megabytes`"),
        ({"x": lambda x: x[::-1].copy()}, "same order"),
        ({"x": lambda x: x[:-1]}, "shard 2.*2 rows, 3 cached"),
        ({"x": lambda x: x[:8]}, "data for 1 shards, 3 are there"),
        ({"x": lambda x: np.tile(x, (2, 1))}, "shard 2"),
    ],
)
def test_a_stale_cache_is_refused_and_overwritten_on_demand(
    x, tmp_path, change, message
):
    teacher = classifier()
    cache_teacher(teacher, (x,), tmp_path, **SMALL)
    before = files(tmp_path)
    settings = {**SMALL, **change}
    data = settings.pop("x", lambda x: x)(x)
    teacher = settings.pop("teacher", lambda: teacher)()
    with pytest.raises(CacheError, match=message):
        cache_teacher(teacher, (data,), tmp_path, **settings)
    assert files(tmp_path) == before
    cache = cache_teacher(
        teacher, (data,), tmp_path, **settings, overwrite=True
    )
    assert len(cache) == len(data)
    cache.check_teacher(teacher)


def test_overwriting_leaves_other_files_alone(x, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    cache_teacher(classifier(), (x,), tmp_path, verbose=0, overwrite=True)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_what_is_no_finished_cache_is_said(x, tmp_path):
    with pytest.raises(CacheError, match="There is no cache at"):
        TeacherCache(tmp_path)
    teacher = classifier()
    CacheWriter(tmp_path, (None, 3), teacher=teacher)
    with pytest.raises(CacheError, match="is not finished"):
        TeacherCache(tmp_path)
    cache_teacher(teacher, (x,), tmp_path, **SMALL)
    (tmp_path / "cache.json").unlink()
    with pytest.raises(CacheError, match="shards without a cache.json"):
        cache_teacher(teacher, (x,), tmp_path, **SMALL)
    (tmp_path / "cache.json").write_text("{")
    with pytest.raises(CacheError, match="cache.json is damaged"):
        TeacherCache(tmp_path)
    (tmp_path / "cache.json").write_text('{"version": 2}')
    with pytest.raises(CacheError, match="version=2"):
        TeacherCache(tmp_path)


def test_the_disk_is_measured_before_the_teacher_runs(
    x, tmp_path, ran, monkeypatch
):
    free = 19 * 30 - 1
    monkeypatch.setattr(
        shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(0, 0, free)
    )
    folder = tmp_path / "new" / "folder"
    with pytest.raises(CacheError, match="19 rows of 30 bytes.*569 are free"):
        cache_teacher(classifier(), (x,), folder, verbose=0)
    assert not ran and not folder.exists()
    free += 1
    assert len(cache_teacher(classifier(), (x,), folder, verbose=0)) == 19


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        tf.errors.ResourceExhaustedError(None, None, "No space left on device"),
    ],
)
def test_a_disk_that_fills_up_leaves_nothing_half_written(
    x, tmp_path, monkeypatch, error
):
    teacher = classifier()
    written = []
    write = tf.io.TFRecordWriter.write

    def fails(self, record):
        if len(written) == 13:
            raise error
        written.append(record)
        write(self, record)

    with monkeypatch.context() as patch:
        patch.setattr(tf.io.TFRecordWriter, "write", fails)
        with pytest.raises(CacheError, match="No space left.*Make room"):
            cache_teacher(teacher, (x,), tmp_path / "a", **SMALL)
    assert sorted(files(tmp_path / "a")) == [
        "cache.json",
        "teacher-00000.json",
        "teacher-00000.tfrecord",
    ]
    cache_teacher(teacher, (x,), tmp_path / "a", **SMALL)
    cache_teacher(teacher, (x,), tmp_path / "b", **SMALL)
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_the_size_is_printed_first_and_the_speed_last(x, tmp_path, capsys):
    data = tf.data.Dataset.from_tensor_slices(x).batch(4)
    cache_teacher(classifier(), data, tmp_path / "a")
    out, err = capsys.readouterr()
    err = " ".join(err.split())
    # At most 5 batches of 4.
    assert not out and "20 rows of 30 B are 600 B" in err
    assert "rows per second" in err
    data = data.filter(lambda batch: True)
    cache_teacher(classifier(), data, tmp_path / "b")
    assert "number is unknown" in " ".join(capsys.readouterr().err.split())
    cache_teacher(classifier(), data, tmp_path / "c", verbose=0)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_probabilities_become_the_logits_behind_them(x, tmp_path, activation):
    teacher = classifier(activation)
    cache = cache_teacher(teacher, (x,), tmp_path, dtype="float32", verbose=0)
    assert cache.head == activation
    kernel, bias = teacher.get_weights()
    ((joined,),) = cache.attach((x,))
    found = joined["kdtf_teacher"]["logits"]
    np.testing.assert_allclose(found, x @ kernel + bias, atol=1e-5)


def test_one_class_is_a_sigmoid(x, tmp_path):
    teacher = classifier(classes=1)
    cache = cache_teacher(teacher, (x,), tmp_path, verbose=0)
    assert cache.head == "sigmoid"


class Opaque(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(3, activation="softmax")
        self.compiled = tf.function(self.dense.__call__)

    def call(self, x):
        return self.compiled(x)


def test_a_hidden_activation_must_be_said(x, tmp_path):
    teacher = Opaque()
    teacher(x)
    with pytest.raises(ValueError, match="outputs='auto'"):
        cache_teacher(teacher, (x,), tmp_path, verbose=0)
    cache = cache_teacher(
        teacher, (x,), tmp_path, outputs="probabilities", verbose=0
    )
    ((joined,),) = cache.attach((x,))
    logits = joined["kdtf_teacher"]["logits"].numpy().astype("float64")
    exp = np.exp(logits)
    # Rounding to float16: 5e-4 relative.
    np.testing.assert_allclose(
        exp / exp.sum(-1, keepdims=True), teacher(x), rtol=5e-3
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"top_k": 4}, "top_k=4, classes=3"),
        ({"top_k": 2, "samples": 2}, "exclude each other"),
        ({"top_k": 2, "temperature": -1.0}, "temperature=-1.0"),
        ({"outputs": "softmax"}, "outputs='softmax'"),
        ({"head": "linear"}, "head='linear'"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"shard_megabytes": 0}, "shard_megabytes=0"),
        ({"key": lambda x: x}, "`key` must give"),
        ({"top_k": 2, "head": "sigmoid"}, "exclude each other"),
    ],
)
def test_wrong_settings_are_refused_before_the_teacher_runs(
    x, tmp_path, ran, arguments, message
):
    folder = tmp_path / "cache"
    with pytest.raises(ValueError, match=message):
        cache_teacher(classifier(), (x,), folder, verbose=0, **arguments)
    assert not ran and not folder.exists()


def test_batches_of_two_lengths_are_refused(tmp_path):
    teacher = keras.Sequential(
        [keras.Input((None,)), keras.layers.Embedding(7, 2)]
    )
    data = tf.data.Dataset.from_generator(
        lambda: (np.zeros((2, n), "int32") for n in (3, 4)),
        output_signature=tf.TensorSpec((None, None), tf.int32),
    )
    with pytest.raises(ValueError, match="Pad them to one length"):
        cache_teacher(teacher, data, tmp_path, verbose=0)


def test_a_tf_keras_teacher_is_cached(x, tmp_path):
    import tf_keras

    teacher = tf_keras.Sequential(
        [tf_keras.layers.Dense(3, input_shape=(5,)), tf_keras.layers.Softmax()]
    )
    cache = cache_teacher(teacher, (x,), tmp_path, top_k=1, verbose=0)
    ((joined,),) = cache.attach((x,))
    best = teacher.predict(x, verbose=0).argmax(-1)
    np.testing.assert_array_equal(joined["kdtf_teacher"]["ids"][:, 0], best)
    cache.check_teacher(teacher)


@pytest.mark.parametrize("settings", [{}, {"top_k": 2}, {"samples": 3}])
def test_workers_write_what_one_machine_writes(x, tmp_path, settings):
    teacher = classifier()
    cache_teacher(teacher, (x,), tmp_path / "a", **SMALL, **settings)
    with open(tmp_path / "a" / "teacher-00000.json") as file:
        rows = json.load(file)["rows"]
    for index in reversed(range(-(-19 // rows))):
        worker = CacheWriter(
            tmp_path / "b",
            (None, 3),
            teacher=teacher,
            settings=CacheSettings(**settings),
        )
        part = x[index * rows : (index + 1) * rows]
        batches = [part[i : i + 4] for i in range(0, len(part), 4)]
        run = tf.function(teacher)
        worker.write(index, ((b, run(tf.constant(b))) for b in batches))
    worker.finish()
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_a_worker_that_did_not_come_back_is_missed(x, tmp_path):
    writer = CacheWriter(tmp_path, (None, 3), teacher="t")
    with pytest.raises(CacheError, match="Shard 0 .* is missing"):
        writer.finish()
    writer.write(1, [(x, np.zeros((19, 3), "float32"))])
    with pytest.raises(CacheError, match="Shard 0 .* is missing"):
        writer.finish()
    writer.write(0, [(x, np.zeros((19, 3), "float32"))])
    with pytest.raises(CacheError, match="Shard 2 .* is missing"):
        writer.finish(3)
    assert len(writer.finish(2)) == 38
    with pytest.raises(ValueError, match="at least one batch"):
        writer.write(2, [])


def test_shards_of_other_inputs_are_refused(x, tmp_path):
    writer = CacheWriter(tmp_path, (None, 3), teacher="t")
    writer.write(0, [(x, np.zeros((19, 3), "float32"))])
    writer.write(1, [({"x": x}, np.zeros((19, 3), "float32"))])
    with pytest.raises(CacheError, match="inputs of one form"):
        writer.finish()
