"""MLPerf Tiny's models on TensorFlow Lite Micro, beside their own int8 files.

    python tests/benchmarks/deploy_mlperf_tiny.py --data ../shared/data

Each Keras model with trained weights goes through `export_microcontroller`,
and so does the int8 file that MLPerf publishes for it. A line tells the bytes
of the file (flash), of the measured arena, the share of output numbers within
three integer steps of LiteRT's and the largest distance (LiteRT's own two
kernels' distance in brackets), the share of rows with the same argmax, and the
quality of what TensorFlow Lite Micro itself computed: accuracy on CIFAR-10
images or on clips of the five keywords that data and network share, of which
there are 2,800; else the signal over the difference from the float network in
decibels, on stand-in inputs (images resized, frames of noise); kdtf measured
its ranges on such inputs too and the reference files did not, so decibels tell
that nothing broke, not which is better.
"""

import argparse
import os
import pathlib
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tf_keras
from quantize_mlperf import Case
from quantize_mlperf import accuracy
from quantize_mlperf import cases
from quantize_mlperf import predicted
from quantize_mlperf import sqnr_db

import kdtf
from kdtf.export.micro.entry import read_entry
from kdtf.export.micro.verification import on_grid
from kdtf.export.micro.worker import run_micro


def all_cases(data):
    yield from cases(data)
    folder = data / "mlperf_tiny"
    model = tf_keras.models.load_model(
        folder / "str_ww_ref_model.h5", compile=False
    )
    shape = (300, *model.input_shape[1:])
    # Its spectrograms were scaled into 0 to 1; these are no speech.
    noise = np.random.default_rng(0).uniform(size=shape).astype("float32")
    file = "str_ww_ref_model.tflite"
    yield Case(
        "streaming wake word",
        model,
        folder,
        (file, file),
        (noise[:200], None),
        (noise[200:], None),
    )


def chosen(case, limit):
    """Returns inputs and labels to tell the quality on."""
    x, y = (case.test_x, case.test_y)
    if case.every is not None:
        x, y = case.every
    order = np.random.default_rng(0).permutation(len(x))[:limit]
    return x[order], None if y is None else y[order]


def quality(case, path, specs, limit):
    """Tells what Micro itself makes of the test inputs."""
    x, labels = chosen(case, limit)
    (source,), (sink,) = specs
    given = on_grid(x.reshape(len(x), *source.shape[1:]), source)
    _, (outputs,) = run_micro(path, [given])
    reals = (outputs.astype("float32") - sink.zero_point) * sink.scale
    if labels is not None:
        return f"{accuracy(reals, labels):.2%}"
    expected = predicted(case.model, x).reshape(reals.shape)
    return f"{sqnr_db(expected, reals):.1f} dB"


def row(name, case, result, limit):
    found = result.agreement
    argmax = found.argmax_agreement
    told = quality(case, result.path, (result.inputs, result.outputs), limit)
    print(
        f"  {name:18}{result.size_bytes:9,}{result.arena_bytes:9,}"
        f"{found.within_three_steps:9.1%}"
        f"{found.max_steps:5} ({found.spread_steps:2})"
        f"{'-' if argmax is None else format(argmax, '.1%'):>8}{told:>11}",
        flush=True,
    )


def rows(case, folder, limit):
    if case.test_y is not None:
        x, labels = chosen(case, limit)
        told = accuracy(predicted(case.model, x), labels)
        print(f"  {'float, Keras':18}{told:>51.2%}")
    x, _ = chosen(case, 100)
    result = kdtf.export_microcontroller(
        case.reference,
        folder / "reference",
        verify_data=x.reshape(len(x), *shape_of(case.reference)[1:]),
    )
    row("reference", case, result, limit)
    order = np.random.default_rng(0).permutation(len(case.x))[:300]
    result = kdtf.export_microcontroller(
        case.model,
        folder / "kdtf",
        representative_data=case.x[order],
        verify_data=x,
    )
    row("kdtf", case, result, limit)


def shape_of(path):
    return read_entry(path).inputs[0].shape


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--limit", type=int, default=300)
    arguments = parser.parse_args()
    keras.utils.set_random_seed(0)
    print(
        f"{'':20}{'flash':>9}{'arena':>9}{'within 3':>9}{'largest':>10}"
        f"{'argmax':>8}{'quality':>11}"
    )
    for case in all_cases(arguments.data):
        print(case.name)
        with tempfile.TemporaryDirectory() as folder:
            try:
                rows(case, pathlib.Path(folder), arguments.limit)
            except kdtf.ExportError as error:
                print(f"  {error}")


if __name__ == "__main__":
    main()
