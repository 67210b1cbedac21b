"""What is zero in a model, what that pays, and what was not pruned and why."""

import dataclasses
from typing import Any

import matplotlib.figure
import numpy as np
import rich.console
import rich.text

from kdtf.console import format_bytes
from kdtf.console import plain_text
from kdtf.console import table
from kdtf.console import to_html
from kdtf.drawing import ACCENT
from kdtf.drawing import DPI
from kdtf.drawing import INK
from kdtf.drawing import SOFT
from kdtf.drawing import shorten_path
from kdtf.drawing import style_axes
from kdtf.drawing import to_svg
from kdtf.files import gzip_bytes
from kdtf.flavours import flavour_of
from kdtf.layers import own_weights
from kdtf.pruning.structures import STRUCTURES
from kdtf.transforms import attach
from kdtf.transforms.layout import Layout
from kdtf.transforms.layout import layout_of
from kdtf.transforms.selection import Candidate
from kdtf.transforms.selection import candidates

__all__ = ["KernelSparsity", "SparsityReport", "sparsity_report"]

_WIDTH_INCHES, _BAR_INCHES = 6.0, 0.24


@dataclasses.dataclass(frozen=True, kw_only=True)
class KernelSparsity:
    """One weight matrix, or tensor of more dimensions.

    Attributes:
        path: Where it stands in the model.
        shape: Its shape.
        num_parameters: Its elements.
        num_zeros: How many of them are 0.
        zero_blocks: The fraction of whole blocks of zeros, 4 weights along
            inputs, which LiteRT's sparse float kernels skip.
        note: "pruned", or why it is not.
    """

    path: str
    shape: tuple[int, ...]
    num_parameters: int
    num_zeros: int
    zero_blocks: float
    note: str

    @property
    def sparsity(self) -> float:
        """The fraction of zeros, in [0, 1]."""
        return self.num_zeros / self.num_parameters


@dataclasses.dataclass(frozen=True, kw_only=True)
class SparsityReport:
    """The zeros of a model; prints as a table, in notebooks with a picture.

    Attributes:
        name: The model's name.
        kernels: Its weights that are matrices, or of more dimensions.
        num_parameters: All its weights, biases and norms included.
        num_zeros: How many of them are 0.
        size_bytes: What they take.
        gzip_size_bytes: What they take after gzip.
    """

    name: str
    kernels: tuple[KernelSparsity, ...]
    num_parameters: int
    num_zeros: int
    size_bytes: int
    gzip_size_bytes: int

    @property
    def sparsity(self) -> float:
        """The fraction of zeros among all weights, in [0, 1]."""
        return self.num_zeros / max(1, self.num_parameters)

    def __str__(self) -> str:
        """Returns the table and what it means, as plain text."""
        return plain_text(lambda console: _render(self, console), width=160)

    def _repr_html_(self) -> str:
        return f"{to_html(str(self))}{self.to_svg()}"

    def to_svg(self) -> str:
        """Returns a bar for each kernel, its zeros filled, as `<svg>`."""
        return _draw(self.kernels, self.name)

    def words(self) -> list[str]:
        """Says what the zeros pay on a device, and what they do not."""
        if not self.num_zeros:
            return ["No weight is 0."]
        said = [
            f"{format_bytes(self.size_bytes)} as stored, "
            f"{format_bytes(self.gzip_size_bytes)} after gzip: zeros shrink "
            "only what is compressed, such as a download."
        ]
        pruned = [k for k in self.kernels if k.num_zeros] or self.kernels
        size = sum(kernel.num_parameters for kernel in pruned)
        blocks = sum(k.zero_blocks * k.num_parameters for k in pruned) / size
        if blocks < 0.5:
            said.append(
                f"{blocks:.0%} of the blocks of 4 weights are 0: single zeros "
                "make nothing faster. What does is `structure='litert'` with "
                "`export_tflite(..., sparse=True)`, for models that compute "
                "one row at a time, or fewer units."
            )
        else:
            said.append(
                f"{blocks:.0%} of the blocks of 4 weights are 0: "
                "`export_tflite(..., sparse=True)` stores and computes only "
                "the others, where a layer has one row of inputs."
            )
        return said


