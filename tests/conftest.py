"""Small models and data that every test may use."""

import os
import subprocess
import sys

# Keras and TensorFlow log much; tests are read by people.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import keras
import numpy as np
import pytest


@pytest.fixture(autouse=True)
def seed():
    """Makes every test start from the same random state."""
    keras.utils.set_random_seed(0)
    return 0


@pytest.fixture(autouse=True, scope="module")
def clear():
    """Forgets a file's models; clearing takes 0.3 s, too long for each test."""
    yield
    keras.backend.clear_session()


@pytest.fixture
def printed_by():
    """Runs code in a process of its own and gives what it prints."""

    def run(code):
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code],
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout.strip()

    return run


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def batch(rng):
    """Sixteen 8x8 grey images and their integer labels, of 4 classes."""
    images = rng.normal(size=(16, 8, 8, 1)).astype("float32")
    labels = rng.integers(0, 4, size=16).astype("int32")
    return images, labels


@pytest.fixture
def tiny_cnn():
    """A convolution, batch norm and a dense head with 4 logits."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 1), name="image"),
            keras.layers.Conv2D(4, 3, name="conv"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.ReLU(name="relu"),
            keras.layers.GlobalAveragePooling2D(name="pool"),
            keras.layers.Dense(4, name="logits"),
        ],
        name="tiny_cnn",
    )


@pytest.fixture
def tiny_transformer():
    """A one-layer GPT-2 with 32 tokens: logits `(batch, time, 32)`."""
    import keras_nlp

    backbone = keras_nlp.models.GPT2Backbone(
        vocabulary_size=32,
        num_layers=1,
        num_heads=2,
        hidden_dim=8,
        intermediate_dim=16,
        dropout=0.0,
        max_sequence_length=12,
    )
    return keras_nlp.models.GPT2CausalLM(backbone, preprocessor=None)
