"""Prunes during training; with `--die-after N` it is killed after N epochs.

Run by test_prune_training.py as a process of its own, so that the kill is a
real one. `python resume_script.py BACKUP_DIR OUT.npz [--die-after N]`.
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
        if epoch == self.after:
            os.kill(os.getpid(), signal.SIGKILL)


def mlp(width):
    layers = [keras.Input((5,)), keras.layers.Dense(width, "relu")]
    return keras.Sequential([*layers, keras.layers.Dense(3)])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("backup")
    parser.add_argument("out")
    parser.add_argument("--die-after", type=int, default=-1)
    arguments = parser.parse_args()
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(32, 5)).astype("float32")
    y = rng.integers(0, 3, size=32)
    student = kdtf.prune(
        mlp(16),
        schedule=kdtf.PolynomialSchedule(final=0.8, end_step=18),
        frequency=3,
    )
    distiller = kdtf.Distiller(mlp(32), student)
    distiller.compile(
        keras.optimizers.Adam(0.01),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    distiller.fit(
        x,
        y,
        batch_size=8,
        epochs=5,
        shuffle=False,
        verbose=0,
        callbacks=[
            keras.callbacks.BackupAndRestore(arguments.backup),
            Die(arguments.die_after),
        ],
    )
    np.savez(arguments.out, *student.get_weights())


if __name__ == "__main__":
    main()
