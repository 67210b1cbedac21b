"""Throughput of a SavedModel against the Keras model and LiteRT.

    python tests/benchmarks/deploy_saved_model.py [--rounds 7] [--seconds 0.5]

A small CNN and a one-layer transformer, on the CPU. In each round every
contender answers calls of one batch for so long, in turn (A B C D A B C D);
the table gives rows per second: the median of the rounds, with the quartiles.
LiteRT has one thread and a batch of 1, so larger batches are as many calls;
the others share all cores.
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
from timing import describe

import kdtf
from kdtf.litert import Runner


def cnn():
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((28, 28, 1), name="x"),
            layers.Conv2D(16, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.Dense(10),
        ]
    )


def transformer():
    layers = keras.layers
    x = keras.Input((64, 64), name="x")
    attended = layers.MultiHeadAttention(4, 16)(x, x)
    hidden = layers.LayerNormalization()(layers.Add()([x, attended]))
    inner = layers.Dense(256, activation="gelu")(hidden)
    outputs = layers.Add()([hidden, layers.Dense(64)(inner)])
    return keras.Model(x, layers.LayerNormalization()(outputs))


def contenders(model, folder, x):
    """Returns functions that take one batch, by name."""
    result = kdtf.export_saved_model(model, folder / "saved", verify_data=x)
    print(result, flush=True)
    kdtf.export_tflite(model, folder / "m.tflite", verify_data=x)
    loaded = tf.saved_model.load(str(folder / "saved"))
    runner = Runner(folder / "m.tflite")
    return {
        "SavedModel": lambda batch: loaded.signatures["serving_default"](
            x=tf.constant(batch)
        ),
        "model(x)": lambda batch: model(batch, training=False),
        "predict": lambda batch: model.predict(batch, verbose=0),
        "LiteRT": lambda batch: runner({"x": batch}),
    }


def rows_per_second(run, batch, seconds):
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        run(batch)
        count += 1
    return count * len(batch) / (time.perf_counter() - start)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.5)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    for make in (cnn, transformer):
        model = make()
        x = rng.normal(size=(32, *model.input_shape[1:])).astype("float32")
        with tempfile.TemporaryDirectory() as folder:
            runs = contenders(model, pathlib.Path(folder), x)
            for size in (1, 32):
                table = {name: [] for name in runs}
                for run in runs.values():
                    run(x[:size])
                for _ in range(options.rounds):
                    for name, run in runs.items():
                        speed = rows_per_second(run, x[:size], options.seconds)
                        table[name].append(speed)
                print(f"{make.__name__}, batch {size}: rows/s")
                for name, speeds in table.items():
                    low, middle, high = np.quantile(speeds, (0.25, 0.5, 0.75))
                    ratio = np.array(table["SavedModel"]) / np.array(speeds)
                    print(
                        f"  {name:11}{middle:9,.0f} ({low:,.0f} to {high:,.0f})"
                        f"; SavedModel is {describe(ratio)} times as fast",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
