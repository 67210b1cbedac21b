"""Gathers how strong and how alike the inputs of layers are, on data."""

import dataclasses
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from kdtf.batches import Batch
from kdtf.quantization.compensation.kernel_inputs import input_rows
from kdtf.transforms.layout import layout_of
from kdtf.transforms.substitution import Substitution
from kdtf.transforms.substitution import substituted

__all__ = ["Moments", "gather_moments", "size_bytes_of_moments"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Moments:
    """What the data say of a kernel's inputs x.

    Attributes:
        hessian: The sum of x x^T over the data, float32.
        magnitudes: The mean |x| of each input, float32.
    """

    hessian: np.ndarray
    magnitudes: np.ndarray

    @property
    def second_moments(self) -> np.ndarray:
        """The sum of x^2 of each input."""
        return np.diagonal(self.hessian)

    def divided(self, scales: np.ndarray) -> "Moments":
        """Returns the moments of x / scales.

        Example:
            >>> moments = Moments(hessian=np.array([[4.0, 2.0], [2.0, 9.0]]),
            ...                   magnitudes=np.array([2.0, 3.0]))
            >>> moments.divided(np.array([2.0, 1.0])).hessian.tolist()
            [[1.0, 1.0], [1.0, 9.0]]
        """
        return Moments(
            hessian=self.hessian / np.outer(scales, scales),
            magnitudes=self.magnitudes / scales,
        )


def size_bytes_of_moments(layer: Any) -> int:
    """Returns the memory that a layer's moments take."""
    return 4 * layout_of(layer, layer.kernel).num_inputs ** 2


def gather_moments(
    model: Any,
    layers: Sequence[Any],
    batches: Sequence[Batch],
    *,
    progress: Callable[[], None] = lambda: None,
) -> list[Moments]:
    """Runs a model over data and watches what layers are called with.

    Every position counts alike, padding too: windows without any are best.
    A layer that is called several times has seen all of its inputs.

    Args:
        model: A built Keras 3 model.
        layers: Layers in it whose kernels `why_no_rows` has nothing against.
        batches: Inputs that the model takes.
        progress: Called after each batch.

    Returns:
        The moments for each layer.

    Raises:
        ValueError: A layer is not called, or with nan or infinity.

    Example:
        >>> import keras
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        >>> x = np.array([[1.0, 2.0], [3.0, 0.0]], "float32")
        >>> (found,) = gather_moments(model, model.layers, [Batch(x)])
        >>> found.hessian.tolist(), found.magnitudes.tolist()
        ([[10.0, 2.0], [2.0, 4.0]], [2.0, 1.0])
    """
    watchers = [_Watcher(layer) for layer in layers]
    with substituted((watcher.layer, watcher) for watcher in watchers):
        for batch in batches:
            model(batch.x, training=False)
            progress()
    return [watcher.moments() for watcher in watchers]


class _Watcher(Substitution):
    """Sums up what one layer is called with."""

    def __init__(self, layer: Any) -> None:
        self.layer = layer
        width = layout_of(layer, layer.kernel).num_inputs
        self._hessian = np.zeros((width, width), "float32")
        self._magnitudes = np.zeros(width, "float64")
        self._num_rows = 0

    def before(self, inputs: Any) -> Any:
        for rows in input_rows(self.layer, inputs):
            self._hessian += tf.matmul(rows, rows, transpose_a=True).numpy()
            self._magnitudes += tf.reduce_sum(tf.abs(rows), axis=0).numpy()
            self._num_rows += int(rows.shape[0])
        return inputs

    def moments(self) -> Moments:
        """Returns them, when all batches were seen."""
        if not self._num_rows:
            raise ValueError(
                "Each layer must be called when the model is called on the "
                f"data. Received: {self.layer.name!r}, which was not. Leave it "
                "out with `select`."
            )
        if not np.isfinite(self._magnitudes).all():
            raise ValueError(
                "The model must compute finite values on the data. Received: "
                f"nan or infinity as input of {self.layer.name!r}. Look for "
                "them in the data and in the weights of the layers before it."
            )
        magnitudes = (self._magnitudes / self._num_rows).astype("float32")
        return Moments(hessian=self._hessian, magnitudes=magnitudes)
