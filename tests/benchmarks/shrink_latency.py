"""Whether time falls as operations do, when channels go.

    python tests/benchmarks/shrink_latency.py --data ../shared/data

MLPerf Tiny's ResNet-8 and autoencoder, a MobileNetV1-0.25 as it is there, and
a MobileNetV2 as phones run it, lose half of their multiply-accumulates.
Float files run on one thread of LiteRT, the one as it was and the smaller one
in turn; of each round the ratio, of the ratios median and quartiles. "Falls"
is what time falls by, divided by what operations fall by: 1 where nothing
but they cost time.
"""

import argparse
import os
import pathlib
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from timing import describe
from timing import measure

import kdtf
from kdtf.litert import Runner


def models(folder):
    """Gives names and models; time does not ask for trained weights."""
    applications = keras.applications

    def load(name):
        return keras.models.load_model(folder / name, compile=False)

    def build(make, size, alpha):
        keras.utils.set_random_seed(0)
        return make((size, size, 3), alpha=alpha, weights=None, classes=10)

    yield "ResNet-8", load("pretrainedResnet.h5")
    yield "autoencoder", load("ad01.h5")
    yield "MobileNetV1-0.25", build(applications.MobileNet, 96, 0.25)
    yield "MobileNetV2-1.0", build(applications.MobileNetV2, 128, 1.0)


def runner(model, folder, name):
    path = pathlib.Path(folder) / f"{name}.tflite"
    kdtf.export_tflite(model, path, target="float")
    run = Runner(path)
    rng = np.random.default_rng(0)
    shape = (1, *model.input_shape[1:])
    x = rng.uniform(size=shape).astype("float32")

    def repeat(number):
        for _ in range(number):
            run(x)

    return repeat


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--keep", type=float, default=0.5)
    parser.add_argument("--by", nargs="+", default=["macs", "latency"])
    parser.add_argument("--rounds", type=int, default=21)
    arguments = parser.parse_args()
    folder = arguments.data / "mlperf_tiny"
    print(f"{'model':18}{'by':9}{'MACs':>7}{'falls':>7}  time, of before")
    for name, model in models(folder):
        for by in arguments.by:
            plan = kdtf.plan_shrink(model, arguments.keep, by)
            with tempfile.TemporaryDirectory() as files:
                runs = {
                    "before": runner(model, files, "before"),
                    "after": runner(plan.build(), files, "after"),
                }
                before, after = measure(runs, arguments.rounds, 30).T
            macs = plan.macs[1] / plan.macs[0]
            falls = (1 - np.median(after / before)) / (1 - macs)
            print(
                f"{name:18}{by:9}{macs:7.3f}{falls:7.2f}  "
                f"{describe(after / before)}",
                flush=True,
            )


if __name__ == "__main__":
    main()
