"""One CNN made quantization-aware by tfmot and by kdtf, on the same batches.

    python tests/benchmarks/quantize_twin.py --data ../shared/data [--seeds 3]

For each seed a CNN with BatchNormalization and a depthwise block learns
CIFAR-10 in float, in Keras 3; a `tf_keras` twin gets its weights. From there
all go on equally long, with the same images in the same order, optimizer and
rate: the float model; tfmot's `quantize_model` of the twin, with tfmot's
defaults; `kdtf.quantize_aware` of the Keras 3 model; and
`kdtf.quantize_aware` of the twin, which is tfmot's wrappers with our layout
and ranges. "after training" is `kdtf.quantize` of the float model, untrained.

The second table sets each simulation against its file, tfmot's from
`TFLiteConverter` with `optimizations=[DEFAULT]`, ours from
`kdtf.export_tflite`: test images that they class differently, the widest
margin between the two classes among these, in steps of the int8 output, and
how many logits lie within one step of each other, and within half of one.
"""

import argparse
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
from ai_edge_litert.interpreter import OpResolverType

import kdtf
from kdtf.litert import Runner
from kdtf.transforms.tfmot_models import load_tfmot

BATCH = 128
PTQ, TFMOT = "after training, kdtf", "aware, tfmot"
KDTF, KDTF_TFMOT = "aware, kdtf", "aware, kdtf over tfmot"
FLOAT, TUNED = "float", "float, trained on"
# What stands in a file, too.
FILES = (PTQ, TFMOT, KDTF, KDTF_TFMOT)


def load(folder):
    """Returns images from 0 to 1: from -1 to 1 each pixel would be a tie.

    0.0 is on the input's int8 grid, so 8-bit pixels about 0 lie halfway
    between its values, and every runtime rounds them in its own way.
    """
    with np.load(folder / "cifar10_small.npz", allow_pickle=False) as arrays:
        return {
            part: (
                arrays[f"x_{part}"].astype("float32") / 255.0,
                arrays[f"y_{part}"].astype("int32").ravel(),
            )
            for part in ("train", "test")
        }


def batches(train, *, epochs, seed):
    """Returns a data set of all epochs' batches, equal for an equal seed."""
    x, y = train
    rng = np.random.default_rng(seed)
    order = np.concatenate([rng.permutation(len(y)) for _ in range(epochs)])
    mirrored = rng.integers(0, 2, len(order)).astype(bool)
    images, labels = tf.constant(x), tf.constant(y)

    def take(index, mirror):
        picked = tf.gather(images, index)
        mirror = mirror[:, None, None, None]
        picked = tf.where(mirror, picked[:, :, ::-1], picked)
        return picked, tf.gather(labels, index)

    data = tf.data.Dataset.from_tensor_slices((order, mirrored))
    return data.batch(BATCH, drop_remainder=True).map(take).prefetch(4)


def cnn(flavour):
    """Makes the network, 41 thousand weights, in either Keras."""
    layers = flavour.layers

    def normed(layer):
        return [layer, layers.BatchNormalization(), layers.ReLU()]

    plain = {"padding": "same", "use_bias": False}
    return flavour.Sequential(
        [
            flavour.Input((32, 32, 3)),
            *normed(layers.Conv2D(32, 3, strides=2, **plain)),
            *normed(layers.DepthwiseConv2D(3, **plain)),
            *normed(layers.Conv2D(64, 1, **plain)),
            layers.MaxPooling2D(),
            *normed(layers.Conv2D(64, 3, **plain)),
            layers.GlobalAveragePooling2D(),
            layers.Dense(10),
        ]
    )


def twin_of(model, x):
    """Returns a `tf_keras` model with the weights, and how far it is off."""
    twin = cnn(tf_keras)
    for source, copy in zip(model.layers, twin.layers, strict=True):
        copy.set_weights(source.get_weights())
    off = np.abs(logits(model, x) - logits(twin, x)).max()
    if off > 1e-4:
        raise SystemExit(f"The twins differ by {off}.")
    return twin, off


def fit(flavour, model, train, *, epochs, rate, seed):
    data = batches(train, epochs=epochs, seed=seed)
    steps = int(data.cardinality())
    decay = flavour.optimizers.schedules.CosineDecay(rate, steps)
    loss = flavour.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(flavour.optimizers.Adam(decay), loss)
    # One long epoch: the stream holds all of them.
    model.fit(data, shuffle=False, verbose=0)
    return model


def logits(model, x):
    return np.asarray(model.predict(x, batch_size=500, verbose=0))


def write_tfmot(model, path):
    """Converts as tfmot's guide does, with a batch of one."""
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    path.write_bytes(converter.convert())


