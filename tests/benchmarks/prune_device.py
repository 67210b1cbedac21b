"""What zeros pay on a device: sizes and latency of one pruned model's files.

A perceptron of 1.1 million weights on scikit-learn's handwritten digits, one
image at a time, pruned while training: single weights, blocks of 4 (which
LiteRT's sparse float kernels read) and of 16 (int8). Each file is verified;
`kdtf.compare` times them in turn.

    python tests/benchmarks/prune_device.py [--sparsity 0.9]
"""

import argparse
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras

import kdtf

KERNELS = ["first", "second"]
# How each row is pruned, and how its file is written.
ROWS = {
    "dense": (None, {}),
    "dense int8": (None, {"quantize": "int8"}),
    "single zeros": ("unstructured", {}),
    "single zeros int8": ("unstructured", {"quantize": "int8"}),
    "2:4": ("2:4", {}),
    "blocks of 4": ("litert", {}),
    "blocks of 4 sparse": ("litert", {"sparse": True}),
    "blocks of 16 int8": ("litert_int8", {"quantize": "int8"}),
    "blocks of 16 int8 sparse": (
        "litert_int8",
        {"quantize": "int8", "sparse": True},
    ),
}


def make_model():
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((8, 8, 1), name="image"),
            layers.Flatten(),
            layers.Dense(1024, activation="relu", name="first"),
            layers.Dense(1024, activation="relu", name="second"),
            layers.Dense(10, name="logits"),
        ]
    )


def trained(train, structure, sparsity, epochs):
    """Returns a model that has the same steps whether it is pruned or not."""
    keras.utils.set_random_seed(0)
    model = make_model()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss)
    model.fit(*train, epochs=epochs, verbose=0)
    end = epochs * -(-len(train[1]) // 32) * 2 // 3
    if structure == "2:4":
        sparsity = 0.5
    if structure is not None:
        kdtf.prune(
            model,
            schedule=kdtf.PolynomialSchedule(final=sparsity, end_step=end),
            structure=structure,
            select=KERNELS,
            frequency=20,
        )
    model.fit(*train, epochs=epochs, verbose=0)
    return kdtf.strip(model)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument(
        "--out", type=pathlib.Path, default=pathlib.Path("/tmp/prune_device")
    )
    arguments = parser.parse_args()
    train, test = kdtf.data.digits()
    models, files = {}, {}
    for name, (structure, options) in ROWS.items():
        if structure not in models:
            models[structure] = trained(
                train, structure, arguments.sparsity, arguments.epochs
            )
        path = (
            arguments.out / f"{name.replace(' ', '-').replace(':', '')}.tflite"
        )
        result = kdtf.export_tflite(
            models[structure],
            path,
            representative_data=train[0],
            verify_data=test[0],
            **options,
        )
        for warning in result.warnings:
            print(f"{name}: {warning}", flush=True)
        files[name] = path
    print(kdtf.compare(files, test, metrics=["accuracy"]))


if __name__ == "__main__":
    main()
