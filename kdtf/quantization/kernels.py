"""Gives a kernel's values on its scheme's grid, while training and after it.

Each quantizer belongs to one kernel. It is called with the real weights and
returns those the layer shall compute with; gradients pass straight through.
Where it remembers something (learned steps, a codebook) it does so in
variables that are saved with the model's state.
"""

import contextlib
from typing import Any

import keras
import numpy as np
from keras import ops

from kdtf.quantization import codebook as codebooks
from kdtf.quantization import power_of_two as powers
from kdtf.quantization import schemes
from kdtf.quantization.linear import block_scale
from kdtf.quantization.linear import fake_quantize
from kdtf.quantization.linear import max_integer
from kdtf.quantization.linear import straight_through
from kdtf.quantization.linear import symmetric_scale
from kdtf.quantization.symmetric_grid import clipped_steps
from kdtf.transforms.deployment import KernelGrid
from kdtf.transforms.layout import Layout
from kdtf.transforms.layout import layout_of
from kdtf.transforms.selection import Candidate

__all__ = ["KernelQuantizer", "quantizer_of", "scope_of"]


class KernelQuantizer(keras.layers.Layer):
    """Moves a kernel's weights to allowed values; subclasses say which.

    A layer for its `training` argument, which Keras hands from call to call;
    it is no part of the model.

    Args:
        kernel: The kernel.
        scheme: What values it may take.
        steps: Those of a grid that somebody else has chosen.
    """

    def __init__(
        self, kernel: Candidate, scheme: Any, *, steps: Any = None
    ) -> None:
        super().__init__(dtype="float32", autocast=False)
        self.kernel_path = kernel.path
        self.scheme = scheme
        self.layout = layout_of(kernel.layer, kernel.variable)
        self.kernel_shape = kernel.shape
        self._given_steps = steps
        self.start(np.asarray(kernel.variable, "float32"))
        self.built = True

    def start(self, weights: np.ndarray) -> None:
        """Fits what is remembered to the weights; by default nothing is."""

    def call(self, weights: Any, training: Any = None) -> Any:
        """Returns the weights as the layer shall read them.

        Args:
            weights: float32, of the kernel's shape.
            training: Whether what is remembered may change.
        """
        raise NotImplementedError

    def grid(self, weights: Any) -> KernelGrid:
        """Returns the kernel's values and how a file can store them."""
        return KernelGrid(
            path=self.kernel_path,
            values=np.asarray(self(weights, training=False), "float32"),
            num_bits=self.stored_bits,
            block_size=self.block_size,
        )

    @property
    def block_size(self) -> int | None:
        """Inputs that share a stored scale; None for all of an output's."""
        return None

    @property
    def stored_bits(self) -> int | None:
        """Bits of the integers a file stores; None if there are no such."""
        return None

    @property
    def learned(self) -> Any:
        """The variable that the optimizer shall train, or None."""
        return None

    def _remember(self, name: str, value: Any, *, trainable: bool) -> Any:
        value = np.asarray(value, "float32")
        return self.add_weight(
            name=name,
            shape=value.shape,
            dtype="float32",
            initializer=keras.initializers.Constant(value),
            trainable=trainable,
            autocast=False,
            # All replicas compute the same; one of them speaks for all.
            aggregation="none" if trainable else "only_first_replica",
        )


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
        elif scheme.learn_step and scheme.range == "max_abs":
            steps = self._lsq_steps(weights)
        else:
            steps = self._clipped_steps(weights)
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

    def _clipped_steps(self, weights: np.ndarray) -> np.ndarray:
        matrix = np.asarray(self.layout.to_matrix(weights), "float32")
        if self.scheme.granularity == "per_tensor":
            matrix = matrix.reshape(-1, 1)
        if self.scheme.range == "mean_squared_error":
            return clipped_steps(
                matrix,
                num_bits=self.scheme.num_bits,
                group_size=self.scheme.group_size,
            )
        size = self.scheme.group_size or matrix.shape[0]
        groups = matrix.reshape(-1, size, matrix.shape[1])
        peak = np.abs(groups).max(axis=1)
        steps = symmetric_scale(peak, num_bits=self.scheme.num_bits)
        if self.scheme.group_size:
            steps = block_scale(steps)
        return np.asarray(steps)

    def _lsq_steps(self, weights: np.ndarray) -> np.ndarray:
        """Returns 2 mean|w| / sqrt(q): section 2.1 of the paper."""
        matrix = np.asarray(self.layout.to_matrix(weights), "float32")
        if self.scheme.granularity == "per_tensor":
            matrix = matrix.reshape(-1, 1)
        size = self.scheme.group_size or matrix.shape[0]
        groups = matrix.reshape(-1, size, matrix.shape[1])
        mean = np.abs(groups).mean(axis=1)
        steps = 2.0 * mean / np.sqrt(max_integer(self.scheme.num_bits))
        return np.where(steps > 1e-12, steps, 1.0)


