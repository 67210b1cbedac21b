"""What a cache holds of each row, and the bytes of it.

A row is one TFRecord: an 8 byte length, its checksum (4), the payload, its
checksum (4); numbers are little-endian. All rows of a cache have one size, so
that row i begins at i * size. The payload is `key` (8 bytes); with ids of the
user's own also `content` (8); then the arrays of `RowFormat.payload`.
"""

import dataclasses
import math
from typing import Any

import numpy as np

__all__ = ["CacheError", "CacheSettings", "RowFormat", "check_settings"]


class CacheError(ValueError):
    """A teacher's cache is damaged, stale, or does not know an example."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CacheSettings:
    """What to keep of a teacher's outputs.

    Args:
        top_k: Keep this many of the likeliest classes. Defaults to None.
        samples: Keep so many draws instead. Defaults to None; with neither,
            all logits are kept.
        temperature: T > 0 of the probabilities that `top_k` and `samples`
            keep. Defaults to 1.0; logits are kept as they are.
        dtype: "float16" or "float32". Defaults to "float16".
        seed: Of the draws. Defaults to 0.

    Raises:
        ValueError: A value out of range, or two that exclude each other.

    Example:
        >>> CacheSettings(top_k=64).kind
        'top_k'
    """

    top_k: int | None = None
    samples: int | None = None
    temperature: float = 1.0
    dtype: str = "float16"
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks the values."""
        check_settings(self)

    @property
    def kind(self) -> str:
        """Returns "dense", "top_k" or "samples"."""
        if self.top_k is not None:
            return "top_k"
        return "dense" if self.samples is None else "samples"


def check_settings(settings: CacheSettings) -> None:
    """Raises unless the settings make sense together."""
    top_k, samples = settings.top_k, settings.samples
    if top_k is not None and samples is not None:
        raise ValueError(
            "`top_k` and `samples` exclude each other. Received: "
            f"top_k={top_k}, samples={samples}. Give one of them, or none to "
            "keep all logits."
        )
    # Draws are counted in 16 bits.
    for name, value, largest in (
        ("top_k", top_k, 2**31 - 1),
        ("samples", samples, 2**16 - 1),
        ("seed", settings.seed, 2**63 - 1),
    ):
        smallest = 0 if name == "seed" else 1
        if value is not None and not (
            isinstance(value, int)
            and not isinstance(value, bool)
            and smallest <= value <= largest
        ):
            raise ValueError(
                f"`{name}` must be a whole number from {smallest} to "
                f"{largest}. Received: {name}={value!r}."
            )
    temperature = settings.temperature
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ValueError(
            "`temperature` must be positive. Received: "
            f"temperature={temperature!r}."
        )
    if settings.kind == "dense" and temperature != 1:
        raise ValueError(
            "Without `top_k` or `samples` the logits are kept, which serve "
            f"every temperature. Received: temperature={temperature!r}. Leave "
            "it out here and give it to the Distiller."
        )
    if settings.dtype not in ("float16", "float32"):
        raise ValueError(
            "`dtype` must be 'float16' or 'float32'. Received: "
            f"dtype={settings.dtype!r}."
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class RowFormat:
    """The arrays of one row.

    Args:
        settings: What is kept.
        output_shape: The teacher's, without the batch: `(..., classes)`.
        head: "softmax" or "sigmoid".
        has_ids: Whether rows have ids of the user's own.

    Raises:
        ValueError: The settings do not fit the outputs.

    Example:
        >>> settings = CacheSettings(top_k=2)
        >>> rows = RowFormat(settings=settings, output_shape=(3, 5))
        >>> rows.payload.names, rows.row_bytes  # 8 + 3 * (2 * (2 + 2) + 2)
        (('key', 'ids', 'log_probs', 'log_rest'), 38)
    """

    settings: CacheSettings
    output_shape: tuple[int, ...]
    head: str = "softmax"
    has_ids: bool = False

    def __post_init__(self) -> None:
        """Checks that the settings fit the outputs."""
        shape, settings = self.output_shape, self.settings
        if not shape or not all(isinstance(n, int) and n > 0 for n in shape):
            raise ValueError(
                "A row's outputs must have a fixed shape (..., classes). "
                f"Received: output_shape={(None, *shape)}. Pad all batches to "
                "one length."
            )
        if self.head not in ("softmax", "sigmoid"):
            raise ValueError(
                "`head` must be 'softmax' or 'sigmoid'. Received: "
                f"head={self.head!r}."
            )
        if settings.kind != "dense" and self.head != "softmax":
            raise ValueError(
                f"`{settings.kind}` needs classes that exclude each other. "
                f"Received: {settings.kind}={self.slots}, head={self.head!r}. "
                "Leave it out to keep all logits."
            )
        if (settings.top_k or 0) > shape[-1]:
            raise ValueError(
                "`top_k` must be at most the number of classes. Received: "
                f"top_k={settings.top_k}, classes={shape[-1]}. Leave it out "
                "to keep all logits."
            )

    @property
    def slots(self) -> int:
        """Returns how many numbers are kept of a distribution."""
        settings = self.settings
        return settings.top_k or settings.samples or self.output_shape[-1]

    @property
    def positions(self) -> int:
        """Returns the number of distributions in a row: tokens, or 1."""
        return math.prod(self.output_shape[:-1])

    @property
    def payload(self) -> np.dtype:
        """Returns the row as a NumPy structure without gaps."""
        middle, classes = self.output_shape[:-1], self.output_shape[-1]
        number = np.dtype(self.settings.dtype).newbyteorder("<")
        ids = "<u2" if classes <= 2**16 else "<u4"
        slots = (*middle, self.slots)
        fields: list[Any] = [("key", "<i8")]
        if self.has_ids:
            fields.append(("content", "<i8"))
        if self.settings.kind == "dense":
            fields.append(("logits", number, slots))
        else:
            fields += [("ids", ids, slots), ("log_probs", number, slots)]
        if self.settings.kind == "top_k":
            fields.append(("log_rest", number, middle))
        if self.settings.kind == "samples":
            fields.append(("counts", "<u2", slots))
        return np.dtype(fields)

    @property
    def frame(self) -> np.dtype:
        """Returns the TFRecord around the row as a NumPy structure."""
        return np.dtype(
            [
                ("length", "<u8"),
                ("length_crc", "<u4"),
                ("payload", self.payload),
                ("payload_crc", "<u4"),
            ]
        )

    @property
    def row_bytes(self) -> int:
        """Returns the bytes of a payload."""
        return self.payload.itemsize

    def get_config(self) -> dict[str, Any]:
        """Returns the format as plain data."""
        config = dataclasses.asdict(self)
        return {**config, "output_shape": list(self.output_shape)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "RowFormat":
        """Returns the format that `get_config` described."""
        settings = CacheSettings(**config["settings"])
        shape = tuple(config["output_shape"])
        return cls(**{**config, "settings": settings, "output_shape": shape})
