"""The bytes of a row, and what is refused before a teacher runs."""

import numpy as np
import pytest
import tensorflow as tf

from kdtf.distillation.cache import CacheSettings
from kdtf.distillation.cache.records import RowFormat


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"top_k": 2, "samples": 2}, "exclude each other"),
        ({"top_k": 0}, "top_k=0"),
        ({"top_k": 2.0}, "top_k=2.0"),
        ({"top_k": True}, "top_k=True"),
        ({"samples": 65536}, "samples=65536"),
        ({"top_k": 2, "temperature": 0}, "temperature=0"),
        ({"top_k": 2, "temperature": float("nan")}, "temperature=nan"),
        ({"temperature": 2.0}, "serve every temperature"),
        ({"dtype": "bfloat16"}, "dtype='bfloat16'"),
        ({"samples": 3, "seed": -1}, "seed=-1"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        CacheSettings(**settings)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"output_shape": ()}, "fixed shape"),
        ({"output_shape": (None, 5)}, "Pad all batches"),
        ({"output_shape": (5,), "head": "relu"}, "head='relu'"),
        (
            {"output_shape": (5,), "settings": CacheSettings(top_k=6)},
            "top_k=6, classes=5",
        ),
        (
            {
                "output_shape": (5,),
                "settings": CacheSettings(samples=6),
                "head": "sigmoid",
            },
            "samples=6, head='sigmoid'",
        ),
    ],
)
def test_formats_that_do_not_fit_the_outputs_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        RowFormat(**{"settings": CacheSettings(), **arguments})


def test_ids_take_two_bytes_up_to_65536_classes():
    def ids(classes):
        settings = CacheSettings(top_k=1)
        rows = RowFormat(settings=settings, output_shape=(classes,))
        return rows.payload["ids"].base

    assert (ids(65536), ids(65537)) == (np.dtype("<u2"), np.dtype("<u4"))


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        # 8 of the key, 8 of the content; 3 positions of 5 classes.
        ({}, 16 + 3 * 5 * 2),
        ({"dtype": "float32"}, 16 + 3 * 5 * 4),
        ({"top_k": 2}, 16 + 3 * (2 * (2 + 2) + 2)),
        ({"samples": 4}, 16 + 3 * 4 * (2 + 2 + 2)),
    ],
)
def test_rows_have_no_gaps_and_the_frame_adds_sixteen_bytes(settings, size):
    rows = RowFormat(
        settings=CacheSettings(**settings), output_shape=(3, 5), has_ids=True
    )
    assert (rows.row_bytes, rows.frame.itemsize) == (size, size + 16)
    assert rows.positions == 3
    assert RowFormat.from_config(rows.get_config()) == rows


def test_the_frame_is_the_one_tensorflow_writes(tmp_path):
    rows = RowFormat(settings=CacheSettings(), output_shape=(3,))
    payload = np.zeros(2, rows.payload)
    payload["key"] = [7, -9]
    payload["logits"] = [[1, 2, 3], [4, 5, 6]]
    path = tmp_path / "a.tfrecord"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for row in payload:
            writer.write(row.tobytes())
    read = np.fromfile(path, rows.frame)
    np.testing.assert_array_equal(read["payload"], payload)
    assert (read["length"] == rows.row_bytes).all()
