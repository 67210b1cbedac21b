"""K-means in one dimension, where clusters are runs of the sorted values."""

import bisect
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["INITIALIZATIONS", "SortedValues", "lloyd"]


class SortedValues:
    """Sorted values and their prefix sums: any run's mean and cost in O(1).

    Args:
        values: `(n,)`, float32, sorted, finite.

    Example:
        >>> data = SortedValues(np.array([0.0, 1.0, 5.0], "float32"))
        >>> entries = np.array([1.0, 4.0], "float32")
        >>> bounds = data.bounds(entries)
        >>> bounds.tolist(), data.means(bounds, entries).tolist()
        ([0, 2, 3], [0.5, 5.0])
    """

    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    @functools.cached_property
    def sums(self) -> np.ndarray:
        """Sums of the first 0, 1, ... n values, float64."""
        return _prefix_sums(self.values, self.values)

    @functools.cached_property
    def square_sums(self) -> np.ndarray:
        """Sums of the first 0, 1, ... n squares, float64."""
        return _prefix_sums(self.values, np.square(self.values, dtype=float))

    @property
    def num_distinct(self) -> int:
        """How many different values there are."""
        return int(np.count_nonzero(self._is_new))

    @property
    def distinct(self) -> np.ndarray:
        """The different values, sorted."""
        return self.values[self._is_new]

    @property
    def _is_new(self) -> np.ndarray:
        changes = self.values[1:] != self.values[:-1]
        return np.concatenate([[True], changes])[: len(self.values)]

    def bounds(self, entries: np.ndarray) -> np.ndarray:
        """Returns where each entry's run begins, and the end of the last.

        Args:
            entries: `(k,)`, float32, sorted.

        Returns:
            `(k + 1,)`. A value in the middle of two entries is the lower's,
            as in `nearest_indices`.
        """
        half = entries * np.float32(0.5)
        inner = np.searchsorted(self.values, half[:-1] + half[1:], "right")
        return np.concatenate([[0], inner, [len(self.values)]])

    def means(self, bounds: np.ndarray, entries: np.ndarray) -> np.ndarray:
        """Returns the mean of each run, float32; an empty run's entry."""
        counts = np.diff(bounds)
        filled = counts > 0
        firsts, lasts = bounds[:-1][filled], bounds[1:][filled]
        means = entries.copy()
        exact = (self.sums[lasts] - self.sums[firsts]) / counts[filled]
        # Differences of long sums carry a rounding error out of a tight run.
        low, high = self.values[firsts], self.values[lasts - 1]
        means[filled] = np.clip(exact.astype("float32"), low, high)
        return means

    def cost(self, first: Any, last: Any, entry: Any) -> Any:
        """Returns the squared distance of `values[first:last]` to an entry."""
        squares = self.square_sums[last] - self.square_sums[first]
        sums = self.sums[last] - self.sums[first]
        entry = np.asarray(entry, "float64")
        return squares - 2.0 * entry * sums + entry**2 * (last - first)

    def draw(self, entries: np.ndarray, rng: np.random.Generator) -> float:
        """Returns a value, drawn by its squared distance to its entry.

        Exactly the D^2 sampling of k-means++: an entry by the cost of its
        run, then a place in the run by bisection of the cost so far.
        """
        bounds = self.bounds(entries)
        costs = self.cost(bounds[:-1], bounds[1:], entries)
        # Rounding leaves a hair below 0 where a run equals its entry.
        until = np.cumsum(np.maximum(costs, 0.0))
        if not until[-1] > 0:
            return float(rng.choice(self.values))
        target = rng.random() * until[-1]
        run = int(np.searchsorted(until, target, "right"))
        run = min(run, len(entries) - 1)
        rest = target - (until[run - 1] if run else 0.0)
        first, last = int(bounds[run]), int(bounds[run + 1])
        place = bisect.bisect_right(
            range(first, last),
            rest,
            key=lambda i: self.cost(first, i + 1, entries[run]),
        )
        return float(self.values[min(first + place, last - 1)])


