"""A training step while pruning, against plain `fit` and tfmot's wrapper.

The masks are recomputed every 100 steps, as by default; the model is Keras 3's
for kdtf and its `tf_keras` twin for tfmot, each against the plain `fit` of its
own Keras, because the two Kerases' own overheads differ.

    python tests/benchmarks/prune_step.py [--rounds 9] [--steps 100]

Runs alternate A B C D A B C D; the table gives medians over rounds of ratios
of runs that lie side by side, with the quartiles.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from training_steps import compare
from training_steps import mlp

import kdtf
from kdtf.transforms.tfmot_models import load_tfmot


def cnn(flavour):
    layers = flavour.layers
    return flavour.Sequential(
        [
            flavour.Input((28, 28, 1)),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(64, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(10),
        ]
    )


def main():
    tfmot = load_tfmot().sparsity.keras
    # Both as users write them: a ramp that does not end while we look.
    ours = kdtf.PolynomialSchedule(final=0.8, end_step=10**6)
    theirs = tfmot.PolynomialDecay(0.0, 0.8, 0, 10**6)
    compare(
        __doc__.splitlines()[0],
        "pruning",
        (("mlp", mlp, (512,)), ("cnn", cnn, (28, 28, 1))),
        steps=100,
        ours=lambda model: kdtf.prune(model, schedule=ours),
        theirs=lambda model: tfmot.prune_low_magnitude(model, theirs),
        callbacks=[tfmot.UpdatePruningStep()],
    )


if __name__ == "__main__":
    main()
