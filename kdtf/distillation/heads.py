"""A language model's output projection, taken apart from the rest of it.

Run up to its hidden states `(batch, time, width)`, a model's logits
`(batch, time, vocabulary)` need never exist all at once: `token_losses` makes
them for a few tokens at a time, takes the losses, and lets them go.
"""

import dataclasses
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any
from typing import NoReturn

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from kdtf.distillation.chunked import chunked_map
from kdtf.transforms.substitution import real_value
from kdtf.transforms.substitution import substitutions

__all__ = ["Head", "head_of", "token_losses"]

_ROWS_TRIED = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Head:
    """The layer that makes a model's logits, and the model up to it.

    Not a Keras object, so that a model that holds one does not track it.

    Args:
        layer: Treats each token's hidden state by itself.
        variables: Those of the layer that it reads for logits: of an untied
            embedding not the table that it looks tokens up in.
        body: Maps the model's inputs to hidden states; shares its layers.
        arguments: What the model calls the layer with besides hidden states.
        num_outputs: How many logits a token has.
    """

    layer: Any
    variables: tuple[Any, ...]
    body: Any
    arguments: dict[str, Any]
    num_outputs: int

    def hidden(self, x: Any, *, training: bool | None = None) -> Any:
        """Returns the hidden states for inputs, `(batch, ..., width)`."""
        return self.body(x, training=training)

    def weights(self) -> list[Any]:
        """Returns the variables' values; their gradients reach the variables.

        In the variables' own dtypes, whatever the layer computes in.
        """
        return [ops.convert_to_tensor(real_value(v)) for v in self.variables]

    def project(self, hidden: Any, weights: Sequence[Any]) -> Any:
        """Returns logits for hidden states, from the weights given.

        The layer's own call makes them, so that whatever is part of it
        (a cap on the logits, a tied embedding, a quantized kernel) is theirs.
        """
        pairs = zip(self.variables, weights, strict=True)
        with keras.StatelessScope(state_mapping=list(pairs)):
            return self.layer(hidden, **self.arguments)


def head_of(model: Any, *, argument: str = "student") -> Head:
    """Finds a model's output projection and proves that it is one.

    Known are `Dense` and the reverse of an embedding (tied to it or not), the
    last layer of every causal language model of keras-nlp. That the logits of
    single tokens are the model's own is checked on a tiny input.

    Args:
        model: A built Keras model that maps inputs to logits.
        argument: The name of the parameter, for messages.

    Raises:
        ValueError: The model does not end in such a layer, or what it
            returns is not that layer's output, token by token.

    Example:
        >>> layers = [keras.Input((8,)), keras.layers.Dense(4, name="logits")]
        >>> head_of(keras.Sequential(layers)).layer.name
        'logits'
    """
    outputs = getattr(model, "outputs", None) or []
    if not isinstance(model, keras.Model):
        _refuse(argument, model, "it is no Keras 3 model")
    if len(outputs) != 1:
        _refuse(argument, model, "it is no graph of layers with one output")
    layer, node_index, _ = outputs[0]._keras_history
    node = layer._inbound_nodes[node_index]
    arguments = dict(node.arguments.kwargs)
    reason = _why_not(layer, arguments)
    if reason or len(node.arguments.args) != 1:
        reason = reason or "it is called with several arguments"
        _refuse(argument, model, f"its last layer is {layer.name!r}: {reason}")
    sequential = isinstance(model, keras.Sequential)
    inputs = model.inputs[0] if sequential else model.input
    head = Head(
        layer=layer,
        variables=tuple(layer.variables),
        body=keras.Model(inputs, node.input_tensors[0]),
        arguments=arguments,
        num_outputs=outputs[0].shape[-1],
    )
    head, error = _try_out(model, head, inputs)
    # Half precision rounds a sum in another order by about 1%.
    half = keras.backend.standardize_dtype(layer.compute_dtype) != "float32"
    if not error <= (2e-2 if half else 1e-4):
        _refuse(
            argument,
            model,
            f"its outputs are not those of {layer.name!r} token by token "
            f"(relative error {error:.1e})",
        )
    return head


