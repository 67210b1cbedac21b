"""Numbers for the channels of a model, and which of them go together.

Every element of a tensor belongs to an *atom*: the channel that made it.
Removing an atom removes all of its elements, wherever layers have moved,
copied or flattened them; two atoms that are added to each other can only be
removed together. So the dependency graph of a model is an array of atoms for
each tensor, and a list of ties.
"""

from typing import Any

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

__all__ = ["FIXED", "Atoms", "lines", "spread"]

# The atom of what cannot be removed: inputs, outputs, what is not understood.
FIXED = 0


class Atoms:
    """Hands out atoms, and remembers which are tied.

    Example:
        >>> atoms = Atoms()
        >>> a, b = atoms.new(2), atoms.new(2)
        >>> atoms.tie(a, b)
        >>> atoms.fix(b[1:])
        >>> atoms.roots().tolist()  # The fixed one, then a's, then b's.
        [0, 1, 0, 1, 0]
    """

    def __init__(self) -> None:
        """Starts with the fixed atom alone."""
        self._count = 1
        self._pairs: list[np.ndarray] = []

    def new(self, number: int) -> np.ndarray:
        """Returns so many new atoms, int64."""
        first = self._count
        self._count += number
        return np.arange(first, self._count)

    def tie(self, first: Any, second: Any) -> None:
        """Lets atoms go together, pairwise; shapes broadcast."""
        pairs = np.stack(np.broadcast_arrays(first, second), -1).reshape(-1, 2)
        self._pairs.append(np.unique(pairs[pairs[:, 0] != pairs[:, 1]], axis=0))

    def fix(self, atoms: Any) -> None:
        """Keeps atoms from being removed."""
        self.tie(atoms, FIXED)

    def roots(self) -> np.ndarray:
        """Returns each atom's group, named by its smallest atom, `(atoms,)`."""
        pairs = np.concatenate([np.zeros((0, 2), int), *self._pairs])
        shape = (self._count, self._count)
        ones = np.ones(len(pairs), bool)
        graph = sparse.coo_matrix((ones, (pairs[:, 0], pairs[:, 1])), shape)
        _, labels = csgraph.connected_components(graph, directed=False)
        _, first = np.unique(labels, return_index=True)
        return first[labels]

    def along(self, tensor: np.ndarray, axis: int = -1) -> np.ndarray:
        """Returns the atoms along one axis, tied over all others.

        What reads a tensor along an axis needs whole slices of it.

        Args:
            tensor: A tensor's atoms, at least one axis.
            axis: One of its axes.

        Example:
            >>> atoms = Atoms()
            >>> atoms.along(atoms.new(6).reshape(2, 3)).tolist()
            [1, 2, 3]
            >>> atoms.roots().tolist()
            [0, 1, 2, 3, 1, 2, 3]
        """
        rows = np.moveaxis(tensor, axis, -1)
        rows = rows.reshape(-1, rows.shape[-1])
        if (rows != rows[0]).any():
            self.tie(rows, rows[0])
        return rows[0]

    def whole(self, tensor: np.ndarray) -> np.ndarray:
        """Returns a tensor's atoms, tied until it stays a full array.

        What is left of a tensor must have no holes: atoms may differ along
        one axis only. Where they differ along more, they are tied along all
        but the last.
        """
        if len(lines(tensor)) < 2:
            return tensor
        return spread(self.along(tensor), tensor.shape)


def spread(atoms: np.ndarray, shape: Any, axis: int = -1) -> np.ndarray:
    """Returns the atoms of a tensor that differ along one axis only.

    Args:
        atoms: Those along the axis, `(shape[axis],)`.
        shape: The tensor's, without the batch.
        axis: The axis.

    Example:
        >>> spread(np.array([1, 2]), (2, 2), axis=0).tolist()
        [[1, 1], [2, 2]]
    """
    ones = [1] * len(shape)
    ones[axis] = len(atoms)
    return np.broadcast_to(atoms.reshape(ones), shape)


def lines(tensor: np.ndarray) -> dict[int, np.ndarray]:
    """Returns the axes along which a tensor's atoms differ.

    Returns:
        Axis to the atoms on the first line along it.

    Example:
        >>> lines(np.array([[1, 2], [1, 2]]))
        {1: array([1, 2])}
    """
    return {
        axis: np.moveaxis(tensor, axis, -1).reshape(-1, tensor.shape[axis])[0]
        for axis in range(tensor.ndim)
        if (tensor != tensor.take([0], axis)).any()
    }
