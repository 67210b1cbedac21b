"""One file that was tried, or why there is none."""

import dataclasses
import math
from typing import Any

__all__ = ["TAUGHT", "Candidate", "pareto"]

# Beside a shrunk model's file: the model before it was quantized.
TAUGHT = "-taught"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidate:
    """A way to compress, and what its file costs and can do.

    Attributes:
        name: Such as "int8" or "shrunk to 40%, int8".
        stage: What kind of way it is: "post-training", "quantization-aware",
            "pruned", "shrunk" or "searched"; "original" for the model as it
            was.
        settings: Each step with what it was told: the lineage of the file.
        status: "complete"; "failed": it did not train, did not convert, or
            its file computes something else; or "skipped" for lack of time.
        reason: Why it failed, or what else is worth knowing.
        file: The verified file's name in the folder of results.
        size_bytes: The file's; nan if there is none.
        gzip_size_bytes: What a download costs.
        latency_ms: Median of one call on LiteRT, one thread, this machine.
        quality: The metric, on the validation data.
        quality_loss: How much worse than the original, in the metric's units;
            below 0 if better.
        seconds: What making and measuring it took.
    """

    name: str
    stage: str
    settings: dict[str, Any]
    status: str
    reason: str = ""
    file: str = ""
    size_bytes: float = math.nan
    gzip_size_bytes: float = math.nan
    latency_ms: float = math.nan
    quality: float = math.nan
    quality_loss: float = math.nan
    seconds: float = 0.0

    @property
    def is_complete(self) -> bool:
        """Whether there is a verified file."""
        return self.status == "complete"

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data; a nan becomes None."""
        return {
            key: None if isinstance(v, float) and math.isnan(v) else v
            for key, v in dataclasses.asdict(self).items()
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Candidate":
        """Returns the candidate that `to_dict` described."""
        numbers = [f.name for f in dataclasses.fields(cls) if f.type is float]
        found: dict[str, Any] = dict.fromkeys(numbers, math.nan)
        found.update((k, v) for k, v in values.items() if v is not None)
        return cls(**found)


def pareto(candidates: tuple[Candidate, ...]) -> tuple[Candidate, ...]:
    """Returns those that no other beats in bytes, time and quality at once.

    Args:
        candidates: In any order; those without a file are left out.

    Returns:
        The smallest first. Of equal ones the first stays.

    Example:
        >>> def made(name, size, loss):
        ...     return Candidate(
        ...         name=name, stage="", settings={}, status="complete",
        ...         size_bytes=size, latency_ms=1.0, quality_loss=loss,
        ...     )
        >>> tried = made("a", 9, 0.0), made("b", 5, 0.1), made("c", 9, 0.2)
        >>> [one.name for one in pareto(tried)]
        ['b', 'a']
    """
    complete = [one for one in candidates if one.is_complete]

    def beats(one: Candidate, other: Candidate) -> bool:
        pairs = list(zip(_costs(one), _costs(other), strict=True))
        if all(a == b for a, b in pairs):
            return complete.index(one) < complete.index(other)
        return all(a <= b for a, b in pairs)

    front = [
        one
        for one in complete
        if not any(beats(other, one) for other in complete if other is not one)
    ]
    return tuple(sorted(front, key=lambda one: one.size_bytes))


def _costs(candidate: Candidate) -> tuple[float, float, float]:
    return candidate.size_bytes, candidate.latency_ms, candidate.quality_loss
