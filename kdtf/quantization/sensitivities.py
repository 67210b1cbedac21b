"""`sensitivity`: what each kernel costs in each scheme, alone."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import matplotlib.figure
import numpy as np
import rich.console
import rich.text
import tensorflow as tf

from kdtf.batches import Batch
from kdtf.batches import iterate_batches
from kdtf.batches import to_tensors
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
from kdtf.flavours import flavour_of
from kdtf.quantization import schemes
from kdtf.quantization.codes import size_of_codes
from kdtf.quantization.kernels import quantizer_of
from kdtf.quantization.spending import KernelSensitivity
from kdtf.quantization.spending import within_bytes
from kdtf.quantization.spending import within_loss
from kdtf.transforms.selection import Candidate
from kdtf.transforms.selection import select_kernels

__all__ = ["KernelSensitivity", "Sensitivity", "sensitivity"]

_WIDTH_INCHES, _BAR_INCHES = 6.0, 0.3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """What quantizing costs where; prints as a table, draws itself.

    Attributes:
        name: The model's name.
        measure: "loss", or "relative error" of the outputs where no labels
            were given.
        baseline: The float model's loss, 0 for the relative error.
        rows: One for each kernel and scheme, kernels in the model's order.
    """

    name: str
    measure: str
    baseline: float
    rows: tuple[KernelSensitivity, ...]

    def __str__(self) -> str:
        """Returns the table, as plain text."""
        return plain_text(lambda console: _render(self, console), width=160)

    def _repr_html_(self) -> str:
        return f"{to_html(str(self))}{self.to_svg()}"

    def to_svg(self) -> str:
        """Returns bars of the increase for each kernel, as `<svg>`."""
        return _draw(self)

    def mixed(
        self,
        max_increase: float | None = None,
        *,
        max_bytes: int | None = None,
    ) -> dict[str, str | None]:
        """Returns a scheme for each kernel: few bits where they cost little.

        Kernels take, one after the other, the scheme that saves most bytes
        for what it adds to the loss: as long as the sum stays within
        `max_increase`, or until all fit into `max_bytes`. That what single
        kernels add adds up is an approximation: evaluate the result.

        Args:
            max_increase: How much the loss may grow in all, in the units of
                `measure`.
            max_bytes: What the measured kernels may take in all; a file has
                biases, tables and its graph beside them. One of the two.

        Returns:
            The `scheme` argument of `kdtf.quantize` and
            `kdtf.quantize_aware`; None for kernels left in float.

        Raises:
            ValueError: `max_increase` is negative, `max_bytes` is less than
                the smallest schemes take, or not one of the two is given.
        """
        if (max_increase is None) == (max_bytes is None):
            raise ValueError(
                "One of `max_increase` and `max_bytes` must be given. "
                f"Received: max_increase={max_increase}, "
                f"max_bytes={max_bytes}."
            )
        if max_bytes is not None:
            return within_bytes(self.rows, max_bytes)
        if max_increase is None or not max_increase >= 0.0:
            raise ValueError(
                "`max_increase` must be at least 0. Received: "
                f"max_increase={max_increase!r}. It is in units of the "
                f"{self.measure}; the float model has {self.baseline:.4g}."
            )
        return within_loss(self.rows, max_increase)


def sensitivity(
    model: Any,
    data: Any,
    schemes: Sequence[str] = ("dynamic_int8", "int4", "int2"),
    *,
    loss: Any = None,
    select: Any = None,
    verbose: int = 1,
) -> Sensitivity:
    """Measures what quantizing each kernel alone does to a model.

    Weights are rounded to the nearest, one kernel at a time, and put back; so
    it takes one pass over `data` for each kernel and scheme.

    Args:
        model: A built float model of Keras 3; it is as before afterwards.
        data: Some hundred examples as for `fit`. With labels the loss is
            measured, without them the squared error of the outputs relative
            to their size.
        schemes: Names as for `kdtf.quantize`; their activations are ignored.
        loss: A loss of Keras or its name. Defaults to the one the model was
            compiled with, and None to the relative error.
        select: Which kernels, as for `kdtf.quantize`.
        verbose: 0 for silence, 1 for a progress bar.

    Returns:
        The increase for each kernel and scheme, and `mixed` to choose by.

    Raises:
        TypeError: `model` is no Keras model.
        ValueError: It is one of `tf_keras`, a scheme is unknown or two are
            the same, or `data` is empty or does not fit.

    Example:
        >>> import keras, kdtf, numpy as np
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        >>> x = np.random.default_rng(0).normal(size=(32, 4))
        >>> found = kdtf.sensitivity(model, x, ["dynamic_int8", "int2"],
        ...                          verbose=0)
        >>> [row.scheme for row in found.rows], found.measure
        (['dynamic_int8', 'int2'], 'relative error')
        >>> found.rows[0].increase < found.rows[1].increase
        True
    """
    chosen = _check(model, schemes)
    measured = _Measured(model, data, loss)
    baseline = measured()
    kernels = select_kernels(
        model, select, embeddings=True, depthwise=True, frozen=True
    ).taken
    bar = keras.utils.Progbar(
        len(kernels) * len(chosen), verbose=verbose, unit_name="kernel"
    )
    rows = []
    for kernel in kernels:
        for name, scheme in chosen.items():
            rows.append(_row(kernel, name, scheme, measured, baseline))
            bar.add(1)
    return Sensitivity(
        name=model.name,
        measure=measured.name,
        baseline=baseline,
        rows=tuple(rows),
    )


class _Measured:
    """Runs the model over the data and returns one number."""

    def __init__(self, model: Any, data: Any, loss: Any) -> None:
        self._model = model
        self._batches = [to_tensors(batch) for batch in iterate_batches(data)]
        self._loss = keras.losses.get(loss or getattr(model, "loss", None))
        has_labels = all(batch.y is not None for batch in self._batches)
        self.name = "loss" if self._loss and has_labels else "relative error"
        # One graph for all runs: the kernels are variables in it.
        self._run = tf.function(
            lambda x: model(x, training=False), autograph=False
        )
        self._before: list[Any] = []

    def __call__(self) -> float:
        outputs = [self._run(batch.x) for batch in self._batches]
        if self.name == "loss":
            sizes = [_length(batch.x) for batch in self._batches]
            losses = [
                float(self._loss_of(batch, output))
                for batch, output in zip(self._batches, outputs, strict=True)
            ]
            return float(np.average(losses, weights=sizes))
        flat = [np.asarray(o) for o in keras.tree.flatten(outputs)]
        if not self._before:
            self._before = flat
        pairs = list(zip(flat, self._before, strict=True))
        noise = sum(float(np.sum((a - b) ** 2)) for a, b in pairs)
        return noise / max(sum(float(np.sum(b**2)) for _, b in pairs), 1e-30)

    def _loss_of(self, batch: Batch, outputs: Any) -> Any:
        if isinstance(self._loss, keras.losses.Loss):
            return self._loss(batch.y, outputs, batch.sample_weight)
        return keras.ops.mean(self._loss(batch.y, outputs))


def _check(model: Any, names: Sequence[str]) -> dict[str, schemes.Scheme]:
    if flavour_of(model) == "tf_keras":
        raise ValueError(
            "`sensitivity` is for models of Keras 3. Received: "
            f"model={model.name!r} of tf_keras."
        )
    if isinstance(names, str) or not len(names) == len(set(names)) > 0:
        raise ValueError(
            "`schemes` must be a list of different names. Received: "
            f"schemes={names!r}. For example ['dynamic_int8', 'int4']."
        )
    return {name: schemes.get(name) for name in names}


def _row(
    kernel: Candidate,
    name: str,
    scheme: schemes.Scheme,
    measured: _Measured,
    baseline: float,
) -> KernelSensitivity:
    variable = kernel.variable
    before = np.asarray(variable)
    quantizer = quantizer_of(kernel, scheme.weights)
    values = quantizer.grid(np.asarray(before, "float32")).values
    try:
        variable.assign(values)
        increase = measured() - baseline
    finally:
        variable.assign(before)
    return KernelSensitivity(
        path=kernel.path,
        scheme=name,
        increase=increase,
        size_bytes=size_of_codes(values, quantizer).size_bytes,
        float_size_bytes=4 * kernel.size,
    )


def _length(x: Any) -> int:
    return int(keras.tree.flatten(x)[0].shape[0])


def _render(found: Sensitivity, console: rich.console.Console) -> None:
    names = list(dict.fromkeys(row.scheme for row in found.rows))
    columns = ("Kernel", "float32", *names, "")
    by_path: dict[str, dict[str, KernelSensitivity]] = {}
    for row in found.rows:
        by_path.setdefault(row.path, {})[row.scheme] = row
    lines = [
        (
            path,
            format_bytes(next(iter(own.values())).float_size_bytes),
            *(f"{own[name].increase:+.3g}" for name in names),
            "",
        )
        for path, own in by_path.items()
    ]
    console.print(
        rich.text.Text(
            f"{found.name}: what each kernel alone adds to the {found.measure}"
            f" ({found.baseline:.4g} in float)"
        )
    )
    console.print(table(columns, lines, numbers=set(columns[1:-1])))


def _draw(found: Sensitivity) -> str:
    names = list(dict.fromkeys(row.scheme for row in found.rows))
    paths = list(dict.fromkeys(row.path for row in found.rows))
    figure = matplotlib.figure.Figure(
        figsize=(_WIDTH_INCHES, 1.0 + _BAR_INCHES * len(paths)),
        dpi=DPI,
        layout="constrained",
    )
    axes = figure.add_subplot()
    style_axes(axes)
    places = np.arange(len(paths))
    height = 0.8 / len(names)
    for index, name in enumerate(names):
        values = [row.increase for row in found.rows if row.scheme == name]
        shade = (index + 1) / len(names)
        axes.barh(
            places + (index - (len(names) - 1) / 2) * height,
            np.maximum(values, 0.0),
            height=height,
            color=ACCENT,
            alpha=shade,
            label=name,
        )
    labels = [shorten_path(path) for path in paths]
    axes.set_yticks(places, labels, parse_math=False)
    axes.invert_yaxis()
    # From int8 to int2 there are orders of magnitude; 0 has a place, too.
    largest = max([row.increase for row in found.rows] + [1e-12])
    axes.set_xscale("symlog", linthresh=largest / 1e4)
    axes.set_title(f"Added {found.measure}", loc="left", color=INK, fontsize=10)
    axes.legend(frameon=False, labelcolor=SOFT, fontsize=9)
    return to_svg(figure, salt=found.name)
