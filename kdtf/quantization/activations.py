"""Quantizes activations over a range that training or calibration finds."""

import contextlib
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from kdtf.quantization.linear import fake_quantize_range
from kdtf.quantization.ranges import ESTIMATORS
from kdtf.quantization.ranges import moving_average

__all__ = ["FIXED_RANGES", "RangeQuantizer", "calibrating"]

# LiteRT computes these functions into ranges of its own, whatever they give.
FIXED_RANGES = {
    "softmax": (0.0, 255.0 / 256.0),
    "sigmoid": (0.0, 255.0 / 256.0),
    "tanh": (-1.0, 127.0 / 128.0),
}
# A thousandth of a step of a range this narrow is still a float32.
_MIN_RANGE = 1e-6
# Values kept of each batch for the estimators that look at all of them.
_MAX_KEPT = 16384


class RangeQuantizer(keras.layers.Layer):
    """Moves one tensor's values to an int8 grid over its range.

    While training, the range follows the extremes of the batches. Before it
    has seen one, values pass as they are. A layer for its `training` argument,
    and no part of the model.

    Args:
        path: Where in the model, for messages and the report.
        decay: Of the moving averages.
        fixed: The range, if it does not depend on data.
    """

    def __init__(
        self,
        path: str,
        *,
        decay: float = 0.99,
        fixed: tuple[float, float] | None = None,
    ) -> None:
        super().__init__(dtype="float32", autocast=False)
        # One that comes with its inputs is the layer's business.
        self.supports_masking = True
        self.site_path = path
        self.fixed = fixed
        # Stays when `fit` goes on: the device's own is what is simulated.
        self._decay = decay
        self._see: Callable[[Any], None] | None = None
        low, high = fixed or (0.0, 0.0)
        self.low = self._variable("low", low)
        self.high = self._variable("high", high)
        self.is_known = self._variable("is_known", float(fixed is not None))
        self.built = True

    def call(self, inputs: Any, training: Any = None) -> Any:
        """Returns the inputs on the grid, in their own dtype."""
        if self._see is not None:
            self._see(inputs)
            return inputs
        if self.fixed is not None:
            return fake_quantize_range(inputs, *self.fixed)
        if training:
            return fake_quantize_range(inputs, *self._follow(inputs))
        return tf.cond(
            self.is_known.value > 0.0,
            lambda: fake_quantize_range(inputs, *self.range),
            lambda: inputs,
        )

    @property
    def range(self) -> tuple[Any, Any]:
        """The ends, never so close that there is no step between."""
        low = self.low.value
        return low, ops.maximum(self.high.value, low + _MIN_RANGE)

    def set_range(self, low: float, high: float) -> None:
        """Fixes what calibration found, until training moves it on."""
        self.low.assign(low)
        self.high.assign(high)
        self.is_known.assign(1.0)

    def constants(self) -> tuple[float, float]:
        """Returns the ends as numbers.

        Raises:
            ValueError: There is no range yet.
        """
        if float(self.is_known) == 0.0:
            raise ValueError(
                "Activations must have been seen before they have ranges. "
                f"Received: none yet for {self.site_path!r}. Call `fit`, or "
                "`kdtf.quantize(model, scheme, data)` to calibrate."
            )
        low, high = self.range
        return float(low), float(high)

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Makes the ends constants of what is traced in the block.

        Raises:
            ValueError: There is no range yet.
        """
        before, self.fixed = self.fixed, self.constants()
        try:
            yield
        finally:
            self.fixed = before

    def _follow(self, inputs: Any) -> tuple[Any, Any]:
        values = ops.cast(inputs, "float32")
        is_first = 1.0 - self.is_known.value
        for end, seen in (
            (self.low, ops.minimum(ops.min(values), 0.0)),
            (self.high, ops.maximum(ops.max(values), 0.0)),
        ):
            end.assign(
                moving_average(
                    end.value, seen, decay=self._decay, is_first=is_first
                )
            )
        self.is_known.assign(1.0)
        return self.range

    def _variable(self, name: str, value: float) -> Any:
        return self.add_weight(
            name=name,
            shape=(),
            dtype="float32",
            initializer=keras.initializers.Constant(value),
            trainable=False,
            autocast=False,
            # Each replica sees a part of the batch.
            aggregation="mean",
        )


@contextlib.contextmanager
def calibrating(
    quantizers: Iterable[RangeQuantizer], estimator: str
) -> Iterator[None]:
    """Lets float values pass and sets the ranges from them at the end.

    Args:
        quantizers: Those to set, but for fixed ones. The model must be run
            eagerly meanwhile.
        estimator: One of `kdtf.quantization.ranges.ESTIMATORS`.

    Raises:
        ValueError: A value is not finite.
    """
    watched = [q for q in quantizers if q.fixed is None]
    seen: dict[int, list[np.ndarray]] = {id(q): [] for q in watched}
    diverged: list[str] = []
    keeps_all = estimator != "min_max"

    def see(quantizer: RangeQuantizer) -> Callable[[Any], None]:
        def keep(inputs: Any) -> None:
            values = np.asarray(inputs, "float32").ravel()
            ends = np.array([values.min(), values.max()])
            if not np.isfinite(ends).all():
                diverged.append(quantizer.site_path)
            # Evenly spaced, so that the same data gives the same range, and
            # without the ends: a share of all values is asked for.
            stride = -(-values.size // _MAX_KEPT)
            kept = values[::stride] if keeps_all else ends
            seen[id(quantizer)].append(kept)

        return keep

    try:
        for quantizer in watched:
            quantizer._see = see(quantizer)
        yield
    finally:
        for quantizer in watched:
            quantizer._see = None
    if diverged:
        raise ValueError(
            "Calibration must give finite values. Received: nan or infinity "
            f"first at {diverged[0]!r}. Check `data` and the model's weights."
        )
    for quantizer in watched:
        parts = seen[id(quantizer)]
        if parts:
            values = np.concatenate(parts)
            quantizer.set_range(*ESTIMATORS[estimator](values))
