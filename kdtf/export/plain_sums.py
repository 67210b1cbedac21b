"""Sums of two layers' outputs that stay sums.

With a batch of 1 Keras takes an output of shape (1, time, 1) for a bias: it
squeezes it to `time` numbers and adds those along the dimension that has as
many, which TFLiteConverter then gets wrong or refuses.
"""

import contextlib
import importlib
from collections.abc import Iterator
from typing import Any

# What `keras.ops.add` and the layer Add call; nothing public reaches it.
_HOME = "keras.src.backend.tensorflow.numpy"


@contextlib.contextmanager
def plain_sums() -> Iterator[None]:
    """Lets Keras add tensors of two and more dimensions as they are.

    Biases, which have one dimension, are still added as biases.
    """
    module: Any = importlib.import_module(_HOME)
    original = module.add

    def add(x1: Any, x2: Any) -> Any:
        ranks = [len(getattr(x, "shape", ())) for x in (x1, x2)]
        return original(x1, x2) if min(ranks) < 2 else _sum(x1, x2)

    module.add = add
    try:
        yield
    finally:
        module.add = original


def _sum(x1: Any, x2: Any) -> Any:
    import keras
    import tensorflow as tf

    dtype = keras.backend.result_type(x1.dtype, x2.dtype)
    return tf.add(keras.ops.cast(x1, dtype), keras.ops.cast(x2, dtype))
