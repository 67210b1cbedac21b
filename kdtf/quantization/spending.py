"""Which scheme for which kernel, within a loss or within a size.

Kernels take, one after the other, the scheme that saves most bytes for what
it adds to the loss. That what single kernels add adds up is an approximation.
"""

import dataclasses
from collections.abc import Iterable

__all__ = ["KernelSensitivity", "within_bytes", "within_loss"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class KernelSensitivity:
    """One kernel, quantized while all others are float.

    Attributes:
        path: Where it stands in the model.
        scheme: The name of the scheme.
        increase: How much the loss grows; may be below 0.
        size_bytes: What the kernel takes then.
        float_size_bytes: What it takes in float32.
    """

    path: str
    scheme: str
    increase: float
    size_bytes: int
    float_size_bytes: int


def within_loss(
    rows: Iterable[KernelSensitivity], max_increase: float
) -> dict[str, str | None]:
    """Returns a scheme for each kernel that saves most for an added loss.

    Args:
        rows: What was measured.
        max_increase: How much may be added in all.
    """
    chosen = _Chosen(rows)
    left = max_increase
    while (step := chosen.best_step(left)) is not None:
        left -= max(chosen.take(step), 0.0)
    return chosen.schemes()


def within_bytes(
    rows: Iterable[KernelSensitivity], max_bytes: int
) -> dict[str, str | None]:
    """Returns a scheme for each kernel that costs least for a size.

    Args:
        rows: What was measured.
        max_bytes: What all kernels may take together.

    Raises:
        ValueError: In the smallest schemes they take more.
    """
    chosen = _Chosen(rows)
    while chosen.size_bytes > max_bytes:
        step = chosen.best_step(float("inf"))
        if step is None:
            raise ValueError(
                "`max_bytes` must hold the kernels in the smallest of the "
                f"measured schemes. Received: max_bytes={max_bytes}, and they "
                f"take {chosen.size_bytes:,} bytes. Measure schemes of fewer "
                "bits too, or prune."
            )
        chosen.take(step)
    return chosen.schemes()


class _Chosen:
    """The schemes so far; float32 at first."""

    def __init__(self, rows: Iterable[KernelSensitivity]) -> None:
        self._options: dict[str, list[KernelSensitivity]] = {}
        for row in rows:
            self._options.setdefault(row.path, []).append(row)
        self._now: dict[str, KernelSensitivity | None] = dict.fromkeys(
            self._options
        )

    @property
    def size_bytes(self) -> int:
        return sum(self._size(path) for path in self._options)

    def schemes(self) -> dict[str, str | None]:
        return {p: row.scheme if row else None for p, row in self._now.items()}

    def best_step(self, allowance: float) -> KernelSensitivity | None:
        """Gives the row that saves most for what it adds, None for none."""
        best, best_value = None, (False, 0.0)
        for path, found in self._options.items():
            for row in found:
                saved = self._size(path) - row.size_bytes
                added = self._added(row)
                if saved <= 0 or added > allowance:
                    continue
                # What costs nothing goes first, the largest saving of it.
                is_free = added <= 0
                value = (is_free, saved if is_free else saved / added)
                if value > best_value:
                    best, best_value = row, value
        return best

    def take(self, row: KernelSensitivity) -> float:
        """Takes a row, and gives what it adds."""
        added = self._added(row)
        self._now[row.path] = row
        return added

    def _added(self, row: KernelSensitivity) -> float:
        now = self._now[row.path]
        return row.increase - (now.increase if now else 0.0)

    def _size(self, path: str) -> int:
        now = self._now[path]
        if now is None:
            return self._options[path][0].float_size_bytes
        return now.size_bytes