def token_losses(
    hidden: Any,
    head: Head,
    *,
    labels: Any = None,
    teacher: Any = None,
    hard: Callable[[Any, Any], Any] | None = None,
    soft: Callable[[Any, Any], Any] | None = None,
    chunk: int,
) -> dict[str, Any]:
    """Gives each token's losses, with logits for `chunk` tokens at a time.

    Values and gradients are those of `hard(labels, logits)` and
    `soft(teacher, logits)` on the whole logits, where these treat each
    token by itself; logits are made twice, to save their memory. The gradient
    reaches `hidden` and the head's trainable variables, never the teacher.

    Args:
        hidden: The student's hidden states, `(batch, ..., width)`.
        head: The student's output projection.
        labels: A structure of tensors `(batch, ..., *)`, or None.
        teacher: The teacher's hidden states and its head, a pair; or what it
            said earlier, a dict of tensors `(batch, ..., *)` such as
            `kdtf.distillation.targets` describes; or None.
        hard: Maps labels and logits `(chunk, classes)` to `(chunk,)`. Both
            functions get float32 logits and must read no trainable variable.
            None leaves the hard loss out.
        soft: Maps the teacher's logits, or the dict, and the student's logits
            to `(chunk,)`. None leaves the soft loss out.
        chunk: Tokens at a time.

    Returns:
        "hard" and "soft", as far as asked for: float32 of shape
        `(batch, ...)`.

    Raises:
        ValueError: There is neither a hard loss nor a soft one, or `chunk`
            is below 1.

    Example:
        >>> from kdtf.distillation.losses import kl_divergence
        >>> dense = keras.layers.Dense(5)
        >>> head = head_of(keras.Sequential([keras.Input((3, 4)), dense]))
        >>> states = ops.ones((2, 3, 4))
        >>> values = token_losses(
        ...     states,
        ...     head,
        ...     teacher=(states, head),
        ...     soft=kl_divergence,
        ...     chunk=2,
        ... )
        >>> [round(float(value), 4) for value in values["soft"][0]]
        [0.0, 0.0, 0.0]
    """
    names = [n for n, f in (("hard", hard), ("soft", soft)) if f is not None]
    if not names:
        raise ValueError(
            "`hard` or `soft` must be a loss. Received: hard=None, soft=None."
        )
    teacher_head, said = None, []
    if isinstance(teacher, tuple):
        teacher, teacher_head = teacher
        said = [ops.stop_gradient(weight) for weight in teacher_head.weights()]
    learned, fixed = _split(head)

    def values(rows: Any, constants: Any, shared: Any) -> Any:
        logits = _logits(head, rows, {**fixed, **shared})
        found = []
        if hard is not None:
            found.append(hard(constants["labels"], logits))
        if soft is not None:
            taught = constants["teacher"]
            if teacher_head is not None:
                taught = _logits(teacher_head, taught, dict(enumerate(said)))
            found.append(soft(taught, logits))
        return ops.stack([ops.cast(v, "float32") for v in found], axis=-1)

    axes = len(hidden.shape) - 1
    per_token = chunked_map(
        values,
        _as_rows(hidden, axes),
        shared=learned,
        constants={
            name: _as_rows(given, axes)
            for name, given in (("labels", labels), ("teacher", teacher))
            if given is not None
        },
        chunk=chunk,
    )
    shape = ops.shape(hidden)[:-1]
    return {
        name: ops.reshape(per_token[:, column], shape)
        for column, name in enumerate(names)
    }


def _split(head: Head) -> tuple[dict[int, Any], dict[int, Any]]:
    """Returns a head's weights that learn, and those that do not."""
    learned: dict[int, Any] = {}
    fixed: dict[int, Any] = {}
    pairs = zip(head.variables, head.weights(), strict=True)
    for index, (variable, weight) in enumerate(pairs):
        if variable.trainable:
            learned[index] = weight
        else:
            fixed[index] = ops.stop_gradient(weight)
    return learned, fixed


