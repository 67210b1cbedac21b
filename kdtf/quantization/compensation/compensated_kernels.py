"""Puts the kernels of a model on grids, by what data show of their inputs."""

import dataclasses
import functools
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from kdtf.batches import Batch
from kdtf.batches import iterate_batches
from kdtf.quantization.compensation.activation_scaling import best_scales
from kdtf.quantization.compensation.activation_scaling import fold_scales
from kdtf.quantization.compensation.error_compensation import (
    compensated_rounding,
)
from kdtf.quantization.compensation.input_graph import InputGroup
from kdtf.quantization.compensation.input_graph import traced_groups
from kdtf.quantization.compensation.kernel_inputs import why_no_rows
from kdtf.quantization.compensation.second_moments import Moments
from kdtf.quantization.compensation.second_moments import gather_moments
from kdtf.quantization.compensation.second_moments import size_bytes_of_moments
from kdtf.quantization.compensation.symmetric_grid import Grid
from kdtf.quantization.compensation.symmetric_grid import clipped_steps
from kdtf.quantization.compensation.symmetric_grid import nearest_rounding
from kdtf.transforms.layout import layout_of
from kdtf.transforms.selection import Candidate
from kdtf.transforms.substitution import real_value

__all__ = ["METHODS", "CompensatedKernel", "error_compensated"]

# Fewer than in the end: they are tried for each of the scales.
_TRIED_FACTORS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
METHODS = ("awq", "gptq", "awq+gptq")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompensatedKernel:
    """A kernel on its grid.

    Attributes:
        path: The kernel's path in the model.
        values: In the kernel's shape: integers times steps, float32.
        steps: Of the kernel's matrix (`Layout.to_matrix`), float32: `(1,
            num_outputs)` or `(num_inputs // group_size, num_outputs)`.
        notes: What was not done, and why.
    """

    path: str
    values: np.ndarray
    steps: np.ndarray
    notes: tuple[str, ...] = ()


def error_compensated(
    model: Any,
    kernels: Sequence[Candidate],
    data: Any,
    *,
    grids: Sequence[Grid],
    method: str = "gptq",
    **options: Any,
) -> list[CompensatedKernel]:
    """Returns kernels rounded so that the model's outputs change little.

    "gptq" rounds one input's weights after the other and lets the rest make
    up for it; "awq" scales the inputs that come from a normalisation, where
    that lessens the error of nearest rounding; "awq+gptq" does both. All take
    steps with clipped ranges. Kernels of which it is not known what they
    multiply are clipped and rounded to the nearest, with a note.

    With "awq" the model's norms and kernels **change**, while its function
    stays the same to float32 rounding; with "gptq" it is left as it was.
    Zeros stay zeros.

    Args:
        model: A built Keras 3 model.
        kernels: Those to round.
        data: A few typical batches, as `fit` takes them; labels are not
            used. Some thousand positions (tokens) are good.
        grids: A grid for each kernel.
        method: "awq", "gptq" or "awq+gptq".
        **options: `num_passes`, `damping`, `order`, `max_bytes` and `verbose`
            of `RoundingOptions`.

    Returns:
        For each kernel, its values and steps.

    Raises:
        ValueError: An argument is out of range, or the model gives nan.

    Example:
        >>> import types
        >>> from kdtf.transforms.selection import select_kernels
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        >>> taken = select_kernels(model).taken
        >>> grid = types.SimpleNamespace(num_bits=4, group_size=None)
        >>> (kernel,) = error_compensated(
        ...     model, taken, np.eye(3), grids=[grid], verbose=0)
        >>> np.unique(np.rint(kernel.values / kernel.steps)).max() <= 7
        np.True_

    Reference:
        Frantar et al. 2022, https://arxiv.org/abs/2210.17323;
        Lin et al. 2023, https://arxiv.org/abs/2306.00978
    """
    work = _Work(
        model,
        dict(zip([id(k.variable) for k in kernels], grids, strict=True)),
        [_to_inputs(batch) for batch in iterate_batches(data)],
        method=method,
        options=RoundingOptions(**options),
    )
    done = work.run()
    for kernel in kernels:
        if id(kernel.variable) not in done:
            why = why_no_rows(kernel) or "it is not called on the data"
            grid = work.grids[id(kernel.variable)]
            done[id(kernel.variable)] = _plain(kernel, grid, why)
    return [done[id(kernel.variable)] for kernel in kernels]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RoundingOptions:
    """How kernels are rounded.

    Args:
        num_passes: Parts in which the kernels are rounded, in the order in
            which they are called; each costs a run over the data. With more
            than one the later parts see what the earlier, rounded ones make
            of it, and compensate for that too.
        damping, order: See `compensated_rounding`.
        max_bytes: Memory for the inputs' second moments; where all take more,
            there are more passes.
        verbose: 1 prints a line of progress, 0 nothing.
    """

    num_passes: int = 1
    damping: float = 0.01
    order: str = "activation"
    max_bytes: int = 2**30
    verbose: int = 1

    def __post_init__(self) -> None:
        if self.num_passes < 1:
            raise ValueError(
                "`num_passes` must be at least 1. Received: "
                f"num_passes={self.num_passes}. 1 rounds all kernels by what "
                "the float model computes."
            )


