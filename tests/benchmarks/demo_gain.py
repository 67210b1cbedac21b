"""Does the distilled student of `kdtf demo` beat the one trained alone?

Runs the demo for several seeds and prints the held-out quality of teacher,
student alone, student distilled and the exported file, with the share of the
gap to the teacher that distillation closed. Finished seeds are reused.

    python tests/benchmarks/demo_gain.py [--task text image] [--seeds 0 1 2]
"""

import argparse
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from kdtf.recipes import run_demo

METRIC = {"text": "perplexity", "image": "accuracy"}
SHIPPED = {"text": "student int8 .tflite", "image": "iot int8"}


def measure(task, seed, out):
    comparison = run_demo(task=task, out=out / f"seed-{seed}", seed=seed)
    names = ["teacher", "student alone", "student distilled", SHIPPED[task]]
    return [comparison[name].metrics[METRIC[task]] for name in names]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", nargs="+", default=["text", "image"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--out", type=pathlib.Path, default=pathlib.Path("/tmp/demo_gain")
    )
    arguments = parser.parse_args()
    tables = {
        task: np.array(
            [measure(task, seed, arguments.out) for seed in arguments.seeds]
        )
        for task in arguments.task
    }
    for task, table in tables.items():
        print(f"\n{task}: {METRIC[task]} on held-out data")
        print(
            f"{'seed':>6}{'teacher':>10}{'alone':>10}{'distilled':>11}"
            f"{'shipped':>10}{'gap closed':>12}"
        )
        for seed, row in zip(arguments.seeds, table, strict=True):
            print(line(str(seed), row))
        print(line("mean", table.mean(0)))


def line(name, row):
    teacher, alone, distilled, shipped = row
    share = (distilled - alone) / (teacher - alone)
    return (
        f"{name:>6}{teacher:10.4g}{alone:10.4g}{distilled:11.4g}"
        f"{shipped:10.4g}{share:12.0%}"
    )


if __name__ == "__main__":
    main()
