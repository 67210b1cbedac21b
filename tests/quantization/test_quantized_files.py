"""Quantized models of keras-nlp in files: the grids of Keras are in there."""

import keras
import numpy as np
import pytest

import kdtf
from kdtf.flatbuffer import describe


@pytest.fixture
def llama(rng):
    """A model whose norms have scales, as trained ones do, and a tied table."""
    import keras_nlp

    backbone = keras_nlp.models.Llama3Backbone(
        vocabulary_size=128,
        num_layers=1,
        num_query_heads=4,
        num_key_value_heads=2,
        hidden_dim=32,
        intermediate_dim=64,
        tie_word_embeddings=True,
    )
    model = keras_nlp.models.Llama3CausalLM(backbone, preprocessor=None)
    model.set_weights(
        [
            rng.normal(0, 0.1, w.shape)
            if len(w.shape) > 1
            else rng.uniform(0.5, 1.5, w.shape)
            for w in model.weights
        ]
    )
    return model


@pytest.mark.parametrize(
    ("scheme", "least_bits"), [("int4_block32", 4), ("dynamic_int8", 8)]
)
def test_scales_of_norms_are_not_multiplied_into_kernels(
    llama, rng, tmp_path, scheme, least_bits
):
    ids = rng.integers(0, 128, (4, 16)).astype("int32")
    inputs = {"token_ids": ids, "padding_mask": np.ones_like(ids)}
    kdtf.quantize(llama, scheme)
    # Raises, if a kernel is off its grid.
    result = kdtf.export_tflite(
        llama, tmp_path / "m.tflite", verify_data=inputs
    )
    assert result.warnings == ()
    found = describe(result.path)
    # The tied table is there once: nothing is stored twice.
    weights = sum(w.size for w in map(np.asarray, llama.weights))
    assert found.num_parameters < 1.1 * weights
    integers = {f"INT{least_bits}"}
    large = [t for t in found.tensors if t.is_constant and len(t.shape) == 2]
    kernels = [t for t in large if np.prod(t.shape) >= 512]
    assert len(kernels) == 8
    assert {t.dtype for t in kernels} == integers


@pytest.mark.slow
def test_a_trained_cnn_is_the_integers_it_was_trained_as(rng, tmp_path):
    """Issue 4: within one output step on 99.9% of elements, same argmax."""
    layers = keras.layers
    keras.utils.set_random_seed(3)
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, padding="same", use_bias=False)(image)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    y = layers.DepthwiseConv2D(3, padding="same", use_bias=False)(x)
    y = layers.ReLU(6.0)(layers.BatchNormalization()(y))
    y = layers.BatchNormalization()(layers.Conv2D(8, 1)(y))
    x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.GlobalAveragePooling2D()(layers.MaxPooling2D()(x))
    x = layers.Dense(16, activation="relu")(x)
    model = keras.Model(image, layers.Dense(4, activation="softmax")(x))
    labels = rng.integers(0, 4, 256)
    images = rng.normal(size=(256, 8, 8, 3)).astype("float32")
    images[np.arange(256), :, :, 0] += labels[:, None, None]
    kdtf.quantize_aware(model, "int8")
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(images, labels, epochs=3, verbose=0)
    result = kdtf.export_tflite(
        model, tmp_path / "m.tflite", target="iot", verify_data=images[:100]
    )
    assert result.float_operators == {}
    assert result.within_one_step >= 0.999
    assert result.argmax_agreement >= 0.99
