"""MLPerf Tiny's reference models in int8, beside their own int8 files.

    python tests/benchmarks/quantize_mlperf.py --data ../shared/data

Four networks with trained weights are exported for a microcontroller (int8
throughout, int8 inputs and outputs), calibrated after training; the image and
the keyword classifier are also trained quantization-aware, the latter in
`tf_keras`, on the five words that data and network share and on four others
as "unknown". Beside it stands the float network trained equally long, because
training alone fits it to these clips.

Against the reference int8 file: size; LiteRT's speed (single calls, turns
alternated: the ratio of the least times, which other load on the machine does
not reach, and of the medians); and quality. That is accuracy where there is
data: CIFAR-10, and clips of the five keywords, 300 in the test split, of which
one is 0.33%, and 2,800 in all for files that nothing here was trained for.
Else it is the signal over the difference from the float network, in decibels,
on stand-in inputs (images resized, frames of noise), which say how well
integers follow the float network and nothing of its task.
"""

import argparse
import functools
import os
import pathlib
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
import tf_keras
from ai_edge_litert.interpreter import Interpreter

import kdtf
from kdtf.flavours import flavour_of

BATCH = 128
# The order of the keyword network's outputs.
KEYWORDS = "down go left no off on right stop up yes silence unknown".split()


def images(data):
    with np.load(data / "cifar10_small.npz") as archive:
        return tuple(
            archive[name].astype("float32") if name[0] == "x" else archive[name]
            for name in ("x_train", "y_train", "x_test", "y_test")
        )


def keywords(data):
    """Returns all train clips, and the keywords' of the test and in all."""
    with np.load(data / "speech_commands9_mfcc.npz") as archive:
        names = [str(name) for name in archive["names"]]
        x = archive["x"][..., None]
        words = [names[label] for label in archive["y"]]
        is_test = archive["split"] == 1
    unknown = KEYWORDS.index("unknown")
    labels = np.array(
        [KEYWORDS.index(w) if w in KEYWORDS else unknown for w in words]
    )
    known = labels != unknown
    chosen = (~is_test, is_test & known, known)
    return [(x[mask], labels[mask]) for mask in chosen]


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

    def __init__(self, name, model, folder, files, train, test, every=None):
        self.name, self.model = name, model
        self.float_file, self.reference = (folder / file for file in files)
        self.x, self.y = train
        self.test_x, self.test_y = test
        self.every = every

    def quality(self, found, *, is_trained=False):
        """Tells it of what `found`, a function, gives for inputs."""
        there = found(self.test_x)
        if self.test_y is None:
            expected = predicted(self.model, self.test_x)
            return f"{sqnr_db(expected.reshape(there.shape), there):.1f} dB"
        told = f"{accuracy(there, self.test_y):.2%}"
        if self.every is not None and not is_trained:
            x, y = self.every
            told = f"{told} ({accuracy(found(x), y):.2%})"
        return told


def predicted(model, x):
    return np.asarray(model.predict(x, verbose=0))


def accuracy(found, labels):
    return (found.reshape(len(found), -1).argmax(-1) == labels).mean()


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
    train, test, every = keywords(data)
    yield Case(
        "keyword spotting",
        tf_keras.models.load_model(folder / "kws_ref_model", compile=False),
        folder,
        ("kws_ref_model_float32.tflite", "kws_ref_model.tflite"),
        train,
        test,
        every,
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


def row(name, case, path, *, is_trained=False):
    found = functools.partial(outputs, path)
    quality = case.quality(found, is_trained=is_trained)
    speed = "" if path == case.float_file else faster(path, case.reference)
    size = pathlib.Path(path).stat().st_size / 1000
    print(f"  {name:28}{size:8.1f}{quality:>19}   {speed}", flush=True)


def faster(path, reference, calls=2000):
    """Returns the reference's time over a file's, call by call in turn."""
    interpreters = []
    for source in (path, reference):
        interpreter = Interpreter(str(source), num_threads=1)
        interpreter.allocate_tensors()
        for _ in range(20):
            interpreter.invoke()
        interpreters.append(interpreter)
    times = np.zeros((calls, 2))
    for index in range(calls):
        # Neither is always the one that finds the caches warm.
        for column in (0, 1) if index % 2 else (1, 0):
            start = time.perf_counter()
            interpreters[column].invoke()
            times[index, column] = time.perf_counter() - start
    (least, least_there), (middle, middle_there) = (
        times.min(axis=0),
        np.median(times, axis=0),
    )
    return f"{least_there / least:.3f} ({middle_there / middle:.3f})"


def trained(case, model, epochs):
    """Trains a classifier on, quantization-aware if that is what it is."""
    flavour = keras if flavour_of(model) == "keras" else tf_keras
    x, y = case.x, case.y
    if case.name == "image classification":
        x, y = np.concatenate([x, x[:, :, ::-1]]), np.concatenate([y, y])
    rate = flavour.optimizers.schedules.CosineDecay(
        1e-4, epochs * len(x) // BATCH
    )
    model.compile(
        flavour.optimizers.Adam(rate),
        flavour.losses.SparseCategoricalCrossentropy(),
    )
    model.fit(x, y, batch_size=BATCH, epochs=epochs, verbose=0)
    return model


def rows(case, path, epochs):
    """Prints the lines of one network; `path` is written again and again."""
    if case.test_y is not None:
        network = functools.partial(predicted, case.model)
        print(f"  {'float network, Keras':28}{'':8}{case.quality(network):>19}")
    # The keyword network's is called so and has int8 kernels, float sums.
    row("reference, float", case, case.float_file)
    row("reference, int8", case, case.reference)
    chosen = np.random.default_rng(0).permutation(len(case.x))[:300]
    options = {"target": "iot", "representative_data": case.x[chosen]}
    kdtf.export_tflite(case.model, path, **options)
    row("kdtf, after training", case, path)
    if case.test_y is None:
        return
    if case.name == "image classification":
        aware = kdtf.quantize_aware(case.model, "int8_iot", data=case.x[:500])
    else:
        # A copy; tfmot's wrappers find their ranges in training.
        aware = kdtf.quantize_aware(case.model, "int8")
        model = trained(case, case.model, epochs)
        kdtf.export_tflite(model, path, **options)
        row("kdtf, trained on, then int8", case, path, is_trained=True)
    model = trained(case, aware, epochs)
    kdtf.export_tflite(model, path, target="iot", verify_data=case.test_x[:100])
    row("kdtf, quantization-aware", case, path, is_trained=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--epochs", type=int, default=2)
    arguments = parser.parse_args()
    keras.utils.set_random_seed(0)
    tf_keras.utils.set_random_seed(0)
    print(
        f"{'':30}{'kB':>8}{'quality (all)':>19}   times as fast as the "
        "reference"
    )
    for case in cases(arguments.data):
        print(case.name)
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "model.tflite")
            rows(case, path, arguments.epochs)


if __name__ == "__main__":
    main()
