"""What a file may cost, and by how much it misses that."""

import dataclasses
import math
import numbers
import re
from typing import Any

from kdtf.console import format_bytes
from kdtf.recipes.compression.candidate import Candidate

__all__ = ["Budget", "bytes_of"]

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*")


def bytes_of(size: Any) -> int:
    """Reads a size: a number of bytes, or a text with a unit.

    Args:
        size: Such as 500_000, "500kB", "2 MB" (powers of 1000) or "64KiB"
            (of 1024).

    Raises:
        ValueError: It is no size above 0.

    Example:
        >>> bytes_of("2MB"), bytes_of("64KiB"), bytes_of(500)
        (2000000, 65536, 500)
    """
    is_number = isinstance(size, numbers.Real) and not isinstance(size, bool)
    found = None if is_number else _SIZE.fullmatch(str(size))
    value = 0.0
    if is_number:
        value = float(size)
    elif found and found[2].upper() in _UNITS:
        value = float(found[1]) * _UNITS[found[2].upper()]
    if not 1 <= value < math.inf:
        raise ValueError(
            "`max_size` must be a number of bytes, or a text such as '2MB' or "
            f"'64KiB'. Received: max_size={size!r}."
        )
    return int(value)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Budget:
    """Limits on a file; None is no limit.

    Args:
        max_size: Bytes of the file, as a number or a text such as "2MB".
        max_latency_ms: Median time of one call, batch 1, one thread of
            LiteRT, on this machine.
        max_quality_loss: By how much the metric may get worse, in its units.

    Raises:
        ValueError: A limit is none, or there is no limit at all.

    Example:
        >>> budget = Budget(max_size="100kB", max_quality_loss=0.01)
        >>> print(budget)
        at most 100 kB, 0.01 worse
    """

    max_size: Any = None
    max_latency_ms: float | None = None
    max_quality_loss: float | None = None

    def __post_init__(self) -> None:
        """Checks the limits, and turns texts into bytes."""
        if self.max_size is not None:
            object.__setattr__(self, "max_size", bytes_of(self.max_size))
        _check("max_latency_ms", self.max_latency_ms, least=math.ulp(0.0))
        _check("max_quality_loss", self.max_quality_loss, least=0.0)
        if not self._limits():
            raise ValueError(
                "A budget needs a limit. Received: none. Give `max_size`, "
                "`max_latency_ms` or `max_quality_loss`."
            )

    @property
    def limits_cost(self) -> bool:
        """Whether bytes or time are limited."""
        return self.max_size is not None or self.max_latency_ms is not None

    def misses(self, candidate: Candidate) -> dict[str, float]:
        """Says by how much a measured candidate misses which limit.

        Returns:
            Of each limit that is missed by how much, as a part of the limit:
            1.0 is twice as much as allowed. Where the limit is 0, the number
            itself. Empty if the candidate fits.
        """
        found = {}
        for name, (limit, attribute) in self._limits().items():
            value = getattr(candidate, attribute)
            # A nan fits nothing.
            if not value <= limit:
                over = (value - limit) / (limit or 1.0)
                found[name] = math.inf if math.isnan(over) else over
        return found

    def describe(self, candidate: Candidate) -> str:
        """Says in words what a candidate costs beside the limits it misses."""
        words = {
            "max_size": lambda limit: (
                f"{format_bytes(candidate.size_bytes)} of {format_bytes(limit)}"
            ),
            "max_latency_ms": lambda limit: (
                f"{candidate.latency_ms:.3g} ms of {limit:.3g} ms"
            ),
            "max_quality_loss": lambda limit: (
                f"{candidate.quality_loss:.4g} worse, {limit:.4g} allowed"
            ),
        }
        limits = self._limits()
        return ", ".join(
            words[name](limits[name][0]) for name in self.misses(candidate)
        )

    def __str__(self) -> str:
        """Says the limits in a few words."""
        parts = []
        if self.max_size is not None:
            parts.append(format_bytes(self.max_size))
        if self.max_latency_ms is not None:
            parts.append(f"{self.max_latency_ms:g} ms")
        if self.max_quality_loss is not None:
            parts.append(f"{self.max_quality_loss:g} worse")
        return f"at most {', '.join(parts)}"

    def _limits(self) -> dict[str, tuple[float, str]]:
        attributes = {
            "max_size": "size_bytes",
            "max_latency_ms": "latency_ms",
            "max_quality_loss": "quality_loss",
        }
        return {
            name: (getattr(self, name), attribute)
            for name, attribute in attributes.items()
            if getattr(self, name) is not None
        }


def _check(name: str, value: Any, *, least: float) -> None:
    if value is None:
        return
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not is_number or not least <= value < math.inf:
        rule = "at least 0" if least == 0.0 else "above 0"
        raise ValueError(
            f"`{name}` must be a number {rule}. Received: {name}={value!r}."
        )
