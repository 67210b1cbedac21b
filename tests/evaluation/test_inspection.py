import re

import keras
import numpy as np
import pytest
import tf_keras

from kdtf.evaluation import inspect_model
from kdtf.evaluation.parts import bits_per_weight
from kdtf.evaluation.parts import count_unique


def dense_model(kernel, name="model"):
    model = keras.Sequential(
        [
            keras.Input((kernel.shape[0],)),
            keras.layers.Dense(kernel.shape[1], use_bias=False, name="head"),
        ],
        name=name,
    )
    model.set_weights([kernel])
    return model


@pytest.mark.parametrize(
    ("weights", "bits"),
    [
        # All different: nothing to gain, as stored.
        (np.arange(64, dtype="float32"), 32.0),
        (np.arange(64, dtype="float16"), 16.0),
        # 4 values in 1024 weights: 2 bits and 4 * 32 / 1024 for the codebook.
        (np.tile(np.arange(4, dtype="float32"), 256), 2.125),
        # 5 values need 3 bits.
        (np.tile(np.arange(5, dtype="float32"), 256), 3.125),
        # One value needs no index.
        (np.zeros(1024, "float32"), 0.03125),
        (np.zeros(0, "float32"), 32.0),
        (np.zeros(1, "int8"), 8.0),
    ],
)
def test_few_values_take_few_bits(weights, bits):
    assert bits_per_weight(weights) == bits


def test_values_of_half_precision_are_counted():
    import ml_dtypes

    values = np.array([1.0, 1.0, 2.0, -0.0, 0.0], ml_dtypes.bfloat16)
    assert count_unique(values) == 3


def test_a_layer_shows_its_weights_zeros_and_values():
    kernel = np.array([[0.0, 0.5], [0.5, -0.5], [0.0, 0.5]], "float32")
    found = inspect_model(dense_model(kernel))
    (part,) = found.parts
    assert (part.name, part.type, part.dtype) == ("head", "Dense", "float32")
    assert (part.shape, part.num_parameters) == ((3, 2), 6)
    assert part.num_bytes == 24
    assert part.sparsity == pytest.approx(1 / 3)
    assert part.num_unique == 3
    # A codebook of 3 floats, 2 bits each, would take 18 bits a weight.
    assert part.bits_per_weight == found.bits_per_weight == 18.0


def test_nested_layers_have_paths_and_are_shown_once(tiny_transformer):
    found = inspect_model(tiny_transformer)
    names = [part.name for part in found.parts]
    assert len(set(names)) == len(names)
    assert any(name.count("/") >= 3 for name in names)
    total = sum(part.num_parameters for part in found.parts)
    assert total == found.size.num_parameters == tiny_transformer.count_params()


def test_weights_of_the_model_itself_are_shown():
    class Scaled(keras.Model):
        def build(self, shape):
            self.scale = self.add_weight(shape=(3,), name="scale")

        def call(self, x):
            return x * self.scale

    model = Scaled()
    model(np.ones((1, 3), "float32"))
    (part,) = inspect_model(model).parts
    assert (part.name, part.num_parameters) == ("(model)", 3)


def test_a_tf_keras_model_is_looked_into():
    model = tf_keras.Sequential(
        [tf_keras.Input((3,)), tf_keras.layers.Dense(2, name="head")]
    )
    found = inspect_model(model)
    assert found.kind == "tf_keras"
    assert [part.name for part in found.parts] == ["head"]


def test_a_keras_file_says_its_path(small_model_path):
    found = inspect_model(small_model_path)
    assert found.name == str(small_model_path)
    assert [part.name for part in found.parts] == ["conv", "logits"]
    assert found.num_weightless >= 1


def test_a_tflite_file_shows_operators_signatures_and_weights(tiny_tflite):
    found = inspect_model(str(tiny_tflite))
    assert found.kind == "tflite"
    assert found.operators[("CONV_2D", "float32".upper())] == 1
    (signature,) = found.signatures
    assert signature.startswith("serving_default(image: float32[1, 8, 8, 1])")
    kernels = [part for part in found.parts if len(part.shape) > 1]
    assert [part.num_parameters for part in kernels] == [576, 36]
    assert all(part.bits_per_weight == 32.0 for part in kernels)
    assert found.bits_per_weight == 32.0


def test_weights_of_a_file_show_their_zeros(tmp_path):
    from kdtf.export import export_tflite

    kernel = np.zeros((8, 4), "float32")
    kernel[:2] = np.arange(1, 9).reshape(2, 4)
    path = tmp_path / "sparse.tflite"
    export_tflite(dense_model(kernel), path, target="float")
    (part,) = inspect_model(path).parts
    assert (part.shape, part.dtype) == ((4, 8), "float32")
    assert part.sparsity == 0.75
    assert part.num_unique == 9


def test_int8_weights_take_eight_bits(tmp_path):
    from kdtf.export import export_tflite

    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(64, 64)).astype("float32")
    path = tmp_path / "int8.tflite"
    export_tflite(dense_model(kernel), path, quantize="dynamic_int8")
    parts = [p for p in inspect_model(path).parts if p.dtype == "int8"]
    assert [(p.num_parameters, p.bits_per_weight) for p in parts] == [
        (4096, 8.0)
    ]
    assert parts[0].num_unique <= 255


def test_it_prints_itself(tiny_tflite, small_model_path):
    text = str(inspect_model(tiny_tflite))
    assert re.search(r"CONV_2D +float32 +1", text)
    assert "32.00 bits per weight" in text
    text = str(inspect_model(small_model_path))
    assert re.search(r"conv +Conv2D +float32 +3x3x1x4 +40 +160 B", text)
    assert "layers without weights" in text
    assert "\x1b" not in text


def test_what_is_no_model_is_refused():
    with pytest.raises(TypeError, match="must be a `keras.Model`"):
        inspect_model(3)


def test_a_truncated_file_is_named(tmp_path, tiny_tflite):
    path = tmp_path / "cut.tflite"
    path.write_bytes(tiny_tflite.read_bytes()[:300])
    with pytest.raises(ValueError, match=r"cut\.tflite"):
        inspect_model(path)
