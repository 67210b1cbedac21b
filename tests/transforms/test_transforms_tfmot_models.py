"""Wrapping and unwrapping `tf_keras` models, and what tfmot may not touch."""

import subprocess
import sys

import numpy as np
import pytest
import tf_keras
from tf_keras import layers

import kdtf
from kdtf.transforms import tfmot_models

pytestmark = pytest.mark.tfmot


@pytest.fixture
def nested():
    """A functional model with a Sequential in it and a layer outside."""
    inner = tf_keras.Sequential(
        [
            layers.InputLayer((8, 8, 1)),
            layers.Conv2D(4, 3, activation="relu"),
            layers.BatchNormalization(),
            layers.Flatten(),
        ],
        name="features",
    )
    inputs = layers.Input((8, 8, 1))
    return tf_keras.Model(inputs, layers.Dense(4, name="head")(inner(inputs)))


@pytest.fixture
def images(batch):
    return batch[0]


def pruner(sparsity=0.5):
    """Returns what wraps a layer in tfmot's pruning."""
    api = tfmot_models.load_tfmot().sparsity.keras
    schedule = api.ConstantSparsity(sparsity, 0, frequency=1)
    return lambda layer: api.prune_low_magnitude(layer, schedule)


def clusterer(layer):
    api = tfmot_models.load_tfmot().clustering.keras
    return api.cluster_weights(layer, 4, api.CentroidInitialization.LINEAR)


def trained(model, images):
    model.compile(tf_keras.optimizers.SGD(0.1), "mse")
    model.fit(
        images,
        np.ones((len(images), 4), "float32"),
        callbacks=tfmot_models.training_callbacks(model),
        verbose=0,
    )
    return model


def test_stripped_pruned_model_is_plain_and_computes_the_same(
    nested, images, tmp_path
):
    wrapped = trained(tfmot_models.wrap_layers(nested, pruner()), images)
    plain = tfmot_models.strip(wrapped)
    assert tfmot_models.wrappers(plain) == ([], [])
    assert tfmot_models.strip(plain) is plain
    inner = plain.get_layer("features")
    assert [type(layer) for layer in inner.layers] == [
        layers.Conv2D,
        layers.BatchNormalization,
        layers.Flatten,
    ]
    for kernel in (inner.layers[0].kernel, plain.get_layer("head").kernel):
        assert (kernel.numpy() == 0).mean() == 0.5
    np.testing.assert_array_equal(plain(images), wrapped(images))
    result = kdtf.export_tflite(plain, tmp_path / "m.tflite", target="float")
    assert result.path.exists()


def test_stripping_masks_what_the_last_step_has_moved(nested, images):
    wrapped = trained(tfmot_models.wrap_layers(nested, pruner()), images)
    wrapped.train_on_batch(images, np.ones((16, 4), "float32"))
    wrapper = wrapped.layers[-1]
    assert (wrapper.get_weights()[0] == 0).mean() < 0.5
    plain = tfmot_models.strip(wrapped)
    assert (plain.layers[-1].get_weights()[0] == 0).mean() == 0.5


def test_stripped_clustered_model_is_plain_and_computes_the_same(
    nested, images, tmp_path
):
    wrapped = trained(tfmot_models.wrap_layers(nested, clusterer), images)
    plain = tfmot_models.strip(wrapped)
    assert tfmot_models.wrappers(plain) == ([], [])
    np.testing.assert_array_equal(plain(images), wrapped(images))
    kdtf.export_tflite(plain, tmp_path / "m.tflite", target="float")
    plain.save(tmp_path / "m.keras")
    loaded = tf_keras.models.load_model(tmp_path / "m.keras", compile=False)
    np.testing.assert_array_equal(loaded(images), plain(images))


def test_stripped_attention_trains_on(rng):
    inputs = layers.Input((5, 8))
    outputs = layers.MultiHeadAttention(2, 4)(inputs, inputs)
    model = tf_keras.Model(inputs, outputs)
    x = rng.normal(size=(4, 5, 8)).astype("float32")
    wrapped = tfmot_models.wrap_layers(model, clusterer)
    outputs = wrapped(x)
    plain = tfmot_models.strip(wrapped)
    np.testing.assert_array_equal(plain(x), outputs)
    before = plain.layers[-1].get_weights()
    assert np.unique(before[0]).size <= 4
    plain.compile("sgd", "mse")
    plain.fit(x, x, verbose=0)
    assert (plain.layers[-1].get_weights()[0] != before[0]).any()
    assert np.abs(plain(x) - outputs).max() > 0


def test_callbacks_are_those_of_pruning_only(nested):
    assert tfmot_models.training_callbacks(nested) == []
    clustered = tfmot_models.wrap_layers(nested, clusterer, select="head")
    assert tfmot_models.training_callbacks(clustered) == []
    pruned = tfmot_models.wrap_layers(
        tfmot_models.strip(clustered), pruner(), select="features"
    )
    (callback,) = tfmot_models.training_callbacks(pruned)
    assert type(callback).__name__ == "UpdatePruningStep"


@pytest.mark.slow
@pytest.mark.parametrize("setting", [None, "0", "1"])
def test_loading_tfmot_leaves_the_process_as_it_was(setting):
    code = """
import os, sys
import keras, tensorflow, tf_keras
from kdtf.transforms import tfmot_models
model = tf_keras.Sequential([tf_keras.layers.Dense(2)])
tfmot_models.strip(model), tfmot_models.training_callbacks(model)
assert "tensorflow_model_optimization" not in sys.modules
tfmot_models.load_tfmot()
assert os.environ.get("TF_USE_LEGACY_KERAS") == SETTING
legacy = tensorflow.keras.Model is tf_keras.Model
assert legacy == (SETTING == "1"), legacy
""".replace("SETTING", repr(setting))
    environment = {"PATH": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
    if setting is not None:
        environment["TF_USE_LEGACY_KERAS"] = setting
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_a_subclassed_model_is_refused(nested):
    class Wrapper(tf_keras.Model):
        def __init__(self, model):
            super().__init__()
            self.inner = model

        def call(self, inputs):
            return self.inner(inputs)

    with pytest.raises(ValueError, match="functional and Sequential.*Wrapper"):
        tfmot_models.wrap_layers(Wrapper(nested), pruner())
    pruned = tfmot_models.wrap_layers(nested, pruner())
    with pytest.raises(ValueError, match="student"):
        tfmot_models.strip(Wrapper(pruned))


def test_a_model_without_weights_yet_is_refused():
    model = tf_keras.Sequential([layers.Dense(2)])
    with pytest.raises(ValueError, match=r"never called.*model\.build"):
        tfmot_models.wrap_layers(model, pruner())


def test_a_select_that_selects_nothing_is_refused(nested):
    with pytest.raises(ValueError, match=r"'haed', which has none.*'head'"):
        tfmot_models.wrap_layers(nested, pruner(), select=["head", "haed"])
    with pytest.raises(TypeError, match="3 of type int"):
        tfmot_models.wrap_layers(nested, pruner(), select=[3])
    with pytest.raises(ValueError, match="Use a Keras 3 model"):
        tfmot_models.wrap_layers(nested, lambda layer: None)
