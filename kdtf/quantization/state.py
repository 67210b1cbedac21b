"""What of a model is quantized, put on its layers and saved with its weights.

The model's layers read quantized kernels and give quantized activations in
their own calls (`kdtf.transforms.substitution`). Everything that is remembered
for it is saved as one state of the model, which plain Keras passes over.
"""

import contextlib
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from kdtf.quantization.activations import RangeQuantizer
from kdtf.quantization.kernel_quantizer import KernelQuantizer
from kdtf.quantization.schemes import Activations
from kdtf.transforms.deployment import Deployable
from kdtf.transforms.deployment import Deployment
from kdtf.transforms.deployment import KernelGrid
from kdtf.transforms.selection import Candidate
from kdtf.transforms.substitution import Substitution
from kdtf.transforms.substitution import real_value
from kdtf.transforms.substitution import restore
from kdtf.transforms.substitution import substitute

__all__ = ["STATE", "QuantizationState", "QuantizedCall", "QuantizedKernel"]

STATE = "kdtf_quantization"
_SCHEMES = "schemes"


class QuantizedKernel:
    """A kernel, and what gives its values.

    Args:
        kernel: The kernel.
        quantizer: Its quantizer.
    """

    def __init__(self, kernel: Candidate, quantizer: KernelQuantizer) -> None:
        self.kernel = kernel
        self.quantizer = quantizer
        # Off while the kernel itself holds the quantized values.
        self.is_on = True

    def reading(self) -> Any:
        """Returns what the kernel reads as in its layer."""
        value = real_value(self.kernel.variable)
        return self.quantizer(keras.ops.cast(value, "float32"))

    def grid(self) -> KernelGrid:
        """Returns the quantized values, and how a file can store them."""
        return self.quantizer.grid(np.asarray(self.kernel.variable, "float32"))

    @contextlib.contextmanager
    def held(self) -> Iterator[KernelGrid]:
        """Lets the kernel itself hold the quantized values in the block."""
        variable, grid = self.kernel.variable, self.grid()
        before = np.asarray(variable)
        try:
            variable.assign(grid.values)
            self.is_on = False
            yield grid
        finally:
            self.is_on = True
            variable.assign(before)


class QuantizedCall(Substitution):
    """One layer's quantized weights and activations.

    Args:
        kernels: Kernels that are read in its call.
        inputs: Quantizers of its float inputs, in order; none if empty.
        declared: Gives the inputs as the layer declares them, whatever the
            structure and dtype they came in.
        inside: Quantizer of what goes into its activation function.
        output: Quantizer of its output.
    """

    def __init__(
        self,
        *,
        kernels: Sequence[QuantizedKernel] = (),
        inputs: Sequence[RangeQuantizer] = (),
        inside: RangeQuantizer | None = None,
        output: RangeQuantizer | None = None,
        declared: Callable[[Any], Any] | None = None,
    ) -> None:
        self.declared = declared
        self.kernels = list(kernels)
        self.inputs = list(inputs)
        self.inner = inside
        self.output = output

    @property
    def ranges(self) -> list[RangeQuantizer]:
        """All quantizers of activations."""
        ends = [q for q in (self.inner, self.output) if q is not None]
        return self.inputs + ends

    def readings(self) -> list[tuple[Any, Any]]:
        """Gives the kernels and their quantized values."""
        return [
            (kernel.kernel.variable, kernel.reading())
            for kernel in self.kernels
            if kernel.is_on
        ]

    def variables(self) -> list[Any]:
        """Gives what the quantizers remember."""
        quantizers = [k.quantizer for k in self.kernels] + self.ranges
        return [v for quantizer in quantizers for v in quantizer.weights]

    def before(self, inputs: Any) -> Any:
        """Quantizes the float tensors among the inputs."""
        if not self.inputs:
            return inputs
        if self.declared is not None:
            inputs = self.declared(inputs)
        given = [x for x in keras.tree.flatten(inputs) if _is_float(x)]
        if len(given) != len(self.inputs):
            raise ValueError(
                "A model must be called with the float tensors that it was "
                f"quantized for. Received: {len(given)} of them, not "
                f"{len(self.inputs)}. Give inputs the structure and the dtypes "
                "of the first batch of `data`."
            )
        remaining = iter(self.inputs)
        return keras.tree.map_structure(
            lambda x: next(remaining)(x) if _is_float(x) else x, inputs
        )

    def after(self, outputs: Any) -> Any:
        """Quantizes the output."""
        return outputs if self.output is None else self.output(outputs)

    @contextlib.contextmanager
    def inside(self, layer: Any) -> Iterator[None]:
        """Quantizes what the layer's activation function gets, meanwhile."""
        if self.inner is None:
            yield
            return
        function, quantizer = layer.activation, self.inner
        # Around Keras's tracking, for the time of the call only.
        object.__setattr__(
            layer, "activation", lambda x: function(quantizer(x))
        )
        try:
            yield
        finally:
            object.__setattr__(layer, "activation", function)

    def bake(self) -> None:
        """Writes the quantized values into the kernels."""
        for kernel in self.kernels:
            kernel.kernel.variable.assign(kernel.grid().values)
        for kernel in self.kernels:
            _release(kernel)


