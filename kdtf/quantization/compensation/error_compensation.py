"""Rounds a matrix so that the errors of its weights make up for each other."""

from typing import Any

import numpy as np

from kdtf.quantization.compensation.symmetric_grid import checked_matrix
from kdtf.quantization.compensation.symmetric_grid import largest_integer
from kdtf.quantization.compensation.symmetric_grid import round_to_grid
from kdtf.quantization.compensation.symmetric_grid import steps_of_weights

__all__ = ["compensated_rounding", "output_errors", "second_moment"]

_ORDERS = ("activation", "natural")


def second_moment(inputs: Any) -> np.ndarray:
    """Returns the sum of x x^T over the rows of what a matrix multiplies.

    That is half the Hessian of the squared output error.

    Args:
        inputs: `(..., num_inputs)`.

    Returns:
        float64, `(num_inputs, num_inputs)`.

    Example:
        >>> second_moment([[1.0, 2.0], [0.0, 1.0]]).tolist()
        [[1.0, 2.0], [2.0, 5.0]]
    """
    rows = np.asarray(inputs, "float64")
    rows = rows.reshape(-1, rows.shape[-1])
    return rows.T @ rows


def output_errors(difference: Any, hessian: Any) -> np.ndarray:
    """Returns each output's squared error, summed over the data: e^T H e.

    Args:
        difference: e, a matrix less its rounded one.
        hessian: The sum of x x^T.

    Returns:
        float64, `(num_outputs,)`.

    Example:
        >>> output_errors([[1.0], [-1.0]], [[4.0, 3.0], [3.0, 4.0]]).tolist()
        [2.0]
    """
    difference = np.asarray(difference, "float64")
    moments = np.asarray(hessian, "float64")
    return np.einsum("io,io->o", difference, moments @ difference)


def compensated_rounding(
    matrix: Any,
    hessian: Any,
    steps: Any,
    *,
    num_bits: int,
    damping: float = 0.01,
    order: str = "activation",
    keep_zeros: bool = False,
    block: int = 128,
) -> np.ndarray:
    """Rounds one input's weights after the other, each time making up for it.

    Before input k is rounded, its weights move to where the output error of
    the inputs before it is least (GPTQ). With the upper triangular R of
    H = R R^T this is w_k + sum over j < k of (w_j - q_j) R_jk / R_kk, which
    needs no inverse (LDLQ; the two are the same). An output for which nearest
    rounding happens to give less error, as clipping can bring about, is
    rounded to the nearest: no output is ever worse on the calibration data.

    Args:
        matrix: `(num_inputs, num_outputs)`.
        hessian: Sum of x x^T over the data, `(num_inputs, num_inputs)`.
            Weights of inputs that were always zero are rounded to the nearest.
        steps: As for `nearest_rounding`.
        num_bits: 2 to 16.
        damping: Added to the diagonal, as a fraction of its mean; made ten
            times larger until the factor R exists.
        order: "activation" rounds the strongest inputs first, while there are
            others left to make up for them; "natural" goes from first to last.
        keep_zeros: Whether zeros of the matrix stay zeros, of a pruned one.
        block: Inputs between two updates of all that follow.

    Returns:
        float32, exactly integers times steps.

    Raises:
        ValueError: Something is not finite, of another shape or out of range.

    Example:
        The nearest values are 0 and 0; but the two inputs are alike.

        >>> matrix, hessian = [[0.4], [0.4]], [[1.0, 0.9], [0.9, 1.0]]
        >>> compensated_rounding(matrix, hessian, [[1.0]], num_bits=4).tolist()
        [[0.0], [1.0]]

    Reference:
        Frantar et al. 2022, https://arxiv.org/abs/2210.17323 (Algorithm 1);
        Chee et al. 2023, https://arxiv.org/abs/2307.13304 (Theorem 6)
    """
    weights, moments = _checked(matrix, hessian)
    if order not in _ORDERS:
        raise ValueError(
            f"`order` must be one of {list(_ORDERS)}. Received: "
            f"order={order!r}."
        )
    if block < 1 or not damping >= 0.0:
        raise ValueError(
            "`block` must be at least 1 and `damping` at least 0. Received: "
            f"block={block}, damping={damping}. 128 and 0.01 suit most."
        )
    limit = largest_integer(num_bits)
    spread = steps_of_weights(steps, weights.shape)
    nearest = round_to_grid(weights, spread, limit)
    # Stable, so that ties go to the lower index.
    taken = (
        np.argsort(-np.diagonal(moments), kind="stable")
        if order == "activation"
        else np.arange(len(moments))
    )
    feedback = _feedback(moments[np.ix_(taken, taken)], damping)
    rounded = np.empty_like(nearest)
    rounded[taken] = _rounded_in_order(
        weights[taken], feedback, spread[taken], limit, keep_zeros, block
    )
    worse = output_errors(weights - rounded, moments) > output_errors(
        weights - nearest, moments
    )
    return np.where(worse, nearest, rounded)


def _rounded_in_order(
    weights: np.ndarray,
    feedback: np.ndarray,
    spread: np.ndarray,
    limit: int,
    keep_zeros: bool,
    block: int,
) -> np.ndarray:
    """Rounds row by row; `feedback[j, k]` is how far j's error moves row k."""
    rounded = np.empty_like(spread)
    errors = np.empty(weights.shape, "float64")
    for start in range(0, len(weights), block):
        stop = min(start + block, len(weights))
        # What the blocks before ask for, in one product.
        moved = feedback[:start, start:stop].T @ errors[:start]
        moved += weights[start:stop]
        for row in range(start, stop):
            wanted = moved[row - start]
            wanted += feedback[start:row, row] @ errors[start:row]
            if keep_zeros:
                wanted[weights[row] == 0.0] = 0.0
            rounded[row] = round_to_grid(wanted, spread[row], limit)
            errors[row] = weights[row] - rounded[row]
    return rounded


def _feedback(moments: np.ndarray, damping: float) -> np.ndarray:
    """Returns R / diag(R), where R R^T is the damped matrix; R is upper."""
    diagonal = np.diagonal(moments).copy()
    dead = diagonal == 0.0
    mean = diagonal[~dead].mean() if not dead.all() else 1.0
    diagonal[dead] = mean
    damped = moments.copy()
    while damping <= 1e3:
        np.fill_diagonal(damped, diagonal + damping * mean)
        try:
            # NumPy's factor is lower: of the reversed matrix, it is R.
            factor = np.linalg.cholesky(damped[::-1, ::-1])[::-1, ::-1]
            return factor / np.diagonal(factor)
        except np.linalg.LinAlgError:
            damping = max(10.0 * damping, 1e-6)
    raise ValueError(
        "`hessian` must be a sum of x x^T: positive semidefinite. Received: "
        f"a matrix of shape {moments.shape} with diagonal entries between "
        f"{diagonal.min():.3g} and {diagonal.max():.3g} that is not, even "
        "when damped. See `second_moment`."
    )


def _checked(matrix: Any, hessian: Any) -> tuple[np.ndarray, np.ndarray]:
    weights = checked_matrix("matrix", matrix, "float32")
    moments = checked_matrix("hessian", hessian, "float64")
    if moments.shape != (len(weights), len(weights)):
        raise ValueError(
            "`hessian` must have the shape (num_inputs, num_inputs) of a "
            f"matrix (num_inputs, num_outputs). Received: {moments.shape} for "
            f"a matrix of shape {weights.shape}. Bring a kernel into this form "
            "with `Layout.to_matrix`."
        )
    return weights, moments