class CodebookQuantizer(KernelQuantizer):
    """A few values, which move to the mean of their weights at each step."""

    def start(self, weights: np.ndarray) -> None:
        """Finds the entries by k-means."""
        scheme = self.scheme
        entries = codebooks.kmeans_codebook(
            weights,
            scheme.num_entries,
            keep_zero=scheme.keep_zero,
            initialization=scheme.initialization,
            seed=scheme.seed,
        )
        self.entries = self._remember("entries", entries, trainable=False)

    def call(self, weights: Any, training: Any = None) -> Any:
        """Returns each weight's nearest entry."""
        entries = self.entries.value
        indices = codebooks.nearest_indices(weights, entries)
        if training:
            entries = codebooks.updated_codebook(
                weights, indices, entries, keep_zero=self.scheme.keep_zero
            )
            self.entries.assign(entries)
        return straight_through(weights, codebooks.look_up(indices, entries))


class PowerOfTwoQuantizer(KernelQuantizer):
    """Powers of two, or sums of two, times a scale."""

    @property
    def stored_bits(self) -> int | None:
        """4 or 8 where the levels are multiples of one step, else None."""
        steps = powers.integer_grid(self._levels)
        return None if steps is None else 4 if steps <= 7 else 8

    def start(self, weights: np.ndarray) -> None:
        """Makes the levels."""
        scheme = self.scheme
        self._levels = powers.additive_power_of_two_levels(
            scheme.num_bits, scheme.num_terms
        )

    def call(self, weights: Any, training: Any = None) -> Any:
        """Returns each weight's nearest level."""
        axes = None
        if self.scheme.granularity == "per_channel":
            axes = self.layout.contraction
        scale = powers.max_abs_scale(weights, axes=axes)
        values = powers.round_to_levels(weights, self._levels, scale)
        return straight_through(weights, values)


class NormalFloat4Quantizer(KernelQuantizer):
    """Sixteen quantiles of the normal distribution, scaled per block."""

    def call(self, weights: Any, training: Any = None) -> Any:
        """Returns each weight's nearest quantile."""
        # Blocks run along the inputs of an output, the last axis here.
        matrix = ops.transpose(self.layout.to_matrix(weights))
        codes = codebooks.normal_float4(
            matrix, group_size=self.scheme.group_size
        )
        values = self.layout.from_matrix(ops.transpose(codes.values))
        return straight_through(weights, values)


def quantizer_of(
    kernel: Candidate, weights: schemes.Weights, *, steps: Any = None
) -> KernelQuantizer:
    """Returns the quantizer of a kernel.

    Args:
        kernel: A kernel of a built model.
        weights: What values it may take.
        steps: Fixed steps of a linear grid, `(groups or 1, outputs)`; None
            for steps that the scheme chooses.

    Raises:
        ValueError: The kernel holds nan, or its inputs are not divided by the
            size of a group.
    """
    _check_finite(kernel)
    _check_groups(kernel, getattr(weights, "group_size", None))
    kind: Any = {
        schemes.Linear: LinearQuantizer,
        schemes.Codebook: CodebookQuantizer,
        schemes.PowerOfTwo: PowerOfTwoQuantizer,
        schemes.NormalFloat4: NormalFloat4Quantizer,
    }[type(weights)]
    if isinstance(weights, schemes.Linear):
        follows = weights.range == "max_abs" and not weights.learn_step
        if steps is not None or not follows:
            kind = SteppedQuantizer
    with scope_of(kernel.variable):
        return kind(kernel, weights, steps=steps)


def to_groups(weights: Any, layout: Layout, group_size: int) -> Any:
    """Returns a kernel as `(groups, group_size, outputs)`."""
    matrix = layout.to_matrix(weights)
    return ops.reshape(matrix, (-1, group_size, layout.num_outputs))


def from_groups(groups: Any, layout: Layout) -> Any:
    """Returns the kernel that `to_groups` made the groups from."""
    shape = (layout.num_inputs, layout.num_outputs)
    return layout.from_matrix(ops.reshape(groups, shape))


def _check_finite(kernel: Candidate) -> None:
    if not np.isfinite(np.asarray(kernel.variable, "float32")).all():
        raise ValueError(
            "Only finite weights can be quantized. Received: nan or infinity "
            f"in {kernel.path!r}. Restore weights from before the training "
            "diverged."
        )


def _check_groups(kernel: Candidate, group_size: int | None) -> None:
    num_inputs = layout_of(kernel.layer, kernel.variable).num_inputs
    if group_size and num_inputs % group_size:
        raise ValueError(
            "`group_size` must divide a kernel's inputs. Received: "
            f"group_size={group_size} for {kernel.path!r} with {num_inputs} "
            "inputs. Choose another size, or others with `select`."
        )


def scope_of(variable: Any) -> Any:
    """Returns the scope of the strategy that a variable was made under."""
    strategy = getattr(variable.value, "distribute_strategy", None)
    return contextlib.nullcontext() if strategy is None else strategy.scope()
