"""The front door: a model in, a folder for a microcontroller's program out."""

import dataclasses
import os
import pathlib
import re
import shutil
from collections.abc import Sequence
from typing import Any

from kdtf.export.errors import ExportError
from kdtf.export.micro import sources
from kdtf.export.micro.agreement import Agreement
from kdtf.export.micro.agreement import agreement
from kdtf.export.micro.agreement import disagreement
from kdtf.export.micro.budgets import Budget
from kdtf.export.micro.budgets import arena_margin
from kdtf.export.micro.entry import check_file
from kdtf.export.micro.entry import read_entry
from kdtf.export.micro.example import example_source
from kdtf.export.micro.readme import readme
from kdtf.export.micro.result import MicrocontrollerResult
from kdtf.export.micro.verification import given_samples
from kdtf.export.micro.verification import integer_inputs
from kdtf.export.micro.worker import check_installed
from kdtf.export.micro.worker import run_litert
from kdtf.export.micro.worker import run_micro
from kdtf.export.result import ExportResult
from kdtf.export.samples import Samples
from kdtf.export.tflite import export_tflite
from kdtf.files import whole_folder
from kdtf.flatbuffer import FileDescription
from kdtf.flatbuffer import Signature
from kdtf.flatbuffer import describe

__all__ = ["export_microcontroller"]

# Part of C++ identifiers; two underscores in a row are the compiler's own.
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9]*(_[A-Za-z0-9]+)*")


def export_microcontroller(
    model_or_tflite: Any,
    directory: str | os.PathLike[str],
    *,
    name: str = "model",
    labels: Sequence[str] = (),
    flash_bytes: int | None = None,
    ram_bytes: int | None = None,
    representative_data: Any = None,
    verify_data: Any = None,
) -> MicrocontrollerResult:
    """Writes a folder of C++ that runs a model in TensorFlow Lite Micro.

    A Keras model becomes an int8 file first (`export_tflite` with
    target="iot"). The file is run in TensorFlow Lite Micro's own interpreter,
    in the smallest arena it starts with, and its integers are compared with
    LiteRT's. Then the folder is written as a whole: `<name>.tflite`, the same
    as a C array (`<name>_data.h`, `<name>_data.cc`), `model_settings.h` with
    arena, shapes and scales, `op_resolver.h` with exactly the operators used,
    `example.cc` and `README.txt`. Needs the extra `kdtf[deploy]`.

    LiteRT's default and reference kernels round differently, so each number
    is compared with the nearer of the two: 99 in 100 must be within three
    integer steps, or as near as LiteRT's kernels are to each other, and 95 in
    100 rows must have the same argmax, near ties aside.

    Args:
        model_or_tflite: A built model of Keras 3 or `tf_keras`, or the path
            of an all-integer `.tflite` file.
        directory: The folder to write. It must be new, empty, or hold an
            earlier export of the same name, which is replaced.
        name: Of the files and in the C++ names: letters, digits and single
            underscores. Defaults to "model".
        labels: Names of the classes, one for each number of the first
            output, for `model_settings.h`. Defaults to none.
        flash_bytes: What there is for the model file; the interpreter's own
            code is not counted. Defaults to no limit.
        ram_bytes: What there is for the arena: as measured on this computer,
            and a margin of an eighth, at least 1 KiB, since kernels made for
            a chip may take more. Defaults to no limit.
        representative_data: Typical inputs of a Keras model that is not
            quantized yet, as `export_tflite` takes them.
        verify_data: Real inputs to compare on, as the Keras model takes them;
            at most 100 are used. Defaults to `representative_data`, else to
            random integers.

    Returns:
        Sizes, arena, scales, and how far the two runtimes are apart.

    Raises:
        ExportError: The model does not convert, the file is not all integer
            or has an operator without a kernel, TensorFlow Lite Micro
            refuses it or computes something else, or it is over a budget.
            Nothing is written then, and an older folder is untouched.
        ValueError: An argument does not fit, or `directory` holds other
            files.
        ImportError: TensorFlow Lite Micro's interpreter is not installed.

    Example:
        >>> import kdtf
        >>> kdtf.export_microcontroller(  # doctest: +ELLIPSIS
        ...     "wake.tflite", "firmware", name="wake word", ram_bytes=20_000
        ... )
        Traceback (most recent call last):
        ...
        ValueError: `name` must be letters, digits and single underscores, ...

    Reference:
        David et al. 2021, "TensorFlow Lite Micro",
        https://arxiv.org/abs/2010.08678
    """
    budget = Budget(flash_bytes=flash_bytes, ram_bytes=ram_bytes)
    _check_name(name)
    _check_labels(labels)
    check_installed()
    with whole_folder(directory, _file_names(name)) as staging:
        path = staging / f"{name}.tflite"
        export = _write_file(
            model_or_tflite, path, representative_data, verify_data
        )
        description, entry = describe(path), read_entry(path)
        _check_number_of_labels(labels, entry)
        given = given_samples(
            None if export is None else model_or_tflite,
            entry.inputs,
            representative_data=representative_data,
            verify_data=verify_data,
        )
        samples = integer_inputs(entry.inputs, given)
        arena_bytes, found = _compare(path, entry, samples)
        budget.check(description, arena_bytes)
        _write_sources(staging, name, description, entry, arena_bytes, labels)
    final = pathlib.Path(directory)
    return MicrocontrollerResult(
        directory=final,
        path=final / path.name,
        files=tuple(sorted(_file_names(name))),
        size_bytes=description.size_bytes,
        arena_bytes=arena_bytes,
        margin_bytes=arena_margin(arena_bytes),
        operators=description.operators,
        inputs=entry.inputs,
        outputs=entry.outputs,
        agreement=found,
        verified_on=samples.source,
        export=export and dataclasses.replace(export, path=final / path.name),
    )


