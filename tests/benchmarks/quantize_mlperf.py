"""MLPerf Tiny's reference models in int8, beside their own int8 files.

    python tests/benchmarks/quantize_mlperf.py --data ../shared/data

Four networks with trained weights are exported for a microcontroller (int8
throughout, int8 inputs and outputs), calibrated after training; the image
classifier is also trained quantization-aware. Against the reference int8 file:
size, LiteRT's latency (A B A B; median and quartiles of the ratios), and
quality: accuracy where there is data for it (CIFAR-10; the five keywords that
data and network share), else the signal over the difference from the float
network, in decibels, on stand-in inputs (images resized, frames of noise),
which say how well integers follow the float network and nothing of its task.
"""

import argparse
import os
import pathlib
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
import tf_keras
from ai_edge_litert.interpreter import Interpreter
from timing import describe
from timing import measure

import kdtf

# The order of the keyword network's outputs.
KEYWORDS = "down go left no off on right stop up yes silence unknown".split()


def images(data):
    with np.load(data / "cifar10_small.npz") as archive:
        return tuple(
            archive[name].astype("float32") if name[0] == "x" else archive[name]
            for name in ("x_train", "y_train", "x_test", "y_test")
        )


def keywords(data):
    with np.load(data / "speech_commands9_mfcc.npz") as archive:
        names = [str(name) for name in archive["names"]]
        x = archive["x"][..., None]
        y = np.array([names[label] for label in archive["y"]])
        is_test = archive["split"] == 1
    known = np.isin(y, KEYWORDS)
    labels = np.array([KEYWORDS.index(n) if n in KEYWORDS else -1 for n in y])
    train, test = known & ~is_test, known & is_test
    return x[train], labels[train], x[test], labels[test]


def outputs(path, x):
    """Returns what a file gives, int8 inputs and outputs scaled for it."""
    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    (source,) = interpreter.get_input_details()
    (sink,) = interpreter.get_output_details()

    def integers(values, detail):
        scale, zero_point = detail["quantization"]
        if not scale:
            return values.astype(detail["dtype"])
        low, high = np.iinfo(detail["dtype"]).min, np.iinfo(detail["dtype"]).max
        rounded = np.round(values / scale) + zero_point
        return np.clip(rounded, low, high).astype(detail["dtype"])

    rows = []
    for row in x:
        given = integers(row.reshape(source["shape"]), source)
        interpreter.set_tensor(source["index"], given)
        interpreter.invoke()
        rows.append(interpreter.get_tensor(sink["index"])[0].copy())
    scale, zero_point = sink["quantization"]
    found = np.array(rows, "float32")
    return (found - zero_point) * scale if scale else found


def sqnr_db(reference, found):
    noise = np.mean(np.square(reference - found))
    return 10 * np.log10(np.mean(np.square(reference)) / noise)


class Case:
    """A network, its reference file, and how its quality is told."""

    def __init__(self, name, model, folder, files, train, test):
        self.name, self.model = name, model
        self.float_file, self.reference = (folder / file for file in files)
        self.x, self.y = train
        self.test_x, self.test_y = test

    def quality(self, path):
        found = outputs(path, self.test_x)
        if self.test_y is None:
            expected = np.asarray(self.model.predict(self.test_x, verbose=0))
            return f"{sqnr_db(expected.reshape(found.shape), found):8.1f} dB"
        hits = found.reshape(len(found), -1).argmax(-1) == self.test_y
        return f"{hits.mean():10.2%}"


def cases(data):
    folder = data / "mlperf_tiny"
    x_train, y_train, x_test, y_test = images(data)
    yield Case(
        "image classification",
        keras.models.load_model(folder / "pretrainedResnet.h5", compile=False),
        folder,
        ("pretrainedResnet.tflite", "pretrainedResnet_quant.tflite"),
        (x_train, y_train),
        (x_test, y_test),
    )
    x, y, x_held, y_held = keywords(data)
    yield Case(
        "keyword spotting",
        tf_keras.models.load_model(folder / "kws_ref_model", compile=False),
        folder,
        ("kws_ref_model_float32.tflite", "kws_ref_model.tflite"),
        (x, y),
        (x_held, y_held),
    )
    resized = tf.image.resize(x_train[:300], (96, 96)).numpy() / 255.0
    yield Case(
        "visual wake words",
        tf_keras.models.load_model(folder / "vww_96.h5", compile=False),
        folder,
        ("vww_96_float.tflite", "vww_96_int8.tflite"),
        (resized[:200], None),
        (resized[200:], None),
    )
    frames = np.random.default_rng(0).normal(size=(500, 640))
    # The log-mel frames that it reconstructs are smooth and lie about -20.
    smooth = (np.cumsum(frames, axis=1) * 0.5 - 20.0).astype("float32")
    yield Case(
        "anomaly detection",
        keras.models.load_model(folder / "ad01.h5", compile=False),
        folder,
        ("ad01_fp32.tflite", "ad01_int8.tflite"),
        (smooth[:300], None),
        (smooth[300:], None),
    )


def row(name, case, path, times=""):
    size = pathlib.Path(path).stat().st_size / 1000
    print(
        f"  {name:34}{size:8.1f}{case.quality(path):>12}  {times}", flush=True
    )


def faster(path, reference):
    """Returns the reference's time over a file's, alternated."""

    def runner(source):
        interpreter = Interpreter(str(source), num_threads=1)
        interpreter.allocate_tensors()

        def repeat(times):
            for _ in range(times):
                interpreter.invoke()

        return repeat

    both = measure(
        {"this": runner(path), "reference": runner(reference)}, 15, 100
    )
    return describe(both[:, 1] / both[:, 0])


def trained_aware(case, arguments):
    """Trains a copy of a classifier on the grid it will run on."""
    model = kdtf.quantize_aware(case.model, "int8_iot", data=case.x[:500])
    rate = keras.optimizers.schedules.CosineDecay(
        1e-4, arguments.epochs * len(case.x) // 64
    )
    model.compile(
        keras.optimizers.Adam(rate),
        keras.losses.SparseCategoricalCrossentropy(),
    )
    flipped = np.concatenate([case.x, case.x[:, :, ::-1]])
    model.fit(
        flipped,
        np.concatenate([case.y, case.y]),
        batch_size=128,
        epochs=arguments.epochs,
        verbose=0,
    )
    return model


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--epochs", type=int, default=2)
    arguments = parser.parse_args()
    print(f"{'':36}{'kB':>8}{'quality':>12}  times as fast as the reference")
    for case in cases(arguments.data):
        print(case.name)
        row("reference, float", case, case.float_file)
        row("reference, int8", case, case.reference)
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "model.tflite")
            chosen = np.random.default_rng(0).permutation(len(case.x))[:300]
            kdtf.export_tflite(
                case.model,
                path,
                target="iot",
                representative_data=case.x[chosen],
            )
            speed = faster(path, case.reference)
            row("kdtf, after training", case, path, speed)
            if case.name == "image classification":
                model = trained_aware(case, arguments)
                kdtf.export_tflite(
                    model, path, target="iot", verify_data=case.test_x[:100]
                )
                speed = faster(path, case.reference)
                row("kdtf, quantization-aware", case, path, speed)


if __name__ == "__main__":
    main()