class QuantizationState(Deployable):
    """All that is quantized of a model, saved and loaded with its weights.

    Args:
        quantize: The mode of `export_tflite` that keeps the values.
        dense_per_tensor: Whether each Dense kernel has one scale.

    Attributes:
        activations: How activations are quantized, if they are.
        skipped: The weights that are not quantized, each with the reason.
    """

    def __init__(self, quantize: str | None, *, dense_per_tensor: bool) -> None:
        super().__init__(name=STATE)
        self.quantize = quantize
        self.dense_per_tensor = dense_per_tensor
        calls: list[tuple[Any, QuantizedCall]] = []
        # Behind a function: Keras would walk from a list to the layers, and
        # save the model within itself.
        self._calls = lambda: calls
        self.activations: Activations | None = None
        self.skipped: tuple[tuple[Candidate, str], ...] = ()

    def kernels(self) -> list[QuantizedKernel]:
        """Returns all quantized kernels."""
        return [k for _, call in self.calls() for k in call.kernels]

    def ranges(self) -> list[RangeQuantizer]:
        """Returns all quantizers of activations."""
        return [q for _, call in self.calls() for q in call.ranges]

    def calls(self) -> list[tuple[Any, QuantizedCall]]:
        """Returns the layers and what changes in their calls."""
        return self._calls()

    def put_on(self, layer: Any, call: QuantizedCall) -> None:
        """Puts quantized values on a layer."""
        self.calls().append((layer, call))
        substitute(layer, call)
        for kernel in call.kernels:
            _let_train(kernel)

    def take_off(self, model: Any) -> None:
        """Leaves a model as it was, where quantizing it came to nothing."""
        for layer, _ in self.calls():
            restore(layer)
        delattr(model, f"_{self.name}")

    @contextlib.contextmanager
    def deployed(self, model: Any) -> Iterator[Deployment]:
        """Holds the model as it is exported; see the base class."""
        del model
        with contextlib.ExitStack() as stack:
            for quantizer in self.ranges():
                stack.enter_context(quantizer.frozen())
            grids = [
                stack.enter_context(kernel.held()) for kernel in self.kernels()
            ]
            yield Deployment(
                quantize=self.quantize,
                grids=tuple(grids),
                dense_per_tensor=self.dense_per_tensor,
                notes=self._notes(),
            )

    def save_own_variables(self, store: Any) -> None:
        """Writes how kernels are quantized, and what is remembered of it."""
        store[_SCHEMES] = np.frombuffer(self._schemes().encode(), "uint8")
        for name, variable in self._variables().items():
            store[name] = np.asarray(variable)

    def load_own_variables(self, store: Any) -> None:
        """Reads it back; weights of a plain model leave it as it is.

        Raises:
            ValueError: It was saved by a model that was quantized otherwise.
        """
        if not store.keys():
            return
        saved = np.asarray(store[_SCHEMES]).tobytes().decode()
        variables = self._variables()
        found = {n: np.shape(store[n]) for n in store.keys() if n != _SCHEMES}
        wanted = {name: tuple(v.shape) for name, v in variables.items()}
        lines = set(saved.splitlines()) ^ set(self._schemes().splitlines())
        differing = sorted([*lines, *map(str, found.items() ^ wanted.items())])
        if saved != self._schemes() or differing:
            raise ValueError(
                "The saved quantization must be of the same layers. Received: "
                f"{differing[:3]} in one but not in the other. Call "
                "`kdtf.quantize_aware` with the arguments of the saved model."
            )
        for name, variable in variables.items():
            variable.assign(np.asarray(store[name]))

    def _schemes(self) -> str:
        # Shapes and not paths: Keras numbers layers anew in each process.
        return "\n".join(
            f"{k.kernel.shape}: {k.quantizer.scheme}" for k in self.kernels()
        )

    def _variables(self) -> dict[str, Any]:
        quantizers = [k.quantizer for k in self.kernels()] + self.ranges()
        return {
            # No "/": it would be a folder inside the file.
            f"{index}_{variable.name}": variable
            for index, quantizer in enumerate(quantizers)
            for variable in quantizer.weights
        }

    def _notes(self) -> tuple[str, ...]:
        stored_float = [
            kernel.kernel.path
            for kernel in self.kernels()
            if kernel.quantizer.stored_bits is None
        ]
        if not stored_float:
            return ()
        return (
            f"{len(stored_float)} kernels hold values that no integers of "
            "LiteRT can store (a codebook, sums of powers of two): they are "
            "float32 in the file, and only its compressed size shrinks",
        )


def _let_train(kernel: QuantizedKernel) -> None:
    """Shows a learned variable to the optimizer, but not to saved files.

    The layer's own part of a file stays what plain Keras expects; the state
    saves the variable.
    """
    learned, layer = kernel.quantizer.learned, kernel.kernel.layer
    if learned is None:
        return
    learned.trainable = layer.trainable
    # As Keras does where `enable_lora` adds to a built layer.
    layer._tracker.unlock()
    layer._trainable_variables.append(learned)
    layer._tracker.lock()
    for name in ("save_own_variables", "load_own_variables"):
        method = _without(learned, layer, getattr(layer, name))
        object.__setattr__(layer, name, method)


def _without(
    learned: Any, layer: Any, method: Callable[[Any], None]
) -> Callable[[Any], None]:
    def call(store: Any) -> None:
        tracked = layer._trainable_variables
        place = next(i for i, v in enumerate(tracked) if v is learned)
        layer._tracker.unlock()
        del tracked[place]
        try:
            method(store)
        finally:
            tracked.insert(place, learned)
            layer._tracker.lock()

    return call


def _release(kernel: QuantizedKernel) -> None:
    """Undoes `_let_train`."""
    learned, layer = kernel.quantizer.learned, kernel.kernel.layer
    if learned is None:
        return
    tracked = layer._trainable_variables
    layer._tracker.unlock()
    del tracked[next(i for i, v in enumerate(tracked) if v is learned)]
    layer._tracker.lock()
    for name in ("save_own_variables", "load_own_variables"):
        layer.__dict__.pop(name, None)


def _is_float(value: Any) -> bool:
    dtype = getattr(value, "dtype", None)
    return dtype is not None and keras.backend.is_float_dtype(
        keras.backend.standardize_dtype(dtype)
    )
