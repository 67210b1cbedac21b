"""A Keras model as a TensorFlow SavedModel, for servers."""

import dataclasses
import keyword
import os
import pathlib
import re
from typing import Any

import numpy as np

from kdtf.export import converter
from kdtf.export.errors import ExportError
from kdtf.export.inputs import NUM_VERIFICATION
from kdtf.export.inputs import Inputs
from kdtf.export.inputs import reference_outputs
from kdtf.export.interface import Interface
from kdtf.export.interface import check_built
from kdtf.export.interface import interface_of
from kdtf.export.parity import Parity
from kdtf.export.parity import compare
from kdtf.export.samples import Samples
from kdtf.export.samples import bind
from kdtf.export.samples import collect
from kdtf.export.samples import random_samples
from kdtf.export.saved_model_worker import run_saved_model
from kdtf.export.targets import MODES
from kdtf.files import whole_folder
from kdtf.flatbuffer import Signature
from kdtf.flatbuffer import TensorSpec
from kdtf.transforms.deployment import Deployment
from kdtf.transforms.deployment import deployed

__all__ = ["SavedModelResult", "export_saved_model"]

# What TensorFlow writes into such a folder.
NAMES = frozenset(
    {"saved_model.pb", "fingerprint.pb", "variables", "assets", "debug"}
)
_HALVES = ("float16", "bfloat16")
# What float32 cannot tell from zero.
_NO_ERROR = 1e-6


