"""Records what layers inside a model give, in the model's one forward pass.

No sub-model and no second pass: while the block runs, a layer's `call` on the
instance is one that notes arguments and result and hands both on. It works
for layers nested in others (the blocks and attentions of keras-nlp), eagerly,
in a `tf.function` and under XLA.
"""

import dataclasses
import inspect
import threading
from collections.abc import Iterable
from typing import Any

from keras import ops

from kdtf.distillation.features import mapping

__all__ = ["Capture", "Record", "padding_mask_of", "remat_layer"]

_LOCK = threading.RLock()


@dataclasses.dataclass(frozen=True)
class Record:
    """One call of one layer: which layer, with what, and what it gave."""

    layer: Any
    arguments: dict[str, Any]
    output: Any


class Capture:
    """Records calls of some of a model's layers while its block runs.

    A layer that is called several times keeps its last call. Records are
    tensors of the trace they were made in: use them in the same one. They are
    of the thread that entered the block, so that the replicas of a
    `MirroredStrategy` do not mix theirs. Captures nest; whatever stood in
    the place of a layer's `call` stands there again afterwards.

    Gradients flow through records, except out of a layer that Keras
    rematerializes (`keras.RematScope`): those are none. See `remat_layer`.

    Args:
        model: A Keras 3 model.
        taps: Paths of layers as `kdtf.layers.walk_layers` gives them, or
            names that only one layer has.

    Raises:
        ValueError: The model has no such layer, or several.

    Example:
        >>> import keras
        >>> relu = keras.layers.ReLU(name="relu")
        >>> model = keras.Sequential([relu, keras.layers.Rescaling(10.0)])
        >>> with Capture(model, ["relu"]) as records:
        ...     output = model(keras.ops.array([[-1.0, 2.0]]))
        >>> [float(value) for value in records["relu"].output[0]]
        [0.0, 2.0]
    """

    def __init__(self, model: Any, taps: Iterable[str]) -> None:
        self._layers = {tap: mapping.find_layer(model, tap) for tap in taps}
        self._listeners: list[tuple[Any, _Listener]] = []
        self.records: dict[str, Record] = {}

    def __enter__(self) -> dict[str, Record]:
        """Returns the dict that fills while the model runs."""
        if self._listeners:
            raise RuntimeError(
                "A `Capture` records one pass at a time. Received: one that is "
                "entered already. Make a second `Capture`."
            )
        self.records = {}
        for tap, layer in self._layers.items():
            listener = _Listener(tap, self.records)
            _listen(layer, listener)
            self._listeners.append((layer, listener))
        return self.records

    def __exit__(self, *error: Any) -> None:
        """Gives the layers back what stood in the place of their `call`."""
        while self._listeners:
            _unlisten(*self._listeners.pop())


class _Listener:
    """Takes the calls of one layer that its own thread makes."""

    def __init__(self, tap: str, records: dict[str, Record]) -> None:
        self.tap = tap
        self.records = records
        self.thread = threading.get_ident()


class _Recorder:
    """Stands where the layer's `call` was, for as long as someone listens."""

    def __init__(self, layer: Any, attribute: str) -> None:
        self._layer = layer
        self._original = getattr(layer, attribute)
        self.was_own = attribute in layer.__dict__
        self.listeners: list[_Listener] = []
        # Keras and kdtf ask whether a call takes `training` or `mask`.
        self.__signature__ = inspect.signature(self._original)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        output = self._original(*args, **kwargs)
        thread = threading.get_ident()
        for listener in list(self.listeners):
            if listener.thread == thread:
                bound = self.__signature__.bind(*args, **kwargs)
                listener.records[listener.tap] = Record(
                    self._layer, dict(bound.arguments), output
                )
        return output

    def restore(self, attribute: str) -> None:
        # Around Keras's tracking, which would look into the function.
        if self.was_own:
            object.__setattr__(self._layer, attribute, self._original)
        else:
            object.__delattr__(self._layer, attribute)


def _listen(layer: Any, listener: _Listener) -> None:
    attribute = _attribute(layer)
    with _LOCK:
        recorder = layer.__dict__.get(attribute)
        if not isinstance(recorder, _Recorder):
            recorder = _Recorder(layer, attribute)
            object.__setattr__(layer, attribute, recorder)
        recorder.listeners.append(listener)


def _unlisten(layer: Any, listener: _Listener) -> None:
    attribute = _attribute(layer)
    with _LOCK:
        recorder = layer.__dict__[attribute]
        recorder.listeners.remove(listener)
        if not recorder.listeners:
            recorder.restore(attribute)


def _attribute(layer: Any) -> str:
    # Of layers that `quantize` changed, Keras calls another method.
    quantized = getattr(layer, "quantization_mode", None) is not None
    return "quantized_call" if quantized else "call"


def remat_layer(model: Any, path: str) -> str | None:
    """Returns which layer on a path Keras rematerializes, or None.

    What is recorded inside one has no gradient: TensorFlow computes the
    layer anew for the backward pass and does not know the record.

    Args:
        model: A Keras 3 model.
        path: Path of a layer in it.

    Example:
        >>> import keras
        >>> with keras.RematScope(mode="full"):
        ...     dense = keras.layers.Dense(2, name="head")
        >>> model = keras.Sequential([keras.Input((3,)), dense])
        >>> remat_layer(model, "head")
        'head'
    """
    parts = path.split("/")
    above = ["/".join(parts[: i + 1]) for i in range(len(parts))]
    for name in above:
        layer = mapping.find_layer(model, name)
        mode = getattr(layer, "_remat_mode", None)
        if mode is None or mode.mode == "activations":
            continue
        if mode.mode != "list_of_layers" or layer.name in mode.layer_names:
            return name
    return None


def padding_mask_of(x: Any) -> Any:
    """Returns which positions of a batch are real, or None if all are.

    Args:
        x: A model's inputs: a dict with a "padding_mask", as keras-nlp's
            preprocessors give it, or a tensor that carries a Keras mask.

    Returns:
        A bool tensor of shape `(batch, time)`, or None.

    Example:
        >>> mask = padding_mask_of({"padding_mask": [[1, 1, 0]]})
        >>> [bool(real) for real in mask[0]]
        [True, True, False]
    """
    mask = getattr(x, "_keras_mask", None)
    if isinstance(x, dict):
        mask = x.get("padding_mask")
    return None if mask is None else ops.cast(mask, "bool")