def _logits(head: Head, hidden: Any, weights: dict[int, Any]) -> Any:
    ordered = [weights[index] for index in sorted(weights)]
    return ops.cast(head.project(hidden, ordered), "float32")


def _as_rows(structure: Any, axes: int) -> Any:
    """Joins the first axes, of batch and time, to one."""

    def join(tensor: Any) -> Any:
        tensor = ops.convert_to_tensor(tensor)
        return ops.reshape(tensor, (-1, *ops.shape(tensor)[axes:]))

    return keras.tree.map_structure(join, structure)


def _why_not(layer: Any, arguments: dict[str, Any]) -> str | None:
    """Returns why a layer is no head, or None if it may be one."""
    kind = type(layer).__name__
    if isinstance(layer, keras.layers.Dense):
        if layer.activation is not keras.activations.linear:
            return f"a Dense with the activation {layer.activation.__name__!r}"
    elif not (
        isinstance(layer, keras.layers.ReversibleEmbedding)
        and arguments.get("reverse")
    ):
        return f"a {kind}, neither Dense nor the reverse of an embedding"
    if layer.activity_regularizer is not None:
        return f"a {kind} whose outputs are regularized"
    for _, substitution in substitutions(layer):
        if substitution.variables():
            return f"a {kind} whose quantizer learns from all tokens"
    return None


def _try_out(model: Any, head: Head, inputs: Any) -> tuple[Head, float]:
    """Compares the logits of single tokens with the model's own.

    Returns:
        The head with the variables that it reads, and the largest relative
        error.
    """
    rng = np.random.default_rng(0)

    def example(tensor: Any) -> Any:
        shape = [2 if dim is None else dim for dim in tensor.shape]
        if "float" in tensor.dtype:
            return ops.cast(rng.normal(size=shape), tensor.dtype)
        # A token that every vocabulary has, and nothing masked.
        return ops.ones(shape, tensor.dtype)

    x = keras.tree.map_structure(example, inputs)
    expected = ops.cast(model(x, training=False), "float32")
    hidden = head.hidden(x, training=False)
    # In a strategy's scope they are handles of several values.
    weights = [tf.convert_to_tensor(weight) for weight in head.weights()]
    with tf.GradientTape() as tape:
        tape.watch([w for w in weights if w.dtype.is_floating])
        # A few: each row's gradient is as large as the projection.
        rows = ops.reshape(hidden, (-1, 1, hidden.shape[-1]))[:_ROWS_TRIED]
        logits = [head.project(row, weights) for row in ops.unstack(rows)]
    # Of one token: each gradient is as large as the kernel.
    found = tape.gradient(logits[0], weights)
    read = [
        variable
        for variable, gradient in zip(head.variables, found, strict=True)
        # Integers have none; they are few, and get none in training.
        if gradient is not None or "float" not in variable.dtype
    ]
    head = dataclasses.replace(head, variables=tuple(read))
    if hidden.shape[:-1] != expected.shape[:-1]:
        return head, float("inf")
    expected = ops.reshape(expected, (-1, expected.shape[-1]))[:_ROWS_TRIED]
    made = ops.reshape(ops.stack(logits), (len(logits), -1))
    if made.shape != expected.shape:
        return head, float("inf")
    error = ops.max(ops.abs(ops.cast(made, "float32") - expected))
    # A fresh head may be all zeros.
    return head, float(error / ops.maximum(ops.max(ops.abs(expected)), 1e-30))


def _refuse(argument: str, model: Any, reason: str) -> NoReturn:
    raise ValueError(
        f"`{argument}` must end in a projection to its logits that treats each "
        "token by itself, to make them a few tokens at a time. Received: "
        f"{argument}={getattr(model, 'name', model)!r}; {reason}. Leave "
        "`chunk` out to distill any model, with its logits whole."
    )
