"""Kernels whose values are freely placed levels: codebooks, powers of two."""

from typing import Any

import numpy as np
from keras import ops

from kdtf.quantization import codebook as codebooks
from kdtf.quantization import power_of_two as powers
from kdtf.quantization.kernel_quantizer import KernelQuantizer
from kdtf.quantization.linear import straight_through

__all__ = [
    "CodebookQuantizer",
    "NormalFloat4Quantizer",
    "PowerOfTwoQuantizer",
]


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
