"""Kernels on grids of equal steps."""

from typing import Any

import numpy as np
from keras import ops

from kdtf.quantization.compensation.symmetric_grid import clipped_steps
from kdtf.quantization.kernel_quantizer import KernelQuantizer
from kdtf.quantization.linear import fake_quantize
from kdtf.quantization.linear import max_integer
from kdtf.quantization.linear import straight_through
from kdtf.quantization.linear import symmetric_scale
from kdtf.transforms.deployment import block_scale
from kdtf.transforms.layout import Layout

__all__ = ["LinearQuantizer", "SteppedQuantizer", "from_groups", "to_groups"]


class LinearQuantizer(KernelQuantizer):
    """A grid whose steps follow the weights."""

    @property
    def stored_bits(self) -> int | None:
        """8, 4 or 2: what is between takes the next wider integers."""
        num_bits = self.scheme.num_bits
        return 8 if num_bits > 4 else 4 if num_bits > 2 else 2

    @property
    def block_size(self) -> int | None:
        """The size of a group, if there are groups."""
        return self.scheme.group_size

    def call(self, weights: Any, training: Any = None) -> Any:
        """Returns the weights on the grid that spans them now."""
        scheme, layout = self.scheme, self.layout
        if scheme.granularity != "per_group":
            axes = None
            if scheme.granularity == "per_channel":
                axes = layout.contraction
            peak = ops.max(ops.abs(weights), axis=axes, keepdims=True)
            scale = symmetric_scale(peak, num_bits=scheme.num_bits)
            return fake_quantize(weights, scale, num_bits=scheme.num_bits)
        groups = to_groups(weights, layout, scheme.group_size)
        peak = ops.max(ops.abs(groups), axis=1, keepdims=True)
        scale = block_scale(symmetric_scale(peak, num_bits=scheme.num_bits))
        values = fake_quantize(groups, scale, num_bits=scheme.num_bits)
        return from_groups(values, layout)


class SteppedQuantizer(LinearQuantizer):
    """A grid with steps of its own, fixed or learned (LSQ).

    Steps are kept as `(groups or 1, outputs)`, or `(1, 1)` per tensor.
    """

    def start(self, weights: np.ndarray) -> None:
        """Chooses the steps."""
        scheme = self.scheme
        if self._given_steps is not None:
            steps = np.asarray(self._given_steps)
        elif scheme.range == "mean_squared_error":
            steps = clipped_steps(
                self._matrix(weights),
                num_bits=scheme.num_bits,
                group_size=scheme.group_size,
            )
        else:
            steps = self._lsq_steps(self._matrix(weights))
        self._group_size = scheme.group_size or self.layout.num_inputs
        self.steps = self._remember("steps", steps, trainable=scheme.learn_step)

    @property
    def learned(self) -> Any:
        """The steps, where they are learned."""
        return self.steps if self.scheme.learn_step else None

    def call(self, weights: Any, training: Any = None) -> Any:
        """Returns the weights on the grid of the steps."""
        num_bits, layout = self.scheme.num_bits, self.layout
        groups = to_groups(weights, layout, self._group_size)
        steps = ops.expand_dims(self.steps.value, 1)
        if not self.scheme.learn_step:
            values = fake_quantize(groups, steps, num_bits=num_bits)
            return from_groups(values, layout)
        high = max_integer(num_bits)
        # The gradient is scaled so that steps move as fast as weights do.
        weights_per_step = layout.size / np.prod(self.steps.shape)
        factor = float((weights_per_step * high) ** -0.5)
        steps = ops.maximum(ops.abs(steps), 1e-12)
        if self.scheme.group_size:
            steps = straight_through(steps, block_scale(steps))
        scaled = steps * factor
        steps = straight_through(scaled, steps)
        position = ops.clip(groups / steps, -high, high)
        integers = straight_through(position, ops.floor(position + 0.5))
        return from_groups(integers * steps, layout)

    def _matrix(self, weights: np.ndarray) -> np.ndarray:
        """Returns the weights with what shares a step in a column's groups."""
        matrix = np.asarray(self.layout.to_matrix(weights), "float32")
        is_whole = self.scheme.granularity == "per_tensor"
        return matrix.reshape(-1, 1) if is_whole else matrix

    def _lsq_steps(self, matrix: np.ndarray) -> np.ndarray:
        """Returns 2 mean|w| / sqrt(q): section 2.1 of the paper."""
        size = self.scheme.group_size or matrix.shape[0]
        groups = matrix.reshape(-1, size, matrix.shape[1])
        mean = np.abs(groups).mean(axis=1)
        steps = 2.0 * mean / np.sqrt(max_integer(self.scheme.num_bits))
        return np.where(steps > 1e-12, steps, 1.0)


def to_groups(weights: Any, layout: Layout, group_size: int) -> Any:
    """Returns a kernel as `(groups, group_size, outputs)`."""
    matrix = layout.to_matrix(weights)
    return ops.reshape(matrix, (-1, group_size, layout.num_outputs))


def from_groups(groups: Any, layout: Layout) -> Any:
    """Returns the kernel that `to_groups` made the groups from."""
    shape = (layout.num_inputs, layout.num_outputs)
    return layout.from_matrix(ops.reshape(groups, shape))
