"""Students cut from a teacher, and the same from new weights, in a search.

    python tests/benchmarks/search_inherit.py --out DIR

A search trains each student for a moment only. Here it looks among the
smaller models that the demo's language model holds (`kdtf.search.shrinkings`:
shares of neurons, of channels and of blocks), distils each for `--epochs`, and
does the same once more for models of the same sizes with new weights. Printed
for each student: its parameters and both perplexities on held-out text; then
how many were better for what they inherited.
"""

import argparse
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
from demo_students import Demo

import kdtf
from kdtf.backbones import resized


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--alpha", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    demo = Demo(arguments.out)
    preset = kdtf.search.shrinkings(
        demo.teacher,
        shares=[0.25, 0.5, 0.75, 1.0],
        criterion="wanda",
        data=demo.calibration,
    )

    def objective(smaller):
        students = {"inherited": smaller, "new weights": resized(smaller, {})}
        values = {}
        for name, student in students.items():
            keras.utils.set_random_seed(arguments.seed)
            values[name] = demo.trained(student, arguments)
        values["parameters"] = smaller.count_params()
        print(
            f"{values['parameters']:12,}{values['inherited']:12.2f}"
            f"{values['new weights']:14.2f}",
            flush=True,
        )
        return values

    print(f"teacher: perplexity {demo.perplexity(demo.teacher):.2f}")
    print(f"{'parameters':>12}{'inherited':>12}{'new weights':>14}")
    found = kdtf.search(
        preset.build,
        preset.space,
        objective,
        strategy="random",
        trials=arguments.trials,
        direction="min",
        first=[preset.default],
        study=arguments.out / f"inherit-{arguments.epochs}.log",
        seed=arguments.seed,
        verbose=0,
    )
    pairs = [
        (trial.values["inherited"], trial.values["new weights"])
        for trial in found.trials
        if trial.values
    ]
    better = sum(first < second for first, second in pairs)
    print(f"better with what they inherited: {better} of {len(pairs)}")


if __name__ == "__main__":
    main()
