"""`quantize_aware`: `fit` trains the model that the device will run."""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from kdtf.batches import iterate_batches
from kdtf.flavours import flavour_of
from kdtf.layers import walk_layers
from kdtf.quantization import schemes
from kdtf.quantization.activations import RangeQuantizer
from kdtf.quantization.declared import as_functional
from kdtf.quantization.declared import declared_inputs
from kdtf.quantization.kernel_quantizer import KernelQuantizer
from kdtf.quantization.kernels import quantizer_of
from kdtf.quantization.sites import Site
from kdtf.quantization.sites import find_sites
from kdtf.quantization.sites import recurrent_hosts
from kdtf.quantization.state import QuantizationState
from kdtf.quantization.state import QuantizedCall
from kdtf.quantization.state import QuantizedKernel
from kdtf.transforms import attach
from kdtf.transforms.attach import scope_of
from kdtf.transforms.selection import Candidate
from kdtf.transforms.selection import Rules
from kdtf.transforms.selection import candidates
from kdtf.transforms.selection import check_any
from kdtf.transforms.selection import check_built
from kdtf.transforms.selection import select_kernels
from kdtf.transforms.substitution import substitutions

__all__ = ["prepare", "quantize_aware"]

# Sets kernels to values on grids, and returns the steps of each.
Rounding = Callable[
    [Sequence[tuple[Candidate, schemes.Weights]]], Sequence[Any]
]


def quantize_aware(
    model: Any, scheme: Any = "int8", *, select: Any = None, data: Any = None
) -> Any:
    """Lets a model compute with quantized values, and `fit` make up for it.

    In each layer's call its kernels read as quantized ones, and for "int8"
    activations are rounded too; gradients pass straight through to the real
    weights. The model keeps its class, its layers and its names, so any way of
    training it works, under a `kdtf.Distiller` too. Zeros that `kdtf.prune`
    keeps stay zeros. `kdtf.export_tflite` then writes the integers that were
    trained; `kdtf.strip` bakes them into a plain Keras model.

    Start from a trained model, with a learning rate of about a tenth of what
    it was trained with. Compile after this call. What is learned besides the
    weights (ranges, steps, codebooks) is saved with them, in `.keras` and
    `.weights.h5` files: to go on, build the model, call this with the same
    arguments, then `load_weights` (`BackupAndRestore` does).

    Args:
        model: A built model of Keras 3, changed in place; or of `tf_keras`,
            where tfmot's wrappers do "int8" on a new model.
        scheme: "int8" (integers throughout, for convolutional networks and
            microcontrollers), "int8_iot" (the same with one scale for each
            Dense kernel: less memory on a microcontroller), "dynamic_int8"
            (int8 weights, for transformers), "int4", "int4_block32", "int2",
            "codebook", "power_of_two", "additive_power_of_two",
            "normal_float4"; a `kdtf.quantization.Scheme` or its weights, such
            as `Linear(num_bits=4, learn_step=True)`; or, for schemes without
            activations, rules such as `{"*/query/kernel": "int4", "*":
            "dynamic_int8"}`, of which the first that matches decides and
            None leaves a kernel in float.
        select: Which kernels: layers, classes of layers, path patterns or
            predicates of a `Candidate`, or pairs of one of these and True or
            False. Defaults to all matrices, filters and embeddings.
        data: For "int8" a few batches as for `fit`, of which the first shows
            how a subclassed model is called, and all set the ranges to begin
            with. Defaults to none: ranges begin with the first batch of
            `fit`.

    Returns:
        The model.

    Raises:
        TypeError: `model` is no Keras model, or an argument of another kind.
        ValueError: A scheme is unknown, the model is quantized already or has
            nothing to quantize, weights hold nan, or a group does not divide
            a kernel's inputs.

    Example:
        >>> import keras, numpy as np
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        >>> model = quantize_aware(model, "int4")
        >>> model.compile("sgd", "mse")
        >>> history = model.fit(np.ones((8, 4)), np.ones((8, 2)), verbose=0)
        >>> import kdtf
        >>> kernel = kdtf.strip(model).get_weights()[0]
        >>> steps = kernel / (np.abs(kernel).max(axis=0) / 7)
        >>> bool(np.allclose(steps, np.round(steps), atol=1e-4))
        True

    Reference:
        Jacob et al. 2017, https://arxiv.org/abs/1712.05877
    """
    if flavour_of(model) == "tf_keras":
        from kdtf.quantization import tfmot_models

        return tfmot_models.quantize_aware(model, scheme, select=select)
    state = prepare(model, scheme, select=select, data=data)
    if data is not None and state.ranges():
        from kdtf.quantization.post_training import calibrate

        calibrate(model, state, data)
    return model


