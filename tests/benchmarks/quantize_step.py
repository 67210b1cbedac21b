"""A step of quantization-aware training, against plain `fit` and tfmot's.

The model is Keras 3's for kdtf and its `tf_keras` twin for tfmot, each against
the plain `fit` of its own Keras, because the two Kerases' own overheads differ.
Both simulate int8 throughout, with the defaults of each.

    python tests/benchmarks/quantize_step.py [--rounds 9] [--steps 60]

Runs alternate A B C D A B C D; the table gives medians over rounds of ratios
of runs that lie side by side, with the quartiles.
"""

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
import tf_keras
from timing import describe
from timing import measure

import kdtf
from kdtf.transforms.tfmot_models import load_tfmot


def mlp(flavour):
    layers = flavour.layers
    hidden = [layers.Dense(512, activation="relu") for _ in range(3)]
    return flavour.Sequential(
        [flavour.Input((512,)), *hidden, layers.Dense(10)]
    )


def cnn(flavour):
    layers = flavour.layers

    def block(filters):
        return [
            layers.Conv2D(filters, 3, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
        ]

    return flavour.Sequential(
        [
            flavour.Input((28, 28, 1)),
            *block(32),
            layers.MaxPooling2D(),
            *block(64),
            layers.MaxPooling2D(),
            *block(64),
            layers.GlobalAveragePooling2D(),
            layers.Dense(10),
        ]
    )


def trainer(flavour, model, data):
    loss = flavour.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(flavour.optimizers.Adam(), loss)

    def run(steps):
        model.fit(data, steps_per_epoch=steps, verbose=0)

    return run


def contenders(make, shape):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, *shape)).astype("float32")
    y = rng.integers(0, 10, 64)
    data = tf.data.Dataset.from_tensors((x, y)).cache().repeat().prefetch(4)
    tfmot = load_tfmot().quantization.keras
    return {
        "keras": trainer(keras, make(keras), data),
        "kdtf": trainer(keras, kdtf.quantize_aware(make(keras), "int8"), data),
        "tf_keras": trainer(tf_keras, make(tf_keras), data),
        "tfmot": trainer(tf_keras, tfmot.quantize_model(make(tf_keras)), data),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=60)
    arguments = parser.parse_args()
    print("median (quartiles) of a quantization-aware step over a plain one")
    print(f"{'model':8}{'kdtf ms':>9}  {'kdtf / keras':26}tfmot / tf_keras")
    for name, make, shape in (
        ("mlp", mlp, (512,)),
        ("cnn", cnn, (28, 28, 1)),
    ):
        runs = contenders(make, shape)
        times = measure(runs, arguments.rounds, arguments.steps)
        plain, ours, tf_plain, theirs = times.T
        print(
            f"{name:8}{1e3 * np.median(ours):9.2f}  "
            f"{describe(ours / plain):26}{describe(theirs / tf_plain)}",
            flush=True,
        )


if __name__ == "__main__":
    main()