class _Work:
    """Rounds groups of kernels, part by part."""

    def __init__(
        self,
        model: Any,
        grids: dict[int, Grid],
        batches: Sequence[Batch],
        *,
        method: str,
        options: RoundingOptions,
    ) -> None:
        if method not in METHODS:
            raise ValueError(
                f"`method` must be one of {list(METHODS)}. Received: "
                f"method={method!r}."
            )
        self.grids = grids
        self._model = model
        self._batches = batches
        self._scales = "awq" in method
        self._compensates = "gptq" in method
        self._options = options

    def run(self) -> dict[int, CompensatedKernel]:
        """Returns the rounded kernels, by their variables' ids."""
        groups = [
            group
            for group in traced_groups(self._model, self._batches[0].x)
            if self._chosen(group)
        ]
        parts = list(_parts(groups, self._options))
        advance = self._progress(len(parts) * len(self._batches) + len(groups))
        done: dict[int, CompensatedKernel] = {}
        before: list[tuple[Any, np.ndarray]] = []
        try:
            for part in parts:
                for kernel, result in self._rounded(part, advance):
                    done[id(kernel.variable)] = result
                    before.append((kernel.variable, _value(kernel)))
                if part is not parts[-1]:
                    for variable, _ in before:
                        variable.assign(done[id(variable)].values)
        finally:
            for variable, value in before:
                variable.assign(value)
        return done

    def _rounded(
        self, groups: Sequence[InputGroup], advance: Callable[[], None]
    ) -> Iterator[tuple[Candidate, CompensatedKernel]]:
        found = gather_moments(
            self._model,
            [group.kernels[0].layer for group in groups],
            self._batches,
            progress=advance,
        )
        for group in groups:
            # Let go of each when it is done: they are large.
            moments = found.pop(0)
            notes: tuple[str, ...] = ()
            if self._scales:
                moments, notes = self._scaled(group, moments)
            for kernel in self._chosen(group):
                yield kernel, self._round(kernel, moments, notes)
            advance()

    def _progress(self, num_steps: int) -> Callable[[], None]:
        if not self._options.verbose or not num_steps:
            return lambda: None
        line = keras.utils.Progbar(num_steps, unit_name="step")
        return lambda: line.add(1)

    def _chosen(self, group: InputGroup) -> list[Candidate]:
        return [k for k in group.kernels if id(k.variable) in self.grids]

    def _scaled(
        self, group: InputGroup, moments: Moments
    ) -> tuple[Moments, tuple[str, ...]]:
        """Scales a group's kernels and inputs; gives the new moments."""
        if group.norm is None:
            return moments, (f"inputs not scaled: {group.reason}",)
        chosen = self._chosen(group)
        search = best_scales(
            [_matrix(kernel) for kernel in chosen],
            moments.hessian,
            moments.magnitudes,
            rounders=[
                functools.partial(_tried, grid=self.grids[id(k.variable)])
                for k in chosen
            ],
        )
        if search.exponent == 0.0:
            return moments, ("inputs not scaled: no scales lessen the error",)
        reason = fold_scales(group, search.scales)
        if reason is not None:
            return moments, (f"inputs not scaled: {reason}",)
        return moments.divided(search.scales), ()

    def _round(
        self, kernel: Candidate, moments: Moments, notes: tuple[str, ...]
    ) -> CompensatedKernel:
        grid = self.grids[id(kernel.variable)]
        matrix = _matrix(kernel)
        steps = clipped_steps(
            matrix,
            num_bits=grid.num_bits,
            group_size=grid.group_size,
            second_moments=moments.hessian,
        )
        if self._compensates:
            rounded = compensated_rounding(
                matrix,
                moments.hessian,
                steps,
                num_bits=grid.num_bits,
                damping=self._options.damping,
                order=self._options.order,
                keep_zeros=True,
            )
        else:
            rounded = nearest_rounding(matrix, steps, num_bits=grid.num_bits)
        return _result(kernel, rounded, steps, notes)


def _parts(
    groups: Sequence[InputGroup], options: RoundingOptions
) -> Iterator[list[InputGroup]]:
    """Gives the groups in parts of about the same number, within the memory."""
    most = -(-len(groups) // options.num_passes)
    part: list[InputGroup] = []
    taken = 0
    for group in groups:
        size = size_bytes_of_moments(group.kernels[0].layer)
        if part and (len(part) == most or taken + size > options.max_bytes):
            yield part
            part, taken = [], 0
        part.append(group)
        taken += size
    if part:
        yield part


def _plain(kernel: Candidate, grid: Grid, why: str) -> CompensatedKernel:
    matrix = _matrix(kernel)
    steps = clipped_steps(
        matrix, num_bits=grid.num_bits, group_size=grid.group_size
    )
    rounded = nearest_rounding(matrix, steps, num_bits=grid.num_bits)
    return _result(kernel, rounded, steps, (f"rounded to the nearest: {why}",))


def _tried(
    matrix: np.ndarray, second_moments: np.ndarray, grid: Grid
) -> np.ndarray:
    steps = clipped_steps(
        matrix,
        num_bits=grid.num_bits,
        group_size=grid.group_size,
        second_moments=second_moments,
        grid=_TRIED_FACTORS,
    )
    return nearest_rounding(matrix, steps, num_bits=grid.num_bits)


def _result(
    kernel: Candidate,
    rounded: np.ndarray,
    steps: np.ndarray,
    notes: tuple[str, ...],
) -> CompensatedKernel:
    layout = layout_of(kernel.layer, kernel.variable)
    return CompensatedKernel(
        path=kernel.path,
        values=np.asarray(layout.from_matrix(rounded), "float32"),
        steps=steps,
        notes=notes,
    )


def _value(kernel: Candidate) -> np.ndarray:
    return keras.ops.convert_to_numpy(real_value(kernel.variable))


def _matrix(kernel: Candidate) -> np.ndarray:
    layout = layout_of(kernel.layer, kernel.variable)
    return np.asarray(layout.to_matrix(_value(kernel)), "float32")


def _to_inputs(batch: Batch) -> Batch:
    to_tensor = keras.ops.convert_to_tensor
    return Batch(keras.tree.map_structure(to_tensor, batch.x))