def prepare(
    model: Any,
    scheme: Any,
    *,
    select: Any = None,
    data: Any = None,
    round_kernels: Rounding | None = None,
) -> QuantizationState:
    """Quantizes the model's calls, and returns what is remembered for them.

    Args:
        model: A model of Keras 3.
        scheme: As for `quantize_aware`.
        select: As for `quantize_aware`.
        data: As for `quantize_aware`; nothing is measured on it.
        round_kernels: Sets the kernels, given with their schemes, to values
            on grids of its own and returns the steps.

    Raises:
        ValueError: As for `quantize_aware`.
    """
    _check_plain(model)
    choice = _Choice(scheme)
    kernels, skipped = _choose(model, choice, select)
    activations = choice.activations
    sites: tuple[list[Site], int] = ([], 0)
    if activations is not None:
        # Before anything is changed: it may refuse the model.
        sites = find_sites(model, _example(model, data))
    steps: Sequence[Any] = [None] * len(kernels)
    if round_kernels is not None:
        steps = round_kernels(
            [(kernel, chosen.weights) for kernel, chosen in kernels]
        )
    quantizers = [
        (kernel, quantizer_of(kernel, chosen.weights, steps=own))
        for (kernel, chosen), own in zip(kernels, steps, strict=True)
    ]
    state = QuantizationState(
        choice.export_mode(q for _, q in quantizers),
        dense_per_tensor=choice.is_per_tensor,
    )
    state.activations = activations
    state.skipped = tuple(skipped)
    # Also where the model was made under a strategy and this is outside.
    with scope_of(kernels[0][0].variable):
        _put_on(model, state, quantizers, sites, activations)
    attach.remember(model, state)
    return state


class _Choice:
    """The scheme of each kernel."""

    def __init__(self, scheme: Any) -> None:
        self._rules: Rules | None = None
        if isinstance(scheme, Mapping):
            named = {
                matcher: None if value is None else schemes.get(value)
                for matcher, value in scheme.items()
            }
            self._rules = Rules(named, argument="scheme")
            self._all = [value for value in named.values() if value]
        else:
            self._all = [schemes.get(scheme)]
        self._check()

    @property
    def activations(self) -> schemes.Activations | None:
        """How activations are quantized, if they are."""
        return self._all[0].activations

    @property
    def is_per_tensor(self) -> bool:
        """Whether Dense kernels have one scale each."""
        weights = self._all[0].weights
        return getattr(weights, "granularity", "") == "per_tensor"

    def check_used(self, found: list[Candidate]) -> None:
        """Refuses rules that match nothing."""
        if self._rules is not None:
            self._rules.check_used([c for c in found if c.is_matrix])

    def of(self, kernel: Candidate) -> schemes.Scheme | None:
        """Returns a kernel's scheme, None for float."""
        found: schemes.Scheme | None = self._all[0]
        if self._rules is not None:
            found = self._rules(kernel)
        if found is None or found.activations is None:
            return found
        # A convolution has a scale for each channel on any device.
        is_dense = isinstance(
            kernel.layer, (keras.layers.Dense, keras.layers.EinsumDense)
        )
        weights = found.weights if is_dense else schemes.Linear()
        return schemes.Scheme(weights=weights, activations=found.activations)

    def export_mode(self, quantizers: Any) -> str | None:
        """Returns the mode of `export_tflite` that keeps the values."""
        if self.activations is not None:
            return "int8"
        widths = [quantizer.stored_bits for quantizer in quantizers]
        stored = [bits for bits in widths if bits is not None]
        if not stored:
            return None
        return "dynamic_int8" if max(stored) == 8 else "int4"

    def _check(self) -> None:
        kinds = {scheme.activations for scheme in self._all}
        if len(kinds) != 1 or (self._rules is not None and kinds != {None}):
            raise ValueError(
                "Rules of `scheme` must name schemes with float activations, "
                f"at least one. Received: {[str(s) for s in self._all]}. "
                'For "int8" choose kernels with `select`; a device computes '
                "it throughout."
            )