@dataclasses.dataclass(frozen=True, kw_only=True)
class SavedModelResult:
    """A SavedModel that passed all checks; prints as a summary.

    Args:
        path: The folder.
        size_bytes: Of all its files together.
        signature: "serving_default" with the names, types and shapes of
            inputs and outputs; None stands for free dimensions.
        batch_sizes: What it was run with.
        max_error: Largest absolute difference from the Keras model, at any
            of these batch sizes.
        mean_error: Mean absolute difference over all values, of the worst.
        sqnr_db: Signal-to-noise ratio of the worst output, in decibels;
            infinite if all are equal.
        argmax_agreement: Share of rows with the same argmax, in [0, 1], of
            the worst; None if the output is no table of scores.
        verified_on: Which samples the numbers come from.
        warnings: What is worth knowing, but no reason to refuse it.
    """

    path: pathlib.Path
    size_bytes: int
    signature: Signature
    batch_sizes: tuple[int, ...]
    max_error: float
    mean_error: float
    sqnr_db: float
    argmax_agreement: float | None
    verified_on: str
    warnings: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Returns a summary of a few lines."""
        ends = [
            ", ".join(f"{s.name}: {s.dtype} {list(s.shape)}" for s in specs)
            for specs in (self.signature.inputs, self.signature.outputs)
        ]
        agreement = self.argmax_agreement
        same = "" if agreement is None else f", same argmax {agreement:.1%}"
        lines = [
            f"{self.path}: {self.size_bytes:,} bytes",
            f"  {self.signature.key}({ends[0]}) -> {ends[1]}",
            f"  verified on {self.verified_on}, in batches of "
            f"{' and '.join(map(str, self.batch_sizes))}: max error "
            f"{self.max_error:.3g}, mean {self.mean_error:.3g}, SQNR "
            f"{self.sqnr_db:.1f} dB{same}",
            *(f"  warning: {warning}" for warning in self.warnings),
        ]
        return "\n".join(lines)


def export_saved_model(
    model: Any, directory: str | os.PathLike[str], *, verify_data: Any = None
) -> SavedModelResult:
    """Writes `model` as a SavedModel and returns what verifying it found.

    For TensorFlow Serving and whatever else runs SavedModels: one signature,
    "serving_default", with the names that a `.tflite` of `export_tflite` has,
    any batch size, and the free dimensions of the model. Its weights stay
    float32; a model that kdtf pruned or quantized computes in it as it would
    on its device, but is not smaller. It is written beside `directory` first,
    loaded in a fresh process with TensorFlow alone (no Keras, no kdtf code of
    the model) and compared with the Keras model in batches of 1 and of all
    samples; only then it takes its place.

    Args:
        model: A built model of Keras 3 or `tf_keras`: Sequential, Functional,
            subclassed, or from keras-nlp. Numbers in, numbers out: layers
            that take text keep their tables elsewhere.
        directory: The folder to write: a new one, or an older SavedModel,
            which is replaced.
        verify_data: Inputs to compare on, at most 100 are used: an array, a
            tuple or dict of arrays as the model takes them, or a
            `tf.data.Dataset` of batches. Defaults to random ones; needed for
            subclassed models and free dimensions.

    Returns:
        Size, signature and errors.

    Raises:
        ExportError: The model cannot be saved, or does not compute the same
            from there; nothing is left, and an older folder is untouched.
        ValueError: An argument does not fit, or `directory` holds other
            files.
        TypeError: `model` is no Keras model.

    Example:
        >>> import keras, numpy, tempfile
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        >>> model.set_weights([numpy.array([[2.0], [3.0]]), numpy.array([0.5])])
        >>> folder = pathlib.Path(tempfile.mkdtemp(), "line")
        >>> result = export_saved_model(model, folder)
        >>> [spec.shape for spec in result.signature.inputs]
        [(None, 2)]
        >>> result.max_error < 1e-6
        True
    """
    check_built(model)
    with whole_folder(directory, NAMES) as staging:
        with deployed(model) as deployment:
            inputs = _read_inputs(model, verify_data)
            reference = reference_outputs(model, inputs)
            served, renamed = _served(inputs.interface)
            converter.save(model, served, str(staging), own_names=True)
        samples = inputs.verification
        sizes = (1, len(samples))
        names = [spec.name for spec in served.inputs]
        signature, outputs = run_saved_model(
            staging,
            dict(zip(names, samples.arrays.values(), strict=True)),
            batch_sizes=sizes,
        )
        _check_signature(signature, served, reference)
        parities = [compare(reference, outputs[size]) for size in sizes]
        _check_parities(parities, is_half=_computes_in_half(model))
    agreements = [parity.argmax_agreement for parity in parities]
    return SavedModelResult(
        path=pathlib.Path(directory),
        size_bytes=_size_bytes(pathlib.Path(directory)),
        signature=signature,
        batch_sizes=sizes,
        max_error=max(parity.max_error for parity in parities),
        mean_error=max(parity.mean_error for parity in parities),
        sqnr_db=min(min(p.sqnr_db.values()) for p in parities),
        argmax_agreement=min(
            (share for share in agreements if share is not None), default=None
        ),
        verified_on=samples.source,
        warnings=(*renamed, *_notes(deployment)),
    )


def _read_inputs(model: Any, verify_data: Any) -> Inputs:
    """Gives how the model is called, its free dimensions still free."""
    structure = None
    if verify_data is not None:
        structure = collect(
            verify_data, argument="verify_data", limit=NUM_VERIFICATION
        )
    interface = interface_of(model, structure)
    specs = tuple(
        dataclasses.replace(spec, shape=(None, *spec.shape[1:]))
        for spec in interface.inputs
    )
    if structure is None:
        samples = _random(specs)
    else:
        arrays = bind(structure, specs, argument="verify_data")
        count = len(next(iter(arrays.values())))
        if count == 1:
            # A batch of more than one is tried in any case.
            arrays = {k: np.repeat(v, 2, axis=0) for k, v in arrays.items()}
        samples = Samples(
            arrays=arrays, source=f"{count} samples of verify_data"
        )
    return Inputs(
        interface=dataclasses.replace(interface, inputs=specs),
        verification=samples,
        calibration=None,
    )


def _random(specs: tuple[TensorSpec, ...]) -> Samples:
    free = {s.name: s.shape for s in specs if None in s.shape[1:]}
    if free:
        raise ValueError(
            "`verify_data` must be given for inputs with free dimensions "
            f"beside the batch. Received: verify_data=None and {free}. Pass "
            "samples of a typical length; others will do as well."
        )
    return random_samples(specs)


def _served(interface: Interface) -> tuple[Interface, tuple[str, ...]]:
    """Gives the interface under names that TensorFlow takes, and says so."""
    names: list[str] = []
    for index, spec in enumerate(interface.inputs):
        name = _plain(spec.name)
        names.append(f"input_{index}" if name in names else name)
    specs = tuple(
        dataclasses.replace(spec, name=name)
        for spec, name in zip(interface.inputs, names, strict=True)
    )
    notes = tuple(
        f"the input {old.name!r} is called {new.name!r} here: a SavedModel's "
        "inputs are named like Python arguments"
        for old, new in zip(interface.inputs, specs, strict=True)
        if old.name != new.name
    )
    return dataclasses.replace(interface, inputs=specs), notes


def _plain(name: str) -> str:
    """Turns a name into one that TensorFlow leaves as it is.

    Example:
        >>> [_plain(name) for name in ("tokenIds", "in 0", "class", "_x")]
        ['tokenIds', 'in_0', 'input_class', 'input__x']
    """
    name = re.sub(r"\W", "_", name, flags=re.ASCII)
    is_plain = name[:1].isalpha() and not keyword.iskeyword(name)
    return name if is_plain and name != "self" else f"input_{name}"


def _check_signature(
    signature: Signature, served: Interface, reference: dict[str, np.ndarray]
) -> None:
    wanted = {spec.name: spec.shape for spec in served.inputs}
    found = {spec.name: spec.shape for spec in signature.inputs}
    outputs = {spec.name for spec in signature.outputs}
    if found != wanted or outputs != set(reference):
        raise ExportError(
            f"The SavedModel must take {wanted} and give {sorted(reference)}. "
            f"Received: a signature that takes {found} and gives "
            f"{sorted(outputs)}."
        )


def _check_parities(parities: list[Parity], *, is_half: bool) -> None:
    limit = MODES["float16" if is_half else None].min_sqnr_db
    bad = {
        name: round(ratio, 1)
        for parity in parities
        for name, ratio in parity.sqnr_db.items()
        if not ratio >= limit and not parity.output_errors[name] <= _NO_ERROR
    }
    if bad:
        raise ExportError(
            "The SavedModel must compute what the Keras model computes. "
            f"Received: outputs with signal-to-noise ratios of {bad} dB, at "
            f"least {limit:g} dB are required. The model may keep state, or "
            "draw random numbers, from call to call."
        )


def _computes_in_half(model: Any) -> bool:
    # Private in both Kerases, but `layers` lists no sub-layers.
    layers = model._flatten_layers()
    return any(layer.compute_dtype in _HALVES for layer in layers)


def _notes(deployment: Deployment | None) -> tuple[str, ...]:
    if deployment is None:
        return ()
    mode = deployment.quantize or "float storage"
    return (
        f"the model was quantized for {mode!r}: it computes with those "
        "values, stored as float32, so that the SavedModel is not smaller",
    )


def _size_bytes(folder: pathlib.Path) -> int:
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
