"""Caches a teacher; with `--die-at N` it is killed at the teacher's batch N.

Run as a process of its own, so that the kill is a real one.
`python cache_kill_script.py FOLDER KIND [--die-at N]`; prints how many batches
the teacher ran.
"""

import argparse
import os
import signal

import keras
import numpy as np

import kdtf.distillation.cache as cache_module
from kdtf.distillation.cache import caching

# With the bytes of a row: 24, and of 4 tokens 11 numbers; 3 of 2 and an id
# each, and the rest; 5 of 3 numbers each.
KINDS = {
    "dense": ({}, 24 + 4 * 22),
    "top_k": ({"top_k": 3}, 24 + 4 * 14),
    "samples": ({"samples": 5}, 24 + 4 * 30),
}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--die-at", type=int, default=-1)
    arguments = parser.parse_args()
    keras.utils.set_random_seed(0)
    teacher = keras.Sequential(
        [
            keras.Input((4,), dtype="int32"),
            keras.layers.Embedding(11, 8),
            keras.layers.Dense(11),
        ]
    )
    x = np.random.default_rng(0).integers(0, 11, (23, 4)).astype("int32")
    settings, row_bytes = KINDS[arguments.kind]
    calls = 0
    run = caching.Runner.__call__

    def counted(self, batch):
        nonlocal calls
        if calls == arguments.die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        calls += 1
        return run(self, batch)

    caching.Runner.__call__ = counted
    cache_module.cache_teacher(
        teacher,
        (x,),
        arguments.folder,
        batch_size=4,
        # Two batches of 4 rows.
        shard_megabytes=2 * 4 * row_bytes / 1e6,
        verbose=0,
        **settings,
    )
    print(calls)


if __name__ == "__main__":
    main()
