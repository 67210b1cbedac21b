"""How big a model is: elements, zeros, bytes and bytes after compression."""

import dataclasses
import os
import pathlib
import zlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from kdtf import litert
from kdtf.flavours import flavour_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size:
    """What storing a model takes.

    Attributes:
        num_parameters: Elements of all weights.
        num_nonzero: How many of them are not 0.
        size_bytes: Bytes as stored, nothing compressed.
        gzip_size_bytes: Bytes after gzip: what a download costs, and where
            zeros and repeated values pay off.
    """

    num_parameters: int
    num_nonzero: int
    size_bytes: int
    gzip_size_bytes: int

    @property
    def sparsity(self) -> float:
        """The fraction of zeros among the weights, in [0, 1]."""
        if not self.num_parameters:
            return 0.0
        return 1.0 - self.num_nonzero / self.num_parameters


def size_of_arrays(arrays: Iterable[np.ndarray]) -> Size:
    """Gives the size of weights that lie one after the other.

    Args:
        arrays: The weights, any shapes and dtypes; one is held at a time.

    Example:
        >>> import numpy as np
        >>> size = size_of_arrays([np.zeros(3, "int8"), np.ones(1, "float32")])
        >>> size.num_parameters, size.num_nonzero, size.size_bytes
        (4, 1, 7)
    """
    num_parameters = num_nonzero = size_bytes = gzip_size_bytes = 0
    # 16 + MAX_WBITS asks zlib for a gzip frame, fed piece by piece.
    compressor = zlib.compressobj(6, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    for array in arrays:
        num_parameters += array.size
        num_nonzero += int(np.count_nonzero(array))
        size_bytes += array.nbytes
        gzip_size_bytes += len(compressor.compress(array.tobytes()))
    return Size(
        num_parameters=num_parameters,
        num_nonzero=num_nonzero,
        size_bytes=size_bytes,
        gzip_size_bytes=gzip_size_bytes + len(compressor.flush()),
    )


def size_of_model(model: Any) -> Size:
    """Gives the size of a Keras model's weights, without optimizer state.

    A weight that two layers share counts once. Batch statistics count,
    random seeds and metrics do not, as in `model.count_params()`.

    Args:
        model: A built `keras.Model` or `tf_keras.Model`.

    Raises:
        ValueError: The model has no weights yet.

    Example:
        >>> import keras
        >>> layers = [keras.Input((3,)), keras.layers.Dense(2)]
        >>> size_of_model(keras.Sequential(layers)).size_bytes
        32
    """
    flavour_of(model)
    if not model.built:
        raise ValueError(
            "`model` must be built: before that it has no weights to count. "
            f"Received: model={model.name!r}, built=False. Call it on a "
            "batch, or give it a `keras.Input`."
        )
    return size_of_arrays(np.asarray(weight) for weight in model.weights)


def size_of_file(path: str | os.PathLike[str]) -> Size:
    """Gives the size of a `.tflite` file, its operators and names included.

    Args:
        path: The file.

    Raises:
        ValueError: It is no `.tflite` file.
    """
    description = litert.describe(pathlib.Path(path))
    return Size(
        num_parameters=description.num_parameters,
        num_nonzero=description.num_nonzero,
        size_bytes=description.size_bytes,
        gzip_size_bytes=description.gzip_size_bytes,
    )
