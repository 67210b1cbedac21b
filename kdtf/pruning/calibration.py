"""Runs a model over calibration data and watches its layers meanwhile.

Everything here works eagerly and inside a compiled training step.
"""

import contextlib
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from kdtf.batches import Batch
from kdtf.batches import iterate_batches
from kdtf.batches import to_tensors
from kdtf.transforms.layout import Layout
from kdtf.transforms.substitution import Substitution
from kdtf.transforms.substitution import substituted

__all__ = [
    "Calibration",
    "activation_after",
    "gradients",
    "has_squared_norms",
    "is_output",
    "reduce_units",
    "squared_norms",
    "watching",
]

# What may stand between a layer and its activation.
_PASSED = (
    keras.layers.Activation,
    keras.layers.BatchNormalization,
    keras.layers.Dropout,
    keras.layers.ELU,
    keras.layers.LeakyReLU,
    keras.layers.PReLU,
    keras.layers.ReLU,
)
_CONVOLUTIONS = (
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
)


class Calibration:
    """A model and the batches to measure it on.

    Args:
        model: A built Keras 3 model.
        data: Batches as `fit` takes them: a finite `tf.data.Dataset`, or
            arrays `x`, `(x, y)`, `(x, y, sample_weight)`. They are kept in
            memory.
        needs_labels: Whether there must be a `y`.

    Raises:
        ValueError: `data` is missing, empty, without the labels that are
            needed, or does not fit the model.
    """

    def __init__(self, model: Any, data: Any, *, needs_labels: bool) -> None:
        if data is None:
            raise ValueError(
                "This `criterion` measures the model on `data`. Received: "
                "data=None. Pass a few typical batches, as to `fit`, or use "
                "criterion='magnitude'."
            )
        self.model = model
        self.batches = [to_tensors(batch) for batch in iterate_batches(data)]
        self._check_finite()
        if needs_labels and self.batches[0].y is None:
            raise ValueError(
                "This `criterion` follows the gradient of the loss and needs "
                "labels. Received: data without y. Pass (x, y), or use "
                "criterion='wanda', which needs none."
            )
        self._check_inputs()
        self._function: Any = None

    def total(self, measure: Callable[[Batch], list[Any]]) -> list[Any]:
        """Returns the sum over batches of what `measure` gives for each.

        Args:
            measure: Gives a list of float32 tensors of fixed shapes for a
                batch. It is compiled when first seen: always pass the same.
        """
        if self._function is None:
            # One graph, called once for each batch, however often it is due.
            # Not rewritten by AutoGraph, as Keras does not in `fit` either.
            self._function = tf.function(
                lambda x, y, weight: measure(Batch(x, y, weight)),
                autograph=False,
            )
        totals: list[Any] = []
        for batch in self.batches:
            parts = self._function(batch.x, batch.y, batch.sample_weight)
            totals = (
                [
                    total + part
                    for total, part in zip(totals, parts, strict=True)
                ]
                if totals
                else list(parts)
            )
        return totals

    @property
    def sizes(self) -> list[int]:
        """The number of examples in each batch."""
        return [
            int(keras.tree.flatten(batch.x)[0].shape[0])
            for batch in self.batches
        ]

    def _check_finite(self) -> None:
        for batch in self.batches:
            for array in keras.tree.flatten([batch.x, batch.y]):
                if array is None or not array.dtype.is_floating:
                    continue
                if not bool(tf.reduce_all(tf.math.is_finite(array))):
                    raise ValueError(
                        "`data` must be finite. Received: nan or infinity in "
                        f"an array of shape {tuple(array.shape)}. Leave such "
                        "examples out."
                    )

    def _check_inputs(self) -> None:
        x = self.batches[0].x
        try:
            self.model(x, training=False)
        except Exception as error:
            shapes = keras.tree.map_structure(lambda a: tuple(a.shape), x)
            raise ValueError(
                "`data` must hold inputs that the model takes, in batches. "
                f"Received: inputs of shape {shapes} for {self.model.name!r}, "
                f"which raised {type(error).__name__}: {error}"
            ) from error


