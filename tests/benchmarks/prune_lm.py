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

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import language_models
import numpy as np
from language_models import inputs
from language_models import perplexity

import kdtf

WAYS = {
    "magnitude": {"structure": "unstructured"},
    "magnitude per output": {"structure": "per_output"},
    "wanda": {"criterion": "wanda"},
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    language_models.add_arguments(parser, out="/tmp/prune_lm")
    parser.add_argument(
        "--sparsities", type=float, nargs="+", default=[0.3, 0.5, 0.7]
    )
    arguments = parser.parse_args()
    model, train, test = language_models.load(parser, arguments)
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
