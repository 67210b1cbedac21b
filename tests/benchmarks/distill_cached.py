"""One training step from a teacher's cache, against its two bounds.

The teacher is not loaded: a step should cost what the student's own step
costs (aim: at most 1.05 times), and less than one with a live teacher.

    python tests/benchmarks/distill_cached.py [--rounds 9] [--steps 20]

Runs alternate A B C A B C; the table gives medians over rounds of ratios of
runs that lie side by side, with the quartiles.
"""

import argparse
import os
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from distill_step import cross_entropy
from distill_step import task
from timing import describe
from timing import measure

import kdtf


def contenders(name, top_k, folder):
    """Returns the timed functions: each takes a number of steps."""
    teacher, make_student, x, y = task(name, np.random.default_rng(0))
    data = tf.data.Dataset.from_tensors((x, y))
    cache = kdtf.cache_teacher(teacher, data, folder, top_k=top_k, verbose=0)

    def trainer(model, batches):
        model.compile("adam", cross_entropy())
        batches = batches.prefetch(2)
        return lambda steps: model.fit(
            batches, steps_per_epoch=steps, shuffle=False, verbose=0
        )

    endless = data.repeat()
    live = kdtf.Distiller(teacher, make_student(), temperature=1.0)
    cached = kdtf.Distiller(cache, make_student(), temperature=1.0)
    return {
        # Rows are read from disk in each step, as from a larger corpus.
        "cached": trainer(cached, cache.attach(endless)),
        "student": trainer(make_student(), endless),
        "live": trainer(live, endless),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=20)
    arguments = parser.parse_args()
    print("median (quartiles); a step from a cache against ...")
    print(f"{'task':22}{'ms':>8}  {'student alone':24}live teacher")
    for name, top_k in (
        ("classifier", None),
        ("bert", None),
        ("causal lm", 64),
        ("causal lm", 8),
        ("wide lm", 64),
    ):
        with tempfile.TemporaryDirectory() as folder:
            runs = contenders(name, top_k, folder)
            times = measure(runs, arguments.rounds, arguments.steps)
        cached, student, live = times.T
        kept = f"top {top_k}" if top_k else "all"
        print(
            f"{f'{name}, {kept}':22}{1e3 * np.median(cached):8.1f}  "
            f"{describe(cached / student):24}{describe(cached / live)}",
            flush=True,
        )


if __name__ == "__main__":
    main()
