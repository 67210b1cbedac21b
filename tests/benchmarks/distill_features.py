"""One step of feature distillation against keras.distillation's.

Both match the logits (KL at T = 2) and one hidden layer (mean squared error).
Keras's Distiller runs the student a second time for the features, forward and
backward (where nothing is random TensorFlow may merge the two: these students
have a little dropout); kdtf records them in the pass that gives the outputs.
Also printed: the surplus of the features over our own step without them.

    python tests/benchmarks/distill_features.py [--rounds 9] [--steps 20]

Runs alternate A B C A B C; the table gives medians over rounds of ratios of
runs that lie side by side, with the quartiles.
"""

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from timing import describe
from timing import measure

import kdtf
from kdtf.distillation import HiddenStates


def cnn(width, depth):
    layers = keras.layers
    stack = [keras.Input((28, 28, 1)), layers.Conv2D(width, 3, strides=2)]
    for _ in range(depth):
        stack.append(layers.Conv2D(width, 3, padding="same", activation="relu"))
    stack.insert(2, layers.Dropout(0.1))
    stack[-1].name = "last_map"
    stack += [layers.GlobalAveragePooling2D(), layers.Dense(10)]
    return keras.Sequential(stack)


def mlp(width, depth):
    layers = keras.layers
    stack = [keras.Input((784,))]
    stack += [layers.Dense(width, activation="relu") for _ in range(depth)]
    stack.insert(2, layers.Dropout(0.1))
    stack[-1].name = "last_map"
    return keras.Sequential([*stack, layers.Dense(10)])


# One width, since Keras's has no projection.
TASKS = {
    "cnn": (lambda: cnn(48, 5), lambda: cnn(48, 3), (128, 28, 28, 1)),
    "mlp": (lambda: mlp(512, 5), lambda: mlp(512, 4), (128, 784)),
}


def contenders(name):
    """Returns the timed functions: each takes a number of steps."""
    make_teacher, make_student, shape = TASKS[name]
    rng = np.random.default_rng(0)
    x = rng.normal(size=shape).astype("float32")
    y = rng.integers(0, 10, size=len(x))
    data = tf.data.Dataset.from_tensors((x, y)).cache().repeat().prefetch(4)
    teacher = make_teacher()

    def trainer(model):
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("adam", loss)
        return lambda steps: model.fit(
            data, steps_per_epoch=steps, shuffle=False, verbose=0
        )

    def ours(features):
        return kdtf.Distiller(
            teacher,
            make_student(),
            alpha=0.5,
            temperature=2.0,
            features=features,
        )

    distillation = keras.distillation
    theirs = distillation.Distiller(
        teacher,
        make_student(),
        distillation_losses=[
            distillation.LogitsDistillation(
                temperature=2.0, loss=keras.losses.KLDivergence()
            ),
            distillation.FeatureDistillation(
                loss=keras.losses.MeanSquaredError(),
                student_layer_name="last_map",
                teacher_layer_name="last_map",
            ),
        ],
        student_loss_weight=0.5,
    )
    return {
        "kdtf": trainer(ours([HiddenStates(layers={"last_map": "last_map"})])),
        "keras.distillation": trainer(theirs),
        "without": trainer(ours([])),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=20)
    arguments = parser.parse_args()
    print("median (quartiles); a step with features of kdtf against ...")
    print(f"{'task':8}{'ms':>8}  {'keras.distillation':24}without features")
    for name in TASKS:
        times = measure(contenders(name), arguments.rounds, arguments.steps)
        ours, theirs, without = times.T
        print(
            f"{name:8}{1e3 * np.median(ours):8.1f}  "
            f"{describe(ours / theirs):24}{describe(ours / without)}",
            flush=True,
        )


if __name__ == "__main__":
    main()
