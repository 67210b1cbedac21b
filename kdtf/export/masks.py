"""A softmax mask that int8 can represent.

Keras masks attention scores with -1e9, in `ops.dot_product_attention` with
-2.4e38. As an int8 range that leaves one step for all real scores; -30 is as
good as minus infinity to a softmax (1e-13) and leaves 250 of them.
"""

import contextlib
import importlib
import sys
from collections.abc import Iterator
from typing import Any

MASK = -30.0
# Where both Kerases keep the number: a function of the dtype in each. Layers
# take it deep inside their calls, where nothing public reaches.
_HOMES = (
    ("keras.src.layers.activations.softmax", "_large_negative_number"),
    ("keras.src.backend.tensorflow.nn", "_get_large_negative"),
    ("tf_keras.src.layers.activation.softmax", "_large_compatible_negative"),
)


@contextlib.contextmanager
def finite_masks() -> Iterator[None]:
    """Lets masked softmaxes that are traced in the block mask with -30.

    Attention masks that a model adds itself stay as they are.

    Raises:
        AttributeError: Keras keeps the number elsewhere by now.
    """
    changed: list[tuple[Any, str, Any]] = []
    try:
        for home, name in _HOMES:
            if home.split(".")[0] not in sys.modules:
                continue
            module = importlib.import_module(home)
            changed.append((module, name, getattr(module, name)))
            setattr(module, name, _finite_mask)
        yield
    finally:
        for module, name, original in changed:
            setattr(module, name, original)


def _finite_mask(dtype: Any) -> Any:
    import tensorflow as tf

    return tf.constant(MASK, dtype=dtype)
