"""One training step of kdtf.Distiller against keras.distillation.Distiller.

Both do the same work: cross-entropy on labels plus a KL at T = 2, the teacher
in inference mode. Keras's Distiller gets `loss=keras.losses.KLDivergence()`:
its default compares clipped raw logits, which is not distillation (and not
the same work). Also printed: our step against the sum of a plain student step
and a teacher's forward pass, the floor for any live teacher.

    python tests/benchmarks/distill_step.py [--rounds 9] [--steps 20]

Runs alternate A B C A B C; the table gives medians over rounds of ratios of
runs that lie side by side, with the quartiles.
"""

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import keras_nlp
import numpy as np
import tensorflow as tf
from timing import describe
from timing import measure

import kdtf


def cnn(width):
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(width, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(2 * width, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(10),
        ]
    )


def bert(layers, width):
    backbone = keras_nlp.models.BertBackbone(
        vocabulary_size=5000,
        num_layers=layers,
        num_heads=4,
        hidden_dim=width,
        intermediate_dim=4 * width,
        max_sequence_length=64,
    )
    return keras_nlp.models.BertTextClassifier(
        backbone, num_classes=4, preprocessor=None
    )


def gpt2(layers, width):
    backbone = keras_nlp.models.GPT2Backbone(
        vocabulary_size=5000,
        num_layers=layers,
        num_heads=4,
        hidden_dim=width,
        intermediate_dim=4 * width,
        max_sequence_length=64,
    )
    return keras_nlp.models.GPT2CausalLM(backbone, preprocessor=None)


def task(name, rng):
    """Returns teacher, a function that makes students, inputs and labels."""
    if name == "classifier":
        x = rng.normal(size=(128, 28, 28, 1)).astype("float32")
        return cnn(32), lambda: cnn(16), x, rng.integers(0, 10, size=128)
    tokens = rng.integers(1, 5000, size=(16, 64)).astype("int32")
    x = {"token_ids": tokens, "padding_mask": np.ones_like(tokens)}
    if name == "bert":
        x["segment_ids"] = np.zeros_like(tokens)
        return bert(4, 128), lambda: bert(2, 64), x, rng.integers(0, 4, 16)
    if name == "wide lm":
        return gpt2(4, 512), lambda: gpt2(4, 256), x, np.roll(tokens, -1, 1)
    return gpt2(4, 128), lambda: gpt2(2, 64), x, np.roll(tokens, -1, 1)


def cross_entropy():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def contenders(name):
    """Returns the timed functions: each takes a number of steps."""
    rng = np.random.default_rng(0)
    teacher, make_student, x, y = task(name, rng)
    data = tf.data.Dataset.from_tensors((x, y)).cache().repeat()
    data = data.prefetch(4)

    def trainer(model):
        model.compile("adam", cross_entropy())
        return lambda steps: model.fit(
            data, steps_per_epoch=steps, shuffle=False, verbose=0
        )

    keras_distiller = keras.distillation.Distiller(
        teacher,
        make_student(),
        distillation_losses=keras.distillation.LogitsDistillation(
            temperature=2.0, loss=keras.losses.KLDivergence()
        ),
        student_loss_weight=0.5,
    )
    ours = kdtf.Distiller(teacher, make_student(), alpha=0.5, temperature=2.0)
    forward = tf.function(lambda: teacher(x, training=False))

    def teacher_steps(steps):
        for _ in range(steps):
            forward()

    return {
        "kdtf": trainer(ours),
        "keras.distillation": trainer(keras_distiller),
        "student": trainer(make_student()),
        "teacher forward": teacher_steps,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=20)
    arguments = parser.parse_args()
    print("median (quartiles); a step of kdtf.Distiller against ...")
    print(f"{'task':12}{'ms':>8}  {'keras.distillation':24}student + teacher")
    for name in ("classifier", "bert", "causal lm"):
        times = measure(contenders(name), arguments.rounds, arguments.steps)
        ours, theirs, student, teacher = times.T
        against_keras = describe(ours / theirs)
        against_sum = describe(ours / (student + teacher))
        print(
            f"{name:12}{1e3 * np.median(ours):8.1f}  "
            f"{against_keras:24}{against_sum}",
            flush=True,
        )


if __name__ == "__main__":
    main()
