"""Trains a quantized model; with `--die-after N` it is killed after N epochs.

Run as a process of its own, so that the kill is a real one.
`python quantized_resume_script.py BACKUP_DIR OUT.npz SCHEME... --die-after N`.
"""

import argparse
import os
import signal

import keras
import numpy as np

import kdtf
from kdtf.quantization import Linear
from kdtf.transforms import attach

SCHEMES = {
    "int8": "int8",
    "codebook": "codebook",
    "learned": Linear(num_bits=4, learn_step=True),
}


class Die(keras.callbacks.Callback):
    def __init__(self, after):
        super().__init__()
        self.after = after

    def on_epoch_begin(self, epoch, logs=None):
        # At the beginning of the next one: this one's backup is written.
        if epoch == self.after:
            os.kill(os.getpid(), signal.SIGKILL)


def train(scheme, backup, die_after):
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(32, 8)).astype("float32")
    y = x[:, :3]
    model = keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(16, "relu"),
            # No dropout: Keras 3.15 does not restore its seed in a Sequential.
            keras.layers.Dense(3),
        ]
    )
    kdtf.quantize_aware(model, scheme)
    model.compile(keras.optimizers.Adam(0.01), "mse", jit_compile=False)
    callbacks = [keras.callbacks.BackupAndRestore(backup), Die(die_after)]
    model.fit(
        x,
        y,
        batch_size=8,
        epochs=4,
        shuffle=False,
        verbose=0,
        callbacks=callbacks,
    )
    state = attach.recall(model, "kdtf_quantization")
    remembered = [np.asarray(v) for v in state._variables().values()]
    return [*model.get_weights(), *remembered, int(model.optimizer.iterations)]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("backup")
    parser.add_argument("out")
    parser.add_argument("schemes", nargs="+", choices=SCHEMES)
    parser.add_argument("--die-after", type=int, default=-1)
    arguments = parser.parse_args()
    results = {}
    for scheme in arguments.schemes:
        backup = os.path.join(arguments.backup, scheme)
        *values, step = train(SCHEMES[scheme], backup, arguments.die_after)
        results |= {f"{scheme}_{i}": v for i, v in enumerate(values)}
        results[f"{scheme}_step"] = step
    np.savez(arguments.out, **results)


if __name__ == "__main__":
    main()
