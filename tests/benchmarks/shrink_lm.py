"""The demo's language model at half of its parameters.

    python tests/benchmarks/shrink_lm.py --out DIR

The demo's teacher is shrunk (`--keep` of its parameters; neurons by weights
and inputs, blocks by what they turn), taught by itself for `--epochs`, and
judged by perplexity on held-out text. Beside it, in as many steps: the same
small architecture from new weights, taught the same way; and the shrunk one
trained on the labels alone.
"""

import argparse
import os
import pathlib
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
from demo_students import Demo

import kdtf
from kdtf.backbones import resized


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--keep", type=float, default=0.5)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--alpha", type=float, default=0.1)
    parser.add_argument("--what", nargs="+", default=["width", "depth"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    arguments = parser.parse_args()
    demo = Demo(arguments.out)
    plan = kdtf.plan_shrink(
        demo.teacher,
        arguments.keep,
        what=arguments.what,
        criterion="wanda",
        data=demo.calibration,
    )
    print(plan)
    top = demo.perplexity(demo.teacher)
    before = demo.perplexity(plan.build())
    print(f"teacher {top:.3f}; shrunk, not taught {before:.3f}")
    ways = {
        "shrunk, taught": (lambda: plan.build(), True),
        "shrunk, labels alone": (lambda: plan.build(), False),
        "new weights, taught": (lambda: resized(plan.build(), {}), True),
    }
    print(f"{'':24}{'perplexity':>12}{'of teacher':>12}{'s':>6}")
    for name, (make, is_taught) in ways.items():
        for seed in arguments.seeds:
            start = time.perf_counter()
            keras.utils.set_random_seed(seed)
            found = demo.trained(make(), arguments, is_taught=is_taught)
            seconds = time.perf_counter() - start
            print(
                f"{name:24}{found:12.3f}{found / top:12.1%}{seconds:6.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
