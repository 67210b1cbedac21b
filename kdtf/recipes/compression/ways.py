"""The ways to make a file smaller, from cheap to dear."""

import dataclasses
import math
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import keras

from kdtf.backbones import backbone_of
from kdtf.transforms.selection import Candidate
from kdtf.transforms.selection import select_kernels

__all__ = [
    "STAGES",
    "Kind",
    "Way",
    "mode_of",
    "post_training",
    "pruned",
    "quantization_aware",
    "shrunk",
]

STAGES = {
    "post-training": "quantized as it is: seconds",
    "quantization-aware": "trained with quantized values",
    "pruned": "trained with blocks of zeros, stored sparse",
    "shrunk": "made narrower, taught by the original, quantized",
    "searched": "the best of many shrunk ones",
}
# From here on a kind of layer decides.
_MOSTLY = 0.5
_MOST_EPOCHS = 10


def mode_of(scheme: str) -> str:
    """Returns the mode of the file of a model trained for a scheme.

    Example:
        >>> mode_of("int8_iot")
        'int8'
    """
    return scheme.removesuffix("_iot")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Way:
    """Steps from the trained model to a file.

    Args:
        name: For people.
        stage: Of `STAGES`.
        keep: The part of the cost `by` that `kdtf.shrink` leaves.
        by: As for `kdtf.shrink`.
        allocation: As for `kdtf.shrink`.
        criterion: As for `kdtf.shrink`.
        what: As for `kdtf.shrink`.
        round_to: As for `kdtf.shrink`.
        sparsity: Of `kdtf.prune`, in blocks that LiteRT stores sparse.
        scheme: What `kdtf.quantize_aware` trains for.
        quantize: The file's mode where nothing was trained for it.
        alpha: Weight of the labels beside the original's outputs.
        temperature: Softens those.
    """

    name: str
    stage: str
    keep: float = 1.0
    by: str = "parameters"
    allocation: str = "global"
    criterion: str = "magnitude"
    what: tuple[str, ...] = ("width", "heads")
    round_to: int = 8
    sparsity: float = 0.0
    scheme: str | None = None
    quantize: str | None = None
    alpha: float = 0.1
    temperature: float = 2.0

    @property
    def steps(self) -> dict[str, Any]:
        """What is done with which settings, in this order: the lineage."""
        teaching = {"alpha": self.alpha, "temperature": self.temperature}
        found: dict[str, Any] = {}
        if self.keep < 1.0:
            names = "keep", "by", "allocation", "criterion", "what", "round_to"
            found["shrink"] = {name: getattr(self, name) for name in names}
            times = {"epochs_factor": self.epochs_factor}
            found["distil"] = teaching | times
        if self.sparsity:
            found["prune"] = {"sparsity": self.sparsity, **teaching}
        if self.scheme:
            found["quantize_aware"] = {"scheme": self.scheme, **teaching}
        found["export"] = {"quantize": self.mode}
        return found

    @property
    def epochs_factor(self) -> int:
        """How many times longer than others a shrunk model is taught.

        The less is left the more it has to learn anew.
        """
        return min(_MOST_EPOCHS, math.ceil(1.0 / self.keep))

    @property
    def mode(self) -> str | None:
        """The file's mode, whether it was trained for it or not."""
        return mode_of(self.scheme) if self.scheme else self.quantize

    @property
    def trains(self) -> bool:
        """Whether anything is trained."""
        return len(self.steps) > 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kind:
    """What decides which ways suit a model and a target.

    Attributes:
        target: "android" or "iot".
        is_static: Whether int8 activations suit it: networks of convolutions,
            or of Dense layers that see one row. A transformer's stay float.
        has_tables: Whether most of its weights are in Dense layers or
            embeddings, which 4 bits are for.
        has_rows: Whether most of them are in Dense layers that see one row,
            which is what sparse weights are stored for.
        has_graph: Whether its operations can be counted and shrunk by.
    """

    target: str
    is_static: bool
    has_tables: bool
    has_rows: bool
    has_graph: bool

    @classmethod
    def of(cls, model: Any, target: str) -> "Kind":
        """Looks at a model's layers."""
        kernels = select_kernels(
            model, embeddings=True, depthwise=True, frozen=True
        ).taken
        convolves = any(_is_convolution(kernel.layer) for kernel in kernels)
        rows, tables = (
            _share(kernels, holds) > _MOSTLY for holds in (_sees_row, _is_table)
        )
        return cls(
            target=target,
            is_static=convolves or rows,
            has_tables=tables,
            has_rows=rows,
            has_graph=backbone_of(model) is None,
        )

    @property
    def trained_schemes(self) -> tuple[str, ...]:
        """Schemes to train for, the larger files first."""
        if self.target == "iot":
            return ("int8_iot",)
        return ("int8",) if self.is_static else ("int4_block32", "int4", "int2")

    @property
    def small_scheme(self) -> str:
        """What is trained for where a model was made smaller before."""
        if self.target == "iot":
            return "int8_iot"
        return "int8" if self.is_static else "int4_block32"

    @property
    def extra_schemes(self) -> tuple[str, ...]:
        """Schemes of half the bytes where int8 is the quick one.

        LiteRT computes 4-bit convolutions as floats: in three times the time.
        """
        return ("int4",) if self.is_static and self.target != "iot" else ()