def sparsity_report(model: Any) -> SparsityReport:
    """Counts the zeros of a model, and says what was pruned and why not.

    Args:
        model: A built model of either Keras, pruned or not.

    Raises:
        TypeError: `model` is no Keras model.
        ValueError: It has no weights.

    Example:
        >>> import keras, kdtf
        >>> layers = [keras.Input((4,)), keras.layers.Dense(4, name="head")]
        >>> model = kdtf.prune(keras.Sequential(layers), 0.5)
        >>> [(k.path, k.sparsity) for k in sparsity_report(model).kernels]
        [('head/kernel', 0.5)]
    """
    flavour = flavour_of(model)
    if not model.weights:
        raise ValueError(
            "`model` must have weights. Received: "
            f"{model.name!r} without any. Build it first: call it on a batch."
        )
    hidden = _wrapper_weights(model) if flavour == "tf_keras" else set()
    arrays = [np.asarray(w) for w in model.weights if id(w) not in hidden]
    content = b"".join(array.tobytes() for array in arrays)
    notes = _notes(model)
    return SparsityReport(
        name=model.name,
        kernels=tuple(
            _kernel(candidate, notes.get(id(candidate.variable), ""), flavour)
            for candidate in candidates(model)
            if candidate.is_matrix and id(candidate.variable) not in hidden
        ),
        num_parameters=sum(array.size for array in arrays),
        num_zeros=sum(int((array == 0).sum()) for array in arrays),
        size_bytes=len(content),
        gzip_size_bytes=gzip_bytes(content),
    )


def _wrapper_weights(model: Any) -> set[int]:
    """Gives the ids of masks and centroids that tfmot's wrappers add."""
    from kdtf.transforms import tfmot_models

    return {
        id(weight)
        for wrappers in tfmot_models.wrappers(model)
        for wrapper in wrappers
        for weight in own_weights(wrapper)
    }


def _notes(model: Any) -> dict[int, str]:
    """Gives what is known of each variable, by its id."""
    notes = {
        id(variable): "pruned" for variable, _ in attach.attachments(model)
    }
    state = attach.recall(model, "kdtf_pruning")
    for candidate, reason in state.skipped if state else ():
        notes[id(candidate.variable)] = reason
    return notes


def _kernel(candidate: Candidate, note: str, flavour: str) -> KernelSparsity:
    value = np.asarray(candidate.variable, "float32")
    axes = tuple(range(value.ndim - 1))
    layout = Layout(shape=value.shape, contraction=axes, output=(len(axes),))
    if flavour == "keras":
        layout = layout_of(candidate.layer, candidate.variable)
    is_used = STRUCTURES["litert"].pool(np.abs(value), layout)
    return KernelSparsity(
        path=candidate.path,
        shape=value.shape,
        num_parameters=value.size,
        num_zeros=int((value == 0).sum()),
        zero_blocks=float(np.mean(np.asarray(is_used) == 0)),
        note=note,
    )


def _render(report: SparsityReport, console: rich.console.Console) -> None:
    columns = ("Kernel", "Shape", "Weights", "Zeros", "1x4 blocks", "")
    rows = [
        (
            kernel.path,
            "x".join(map(str, kernel.shape)),
            f"{kernel.num_parameters:,}",
            f"{kernel.sparsity:.3f}",
            f"{kernel.zero_blocks:.3f}",
            kernel.note,
        )
        for kernel in report.kernels
    ]
    console.print(
        rich.text.Text(
            f"{report.name}: {report.num_parameters:,} weights, "
            f"{report.sparsity:.3f} of them 0"
        )
    )
    console.print(table(columns, rows, numbers=set(columns[2:5])))
    for words in report.words():
        console.print(rich.text.Text(words))


def _draw(kernels: tuple[KernelSparsity, ...], salt: str) -> str:
    height = 0.7 + _BAR_INCHES * len(kernels)
    figure = matplotlib.figure.Figure(
        figsize=(_WIDTH_INCHES, height), dpi=DPI, layout="constrained"
    )
    axes = figure.add_subplot()
    style_axes(axes)
    places = range(len(kernels))
    names = [shorten_path(kernel.path) for kernel in kernels]
    axes.barh(places, 1.0, height=0.7, color=SOFT, alpha=0.25)
    axes.barh(places, [k.sparsity for k in kernels], height=0.7, color=ACCENT)
    axes.set_yticks(places, names, parse_math=False)
    axes.invert_yaxis()
    axes.set_xlim(0.0, 1.0)
    axes.set_title("Fraction of zeros", loc="left", color=INK, fontsize=10)
    return to_svg(figure, salt=salt)