def _file_names(name: str) -> frozenset[str]:
    return frozenset(
        {
            f"{name}.tflite",
            f"{name}_data.h",
            f"{name}_data.cc",
            "model_settings.h",
            "op_resolver.h",
            "example.cc",
            "README.txt",
        }
    )


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ValueError(
            "`name` must be letters, digits and single underscores, a letter "
            "first: it becomes a part of C++ names. Received: "
            f"name={name!r}. Use for instance 'wake_word'."
        )


def _check_labels(labels: Sequence[str]) -> None:
    is_list = isinstance(labels, Sequence) and not isinstance(labels, str)
    if not is_list or not all(isinstance(label, str) for label in labels):
        raise TypeError(
            "`labels` must be a list of texts. Received: "
            f"labels={labels!r}. Pass the names in the order of the outputs."
        )


def _check_number_of_labels(labels: Sequence[str], entry: Signature) -> None:
    shape = entry.outputs[0].shape
    if labels and len(labels) != shape[-1]:
        raise ValueError(
            "`labels` must name each number of the first output. Received: "
            f"{len(labels)} labels for an output of shape {shape}. Leave them "
            "out if the outputs are no classes."
        )


def _write_file(
    source: Any,
    path: pathlib.Path,
    representative_data: Any,
    verify_data: Any,
) -> ExportResult | None:
    if isinstance(source, str | os.PathLike):
        check_file(describe(source), read_entry(source))
        shutil.copyfile(source, path)
        return None
    return export_tflite(
        source,
        path,
        target="iot",
        representative_data=representative_data,
        verify_data=verify_data,
    )


def _compare(
    path: pathlib.Path, entry: Signature, samples: Samples
) -> tuple[int, Agreement]:
    """Returns the arena, and how far the two runtimes are apart."""
    inputs = [samples.arrays[spec.name] for spec in entry.inputs]
    default, reference = run_litert(path, inputs)
    arena_bytes, outputs = run_micro(path, inputs)
    found = agreement(outputs, default, reference, entry.outputs)
    problem = disagreement(found)
    if problem:
        raise ExportError(
            "TensorFlow Lite Micro must compute what LiteRT computes. "
            f"Received, on {samples.source}: {problem}. Compare on typical "
            "inputs with `verify_data=`; if they differ there too, replace "
            f"the operators one by one: {sorted(describe(path).operators)}."
        )
    return arena_bytes, found


def _write_sources(
    staging: pathlib.Path,
    name: str,
    description: FileDescription,
    entry: Signature,
    arena_bytes: int,
    labels: Sequence[str],
) -> None:
    content = (staging / f"{name}.tflite").read_bytes()
    margin_bytes = arena_margin(arena_bytes)
    texts = {
        f"{name}_data.h": sources.data_header(name, len(content)),
        f"{name}_data.cc": sources.data_source(name, content),
        "model_settings.h": sources.settings_header(
            name,
            entry,
            arena_bytes=arena_bytes,
            margin_bytes=margin_bytes,
            labels=labels,
        ),
        "op_resolver.h": sources.resolver_header(name, description.operators),
        "example.cc": example_source(name, entry),
        "README.txt": readme(
            name,
            size_bytes=len(content),
            arena_bytes=arena_bytes,
            margin_bytes=margin_bytes,
            num_operators=len(description.operators),
        ),
    }
    for filename, text in texts.items():
        (staging / filename).write_text(text, encoding="utf-8")