@contextlib.contextmanager
def watching(
    layers: Iterable[Any], see: Callable[[Any, Any, Any], None]
) -> Iterator[None]:
    """Shows each call of the layers to `see`, for as long as the block runs.

    Args:
        layers: Layers anywhere inside a model.
        see: Gets the layer, its first input and its output.
    """
    with substituted((layer, _Watcher(layer, see)) for layer in layers):
        yield


class _Watcher(Substitution):
    """Shows one layer's calls."""

    def __init__(
        self, layer: Any, see: Callable[[Any, Any, Any], None]
    ) -> None:
        self._layer, self._see = layer, see
        self._inputs: Any = None

    def before(self, inputs: Any) -> Any:
        self._inputs = inputs
        return inputs

    def after(self, outputs: Any) -> Any:
        self._see(self._layer, self._inputs, outputs)
        return outputs


def has_squared_norms(layer: Any) -> bool:
    """Returns whether `squared_norms` knows the layer."""
    known = (keras.layers.Dense, keras.layers.EinsumDense, *_CONVOLUTIONS)
    return isinstance(layer, known)


def squared_norms(layer: Any, inputs: Any, layout: Layout) -> Any:
    """Returns the sum of squares of the inputs each weight multiplies.

    Args:
        layer: A Dense, EinsumDense or convolution layer.
        inputs: What it was called with.
        layout: Its kernel's layout.

    Returns:
        float32; broadcasts to the kernel's shape, and has its rank.

    Example:
        >>> import numpy as np
        >>> dense = keras.layers.Dense(1)
        >>> x = np.array([[3.0, 1.0], [4.0, 0.0]])
        >>> dense.build(x.shape)
        >>> layout = Layout(shape=(2, 1), contraction=(0,), output=(1,))
        >>> np.asarray(squared_norms(dense, x, layout))[:, 0].tolist()
        [25.0, 1.0]
    """
    squares = ops.square(ops.cast(inputs, "float32"))
    if isinstance(layer, _CONVOLUTIONS):
        return _squared_taps(layer, squares, layout)
    if isinstance(layer, keras.layers.EinsumDense):
        left, _ = layer.equation.replace(" ", "").split("->")
        source, kernel = left.split(",")
        return _sum_to_labels(squares, source, kernel)
    return _sum_to_labels(squares, "...x", "xy")


def _squared_taps(layer: Any, squares: Any, layout: Layout) -> Any:
    """Sums the squares each filter position meets, padding and strides too.

    A convolution is linear in its kernel, so the gradient of the sum of its
    outputs with respect to a weight is the sum of the inputs it multiplied.
    """
    kernel = ops.ones(layout.shape, "float32")
    padding = layer.padding
    if padding == "causal":
        # Keras's convolution does not know the word; its layer pads first.
        past = layer.dilation_rate[0] * (layer.kernel_size[0] - 1)
        time = 2 if layer.data_format == "channels_first" else 1
        sides = [(past if axis == time else 0, 0) for axis in range(3)]
        squares, padding = ops.pad(squares, sides), "valid"
    with tf.GradientTape() as tape:
        tape.watch(kernel)
        outputs = ops.conv(
            squares,
            kernel,
            strides=list(layer.strides),
            padding=padding,
            dilation_rate=layer.dilation_rate,
            data_format=layer.data_format,
        )
        total = ops.sum(outputs)
    return tape.gradient(total, kernel)


def reduce_units(layer: Any, values: Any, layout: Layout) -> tuple[Any, Any]:
    """Sums activations over everything but the output units.

    Args:
        layer: The layer with the kernel.
        values: Its activations, float32.
        layout: Its kernel's layout.

    Returns:
        The sums, `(units,)` in the order of the kernel's output axes, and the
        number of values summed for each, a float32 scalar.
    """
    if isinstance(layer, keras.layers.EinsumDense):
        left, target = layer.equation.replace(" ", "").split("->")
        kernel = left.split(",")[1]
        labels = "".join(kernel[axis] for axis in layout.output)
        sums = _sum_to_labels(values, target, labels)
    elif getattr(layer, "data_format", "") == "channels_first":
        sums = _sum_to_labels(ops.moveaxis(values, 1, -1), "...y", "y")
    else:
        sums = _sum_to_labels(values, "...y", "y")
    count = ops.cast(ops.size(values), "float32") / layout.num_outputs
    return ops.reshape(sums, (-1,)), count


