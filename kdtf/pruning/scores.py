"""How much a weight matters: pure functions, higher is more important.

All compute in float32, whatever the dtype of the weights.
"""

from typing import Any

from keras import ops

from kdtf.transforms.layout import Layout

__all__ = [
    "apoz",
    "magnitude",
    "mean_activation",
    "movement",
    "snip",
    "taylor",
    "threshold_mask",
    "wanda",
]


def magnitude(weights: Any) -> Any:
    """Returns |w|.

    Args:
        weights: Any shape.

    Returns:
        float32, the weights' shape.

    Example:
        >>> import numpy as np
        >>> np.asarray(magnitude([-2.0, 1.0])).tolist()
        [2.0, 1.0]

    Reference:
        Han et al. 2015, https://arxiv.org/abs/1506.02626 (section 3.1)
    """
    return ops.abs(ops.cast(weights, "float32"))


def threshold_mask(weights: Any, tau: float) -> Any:
    """Returns where |w| > tau: pruned weights are w where True, else 0.

    The definition of magnitude pruning with a given threshold; with a given
    sparsity, `kdtf.prune` finds the threshold.

    Args:
        weights: Any shape.
        tau: Threshold >= 0, in units of the weights.

    Returns:
        bool, the weights' shape.

    Raises:
        ValueError: `tau` is negative.

    Example:
        >>> import numpy as np
        >>> np.asarray(threshold_mask([-2.0, 1.0, 0.5], 1.0)).tolist()
        [True, False, False]
    """
    if not tau >= 0:
        raise ValueError(
            "`tau` is a bound on |w| and must be >= 0. Received: "
            f"tau={tau}. 0 drops exact zeros only."
        )
    return magnitude(weights) > tau


def wanda(weights: Any, squared_norms: Any) -> Any:
    """Returns |w| * ||x||_2, where x are the inputs the weight multiplies.

    Args:
        weights: Any shape.
        squared_norms: ||x||_2 ** 2 over all calibration samples and
            positions; a shape that broadcasts to the weights'.

    Returns:
        float32, the weights' shape.

    Example:
        >>> import numpy as np
        >>> weights = np.array([[1.0, -2.0], [3.0, 1.0]])
        >>> np.asarray(wanda(weights, np.array([[4.0], [1.0]]))).tolist()
        [[2.0, 4.0], [3.0, 1.0]]

    Reference:
        Sun et al. 2023, https://arxiv.org/abs/2306.11695 (equation 1)
    """
    return magnitude(weights) * ops.sqrt(ops.cast(squared_norms, "float32"))


def apoz(num_zeros: Any, num_values: Any, layout: Layout) -> Any:
    """Returns 1 - APoZ of each weight's output unit.

    APoZ is the average percentage of zeros among a unit's activations: a
    unit that is mostly silent matters little.

    Args:
        num_zeros: Activations that were 0, for each unit; the shape of the
            kernel's output axes.
        num_values: Activations seen of each unit, a scalar > 0.
        layout: The kernel's layout.

    Returns:
        float32 in [0, 1], the kernel's shape.

    Example:
        >>> import numpy as np
        >>> layout = Layout(shape=(1, 2), contraction=(0,), output=(1,))
        >>> np.asarray(apoz([3.0, 1.0], 4.0, layout)).tolist()
        [[0.25, 0.75]]

    Reference:
        Hu et al. 2016, https://arxiv.org/abs/1607.03250 (equation 1)
    """
    share = ops.cast(num_zeros, "float32") / ops.cast(num_values, "float32")
    return _per_unit(1.0 - share, layout)


def mean_activation(totals: Any, num_values: Any, layout: Layout) -> Any:
    """Returns the mean |activation| of each weight's output unit.

    Args:
        totals: The sum of |activation| of each unit; the shape of the
            kernel's output axes.
        num_values: Activations seen of each unit, a scalar > 0.
        layout: The kernel's layout.

    Returns:
        float32, the kernel's shape.

    Example:
        >>> import numpy as np
        >>> layout = Layout(shape=(1, 2), contraction=(0,), output=(1,))
        >>> np.asarray(mean_activation([8.0, 2.0], 4.0, layout)).tolist()
        [[2.0, 0.5]]

    Reference:
        Molchanov et al. 2017, https://arxiv.org/abs/1611.06440 (section 2.2)
    """
    mean = ops.cast(totals, "float32") / ops.cast(num_values, "float32")
    return _per_unit(mean, layout)


def taylor(weights: Any, gradients: Any) -> Any:
    """Returns |w * dL/dw|: how much the loss moves if the weight goes.

    The first-order Taylor expansion of the change in loss; average it over
    batches, each with its own gradient.

    Args:
        weights: Any shape.
        gradients: dL/dw of one batch, the same shape.

    Returns:
        float32, the weights' shape.

    Example:
        >>> import numpy as np
        >>> np.asarray(taylor([2.0, -1.0], [-0.5, 3.0])).tolist()
        [1.0, 3.0]

    Reference:
        Molchanov et al. 2017, https://arxiv.org/abs/1611.06440 (equation 7)
    """
    return ops.abs(_product(weights, gradients))


def snip(weights: Any, gradients: Any) -> Any:
    """Returns connection sensitivity: |w * dL/dw| over the sum of all.

    Args:
        weights: A list of kernels, which are normalised together.
        gradients: dL/dw of the whole calibration set, the same shapes.

    Returns:
        A list of float32 tensors that sum to 1; zeros if all gradients are.

    Example:
        >>> import numpy as np
        >>> scores = snip([[2.0, -1.0], [1.0]], [[-0.5, 2.0], [1.0]])
        >>> [np.asarray(score).tolist() for score in scores]
        [[0.25, 0.5], [0.25]]

    Reference:
        Lee et al. 2019, https://arxiv.org/abs/1810.02340 (section 4.1)
    """
    parts = [
        ops.abs(_product(w, g)) for w, g in zip(weights, gradients, strict=True)
    ]
    total = ops.sum(ops.stack([ops.sum(part) for part in parts]))
    # All gradients 0 leave nothing to tell the weights apart by.
    safe = ops.where(total > 0, total, 1.0)
    return [part / safe for part in parts]


def movement(accumulated: Any, weights: Any, gradients: Any) -> Any:
    """Returns S - w * dL/dw: weights that training moves away from 0 gain.

    Args:
        accumulated: S so far, the weights' shape; zeros at first.
        weights: Any shape.
        gradients: dL/dw of one batch, the same shape.

    Returns:
        float32, the weights' shape; negative for weights on their way to 0.

    Example:
        >>> import numpy as np
        >>> np.asarray(movement([0.5, 0.0], [2.0, 1.0], [0.5, -3.0])).tolist()
        [-0.5, 3.0]

    Reference:
        Sanh et al. 2020, https://arxiv.org/abs/2005.07683 (section 4)
    """
    return ops.cast(accumulated, "float32") - _product(weights, gradients)


def _product(weights: Any, gradients: Any) -> Any:
    return ops.cast(weights, "float32") * ops.cast(gradients, "float32")


def _per_unit(values: Any, layout: Layout) -> Any:
    """Spreads a value for each unit over the unit's weights."""
    row = ops.reshape(values, (1, layout.num_outputs))
    shape = (layout.num_inputs, layout.num_outputs)
    return layout.from_matrix(ops.broadcast_to(row, shape))
