"""A step of quantization-aware training, against plain `fit` and tfmot's.

The model is Keras 3's for kdtf and its `tf_keras` twin for tfmot, each against
the plain `fit` of its own Keras, because the two Kerases' own overheads differ.
Both simulate int8 throughout, with the defaults of each.

    python tests/benchmarks/quantize_step.py [--rounds 9] [--steps 60]

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

    def block(filters):
        return [
            layers.Conv2D(filters, 3, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
        ]

    return flavour.Sequential(
        [
            flavour.Input((28, 28, 1)),
            *block(32),
            layers.MaxPooling2D(),
            *block(64),
            layers.MaxPooling2D(),
            *block(64),
            layers.GlobalAveragePooling2D(),
            layers.Dense(10),
        ]
    )


def main():
    compare(
        __doc__.splitlines()[0],
        "quantization-aware",
        (("mlp", mlp, (512,)), ("cnn", cnn, (28, 28, 1))),
        steps=60,
        ours=lambda model: kdtf.quantize_aware(model, "int8"),
        theirs=load_tfmot().quantization.keras.quantize_model,
    )


if __name__ == "__main__":
    main()
