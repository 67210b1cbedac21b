"""SmolLM2-135M to half of its parameters, and taught again.

Its 49,152 tokens are trimmed to those that WikiText-2's validation text uses;
blocks go by their influence and neurons by weights and inputs until --keep of
the trimmed model's parameters are left. What is left is trained on the same
text twice, with the same steps: on the labels alone, and from the trimmed
teacher's cached likeliest tokens.

Perplexities of different tokens cannot be compared: bits per byte of
WikiText-2's test text can. Perplexity is per token of each model's own.

    python tests/benchmarks/shrink_smollm2.py --model DIR --data DIR --out DIR

--model is a folder with the model and its tokenizer.json, as Hugging Face
keeps them (which takes the package safetensors); --data is ../shared/data.
Each stage's result stays in --out: started again, the script goes on where it
was. --quick runs all of it in a few minutes, only to see that it runs.
"""

import argparse
import json
import os
import pathlib
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import keras_nlp
import numpy as np
import tensorflow as tf
from language_models import inputs

import kdtf
from kdtf.files import atomic_path
from kdtf.pruning.shrinking import plan_vocabulary

SPECIAL = 17


def load(folder, length):
    """Returns the model with its tokenizer, whose special tokens it knows."""
    backbone = keras_nlp.models.Llama3Backbone.from_preset(str(folder))
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    # The file keeps them like any others: the first ones.
    special = {t for t, index in model["vocab"].items() if index < SPECIAL}
    tokenizer = keras_nlp.models.Llama3Tokenizer(
        model["vocab"],
        [" ".join(merge) for merge in model["merges"]],
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        misc_special_tokens=special,
    )
    return keras_nlp.models.Llama3CausalLM(
        backbone,
        preprocessor=keras_nlp.models.Llama3CausalLMPreprocessor(
            tokenizer, sequence_length=length
        ),
    )


def lines_of(path, size=None):
    return path.read_text()[:size].splitlines(keepends=True)


def windows(model, lines, length):
    rows = model.preprocessor.tokenizer(lines)
    ids = np.concatenate([np.asarray(row, "int32") for row in rows if len(row)])
    return kdtf.data.token_windows(ids, length=length)


def score(model, lines, length, batch=4):
    """Returns bits per byte of a text and perplexity per token, in windows."""
    x, y = windows(model, lines, length)
    # Tokens are written in an alphabet of bytes.
    tokenizer = model.preprocessor.tokenizer
    sizes = np.zeros(tokenizer.vocabulary_size(), int)
    for token, index in tokenizer.vocabulary.items():
        sizes[index] = len(token)
    total = 0.0
    for start in range(0, len(x), batch):
        rows = slice(start, start + batch)
        logits = model(inputs(x[rows]), training=False)
        losses = keras.losses.sparse_categorical_crossentropy(
            y[rows], logits, from_logits=True
        )
        total += float(np.sum(losses, dtype="float64"))
    return {
        "parameters": model.count_params(),
        "bits_per_byte": float(total / np.log(2) / sizes[y].sum()),
        "perplexity": float(np.exp(total / y.size)),
        "tokens": int(y.size),
    }


def batches(x, y, size):
    data = tf.data.Dataset.from_tensor_slices((inputs(x), y))
    return data.batch(size, drop_remainder=True)


def fit(model, data, arguments, steps):
    """Trains once over the data; returns tokens a second."""
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, steps, warmup_target=arguments.rate, warmup_steps=steps // 10 + 1
    )
    model.compile(
        keras.optimizers.AdamW(rate, weight_decay=0.01, global_clipnorm=1.0),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        weighted_metrics=[],
    )
    start = time.perf_counter()
    data = data.shuffle(steps, seed=arguments.seed)
    model.fit(data, shuffle=False, verbose=2)
    tokens = steps * arguments.batch * arguments.length
    return tokens / (time.perf_counter() - start)