def output_step(path):
    """Returns the real value of a step of the integers behind the output."""
    interpreter = Interpreter(
        str(path),
        # A delegate would hide the operators.
        experimental_op_resolver_type=(
            OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        ),
    )
    steps = {
        detail["index"]: detail["quantization"][0]
        for detail in interpreter.get_tensor_details()
    }
    (output,) = interpreter.get_output_details()
    (source,) = [
        int(operator["inputs"][0])
        for operator in interpreter._get_ops_details()
        if output["index"] in operator["outputs"]
    ]
    return steps[output["index"]] or steps[source]


def contenders(base, data, arguments, seed):
    """Yields names and models, each trained on from the same weights."""
    train = data["train"]
    options = {
        "epochs": arguments.epochs,
        "rate": arguments.rate,
        "seed": seed + 100,
    }

    def copy():
        model = cnn(keras)
        model.set_weights(base.get_weights())
        return model

    yield TUNED, fit(keras, copy(), train, **options)
    yield PTQ, kdtf.quantize(copy(), "int8", train[0][:500])
    twin, off = twin_of(base, data["test"][0][:500])
    print(f"  the float twins differ by at most {off:.1e}")
    tfmot = load_tfmot().quantization.keras
    yield TFMOT, fit(tf_keras, tfmot.quantize_model(twin), train, **options)
    ours = kdtf.quantize_aware(copy(), "int8")
    yield KDTF, fit(keras, ours, train, **options)
    twin, _ = twin_of(base, data["test"][0][:500])
    both = kdtf.quantize_aware(twin, "int8")
    yield KDTF_TFMOT, fit(tf_keras, both, train, **options)


def accuracy(scores, y):
    return float((scores.argmax(-1) == y).mean())


def compare(simulated, found, step):
    """Returns how a simulation's logits differ from its file's."""
    rows = np.arange(len(found))
    there, here = simulated.argmax(-1), found.argmax(-1)
    margin = simulated[rows, there] - simulated[rows, here]
    off = np.abs(simulated - found) / step
    differ = there != here
    return {
        "differing": int(differ.sum()),
        "margin": float(margin[differ].max() / step) if differ.any() else 0.0,
        "one step": float((off < 1.01).mean()),
        "half a step": float((off < 0.5).mean()),
    }


def measured(name, model, data, folder):
    """Returns all that the tables show of a model."""
    x, y = data["test"]
    scores = logits(model, x)
    result = {"accuracy": accuracy(scores, y)}
    if name not in FILES:
        return result
    path = folder / "model.tflite"
    if name == TFMOT:
        write_tfmot(model, path)
    else:
        kdtf.export_tflite(model, path, verify_data=x[:100])
    runner = Runner(path)
    (found,) = runner(x).values()
    return (
        result
        | {"file": accuracy(found, y), "kB": path.stat().st_size / 1000}
        | compare(scores, found, output_step(path))
    )


def run_seed(data, arguments, seed, folder):
    keras.utils.set_random_seed(seed)
    base = cnn(keras)
    fit(
        keras,
        base,
        data["train"],
        epochs=arguments.float_epochs,
        rate=2e-3,
        seed=seed,
    )
    results = {FLOAT: measured(FLOAT, base, data, folder)}
    for name, model in contenders(base, data, arguments, seed):
        results[name] = measured(name, model, data, folder)
    return results


def print_accuracies(results):
    seeds = "".join(f"{f'seed {seed}':>9}" for seed in results)
    print(f"\n{'accuracy on the test images':32}{seeds}{'mean':>9}")

    def line(label, values):
        cells = "".join(f"{v:9.2%}" for v in (*values, np.mean(values)))
        print(f"{label:32}{cells}")

    for name in next(iter(results.values())):
        found = [result[name] for result in results.values()]
        line(name, [one["accuracy"] for one in found])
        if "file" in found[0]:
            line("  its .tflite", [one["file"] for one in found])


def print_files(results):
    print(
        f"\n{'simulation against file':26}{'kB':>6}{'images classed':>24}"
        f"{'their margin':>14}{'logits within':>16}{'half':>9}\n"
        f"{'':32}{'differently, by seed':>24}{'in steps':>14}"
        f"{'one step':>16}{'a step':>9}"
    )
    for name in FILES:
        found = [result[name] for result in results.values()]
        counts = " ".join(str(one["differing"]) for one in found)
        print(
            f"{name:26}{found[0]['kB']:6.1f}{counts:>24}"
            f"{max(one['margin'] for one in found):14.1f}"
            f"{min(one['one step'] for one in found):16.3%}"
            f"{min(one['half a step'] for one in found):9.2%}"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--float-epochs", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--rate", type=float, default=2e-4)
    arguments = parser.parse_args()
    data = load(arguments.data)
    results = {}
    for seed in range(arguments.seeds):
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            results[seed] = run_seed(data, arguments, seed, folder)
        print(f"seed {seed}: {time.perf_counter() - start:.0f} s", flush=True)
    print_accuracies(results)
    print_files(results)


if __name__ == "__main__":
    main()
