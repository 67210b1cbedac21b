"""Training steps of both Kerases, each against the plain `fit` of its own."""

import argparse

import keras
import numpy as np
import tensorflow as tf
import tf_keras
from timing import describe
from timing import measure


def mlp(flavour):
    layers = flavour.layers
    hidden = [layers.Dense(512, activation="relu") for _ in range(3)]
    return flavour.Sequential(
        [flavour.Input((512,)), *hidden, layers.Dense(10)]
    )


def trainer(flavour, model, data, callbacks=()):
    """Returns a function that trains for a number of steps."""
    loss = flavour.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(flavour.optimizers.Adam(), loss)

    def run(steps):
        model.fit(
            data, steps_per_epoch=steps, verbose=0, callbacks=list(callbacks)
        )

    return run


def contenders(make, shape, *, ours, theirs, callbacks=()):
    """Returns what is timed, by name.

    Args:
        make: Gives a model of the Keras that it is given.
        shape: Of its inputs.
        ours: Changes a Keras 3 model, with kdtf.
        theirs: Changes a `tf_keras` model, with tfmot.
        callbacks: What tfmot's needs in `fit`.
    """
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, *shape)).astype("float32")
    y = rng.integers(0, 10, 64)
    data = tf.data.Dataset.from_tensors((x, y)).cache().repeat().prefetch(4)
    return {
        "keras": trainer(keras, make(keras), data),
        "kdtf": trainer(keras, ours(make(keras)), data),
        "tf_keras": trainer(tf_keras, make(tf_keras), data),
        "tfmot": trainer(tf_keras, theirs(make(tf_keras)), data, callbacks),
    }


def compare(description, kind, cases, *, steps, **ways):
    """Times what the command line asks for, and prints the table.

    Args:
        description: Of the script.
        kind: Of step, for the title.
        cases: `(name, make, shape)` of each model.
        steps: In a turn, by default.
        **ways: As for `contenders`.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=steps)
    arguments = parser.parse_args()
    print(f"median (quartiles) of a {kind} step over a plain one")
    print(f"{'model':8}{'kdtf ms':>9}  {'kdtf / keras':26}tfmot / tf_keras")
    for name, make, shape in cases:
        runs = contenders(make, shape, **ways)
        times = measure(runs, arguments.rounds, arguments.steps)
        plain, ours, tf_plain, theirs = times.T
        print(
            f"{name:8}{1e3 * np.median(ours):9.2f}  "
            f"{describe(ours / plain):26}{describe(theirs / tf_plain)}",
            flush=True,
        )
