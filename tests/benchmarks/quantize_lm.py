"""Perplexity, size and speed of a language model in fewer bits.

After training: rounded to the nearest, GPTQ and AWQ, measured on --calibration
windows; with --epochs also quantization-aware training, beside the float model
trained equally long with the same steps.

The teacher of `kdtf demo`, on the text of the demo:

    python tests/benchmarks/quantize_lm.py --epochs 2

A real pretrained model, on WikiText-2, from a folder in the Hugging Face or
Keras layout with its tokenizer.json (the former needs the package safetensors):

    python tests/benchmarks/quantize_lm.py --preset DIR --data ../shared/data

Perplexities are Keras's, of what the device computes but for float32 rounding.
"file dB" is the ratio of signal to what the `.tflite` file differs by,
and the speed is LiteRT's for one window, next to the float file's in the same
run.
"""

import argparse
import os
import pathlib
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import language_models
import numpy as np
import tensorflow as tf
from language_models import inputs
from language_models import perplexity
from timing import describe
from timing import measure

import kdtf
from kdtf.litert import Runner
from kdtf.quantization import Linear

# Four bits, but eight for the table of embeddings, often tied to the output.
TABLE8 = {"*embeddings": "dynamic_int8", "*": "int4"}
WAYS = {
    "dynamic_int8": ("dynamic_int8", "nearest"),
    "int4": ("int4", "nearest"),
    "int4 gptq": ("int4", "gptq"),
    "int4 awq": ("int4", "awq"),
    "int4 awq+gptq": ("int4", "awq+gptq"),
    "int4, table int8": (TABLE8, "nearest"),
    "int4 gptq, table int8": (TABLE8, "gptq"),
    "int4_block32": ("int4_block32", "nearest"),
    "int4_block32 gptq": ("int4_block32", "gptq"),
    "normal_float4": ("normal_float4", "nearest"),
    "codebook": ("codebook", "nearest"),
}
TRAINED = {
    "dynamic_int8": "dynamic_int8",
    "int4": "int4",
    "int4, learned steps": Linear(num_bits=4, learn_step=True),
    "int4, table int8": TABLE8,
    "int4_block32": "int4_block32",
    "codebook": "codebook",
}


def fit(model, train, arguments):
    """Trains with the steps that all contenders get."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    steps = arguments.epochs * -(-len(train[0]) // 8)
    rate = keras.optimizers.schedules.CosineDecay(
        arguments.learning_rate, steps
    )
    model.compile(keras.optimizers.AdamW(rate, clipnorm=1.0), loss)
    keras.utils.set_random_seed(arguments.seed)
    data = tf.data.Dataset.from_tensor_slices((inputs(train[0]), train[1]))
    data = data.shuffle(len(train[0]), seed=arguments.seed).batch(8)
    model.fit(data, epochs=arguments.epochs, verbose=0)


def exported(model, test, folder, length):
    """Returns the result of exporting a model, and a function to time."""
    sample = inputs(test[0][:8, :length])
    result = kdtf.export_tflite(
        model, pathlib.Path(folder, "model.tflite"), verify_data=sample
    )
    runner = Runner(result.path)
    one = {name: value[:1] for name, value in sample.items()}

    def run(times):
        for _ in range(times):
            runner(one)

    return result, run


def report(name, model, test, arguments, before, float_run=None):
    """Prints a row, and returns the function to time."""
    value = perplexity(model, test)
    cells = f"{name:30}{value:9.3f}{value / before - 1:+9.2%}"
    run = None
    if arguments.export:
        with tempfile.TemporaryDirectory() as folder:
            result, run = exported(model, test, folder, arguments.length)
            size, packed = result.size_bytes, result.gzip_size_bytes
            cells += f"{size / 1e6:9.2f}{packed / 1e6:9.2f}"
            cells += f"{result.sqnr_db:8.1f}"
            if float_run is not None:
                times = measure({"float": float_run, "this": run}, 7, 3)
                cells += f"  {describe(times[:, 0] / times[:, 1])}"
    print(cells, flush=True)
    return run


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    language_models.add_arguments(parser, out="/tmp/prune_lm")
    parser.add_argument("--epochs", type=int, default=0)
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=[*WAYS])
    parser.add_argument(
        "--export", action=argparse.BooleanOptionalAction, default=True
    )
    arguments = parser.parse_args()
    model, train, test = language_models.load(parser, arguments)
    test = tuple(part[: arguments.windows] for part in test)
    rng = np.random.default_rng(arguments.seed)
    chosen = rng.permutation(len(train[0]))[: arguments.calibration]
    calibration = inputs(train[0][chosen])
    weights = model.get_weights()
    print(
        f"{model.name}: {model.count_params():,} weights; tested on "
        f"{test[1].size:,} tokens, calibrated on "
        f"{calibration['token_ids'].size:,}"
    )
    print(
        f"{'':30}{'perplex.':>9}{'change':>9}{'MB':>9}{'gzip':>9}"
        f"{'file dB':>8}  times as fast"
    )
    before = perplexity(model, test)
    float_run = report("float", model, test, arguments, before)
    for name in arguments.ways:
        scheme, method = WAYS[name]
        model.set_weights(weights)
        kdtf.quantize(model, scheme, calibration, method=method)
        report(name, model, test, arguments, before, float_run)
        kdtf.strip(model)
    if not arguments.epochs:
        return
    model.set_weights(weights)
    fit(model, train, arguments)
    before = perplexity(model, test)
    report("float, trained on", model, test, arguments, before, float_run)
    for name, scheme in TRAINED.items():
        model.set_weights(weights)
        kdtf.quantize_aware(model, scheme)
        fit(model, train, arguments)
        report(f"{name} trained", model, test, arguments, before, float_run)
        kdtf.strip(model)


if __name__ == "__main__":
    main()
