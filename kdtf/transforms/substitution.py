"""Lets a layer read, get and give other values than it thinks, in its call.

Quantizing a layer for training means that its kernel reads as a coarser one
while gradients reach the real one. The layer's own `call` stays, and runs in a
`keras.StatelessScope` that answers for the variables in question: no wrapper
layer, no clone, and it works for any layer that reads its weights in `call`.
"""

import contextlib
import inspect
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import keras

from kdtf.layers import walk_layers

__all__ = [
    "Substitution",
    "real_value",
    "restore",
    "substitute",
    "substituted",
    "substitutions",
]


class Substitution:
    """What changes in one layer's call; by default nothing."""

    def readings(self) -> Sequence[tuple[Any, Any]]:
        """Gives variables of the layer and what they read as in its call."""
        return ()

    def before(self, inputs: Any) -> Any:
        """Gives what the layer gets in place of its first argument."""
        return inputs

    def after(self, outputs: Any) -> Any:
        """Gives what stands in place of the layer's output."""
        return outputs

    def variables(self) -> Sequence[Any]:
        """Gives variables of its own that calls may assign."""
        return ()

    def inside(self, layer: Any) -> contextlib.AbstractContextManager[Any]:
        """Gives a context to call the layer in."""
        del layer
        return contextlib.nullcontext()

    def bake(self) -> None:
        """Makes the effect on the variables' values last."""


class _Call:
    """Stands where the layer's `call` method was."""

    def __init__(self, layer: Any, substitution: Substitution) -> None:
        self._layer = layer
        self._original = layer.call
        self.substitution = substitution
        # Keras and kdtf ask whether a call takes `training` or `mask`.
        self.__signature__ = inspect.signature(layer.call)
        self._first = next(iter(self.__signature__.parameters), "")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if args:
            args = (self.substitution.before(args[0]), *args[1:])
        elif self._first in kwargs:
            inputs = self.substitution.before(kwargs[self._first])
            kwargs = {**kwargs, self._first: inputs}
        with self.substitution.inside(self._layer):
            outputs = self._call(*args, **kwargs)
        return self.substitution.after(outputs)

    def _call(self, *args: Any, **kwargs: Any) -> Any:
        readings = list(self.substitution.readings())
        if not readings:
            return self._original(*args, **kwargs)
        read = {id(variable) for variable, _ in readings}
        known = [*self._layer.variables]
        # Layers inside this one have substitutions of their own.
        for _, substitution in substitutions(self._layer):
            known.extend(substitution.variables())
        others = list({id(v): v for v in known if id(v) not in read}.values())
        # A scope hides the one around it, if there is one.
        mapping = readings + [(v, real_value(v)) for v in others if _in_scope()]
        with keras.StatelessScope(mapping, collect_losses=True) as scope:
            before = {id(v): scope.get_current_value(v) for v in others}
            outputs = self._original(*args, **kwargs)
            after = [(v, scope.get_current_value(v)) for v in others]
        for variable, value in after:
            # What the call assigned stayed in the scope: a seed, a statistic.
            if value is not None and value is not before[id(variable)]:
                variable.assign(value)
        if scope.losses:
            self._layer.add_loss(scope.losses)
        return outputs


def substitute(layer: Any, substitution: Substitution) -> None:
    """Puts a substitution on a layer, around its `call`.

    Args:
        layer: A built Keras 3 layer, or a model for its inputs.
        substitution: What changes.

    Example:
        >>> class Double(Substitution):
        ...     def after(self, outputs):
        ...         return 2.0 * outputs
        >>> relu = keras.layers.ReLU()
        >>> substitute(relu, Double())
        >>> float(relu(keras.ops.array(3.0)))
        6.0
        >>> restore(relu)
        >>> float(relu(keras.ops.array(3.0)))
        3.0
    """
    # Around Keras's tracking, which would look into the function.
    object.__setattr__(layer, "call", _Call(layer, substitution))


def restore(layer: Any) -> None:
    """Gives a layer its own `call` back."""
    if isinstance(layer.__dict__.get("call"), _Call):
        before = layer.call._original
        object.__delattr__(layer, "call")
        if layer.call != before:
            # Somebody else's replacement was there before.
            object.__setattr__(layer, "call", before)


@contextlib.contextmanager
def substituted(
    pairs: Iterable[tuple[Any, Substitution]],
) -> Iterator[None]:
    """Puts substitutions on layers for as long as the block runs.

    Args:
        pairs: Layers, each with what changes in its call.
    """
    replaced = []
    try:
        for layer, substitution in pairs:
            substitute(layer, substitution)
            replaced.append(layer)
        yield
    finally:
        for layer in replaced:
            restore(layer)


def substitutions(model: Any) -> Iterator[tuple[Any, Substitution]]:
    """Gives each layer that carries a substitution, with it.

    Args:
        model: A Keras 3 model; it may carry one itself.
    """
    for _, layer in [("", model), *walk_layers(model)]:
        call = layer.__dict__.get("call")
        if isinstance(call, _Call):
            yield layer, call.substitution


def real_value(variable: Any) -> Any:
    """Returns a variable's value in its own dtype, also inside a layer.

    There, under a mixed policy, `variable.value` is a half-precision copy.
    """
    value = None
    if _in_scope():
        value = _scopes().get_stateless_scope().get_current_value(variable)
    return variable._value if value is None else value


def _in_scope() -> bool:
    return _scopes().in_stateless_scope()


def _scopes() -> Any:
    # Keras has no public question for them.
    return keras.src.backend.common.stateless_scope
