"""From a Keras model to the bytes of a `.tflite` file, by TFLiteConverter.

Weights survive only on certain routes: variables that are reached through a
Keras layer's object graph alone are silently dropped. `_save` keeps a flat
list of all that the traced graph reads, as `keras.export.ExportArchive` does.
"""

import contextlib
import dataclasses
import inspect
import re
import tempfile
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from typing import Any

from kdtf.export.errors import ExportError
from kdtf.export.interface import Interface
from kdtf.export.interface import outputs_by_name
from kdtf.export.plain_sums import plain_sums
from kdtf.export.quiet import quiet
from kdtf.export.samples import Samples

SIGNATURE = "serving_default"
# Names inside the conversion; TensorFlow mangles some of the user's own.
INPUT = "kdtf_input_{}"
OUTPUT = "kdtf_output_{}"

NO_INPUT_SCALES = "_experimental_disable_fuse_mul_and_fc"
_WRITE_IN_PLACE = "_experimental_enable_dynamic_update_slice"
_DENSE_PER_TENSOR = (
    "_experimental_disable_per_channel_quantization_for_dense_layers"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Traced:
    """A model saved for the converter.

    Args:
        folder: The SavedModel; it lives as long as `traced`'s block.
        output_names: The model's outputs, in order.
        kernels: Path and element count of each variable with two or more
            dimensions that the graph reads.
    """

    folder: str
    output_names: tuple[str, ...]
    kernels: dict[str, int]


@contextlib.contextmanager
def traced(
    model: Any, interface: Interface, *, unroll: bool = False
) -> Iterator[Traced]:
    """Saves `model` with fixed shapes, for as long as the block runs.

    Args:
        model: A built model of either Keras.
        interface: Its inputs, with fixed shapes.
        unroll: Whether recurrent layers shall be written out step by step:
            calibrating a loop aborts the process.

    Raises:
        ExportError: The model cannot be traced with these inputs.
    """
    with tempfile.TemporaryDirectory(prefix="kdtf-export-") as folder:
        with _loops(model, unroll), plain_sums():
            saved = save(model, interface, folder)
        yield saved


def save(
    model: Any, interface: Interface, folder: str, *, own_names: bool = False
) -> Traced:
    """Writes `model` as a SavedModel, with all the weights it reads.

    Args:
        model: A built model of either Keras.
        interface: Its inputs; None in their shapes stays free.
        folder: Where to write.
        own_names: Whether the signature has the model's own names, which
            must then be names that TensorFlow takes.

    Raises:
        ExportError: The model cannot be traced with these inputs.
    """
    names: list[str] = []
    with failures("saving"):
        function = _function(model, interface, names, own_names=own_names)
        concrete = function.get_concrete_function()
        _save(function, concrete.graph.variables, folder)
    return Traced(
        folder=folder,
        output_names=tuple(names),
        kernels=kernel_sizes(concrete.graph.variables),
    )


def kernel_sizes(variables: Iterable[Any]) -> dict[str, int]:
    """Returns the elements of each matrix, or tensor of more dimensions.

    A file must hold them all; vectors may be folded into others.
    """
    return {
        getattr(v, "path", v.name): int(v.shape.num_elements())
        for v in variables
        if v.shape.rank is not None and v.shape.rank > 1
    }


def to_float32(source: Traced) -> bytes:
    """Returns the file with float32 weights and operators."""
    return _convert(source, lambda converter: None)


def to_float16(source: Traced) -> bytes:
    """Returns the file with float16 weights, computed in float32."""
    import tensorflow as tf

    def configure(converter: Any) -> None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16]

    return _convert(source, configure)


def to_int8(
    source: Traced,
    samples: Samples | None,
    *,
    integer_io: bool,
    dense_per_tensor: bool,
) -> bytes:
    """Returns the file with int8 weights and activations.

    Args:
        source: The saved model.
        samples: What activation ranges are measured on, where the graph has
            none. None if it has them all.
        integer_io: Whether float inputs and outputs become int8.
        dense_per_tensor: Whether a Dense kernel gets one scale.
    """
    import tensorflow as tf

    def configure(converter: Any) -> None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if samples is not None:
            converter.representative_dataset = lambda: _feeds(samples)
            builtins = tf.lite.OpsSet.TFLITE_BUILTINS_INT8
            converter.target_spec.supported_ops = [builtins]
        if integer_io:
            converter.inference_input_type = tf.int8
            converter.inference_output_type = tf.int8
        if dense_per_tensor:
            set_private(converter, _DENSE_PER_TENSOR, True)

    return _convert(source, configure)


def _feeds(samples: Samples) -> Iterator[dict[str, Any]]:
    for index in range(len(samples)):
        values = enumerate(samples.one(index))
        yield {INPUT.format(i): value for i, value in values}


