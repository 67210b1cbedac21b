"""Perplexity of a language model pruned in one shot: Wanda against |w|.

No training follows. Weights go by magnitude within each kernel, by magnitude
within each output, and by Wanda: weight times the norm of its inputs, measured
on --calibration windows of text. The paper (Sun et al. 2023,
https://arxiv.org/abs/2306.11695, LLaMA-2-7B at 50%): dense 5.12, magnitude
14.89, Wanda 6.42.

A real pretrained model, from a folder in the Hugging Face or Keras layout with
its tokenizer.json, on WikiText-2:

    python tests/benchmarks/prune_lm.py --preset DIR --data ../shared/data

(The Hugging Face layout needs the package safetensors.)
Without --preset it is the teacher of `kdtf demo`, on the text of the demo,
trained first where --out does not have it.
"""

import argparse
import os
import pathlib
import subprocess
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import keras_nlp
import numpy as np
import tokenizers

import kdtf

WAYS = {
    "magnitude": {"structure": "unstructured"},
    "magnitude per output": {"structure": "per_output"},
    "wanda": {"criterion": "wanda"},
}


def inputs(tokens):
    return {"token_ids": tokens, "padding_mask": np.ones_like(tokens)}


def demo_model(arguments):
    """Returns the demo's teacher, and windows to learn from and to test on."""
    folder = arguments.out / f"seed-{arguments.seed}"
    if not (folder / "text" / "teacher.keras").exists():
        command = [sys.executable, "-m", "kdtf", "demo", "--task", "text"]
        command += ["--seed", str(arguments.seed), "--out", str(folder)]
        subprocess.run(command, check=True)
    model = keras.saving.load_model(folder / "text" / "teacher.keras")
    tokenizer = model.preprocessor.tokenizer
    # With it the model would take text, not tokens.
    model.preprocessor = None
    train, test = (
        kdtf.data.token_windows(np.asarray(tokenizer(part)), length=64)
        for part in kdtf.data.documentation_text()
    )
    return model, train, test


def subclasses(cls):
    for child in cls.__subclasses__():
        yield child
        yield from subclasses(child)


def preset_model(arguments):
    """Returns a pretrained model, and windows of WikiText-2."""
    backbone = keras_nlp.models.Backbone.from_preset(str(arguments.preset))
    kinds = {
        cls.backbone_cls: cls for cls in subclasses(keras_nlp.models.CausalLM)
    }
    model = kinds[type(backbone)](backbone, preprocessor=None)
    tokenizer = tokenizers.Tokenizer.from_file(
        str(arguments.preset / "tokenizer.json")
    )
    length, parts = 256, []
    for name, windows in (
        ("valid.txt", arguments.calibration),
        ("test.txt", arguments.windows),
    ):
        # Far more characters than the windows have tokens.
        text = (arguments.data / "lm" / name).read_text()[
            : 8 * length * windows
        ]
        ids = np.asarray(tokenizer.encode(text).ids, "int32")
        x, y = kdtf.data.token_windows(ids, length=length)
        parts.append((x[:windows], y[:windows]))
    return model, *parts


def perplexity(model, test, batch=4):
    """Returns exp of the mean negative log-likelihood of the next token."""
    total = 0.0
    x, y = test
    for start in range(0, len(x), batch):
        rows = slice(start, start + batch)
        logits = np.asarray(model(inputs(x[rows]), training=False))
        highest = logits.max(-1, keepdims=True)
        sums = np.log(np.exp(logits - highest).sum(-1)) + highest[..., 0]
        chosen = np.take_along_axis(logits, y[rows][..., None], -1)[..., 0]
        total += float((sums - chosen).sum(dtype="float64"))
    return float(np.exp(total / y.size))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", type=pathlib.Path)
    parser.add_argument("--data", type=pathlib.Path)
    parser.add_argument(
        "--sparsities", type=float, nargs="+", default=[0.3, 0.5, 0.7]
    )
    parser.add_argument("--calibration", type=int, default=32)
    parser.add_argument("--windows", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--out", type=pathlib.Path, default=pathlib.Path("/tmp/prune_lm")
    )
    arguments = parser.parse_args()
    if arguments.preset and not arguments.data:
        parser.error("--preset needs --data, the folder that has lm/test.txt")
    load = preset_model if arguments.preset else demo_model
    model, train, test = load(arguments)
    rng = np.random.default_rng(arguments.seed)
    chosen = rng.permutation(len(train[0]))[: arguments.calibration]
    dense = model.get_weights()
    print(
        f"{model.name}: {model.count_params():,} weights; tested on "
        f"{test[1].size:,} tokens, calibrated on {train[0][chosen].size:,}"
    )
    titles = "".join(f"{s:>10.0%}" for s in arguments.sparsities)
    print(f"{'perplexity':22}{'dense':>10}{titles}", flush=True)
    before = perplexity(model, test)
    for name, options in WAYS.items():
        if "criterion" in options:
            options = {**options, "data": inputs(train[0][chosen])}
        found = [before]
        for sparsity in arguments.sparsities:
            model.set_weights(dense)
            kdtf.strip(kdtf.prune(model, sparsity, **options))
            found.append(perplexity(model, test))
        cells = "".join(f"{value:10.2f}" for value in found)
        print(f"{name:22}{cells}", flush=True)


if __name__ == "__main__":
    main()
