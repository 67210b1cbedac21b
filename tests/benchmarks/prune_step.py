"""A training step while pruning, against plain `fit` and tfmot's wrapper.

The masks are recomputed every 100 steps, as by default; the model is Keras 3's
for kdtf and its `tf_keras` twin for tfmot, each against the plain `fit` of its
own Keras, because the two Kerases' own overheads differ.

    python tests/benchmarks/prune_step.py [--rounds 9] [--steps 100]

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
    return flavour.Sequential(
        [
            flavour.Input((28, 28, 1)),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(64, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(10),
        ]
    )


def trainer(flavour, model, data, callbacks=()):
    loss = flavour.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(flavour.optimizers.Adam(), loss)

    def run(steps):
        model.fit(
            data, steps_per_epoch=steps, verbose=0, callbacks=list(callbacks)
        )

    return run


def contenders(make, shape):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, *shape)).astype("float32")
    y = rng.integers(0, 10, 64)
    data = tf.data.Dataset.from_tensors((x, y)).cache().repeat().prefetch(4)
    tfmot = load_tfmot().sparsity.keras
    # Both as users write them: a ramp that does not end while we look.
    ours = kdtf.prune(
        make(keras),
        schedule=kdtf.PolynomialSchedule(final=0.8, end_step=10**6),
    )
    theirs = tfmot.prune_low_magnitude(
        make(tf_keras), tfmot.PolynomialDecay(0.0, 0.8, 0, 10**6)
    )
    return {
        "keras": trainer(keras, make(keras), data),
        "kdtf": trainer(keras, ours, data),
        "tf_keras": trainer(tf_keras, make(tf_keras), data),
        "tfmot": trainer(
            tf_keras, theirs, data, callbacks=[tfmot.UpdatePruningStep()]
        ),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=100)
    arguments = parser.parse_args()
    print("median (quartiles) of a pruning step over a plain one")
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