def call(model: Any, inputs: Any) -> Any:
    """Returns what the model gives for `inputs` at inference."""
    if "training" in inspect.signature(model.call).parameters:
        return model(inputs, training=False)
    return model(inputs)


def _function(
    model: Any, interface: Interface, names: list[str], *, own_names: bool
) -> Any:
    import tensorflow as tf

    specs = [
        tf.TensorSpec(
            spec.shape,
            spec.dtype,
            name=spec.name if own_names else INPUT.format(i),
        )
        for i, spec in enumerate(interface.inputs)
    ]

    @tf.function(input_signature=specs)
    def serve(*flat: Any) -> dict[str, Any]:
        outputs = outputs_by_name(call(model, interface.pack(flat)))
        names[:] = outputs
        return {
            # A graph may not give its input back under another name.
            name if own_names else OUTPUT.format(i): tf.identity(_widen(value))
            for i, (name, value) in enumerate(outputs.items())
        }

    return serve


def _widen(value: Any) -> Any:
    import tensorflow as tf

    halves = (tf.float16, tf.bfloat16)
    return tf.cast(value, tf.float32) if value.dtype in halves else value


def _save(function: Any, variables: Any, folder: str) -> None:
    import tensorflow as tf

    # Not the model itself: its tokenizer's tables would come along.
    module = tf.Module()
    module.flat_variables = list(variables)
    module.serve = function
    tf.saved_model.save(module, folder, signatures={SIGNATURE: function})


def _convert(source: Traced, configure: Callable[[Any], None]) -> bytes:
    import tensorflow as tf

    with failures("converting"):
        converter = tf.lite.TFLiteConverter.from_saved_model(
            source.folder, signature_keys=[SIGNATURE]
        )
        # It would multiply a norm's scale into the kernels behind it: off
        # their grids, and a tied table into two.
        set_private(converter, NO_INPUT_SCALES, True)
        # A recurrent layer that gives all its steps would collect them in
        # tensors of free length.
        set_private(converter, _WRITE_IN_PLACE, True)
        configure(converter)
        content = converter.convert()
    if not content:
        raise ExportError(
            "TFLiteConverter must give a file. Received: nothing. The model "
            "holds an operation it cannot write; try `quantize=None`."
        )
    return content


def set_private(converter: Any, name: str, value: Any) -> None:
    """Sets a flag that TensorFlow does not promise to keep."""
    import tensorflow as tf

    if not hasattr(converter, name):
        raise ExportError(
            f"TFLiteConverter must have the flag {name!r} for this target. "
            f"Received: tensorflow=={tf.__version__}, which dropped it. "
            "Install the tensorflow release that kdtf's setup.cfg names."
        )
    setattr(converter, name, value)


@contextlib.contextmanager
def failures(stage: str) -> Iterator[None]:
    """Turns whatever TensorFlow raises into one error that says the cause.

    MLIR's own errors come up as unrelated Python ones (`struct.error` when
    the converter returned an empty buffer), hence the broad clause.
    """
    with quiet() as caught:
        try:
            yield
        except ExportError:
            raise
        except Exception as error:
            message = _explain(stage, error, caught())
            raise ExportError(message) from error


def _explain(stage: str, error: Exception, log: str) -> str:
    text = f"{error}\n{log}"
    flex = re.search(r"TF Select ops: (.+)", text)
    if flex:
        return (
            "Exported files hold builtin LiteRT operators only: TensorFlow's "
            "own (Flex) add about 180 MB to an app. Received: the model "
            f"needs {flex[1].strip()}. Replace the layers that use them, or "
            "give them fixed shapes."
        )
    causes = [line for line in log.splitlines() if "error:" in line.lower()]
    cause = (causes[0] if causes else str(error)).strip()[:600]
    return (
        f"TensorFlow failed while {stage} the model. Received: "
        f"{type(error).__name__}: {cause}. If the data fits the model, export "
        "parts of it to find the layer at fault."
    )


@contextlib.contextmanager
def _loops(model: Any, unroll: bool) -> Iterator[None]:
    """Sets how recurrent layers are traced, and restores it."""
    wanted: list[tuple[Any, str, bool]] = []
    for layer in model._flatten_layers():
        if unroll and getattr(layer, "unroll", None) is False:
            wanted.append((layer, "unroll", True))
        # Of tf_keras: made for GPUs, a GRU loops whatever `unroll` says, and
        # an LSTM becomes an operator whose state is left from call to call.
        if getattr(layer, "_could_use_gpu_kernel", False):
            wanted.append((layer, "_could_use_gpu_kernel", False))
    for layer, name, value in wanted:
        setattr(layer, name, value)
    try:
        yield
    finally:
        for layer, name, value in wanted:
            setattr(layer, name, not value)
