"""What a user may ask for: which values weights and activations may take."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from kdtf.quantization.linear import check_num_bits
from kdtf.quantization.power_of_two import additive_power_of_two_levels
from kdtf.quantization.ranges import ESTIMATORS

__all__ = [
    "SCHEMES",
    "Activations",
    "Codebook",
    "Linear",
    "NormalFloat4",
    "PowerOfTwo",
    "Scheme",
    "get",
]

_GRANULARITIES = ("per_tensor", "per_channel", "per_group")
# What LiteRT stores block scales for.
_GROUP_SIZES = (32, 64, 128, 256)
_INITIALIZATIONS = ("linear", "density", "kmeans++")


def _check_choice(name: str, value: Any, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(
            f"`{name}` must be one of {list(known)}. Received: "
            f"{name}={value!r}."
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Linear:
    """Weights on a symmetric grid of equal steps.

    Args:
        num_bits: 2 to 8. Devices store 8, 4 and 2.
        granularity: What shares a step: "per_tensor", "per_channel" (each
            output has its own) or "per_group" (each group of inputs, too).
        group_size: Inputs in a group: 32, 64, 128 or 256, which LiteRT has
            kernels for; their steps have 7 bits after the leading one, which
            is what it computes with.
        range: How wide the grid is: "max_abs" (reaches the largest weight)
            or "mean_squared_error" (clips outliers for a finer step).
        learn_step: Whether training learns the steps, by their gradients
            (LSQ), instead of following the weights.

    Raises:
        ValueError: A value is out of range, or two do not go together.

    Reference:
        Esser et al. 2019, https://arxiv.org/abs/1902.08153 (LSQ)
    """

    num_bits: int = 8
    granularity: str = "per_channel"
    group_size: int | None = None
    range: str = "max_abs"
    learn_step: bool = False

    def __post_init__(self) -> None:
        """Checks all of it."""
        check_num_bits(self.num_bits)
        _check_choice("granularity", self.granularity, _GRANULARITIES)
        _check_choice("range", self.range, ("max_abs", "mean_squared_error"))
        is_grouped = self.granularity == "per_group"
        sizes = _GROUP_SIZES if is_grouped else (None,)
        if self.group_size not in sizes:
            raise ValueError(
                "`group_size` goes with granularity='per_group' and must be "
                f"one of {list(_GROUP_SIZES)}. Received: granularity="
                f"{self.granularity!r}, group_size={self.group_size!r}."
            )
        if is_grouped and self.num_bits > 4:
            raise ValueError(
                "Groups are for 4 bits and fewer: LiteRT has no kernels for "
                f"8-bit blocks. Received: num_bits={self.num_bits}. Use "
                "granularity='per_channel'."
            )

    def __str__(self) -> str:
        """Says it in a few words."""
        group = f" of {self.group_size}" if self.group_size else ""
        learned = ", learned step" if self.learn_step else ""
        name = self.granularity.replace("_", " ")
        return f"{self.num_bits} bits {name}{group}{learned}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Codebook:
    """Weights that are each one of a few values, found by k-means.

    A `.tflite` file keeps them as float32 and only its *compressed* size
    shrinks: no runtime has kernels for them. See `kdtf.quantization_report`
    for the size with indices, and with an entropy code.

    Args:
        num_entries: Values in each kernel's table, 2 to 256.
        keep_zero: Whether one entry is 0 and stays so, for pruned weights.
        initialization: Where k-means starts: "kmeans++" (the least error
            here, by far with many entries), "linear" (between the extremes:
            Deep Compression's choice) or "density".
        seed: Of "kmeans++".

    Raises:
        ValueError: A value is out of range.

    Reference:
        Han et al. 2016, https://arxiv.org/abs/1510.00149 (section 3)
    """

    num_entries: int = 16
    keep_zero: bool = True
    initialization: str = "kmeans++"
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks all of it."""
        count = self.num_entries
        is_integer = isinstance(count, int) and not isinstance(count, bool)
        if not is_integer or not 2 <= count <= 256:
            raise ValueError(
                "`num_entries` must be an integer from 2 to 256. Received: "
                f"num_entries={count!r}. 16 entries are 4 bits."
            )
        _check_choice("initialization", self.initialization, _INITIALIZATIONS)

    def __str__(self) -> str:
        """Says it in a few words."""
        return f"codebook of {self.num_entries}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class PowerOfTwo:
    """Weights that are powers of two times a scale: products are shifts.

    With two terms each is a sum of two such powers: finer where weights are
    large. A `.tflite` file holds one term exactly, as integers: 8 bits for
    `num_bits=4` (7 octaves), 4 bits for `num_bits=3` (3 octaves).

    Args:
        num_bits: Bits of the stored exponents and the sign: 2 to 5 with one
            term; 3, 4, 5 or 7 with two.
        num_terms: Powers in each sum.
        granularity: What shares a scale: "per_tensor" or "per_channel".

    Raises:
        ValueError: A value is out of range.

    Reference:
        Zhou et al. 2017, https://arxiv.org/abs/1702.03044 (INQ); Li et al.
        2020, https://arxiv.org/abs/1909.13144 (additive)
    """

    num_bits: int = 4
    num_terms: int = 1
    granularity: str = "per_channel"

    def __post_init__(self) -> None:
        """Checks all of it."""
        check_num_bits(self.num_bits)
        _check_choice("granularity", self.granularity, _GRANULARITIES[:2])
        if self.num_terms not in (1, 2):
            raise ValueError(
                "`num_terms` must be 1 or 2. Received: "
                f"num_terms={self.num_terms!r}."
            )
        # Refuses bits that cannot be dealt to the terms.
        additive_power_of_two_levels(self.num_bits, self.num_terms)

    def __str__(self) -> str:
        """Says it in a few words."""
        terms = "sum of two powers" if self.num_terms > 1 else "power"
        return f"{self.num_bits}-bit {terms} of two"


@dataclasses.dataclass(frozen=True, kw_only=True)
class NormalFloat4:
    """Weights at 16 quantiles of a normal distribution, scaled per block.

    The best 4 bits for weights that are normally distributed, and for storage
    only: no runtime of LiteRT has kernels for it.

    Args:
        group_size: Weights that share a scale, along the inputs.

    Raises:
        ValueError: `group_size` is no positive integer.

    Reference:
        Dettmers et al. 2023, https://arxiv.org/abs/2305.14314 (QLoRA)
    """

    group_size: int = 64

    def __post_init__(self) -> None:
        """Checks the size."""
        if not isinstance(self.group_size, int) or self.group_size < 1:
            raise ValueError(
                "`group_size` must be a positive integer. Received: "
                f"group_size={self.group_size!r}."
            )

    def __str__(self) -> str:
        """Says it in a few words."""
        return f"NormalFloat4 per {self.group_size}"


Weights = Linear | Codebook | PowerOfTwo | NormalFloat4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Activations:
    """Activations on one asymmetric int8 grid per tensor, fixed on the device.

    Args:
        range: How calibration finds a range: "min_max", "percentile" or
            "mean_squared_error". Training goes on with moving averages of
            each batch's extremes.
        decay: Of the moving averages, in [0, 1): their memory is about
            1 / (1 - decay) batches.

    Raises:
        ValueError: A value is out of range.
    """

    range: str = "min_max"
    decay: float = 0.99

    def __post_init__(self) -> None:
        """Checks all of it."""
        _check_choice("range", self.range, tuple(ESTIMATORS))
        if not 0.0 <= self.decay < 1.0:
            raise ValueError(
                f"`decay` must be in [0, 1). Received: decay={self.decay!r}."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scheme:
    """How a model is quantized.

    Args:
        weights: A `Linear`, `Codebook`, `PowerOfTwo` or `NormalFloat4`.
        activations: An `Activations` for integers throughout, or None: float
            ones, which LiteRT quantizes on the fly for 8 and 4 bit weights.

    Raises:
        TypeError: A part is of another kind.
        ValueError: Activations are quantized but weights are not 8-bit, which
            no runtime computes.
    """

    weights: Weights
    activations: Activations | None = None

    def __post_init__(self) -> None:
        """Checks that the parts go together."""
        if not isinstance(self.weights, Weights):
            raise TypeError(
                "`weights` must be a Linear, Codebook, PowerOfTwo or "
                f"NormalFloat4. Received: {self.weights!r}."
            )
        if self.activations is None:
            return
        if not isinstance(self.activations, Activations):
            raise TypeError(
                "`activations` must be an Activations or None. Received: "
                f"{self.activations!r}."
            )
        weights = self.weights
        if weights not in (Linear(), Linear(granularity="per_tensor")):
            raise ValueError(
                "Quantized activations need 8-bit weights with steps that "
                "follow the weights: LiteRT has integer kernels for no "
                f"others. Received: weights={weights!r}. Leave `activations` "
                "out."
            )


SCHEMES = {
    "int8": Scheme(weights=Linear(), activations=Activations()),
    "int8_iot": Scheme(
        weights=Linear(granularity="per_tensor"), activations=Activations()
    ),
    "dynamic_int8": Scheme(weights=Linear()),
    "int4": Scheme(weights=Linear(num_bits=4)),
    "int4_block32": Scheme(
        weights=Linear(num_bits=4, granularity="per_group", group_size=32)
    ),
    "int2": Scheme(weights=Linear(num_bits=2)),
    "codebook": Scheme(weights=Codebook()),
    "power_of_two": Scheme(weights=PowerOfTwo()),
    "additive_power_of_two": Scheme(
        weights=PowerOfTwo(num_bits=5, num_terms=2)
    ),
    "normal_float4": Scheme(weights=NormalFloat4()),
}


def get(identifier: Any) -> Scheme:
    """Returns a scheme by name, of weights alone, or as it is.

    Args:
        identifier: A name, a `Scheme`, or what describes its weights.

    Raises:
        ValueError: The name is unknown.
        TypeError: It is something else.

    Example:
        >>> str(get("int4").weights)
        '4 bits per channel'
        >>> get(Codebook(num_entries=8)).activations is None
        True
    """
    if isinstance(identifier, Scheme):
        return identifier
    if isinstance(identifier, Weights):
        return Scheme(weights=identifier)
    if isinstance(identifier, str) and identifier in SCHEMES:
        return SCHEMES[identifier]
    message = (
        f"`scheme` must be one of {list(SCHEMES)}, a `kdtf.quantization."
        "Scheme`, or its weights such as `Linear(num_bits=4)`. Received: "
        f"scheme={identifier!r}."
    )
    if isinstance(identifier, Mapping):
        message += " A mapping's values must be these."
    raise (ValueError if isinstance(identifier, str) else TypeError)(message)