class Results:
    """What stages gave, kept in a file."""

    def __init__(self, path):
        self.path = path
        self.found = json.loads(path.read_text()) if path.exists() else {}

    def get(self, name, make):
        """Returns a stage's result, made only if there is none."""
        if name not in self.found:
            start = time.perf_counter()
            self.found[name] = make()
            seconds = time.perf_counter() - start
            with atomic_path(self.path) as path:
                pathlib.Path(path).write_text(json.dumps(self.found, indent=1))
            print(f"{name}: {self.found[name]} ({seconds:.0f} s)", flush=True)
        return self.found[name]


def prepare(arguments, results, texts):
    """Returns the trimmed teacher."""
    teacher = load(arguments.model, arguments.length)
    results.get("teacher", lambda: score(teacher, texts[1], arguments.length))
    plan = plan_vocabulary(teacher, texts[0], arguments.vocabulary)
    print(plan, flush=True)
    trimmed = plan.build()
    results.get("trimmed", lambda: score(trimmed, texts[1], arguments.length))
    return trimmed


def shrink(arguments, results, texts, trimmed, train):
    """Returns the shrunk model, not trained yet."""
    plan = kdtf.plan_shrink(
        trimmed,
        arguments.keep,
        criterion=arguments.criterion,
        what=("width", "depth"),
        data=inputs(train[0][: arguments.calibration]),
        round_to=16,
    )
    print(plan, "\nblocks kept:", plan.removal.blocks, flush=True)
    small = plan.build()
    results.get("shrunk", lambda: score(small, texts[1], arguments.length))
    return small


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--vocabulary", type=int, default=16384)
    parser.add_argument("--keep", type=float, default=0.5)
    parser.add_argument("--criterion", default="wanda")
    parser.add_argument("--steps", type=int, default=180)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--test-bytes", type=int, default=60_000)
    parser.add_argument("--calibration", type=int, default=16)
    parser.add_argument("--top-k", type=int, default=64)
    parser.add_argument("--rate", type=float, default=5e-4)
    parser.add_argument("--alpha", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.steps, arguments.batch, arguments.length = 3, 2, 64
        arguments.test_bytes, arguments.calibration = 1_500, 2
    arguments.out.mkdir(parents=True, exist_ok=True)
    results = Results(arguments.out / "results.json")
    texts = (
        lines_of(arguments.data / "lm" / "valid.txt"),
        lines_of(arguments.data / "lm" / "test.txt", arguments.test_bytes),
    )
    trimmed = prepare(arguments, results, texts)
    rows = arguments.steps * arguments.batch
    train = windows(trimmed, texts[0], arguments.length)
    order = np.random.default_rng(arguments.seed).permutation(len(train[0]))
    train = tuple(part[order[:rows]] for part in train)
    steps = len(train[0]) // arguments.batch
    shrunk = shrink(arguments, results, texts, trimmed, train)
    weights = shrunk.get_weights()
    data = batches(*train, arguments.batch)
    cache = kdtf.cache_teacher(
        trimmed, data, arguments.out / "cache", top_k=arguments.top_k
    )
    # Under it the model would take text, not tokens.
    preprocessor, shrunk.preprocessor = shrunk.preprocessor, None
    del trimmed

    def train_and_score(model, data):
        shrunk.set_weights(weights)
        speed = fit(model, data, arguments, steps)
        shrunk.preprocessor = preprocessor
        found = score(shrunk, texts[1], arguments.length)
        shrunk.preprocessor = None
        return found | {"tokens_per_second": speed}

    results.get("alone", lambda: train_and_score(shrunk, data))
    distiller = kdtf.Distiller(
        cache, shrunk, alpha=arguments.alpha, temperature=1.0
    )
    attached = cache.attach(data)
    results.get("distilled", lambda: train_and_score(distiller, attached))
    print(f"\n{'':12}{'parameters':>14}{'bits/byte':>12}{'perplexity':>12}")
    for name in ("teacher", "trimmed", "shrunk", "alone", "distilled"):
        row = results.found[name]
        print(
            f"{name:12}{row['parameters']:14,}{row['bits_per_byte']:12.4f}"
            f"{row['perplexity']:12.2f}"
        )
    tokens = steps * arguments.batch * arguments.length
    print(f"both trained for {steps} steps on {tokens:,} tokens")


if __name__ == "__main__":
    main()
