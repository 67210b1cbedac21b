"""What a cache's k costs: the demo's language model distilled from top-k.

The demo's text student is trained by the demo's teacher (soft loss only),
from all logits and from caches of the k likeliest tokens with the mass of the
others, and of n sampled tokens. Held-out perplexity over --seeds, and bytes
for each token of the corpus. The k + 1 buckets' loss is also compared with
the full one on the same student: the relative error of the gradient.

    python tests/benchmarks/distill_topk.py --out DIR [--seeds 1 2 3]
"""

import argparse
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from language_models import demo_model
from language_models import inputs
from language_models import perplexity

import kdtf
from kdtf.distillation import kl_divergence
from kdtf.distillation.targets import buckets
from kdtf.distillation.targets import per_token_from_samples
from kdtf.distillation.targets import split
from kdtf.search import decoders

KINDS = {
    "all logits": {},
    "top 1": {"top_k": 1},
    "top 8": {"top_k": 8},
    "top 32": {"top_k": 32},
    "top 128": {"top_k": 128},
    "12 samples": {"samples": 12},
    "50 samples": {"samples": 50},
}
EPOCHS, BATCH, RATE = 4, 8, 6e-3


def new_student(vocabulary_size, length):
    preset = decoders(vocabulary_size=vocabulary_size, sequence_length=length)
    return preset.build(
        {"layers": 1, "width": 64, "heads": 2, "feed_forward": 4}
    )


def train(teacher, student, data, steps):
    distiller = kdtf.Distiller(teacher, student, alpha=0.0, temperature=1.0)
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, steps, warmup_target=RATE, warmup_steps=steps // 20
    )
    optimizer = keras.optimizers.AdamW(
        rate, weight_decay=0.01, global_clipnorm=1.0
    )
    distiller.compile(optimizer, steps_per_execution=8)
    distiller.fit(data, epochs=EPOCHS, shuffle=False, verbose=0)


def gradient_error(cache, teacher, student, x):
    """Returns the error of the logits' gradient against the full loss's."""
    data = tf.data.Dataset.from_tensors((inputs(x), x))
    (joined, _) = next(iter(cache.attach(data)))
    _, kept = split(joined)
    logits = student(inputs(x), training=False)
    taught = teacher(inputs(x), training=False)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(logits)
        full = tf.reduce_sum(kl_divergence(taught, logits))
        if cache.kind == "top_k":
            ours = tf.reduce_sum(kl_divergence(*buckets(kept, logits)))
        elif cache.kind == "samples":
            ours = tf.reduce_sum(per_token_from_samples(kept, logits))
        else:
            ours = tf.reduce_sum(kl_divergence(kept["logits"], logits))
    right, found = (tape.gradient(loss, logits) for loss in (full, ours))
    return float(tf.norm(found - right) / tf.norm(right))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    arguments = parser.parse_args()
    teacher, (x, y), test = demo_model(arguments)
    classes = teacher.backbone.vocabulary_size
    rows = len(x) // BATCH * BATCH
    data = tf.data.Dataset.from_tensor_slices((inputs(x[:rows]), y[:rows]))
    data = data.batch(BATCH)
    print(
        f"teacher {perplexity(teacher, test):.2f}; {rows * x.shape[1]:,} "
        f"tokens of {classes}, {EPOCHS} times\n"
        f"{'kept':14}{'bytes/token':>12}{'gradient error':>16}"
        f"{'perplexity':>12}  each",
        flush=True,
    )
    for name, kind in KINDS.items():
        cache = kdtf.cache_teacher(
            teacher,
            data,
            arguments.out / f"cache-{name.replace(' ', '-')}",
            verbose=0,
            **kind,
        )
        found = []
        for seed in arguments.seeds:
            keras.utils.set_random_seed(seed)
            student = new_student(classes, x.shape[1])
            if not found:
                error = gradient_error(cache, teacher, student, x[:BATCH])
            batches = cache.attach(data).cache()
            batches = batches.shuffle(len(x) // BATCH, seed=seed)
            train(cache, student, batches, EPOCHS * (len(x) // BATCH))
            found.append(perplexity(student, test))
        each = ", ".join(f"{value:.2f}" for value in found)
        print(
            f"{name:14}{cache.bytes_per_token:12.1f}{error:16.3f}"
            f"{np.mean(found):12.2f}  {each}",
            flush=True,
        )


if __name__ == "__main__":
    main()
