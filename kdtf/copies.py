"""Copies of models, weights and all."""

import itertools
import os
import tempfile
from typing import Any

import keras
import numpy as np

__all__ = ["copied"]


def copied(model: Any) -> Any:
    """Returns the model as it comes back from a file, not compiled.

    `clone_model` and `from_config` miss what subclassed models hold beside
    their layers, and a tokenizer's vocabulary.

    Args:
        model: A built model of Keras 3.

    Raises:
        ValueError: Keras cannot save and load it, or it loses weights.

    Example:
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        >>> copy = copied(model)
        >>> pair = model.get_weights()[0], copy.get_weights()[0]
        >>> copy is model, np.array_equal(*pair)
        (False, True)
    """
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.keras")
        try:
            model.save(path, include_optimizer=False)
            copy = keras.saving.load_model(path, compile=False)
        except Exception as error:
            raise ValueError(
                "`model` must be one that Keras saves and loads, to be "
                f"copied. Received: model={model.name!r} of type "
                f"{type(model).__name__}: {error} Decorate classes of your own "
                "with `@keras.saving.register_keras_serializable()`, and give "
                "them `get_config`."
            ) from error
    # Careless `get_config`s leave some out.
    pairs = itertools.zip_longest(model.get_weights(), copy.get_weights())
    if not all(np.array_equal(a, b, equal_nan=True) for a, b in pairs):
        raise ValueError(
            "`model` must be the same after it is saved and loaded. Received: "
            f"model={model.name!r} of type {type(model).__name__}, which "
            "loses weights. Build its layers in `__init__` or `build`."
        )
    return copy