def _check_plain(model: Any) -> None:
    check_built(model, "quantize")
    for layer, effect in substitutions(model):
        if isinstance(effect, QuantizedCall):
            raise ValueError(
                "A model can be quantized once. Received: quantized already: "
                f"{layer.name!r}. Call `kdtf.strip` first, on the model that "
                "was quantized; for several schemes in one model give rules "
                "as `scheme`."
            )
    for path, layer in walk_layers(model):
        if getattr(layer, "quantization_mode", None) is not None:
            raise ValueError(
                "Layers must hold float weights. Received: "
                f"{path!r}, quantized by Keras's `model.quantize()` for "
                f"{layer.quantization_mode!r}. Load the float model again."
            )


def _choose(
    model: Any, choice: _Choice, select: Any
) -> tuple[list[tuple[Candidate, schemes.Scheme]], list[tuple[Candidate, str]]]:
    """Returns the kernels with their schemes, and the others with reasons."""
    choice.check_used(candidates(model))
    selection = select_kernels(
        model, select, embeddings=True, depthwise=True, frozen=True
    )
    taken, skipped = [], list(selection.skipped)
    for kernel in selection.taken:
        scheme = choice.of(kernel)
        if scheme is None:
            skipped.append((kernel, "`scheme` leaves it in float"))
        elif scheme.activations and isinstance(
            kernel.layer, keras.layers.Embedding
        ):
            skipped.append((kernel, "its output is quantized, row by row"))
        else:
            taken.append((kernel, scheme))
    check_any(model, "quantize", taken, skipped)
    return taken, skipped


def _example(model: Any, data: Any) -> Any:
    """Returns what the model is called with, or specifications of it."""
    functional = as_functional(model)
    if functional is None and data is not None:
        batch = next(iter(iterate_batches(data)))
        return keras.tree.map_structure(tf.convert_to_tensor, batch.x)
    if functional is None:
        raise ValueError(
            'A subclassed model must be run once to be quantized for "int8". '
            f"Received: data=None for {model.name!r} of type "
            f"{type(model).__name__}. Pass a few typical batches as `data`."
        )
    return keras.tree.map_structure(
        lambda x: tf.TensorSpec(x.shape, x.dtype), functional.input
    )


def _put_on(
    model: Any,
    state: QuantizationState,
    kernels: list[tuple[Candidate, KernelQuantizer]],
    sites: tuple[list[Site], int],
    activations: schemes.Activations | None,
) -> None:
    calls: dict[int, tuple[Any, QuantizedCall]] = {}

    def call_of(layer: Any) -> QuantizedCall:
        return calls.setdefault(id(layer), (layer, QuantizedCall()))[1]

    hosts = recurrent_hosts(model)
    for kernel, quantizer in kernels:
        layer = hosts.get(id(kernel.layer), kernel.layer)
        call_of(layer).kernels.append(QuantizedKernel(kernel, quantizer))
    if activations is not None:
        found, num_inputs = sites
        for site in found:
            _fill(call_of(site.layer), site, activations.decay)
        call = call_of(model)
        call.declared = declared_inputs(model)
        call.inputs = [
            RangeQuantizer(f"input_{index}", decay=activations.decay)
            for index in range(num_inputs)
        ]
    for layer, call in calls.values():
        state.put_on(layer, call)


def _fill(call: QuantizedCall, site: Site, decay: float) -> None:
    if site.inputs:
        call.inputs = [RangeQuantizer(f"{site.path}/input", decay=decay)]
    if site.inside:
        call.inner = RangeQuantizer(f"{site.path}/inside", decay=decay)
    if site.output:
        call.output = RangeQuantizer(
            f"{site.path}/output", decay=decay, fixed=site.fixed
        )
