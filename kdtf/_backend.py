"""Refuses a Keras backend that kdtf cannot work on, before Keras is loaded."""

import json
import os
import pathlib
import sys


def configured_backend() -> str:
    """Returns the backend Keras has loaded, or would load, in this process.

    Reads what Keras itself reads, in its order: an imported Keras, the
    `KERAS_BACKEND` variable, then `keras.json` in `KERAS_HOME` or `~/.keras`.
    Does not import Keras: that takes seconds.
    """
    keras = sys.modules.get("keras")
    if keras is not None and hasattr(keras, "config"):
        return keras.config.backend()
    if os.environ.get("KERAS_BACKEND"):
        return os.environ["KERAS_BACKEND"]
    home = os.environ.get("KERAS_HOME") or pathlib.Path.home() / ".keras"
    try:
        config = json.loads((pathlib.Path(home) / "keras.json").read_text())
        return str(config.get("backend", "tensorflow"))
    except (OSError, ValueError):
        # No file, or one that Keras will complain about better than we can.
        return "tensorflow"


def check_backend() -> None:
    """Raises if Keras runs, or would run, on another backend.

    Raises:
        ImportError: The configured backend is not TensorFlow.
    """
    backend = configured_backend()
    if backend != "tensorflow":
        raise ImportError(
            "kdtf works with Keras on the TensorFlow backend: it trains with "
            "TensorFlow and exports with its converter. Received: "
            f"backend={backend!r}. Set KERAS_BACKEND=tensorflow before Keras "
            "is first imported."
        )
