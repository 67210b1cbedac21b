import re

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from kdtf.evaluation.loading import file_kind
from kdtf.evaluation.loading import load_keras_model

pytestmark = pytest.mark.filterwarnings(
    # Saving .h5 files is what makes the legacy files to be read here.
    "ignore:You are saving your model as an HDF5 file"
)


def test_a_keras_file_gives_the_same_model_uncompiled(small_model_path):
    model = load_keras_model(small_model_path)
    assert isinstance(model, keras.Model)
    assert model.name == "small"
    assert not model.compiled


def test_the_content_decides_not_the_name(small_model_path, tmp_path):
    path = tmp_path / "download.bin"
    path.write_bytes(small_model_path.read_bytes())
    assert file_kind(path) == "keras"
    assert load_keras_model(path).count_params() == 40 + 580


def test_a_legacy_h5_file_is_read_by_keras_3_if_it_can(tmp_path):
    model = tf_keras.Sequential(
        [tf_keras.Input((3,)), tf_keras.layers.Dense(2)]
    )
    model.save(tmp_path / "plain.h5")
    loaded = load_keras_model(tmp_path / "plain.h5")
    assert isinstance(loaded, keras.Model)
    np.testing.assert_array_equal(
        loaded.get_weights()[0], model.get_weights()[0]
    )


@pytest.mark.parametrize("suffix", ["h5", "keras"])
def test_what_only_tf_keras_reads_falls_to_it(tmp_path, suffix):
    inputs = tf_keras.Input((4,))
    outputs = tf.nn.relu(tf_keras.layers.Dense(2)(inputs))
    path = tmp_path / f"legacy.{suffix}"
    tf_keras.Model(inputs, outputs).save(path)
    assert isinstance(load_keras_model(path), tf_keras.Model)


@pytest.mark.parametrize("suffix", ["h5", "keras"])
def test_code_in_a_file_is_never_run(tmp_path, suffix):
    """tf_keras's own safe mode does not reach .h5 files."""
    trace = tmp_path / "ran"

    model = tf_keras.Sequential(
        [
            tf_keras.Input((3,)),
            tf_keras.layers.Lambda(
                lambda x, path=str(trace): (open(path, "w").close(), x)[1]
            ),
        ]
    )
    path = tmp_path / f"evil.{suffix}"
    model.save(path)
    trace.unlink()
    with pytest.raises(ValueError, match="evil.*tf_keras: .*Lambda layer"):
        load_keras_model(path)
    assert not trace.exists()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.keras.*nothing there"):
        load_keras_model(tmp_path / "gone.keras")


def test_a_folder_is_no_model_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="a folder"):
        file_kind(tmp_path)


def test_a_foreign_file_is_named_with_its_beginning(tmp_path):
    path = tmp_path / "notes.keras"
    path.write_text("dear diary")
    with pytest.raises(ValueError, match=r"notes\.keras.*b'dear dia'"):
        load_keras_model(path)


def test_an_empty_file_is_no_model(tmp_path):
    path = tmp_path / "empty.tflite"
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=re.escape("empty.tflite")):
        file_kind(path)


def test_a_truncated_file_says_what_each_keras_found(
    small_model_path, tmp_path
):
    path = tmp_path / "cut.keras"
    path.write_bytes(small_model_path.read_bytes()[:500])
    with pytest.raises(ValueError, match=r"cut\.keras.*Keras 3: .*tf_keras: "):
        load_keras_model(path)


def test_a_tflite_file_does_not_become_a_keras_model(tiny_tflite):
    assert file_kind(tiny_tflite) == "tflite"
    with pytest.raises(ValueError, match="cannot become a Keras model"):
        load_keras_model(tiny_tflite)
