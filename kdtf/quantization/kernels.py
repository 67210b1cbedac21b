"""From a scheme and a kernel to what quantizes it."""

from typing import Any

import numpy as np

from kdtf.quantization import schemes
from kdtf.quantization.kernel_quantizer import KernelQuantizer
from kdtf.quantization.level_kernels import CodebookQuantizer
from kdtf.quantization.level_kernels import NormalFloat4Quantizer
from kdtf.quantization.level_kernels import PowerOfTwoQuantizer
from kdtf.quantization.linear_kernels import LinearQuantizer
from kdtf.quantization.linear_kernels import SteppedQuantizer
from kdtf.transforms.attach import scope_of
from kdtf.transforms.layout import layout_of
from kdtf.transforms.selection import Candidate

__all__ = ["quantizer_of"]


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