def post_training(kind: Kind) -> Iterator[Way]:
    """Gives what needs no training, the closest to the model first."""
    modes = ["float16", "dynamic_int8"]
    if kind.target == "iot":
        modes = ["int8"]
    elif kind.is_static:
        modes += ["int8"]
    if kind.target != "iot" and kind.has_tables:
        modes += ["int4_block32", "int4"]
    for mode in modes:
        yield Way(name=mode, stage="post-training", quantize=mode)


def quantization_aware(kind: Kind) -> Iterator[Way]:
    """Gives what is trained with quantized values."""
    for scheme in (*kind.trained_schemes, *kind.extra_schemes):
        yield Way(
            name=f"{scheme}, trained", stage="quantization-aware", scheme=scheme
        )


def pruned(kind: Kind) -> Iterator[Way]:
    """Gives what has zeros that a file can leave out."""
    if kind.target == "iot" or not kind.has_rows:
        # Elsewhere a zero takes the byte and the time of any other number.
        return
    for sparsity in (0.5, 0.75, 0.875):
        yield Way(
            name=f"{sparsity:.1%} zeros, int8",
            stage="pruned",
            sparsity=sparsity,
            scheme="int8",
        )


def shrunk(
    kind: Kind,
    keep: float,
    by: str,
    scheme: str | None = None,
    *,
    narrow: bool = False,
    **settings: Any,
) -> Way:
    """Gives a smaller model that is taught and quantized.

    Args:
        kind: The model's.
        keep: Of the cost `by`, in (0, 1).
        by: "parameters" or "macs".
        scheme: What it is trained for. Defaults to the kind's small one.
        narrow: Whether a transformer's channels between blocks go, too, and
            its tables with them.
        **settings: More of `Way`.
    """
    scheme = scheme or kind.small_scheme
    form = "narrowed" if narrow else "shrunk"
    found: dict[str, Any] = {
        "name": f"{form} to {keep:.1%}, {scheme}",
        "stage": "shrunk",
        "keep": keep,
        "by": by,
        "scheme": scheme,
    }
    if scheme == "int4_block32":
        # Whole blocks of the weights that share a scale.
        found["round_to"] = 32
    if not kind.has_graph:
        # A transformer's inputs have a few large channels, whose weights may
        # be small; and it has whole blocks that do little.
        found["criterion"] = "wanda"
        found["what"] = ("width", "heads", "depth", *(["hidden"] * narrow))
    return Way(**found | settings)


def _share(kernels: Sequence[Candidate], holds: Any) -> float:
    """Returns the part of the weights in kernels of some layers."""
    total = sum(kernel.size for kernel in kernels)
    some = sum(kernel.size for kernel in kernels if holds(kernel.layer))
    return some / total if total else 0.0


def _is_convolution(layer: Any) -> bool:
    return "Conv" in type(layer).__name__


def _is_table(layer: Any) -> bool:
    kinds = keras.layers.Dense, keras.layers.EinsumDense, keras.layers.Embedding
    return isinstance(layer, kinds)


def _sees_row(layer: Any) -> bool:
    if not isinstance(layer, keras.layers.Dense):
        return False
    # One that is called in several places, or by hand, does not say.
    try:
        return len(layer.input.shape) == 2
    except (AttributeError, ValueError):
        return False