def lloyd(
    data: SortedValues,
    entries: np.ndarray,
    *,
    num_iterations: int,
    keep_zero: bool = False,
) -> np.ndarray:
    """Returns entries at the mean of the values nearest to them.

    Stops early when no value changes its entry. An iteration costs two
    searches of the sorted values for each entry, however many values there
    are. An entry that no value is nearest to goes where the error is greatest.

    Args:
        data: The values.
        entries: Where to start, `(k,)`, float32, sorted.
        num_iterations: At most so many, >= 0.
        keep_zero: Whether the entry that is 0 does not move.

    Returns:
        `(k,)`, float32, sorted: means of runs are in the runs' order.

    Example:
        >>> data = SortedValues(np.array([0.0, 1.0, 5.0, 6.0], "float32"))
        >>> start = np.array([0.0, 1.0], "float32")
        >>> lloyd(data, start, num_iterations=9).tolist()
        [0.5, 5.5]

    Reference:
        Lloyd 1982, https://doi.org/10.1109/TIT.1982.1056489
    """
    before = None
    for _ in range(num_iterations):
        bounds = data.bounds(entries)
        if before is not None and np.array_equal(bounds, before):
            break
        before = bounds
        moved = data.means(bounds, entries)
        if keep_zero:
            moved[entries == 0] = 0.0
        is_unused = (np.diff(bounds) == 0) & ~(keep_zero & (entries == 0))
        entries = _put_to_use(data, bounds, moved, is_unused)
    return entries


def _put_to_use(
    data: SortedValues,
    bounds: np.ndarray,
    entries: np.ndarray,
    is_unused: np.ndarray,
) -> np.ndarray:
    """Returns the unused entries moved into the costliest runs.

    Of such a run an entry takes the side with more of the cost, at its mean.
    """
    num_unused = int(is_unused.sum())
    if not num_unused:
        return entries
    # Of equal entries the unused ones lie within the run of another.
    middles = np.clip(
        np.searchsorted(data.values, entries), bounds[:-1], bounds[1:]
    )
    firsts = np.concatenate([bounds[:-1], middles])
    lasts = np.concatenate([middles, bounds[1:]])
    sides = data.cost(firsts, lasts, np.tile(entries, 2)).reshape(2, -1)
    side, costs = sides.argmax(axis=0), sides.max(axis=0)
    runs = np.argsort(-costs, kind="stable")[:num_unused]
    runs = runs[costs[runs] > 0]
    places = side[runs] * len(entries) + runs
    sums = data.sums[lasts[places]] - data.sums[firsts[places]]
    moved = entries.copy()
    unused = np.flatnonzero(is_unused)[: len(runs)]
    moved[unused] = sums / (lasts[places] - firsts[places])
    return np.sort(moved)


def linear_start(
    data: SortedValues, num_entries: int, keep_zero: bool, seed: int
) -> np.ndarray:
    """Returns entries evenly spaced from the least to the greatest value."""
    del seed
    ends = data.values[[0, -1]].astype("float64")
    entries = np.linspace(ends[0], ends[1], num_entries).astype("float32")
    return _with_zero(entries) if keep_zero else entries


def density_start(
    data: SortedValues, num_entries: int, keep_zero: bool, seed: int
) -> np.ndarray:
    """Returns quantiles: as many values around each entry."""
    del seed
    places = (2 * np.arange(num_entries) + 1) * len(data.values)
    entries = data.values[places // (2 * num_entries)]
    return _with_zero(entries) if keep_zero else entries


def plus_plus_start(
    data: SortedValues, num_entries: int, keep_zero: bool, seed: int
) -> np.ndarray:
    """Returns values drawn far from those drawn before, and from the zero.

    Reference:
        Arthur and Vassilvitskii 2007,
        https://dl.acm.org/doi/10.5555/1283383.1283494 (section 2.2)
    """
    rng = np.random.default_rng(seed)
    drawn = [0.0 if keep_zero else float(rng.choice(data.values))]
    while len(drawn) < num_entries:
        entries = np.array(drawn, "float32")
        bisect.insort(drawn, data.draw(entries, rng))
    return np.array(drawn, "float32")


INITIALIZATIONS: dict[str, Callable[..., np.ndarray]] = {
    "linear": linear_start,
    "density": density_start,
    "kmeans++": plus_plus_start,
}


def _prefix_sums(values: np.ndarray, terms: np.ndarray) -> np.ndarray:
    sums = np.zeros(len(values) + 1, "float64")
    np.cumsum(terms, dtype="float64", out=sums[1:])
    return sums


def _with_zero(entries: np.ndarray) -> np.ndarray:
    """Returns the entries, the one nearest to 0 replaced by 0."""
    replaced = entries.copy()
    replaced[np.argmin(np.abs(entries))] = 0.0
    # Out of order only where the nearest has an equal.
    return np.sort(replaced)
