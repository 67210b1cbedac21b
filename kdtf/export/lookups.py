"""Embeddings whose ids are counted in operators that microcontrollers have.

Keras lets negative ids count from the end, with a SELECT of int32, for which
TensorFlow Lite Micro has no kernel: SELECT it lacks, and its SELECT_V2 takes
no int32. Arithmetic gives the same numbers.
"""

import contextlib
import importlib
from collections.abc import Iterator
from typing import Any

# What `keras.ops.take` and the layer Embedding call; nothing public reaches
# it.
_HOME = "keras.src.backend.tensorflow.numpy"


@contextlib.contextmanager
def lookups_without_select() -> Iterator[None]:
    """Lets dense lookups that are traced in the block do without SELECT."""
    import tensorflow as tf

    module: Any = importlib.import_module(_HOME)
    original = module.take

    def take(x: Any, indices: Any, axis: int | None = None) -> Any:
        is_other = isinstance(indices, tf.SparseTensor | tf.RaggedTensor)
        if axis is None or is_other:
            return original(x, indices, axis)
        x = tf.convert_to_tensor(x)
        return tf.gather(x, _from_start(indices, tf.shape(x)[axis]), axis=axis)

    module.take = take
    try:
        yield
    finally:
        module.take = original


def _from_start(indices: Any, size: Any) -> Any:
    """Gives i for i >= 0, and i + size below."""
    import tensorflow as tf

    indices = tf.convert_to_tensor(indices)
    size = tf.cast(size, indices.dtype)
    # -1 for what is negative, 0 for the rest.
    is_negative = tf.maximum(tf.minimum(indices, 0), -1)
    return indices - is_negative * size