def activation_after(layer: Any) -> Any:
    """Returns the layer whose output is a layer's activation.

    In a Functional model that is the last of the batch norms, dropouts and
    activation layers that follow with nothing else in between; else the layer
    itself, whose own `activation` is in its output.

    Example:
        >>> conv, relu = keras.layers.Conv1D(2, 1), keras.layers.ReLU(name="r")
        >>> norm = keras.layers.BatchNormalization()
        >>> _ = keras.Sequential([keras.Input((4, 1)), conv, norm, relu])
        >>> activation_after(conv).name
        'r'
    """
    while True:
        # A Sequential adds a node when it becomes Functional.
        following = {
            id(node.operation): node.operation for node in layer._outbound_nodes
        }
        if len(following) != 1:
            return layer
        (found,) = following.values()
        parents = {
            id(tensor._keras_history.operation)
            for node in found._inbound_nodes
            for tensor in node.input_tensors
        }
        # One activation layer may serve several layers.
        if not isinstance(found, _PASSED) or len(parents) > 1:
            return layer
        layer = found


def is_output(model: Any, layer: Any) -> bool:
    """Returns whether a layer's activation is an output of the model.

    Args:
        model: Any model; of a subclassed one without a graph nothing is known.
        layer: A layer anywhere inside it.

    Example:
        >>> dense, top = keras.layers.Dense(2), keras.layers.Dense(2)
        >>> model = keras.Sequential([keras.Input((3,)), dense, top])
        >>> is_output(model, dense), is_output(model, top)
        (False, True)
    """
    outputs = keras.tree.flatten(getattr(model, "outputs", None) or [])
    makers = [tensor._keras_history.operation for tensor in outputs]
    return any(activation_after(layer) is maker for maker in makers)


def _sum_to_labels(values: Any, source: str, labels: str) -> Any:
    """Sums an einsum operand to the labels it shares with another.

    Labels that `source` lacks become axes of length 1.
    """
    rank = len(values.shape)
    # "..." stands for all axes between those before and after it.
    before, _, after = source.partition("...")
    axes = {label: i for i, label in enumerate(before)}
    axes |= {label: rank - len(after) + i for i, label in enumerate(after)}
    shared = [label for label in labels if label in axes]
    others = [i for i in range(rank) if i not in [axes[s] for s in shared]]
    sums = ops.sum(values, axis=tuple(others)) if others else values
    # What is left is in the source's order.
    left = sorted(shared, key=lambda label: axes[label])
    sums = ops.transpose(sums, [left.index(label) for label in shared])
    for axis, label in enumerate(labels):
        if label not in axes:
            sums = ops.expand_dims(sums, axis)
    return sums


def gradients(
    calibration: Calibration, batch: Batch, loss: Any, variables: Sequence[Any]
) -> list[Any]:
    """Returns dL/dw of a batch for each variable, at inference.

    Args:
        calibration: The model.
        batch: Its inputs and labels.
        loss: A `keras.losses.Loss`.
        variables: `keras.Variable`s; one the loss does not depend on gets
            zeros.
    """
    with tf.GradientTape() as tape:
        outputs = calibration.model(batch.x, training=False)
        value = loss(batch.y, outputs, batch.sample_weight)
    found = tape.gradient(
        value,
        [_local_value(variable) for variable in variables],
        unconnected_gradients=tf.UnconnectedGradients.ZERO,
    )
    # Lookups give sparse slices.
    return [ops.cast(tf.convert_to_tensor(g), "float32") for g in found]


def _local_value(variable: Any) -> Any:
    """Returns the `tf.Variable` that a forward pass here and now reads.

    Between replicas that is the first copy of a mirrored one.
    """
    value = variable.value
    strategy = getattr(value, "distribute_strategy", None)
    if strategy is None:
        return value
    is_inside = tf.distribute.get_strategy() is strategy
    if is_inside and not tf.distribute.in_cross_replica_context():
        return value
    return strategy.experimental_local_results(value)[0]
