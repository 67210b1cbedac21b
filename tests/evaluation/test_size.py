import gzip
import re

import keras
import numpy as np
import pytest
import tf_keras

from kdtf.console import format_bytes
from kdtf.evaluation.size import Size
from kdtf.evaluation.size import size_of_arrays
from kdtf.evaluation.size import size_of_file
from kdtf.evaluation.size import size_of_model


def test_counts_elements_zeros_and_bytes_of_every_dtype():
    arrays = [
        np.array([[0.0, 1.0], [-0.0, 2.0]], "float32"),
        np.array([0, 3, 0], "int8"),
        np.array([1.5], "float16"),
    ]
    size = size_of_arrays(arrays)
    assert (size.num_parameters, size.num_nonzero) == (8, 4)
    assert size.size_bytes == 4 * 4 + 3 * 1 + 1 * 2
    assert size.sparsity == 0.5


def test_gzip_size_is_what_gzip_gives_for_the_weights_in_a_row(rng):
    arrays = [rng.normal(size=300).astype("float32"), np.zeros(4000, "int8")]
    whole = b"".join(array.tobytes() for array in arrays)
    expected = len(gzip.compress(whole, compresslevel=6))
    assert size_of_arrays(arrays).gzip_size_bytes == expected


def test_no_arrays_have_no_weights_and_no_zeros():
    size = size_of_arrays([])
    assert (size.num_parameters, size.size_bytes, size.sparsity) == (0, 0, 0.0)


@pytest.mark.parametrize("library", [keras, tf_keras])
def test_a_model_s_size_is_that_of_its_weights(library):
    model = library.Sequential(
        [library.Input((3,)), library.layers.Dense(4, name="head")]
    )
    kernel = np.ones((3, 4), "float32")
    kernel[0, :2] = 0.0
    model.set_weights([kernel, np.zeros(4, "float32")])
    size = size_of_model(model)
    assert (size.num_parameters, size.num_nonzero) == (16, 10)
    assert size.size_bytes == 64


def test_optimizer_state_is_no_part_of_a_model(tiny_cnn, batch):
    before = size_of_model(tiny_cnn).size_bytes
    tiny_cnn.compile("adam", keras.losses.MeanSquaredError())
    tiny_cnn.fit(batch[0], np.zeros((16, 4)), verbose=0)
    # conv 3*3*1*4+4, batch norm 4*4, head 4*4+4, four bytes each
    assert size_of_model(tiny_cnn).size_bytes == before == 4 * (40 + 16 + 20)


def test_a_shared_layer_counts_once():
    inputs = keras.Input((4,))
    layer = keras.layers.Dense(4, use_bias=False)
    model = keras.Model(inputs, layer(layer(inputs)))
    assert size_of_model(model).num_parameters == 16


def test_half_precision_weights_take_half_the_bytes():
    layer = keras.layers.Dense(2, dtype=keras.DTypePolicy("bfloat16"))
    model = keras.Sequential([keras.Input((3,)), layer])
    assert size_of_model(model).size_bytes == 2 * 8


def test_an_unbuilt_model_is_refused():
    model = keras.Sequential([keras.layers.Dense(2)], name="empty")
    with pytest.raises(ValueError, match="model='empty', built=False"):
        size_of_model(model)


def test_what_is_no_model_is_refused():
    with pytest.raises(TypeError, match="must be a `keras.Model`"):
        size_of_model("model")


def test_a_file_counts_with_all_its_bytes(tmp_path, tiny_tflite):
    path = tmp_path / "tiny.tflite"
    path.write_bytes(tiny_tflite.read_bytes())
    size = size_of_file(path)
    assert size.size_bytes == path.stat().st_size
    # Smaller than the weights alone would be: no; larger: names, operators.
    assert size.size_bytes > 4 * size.num_parameters


def test_a_file_that_is_no_tflite_is_named(tmp_path):
    path = tmp_path / "foreign.tflite"
    path.write_bytes(b"hello, this is text")
    with pytest.raises(ValueError, match=re.escape("foreign.tflite")):
        size_of_file(path)


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (999.6, "1 kB"),
        (1000, "1 kB"),
        (437_664, "438 kB"),
        (999_600, "1 MB"),
        (5_890_000, "5.89 MB"),
        (1_500_000_000, "1.5 GB"),
        (15_000_000_000_000, "15000 GB"),
    ],
)
def test_bytes_are_written_for_people(size_bytes, text):
    assert format_bytes(size_bytes) == text


def test_a_size_of_no_parameters_is_not_sparse():
    size = Size(
        num_parameters=0, num_nonzero=0, size_bytes=0, gzip_size_bytes=20
    )
    assert size.sparsity == 0.0
