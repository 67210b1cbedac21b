"""ResNet-8 of MLPerf Tiny on CIFAR-10, with half of its operations.

    python tests/benchmarks/shrink_resnet.py --data DIR --out DIR

The reference network (87% at 12.5 million multiply-accumulates) is shrunk to
`--keep` of them, and taught by itself for `--epochs` on the 12,000 training
images (flips and shifts). Beside it, in as many steps and with the same
teacher: the same small architecture from new weights, the network pruned by
magnitude without structure to as few weights as the shrunk one has, and the
whole network from new weights, which shows what these images can teach. For
each: accuracy on 5,000 test images, MACs, weights that are not 0, and the
time of the float file on LiteRT (one thread, A B A B, median and quartiles of
its ratio to the network as it was).
"""

import argparse
import json
import os
import pathlib
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from timing import describe
from timing import measure

import kdtf
from kdtf.files import atomic_path
from kdtf.litert import Runner

BATCH = 64


def images(path):
    with np.load(path, allow_pickle=False) as arrays:
        # The reference network takes pixels as they are, 0 to 255.
        return {
            split: (
                arrays[f"x_{split}"].astype("float32"),
                arrays[f"y_{split}"].astype("int32").ravel(),
            )
            for split in ("train", "test")
        }


def batches(x, y, seed):
    shift = keras.Sequential(
        [
            keras.layers.RandomFlip("horizontal", seed=seed),
            keras.layers.RandomTranslation(
                0.1, 0.1, fill_mode="constant", seed=seed
            ),
        ]
    )
    data = tf.data.Dataset.from_tensor_slices((x, y))
    data = data.shuffle(len(y), seed=seed).batch(BATCH, drop_remainder=True)
    return data.map(lambda x, y: (shift(x, training=True), y)).prefetch(2)


def logits_of(model):
    """Returns the network that ends before its softmax."""
    clone = keras.models.clone_model(
        model,
        clone_function=lambda layer: type(layer).from_config(
            layer.get_config()
            | ({"activation": "linear"} if layer is model.layers[-1] else {})
        ),
    )
    clone.set_weights(model.get_weights())
    return clone


def accuracy(model, test):
    x, y = test
    return float(
        (model.predict(x, batch_size=256, verbose=0).argmax(-1) == y).mean()
    )


def taught(student, teacher, data, arguments, seed):
    distiller = kdtf.Distiller(teacher, student, alpha=0.1, temperature=4.0)
    x, y = data["train"]
    steps = arguments.epochs * (len(y) // BATCH)
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, steps, warmup_target=arguments.rate, warmup_steps=steps // 20
    )
    distiller.compile(
        keras.optimizers.Adam(schedule),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    distiller.fit(batches(x, y, seed), epochs=arguments.epochs, verbose=0)
    return accuracy(student, data["test"])


def fresh(model, seed):
    keras.utils.set_random_seed(seed)
    return keras.models.clone_model(model)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--keep", type=float, default=0.5)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    data = images(arguments.data / "cifar10_small.npz")
    path = arguments.data / "mlperf_tiny" / "pretrainedResnet.h5"
    teacher = logits_of(keras.models.load_model(path, compile=False))
    top = accuracy(teacher, data["test"])

    def shrunk():
        return kdtf.plan_shrink(teacher, arguments.keep, "macs")

    print(shrunk(), flush=True)
    plan = shrunk()
    weights = plan.parameters[1] / plan.parameters[0]

    def pruned(seed):
        student = keras.models.clone_model(teacher)
        student.set_weights(teacher.get_weights())
        return kdtf.prune(student, 1 - weights, allocation="global")

    ways = {
        "shrunk": lambda seed: plan.build(),
        "shrunk, new weights": lambda seed: fresh(plan.build(), seed),
        "pruned, no structure": pruned,
        # What these images can teach a network without what it knew.
        "as before, new weights": lambda seed: fresh(teacher, seed),
    }
    print(
        f"teacher {top:.4f}; shrunk, not taught: "
        f"{accuracy(plan.build(), data['test']):.4f}"
    )
    print(f"{'student':24}{'accuracy':>10}{'lost':>8}  {'each':26}{'s':>6}")
    for name, make in ways.items():
        found, start = [], time.perf_counter()
        for seed in arguments.seeds:
            kept = (
                arguments.out
                / f"{name}-{arguments.keep}-{arguments.epochs}-{seed}.json"
            )
            if not kept.exists():
                student = make(seed)
                value = taught(student, teacher, data, arguments, seed)
                with atomic_path(kept) as temporary:
                    temporary.write_text(json.dumps(value))
            found.append(json.loads(kept.read_text()))
        mean = float(np.mean(found))
        each = ", ".join(f"{value:.4f}" for value in found)
        seconds = (time.perf_counter() - start) / len(found)
        print(
            f"{name:24}{mean:10.4f}{top - mean:8.4f}  {each:26}{seconds:6.0f}",
            flush=True,
        )
    times(teacher, plan, arguments.out, data["test"][0][:1])


def times(teacher, plan, folder, x):
    def runner(name, model):
        path = folder / f"{name}.tflite"
        kdtf.export_tflite(model, path, target="float")
        run = Runner(path)

        def repeat(number):
            for _ in range(number):
                run(x)

        return repeat

    runs = {
        "before": runner("before", teacher),
        "after": runner("after", plan.build()),
    }
    before, after = measure(runs, 21, 50).T
    print(
        f"MACs {plan.macs[1] / plan.macs[0]:.3f} of before; LiteRT "
        f"{1e3 * np.median(after):.3f} ms, {describe(after / before)} of before"
    )


if __name__ == "__main__":
    main()
