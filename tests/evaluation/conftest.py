"""A model and its exported file, made once for the whole room."""

import keras
import numpy as np
import pytest


@pytest.fixture(scope="session")
def small_model_path(tmp_path_factory):
    """A saved model of 8x8 grey images with 4 logits."""
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1), name="image"),
            keras.layers.Conv2D(4, 3, activation="relu", name="conv"),
            keras.layers.Flatten(name="flat"),
            keras.layers.Dense(
                4, bias_initializer="random_normal", name="logits"
            ),
        ],
        name="small",
    )
    path = tmp_path_factory.mktemp("models") / "small.keras"
    model.save(path)
    return path


@pytest.fixture(scope="session")
def tiny_tflite(small_model_path):
    """The same model as a float file."""
    from kdtf.export import export_tflite

    path = small_model_path.with_suffix(".tflite")
    model = keras.saving.load_model(small_model_path)
    export_tflite(model, path, target="float")
    return path


@pytest.fixture
def small_data():
    """Seventy images (two batches and a rest) and their labels."""
    rng = np.random.default_rng(3)
    images = rng.normal(size=(70, 8, 8, 1)).astype("float32")
    return images, rng.integers(0, 4, size=70).astype("int32")
