"""The measured row of one model."""

import dataclasses
import math
from typing import Any

from kdtf.evaluation.latency import Latency


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """What one model costs and what it can do.

    Attributes:
        name: What the user called it.
        kind: "keras", "tf_keras" or "tflite": what made the predictions.
        num_parameters: Elements of all weights.
        num_nonzero: How many of them are not 0.
        size_bytes: A `.tflite` file's bytes; of a Keras model, in memory or
            in a file, the bytes of its weights (no optimizer state).
        gzip_size_bytes: The same after gzip.
        latency: The time of one call on LiteRT, or None.
        metrics: The value of each metric on the data.
        agreement: Share of decisions equal to the first row's, in [0, 1],
            or None.
        notes: Why something is missing.
    """

    name: str
    kind: str
    num_parameters: int
    num_nonzero: int
    size_bytes: int
    gzip_size_bytes: int
    latency: Latency | None = None
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    agreement: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def sparsity(self) -> float:
        """The fraction of zeros among the weights, in [0, 1]."""
        if not self.num_parameters:
            return 0.0
        return 1.0 - self.num_nonzero / self.num_parameters

    @property
    def latency_ms_p50(self) -> float | None:
        """The median time of one call in milliseconds, or None."""
        return self.latency.p50_ms if self.latency else None

    @property
    def latency_ms_p90(self) -> float | None:
        """The time 9 of 10 calls stay within, in milliseconds, or None."""
        return self.latency.p90_ms if self.latency else None

    def to_dict(self) -> dict[str, Any]:
        """Gives the row as plain dicts, lists, numbers and strings."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Row":
        """Makes the row that `to_dict` described; None among metrics is nan."""
        latency = values["latency"]
        metrics = {
            name: math.nan if value is None else value
            for name, value in values["metrics"].items()
        }
        changes = {
            "latency": Latency(**latency) if latency else None,
            "metrics": metrics,
            "notes": tuple(values["notes"]),
        }
        return cls(**{**values, **changes})
