"""Trains a Distiller; with `--die-after N` it is killed after N epochs.

Run as a process of its own, so that the kill is a real one.
`python resume_script.py BACKUP_DIR OUT.npz [--prune] [--die-after N]`.
"""

import argparse
import os
import signal

import keras
import numpy as np

import kdtf


class Die(keras.callbacks.Callback):
    def __init__(self, after):
        super().__init__()
        self.after = after

    def on_epoch_begin(self, epoch, logs=None):
        # At the beginning of the next one: this one's backup is written.
        if epoch == self.after:
            os.kill(os.getpid(), signal.SIGKILL)


def mlp(width, dropout):
    return keras.Sequential(
        [
            keras.Input((5,)),
            keras.layers.Dense(width, activation="relu"),
            keras.layers.Dropout(dropout),
            keras.layers.Dense(3),
        ]
    )


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("backup")
    parser.add_argument("out")
    parser.add_argument("--prune", action="store_true")
    parser.add_argument("--die-after", type=int, default=-1)
    arguments = parser.parse_args()
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(32, 5)).astype("float32")
    y = rng.integers(0, 3, size=32)
    student = mlp(4, 0.5)
    if arguments.prune:
        ramp = kdtf.PolynomialSchedule(final=0.8, end_step=18)
        kdtf.prune(student, schedule=ramp, frequency=3)
    distiller = kdtf.Distiller(
        mlp(16, 0.0),
        student,
        alpha=kdtf.PolynomialSchedule(initial=0.9, final=0.1, end_step=20),
    )
    distiller.compile(
        keras.optimizers.Adam(0.01),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    callbacks = [
        keras.callbacks.BackupAndRestore(arguments.backup),
        Die(arguments.die_after),
    ]
    distiller.fit(
        x,
        y,
        batch_size=8,
        epochs=5,
        shuffle=False,
        verbose=0,
        callbacks=callbacks,
    )
    weights = distiller.student.get_weights()
    step = int(distiller.optimizer.iterations)
    np.savez(arguments.out, *weights, step=step)


if __name__ == "__main__":
    main()
