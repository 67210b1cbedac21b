"""A model as a Keras file and as an exported one, with data for both."""

import keras
import numpy as np
import pytest


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """A folder with tiny.keras, tiny.tflite and data.npz."""
    from kdtf.export import export_tflite

    folder = tmp_path_factory.mktemp("cli")
    model = keras.Sequential(
        [
            keras.Input((3,), name="features"),
            keras.layers.Dense(8, activation="relu"),
            keras.layers.Dense(2, name="logits"),
        ]
    )
    model.save(folder / "tiny.keras")
    export_tflite(model, folder / "tiny.tflite", target="float")
    x = np.random.default_rng(0).normal(size=(40, 3)).astype("float32")
    labels = model.predict(x, verbose=0).argmax(-1)
    np.savez(folder / "data.npz", x=x, y=labels)
    return folder


@pytest.fixture
def tiny_tflite(models):
    return models / "tiny.tflite"
