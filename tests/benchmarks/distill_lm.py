"""Language models on WikiText-2 from scratch: alone, and taught in four ways.

A GPT-2 of 4 layers x 192 learns WikiText-2's validation text (byte-pair
tokens of its own), and teaches students of 1 layer x 96: by forward and
reverse KL on that text, by a generalised Jensen-Shannon divergence on it, and
by reverse KL where half of the batches are the student's own continuations
(on-policy). All take the same number of steps. Perplexity is on the
first windows of the test text.

    python tests/benchmarks/distill_lm.py --data DIR --out DIR
"""

import argparse
import os
import pathlib
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from language_models import inputs
from language_models import perplexity

import kdtf
from kdtf.search import decoders

LENGTH, PROMPT, BATCH, VOCABULARY = 64, 16, 16, 2048


def build(layers, width, heads):
    preset = decoders(
        vocabulary_size=VOCABULARY,
        sequence_length=LENGTH,
        layers=[layers],
        width=[width],
        heads=[heads],
    )
    return preset.build(preset.default)


def fit(model, data, *, rate, epochs, loss=True):
    steps = epochs * len(data)
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, steps, warmup_target=rate, warmup_steps=steps // 20
    )
    model.compile(
        keras.optimizers.AdamW(
            schedule, weight_decay=0.01, global_clipnorm=1.0
        ),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        if loss
        else None,
        weighted_metrics=[],
    )
    model.fit(data, epochs=epochs, verbose=0, shuffle=False)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--teacher-epochs", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--windows", type=int, default=1000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    texts = [
        (arguments.data / "lm" / name).read_text()
        for name in ("valid.txt", "test.txt")
    ]
    tokenizer = kdtf.data.train_tokenizer(texts[0], vocabulary_size=VOCABULARY)
    (x, y), test = (
        kdtf.data.token_windows(np.asarray(tokenizer(text)), length=LENGTH)
        for text in texts
    )
    test = tuple(part[: arguments.windows] for part in test)

    def data(seed):
        pairs = tf.data.Dataset.from_tensor_slices((inputs(x), y))
        pairs = pairs.shuffle(len(x), seed=seed)
        return pairs.batch(BATCH, drop_remainder=True)

    path = arguments.out / "teacher.keras"
    if not path.exists():
        keras.utils.set_random_seed(0)
        teacher = build(4, 192, 4)
        fit(teacher, data(0), rate=2e-3, epochs=arguments.teacher_epochs)
        teacher.save(path)
    teacher = keras.saving.load_model(path)
    print(
        f"{x.size:,} tokens of {VOCABULARY}; teacher "
        f"{teacher.count_params():,} parameters, perplexity "
        f"{perplexity(teacher, test, batch=16):.2f}\n"
        f"{'student':26}{'perplexity':>12}  {'each':24}{'s':>6}",
        flush=True,
    )

    def taught(student, batches, *, own_words=0.0, **kwargs):
        kwargs = {"alpha": 0.0, "temperature": 1.0} | kwargs
        distiller = kdtf.Distiller(teacher, student, **kwargs)
        if own_words:
            batches = kdtf.distillation.on_policy_dataset(
                distiller,
                batches,
                list(x[:2000, :PROMPT]),
                fraction=own_words,
                end_id=None,
            )
        fit(
            distiller,
            batches,
            rate=4e-3,
            epochs=arguments.epochs,
            loss=kwargs["alpha"] > 0,
        )

    def on_policy(student, batches):
        taught(student, batches, own_words=0.5, soft_loss="reverse_kl")

    ways = {
        "alone": lambda student, batches: fit(
            student, batches, rate=4e-3, epochs=arguments.epochs
        ),
        "forward KL": taught,
        "forward KL + labels": lambda student, batches: taught(
            student, batches, alpha=0.3
        ),
        "reverse KL": lambda student, batches: taught(
            student, batches, soft_loss="reverse_kl"
        ),
        "Jensen-Shannon": lambda student, batches: taught(
            student, batches, soft_loss="jensen_shannon"
        ),
        "reverse KL, on-policy": on_policy,
    }
    for name, train in ways.items():
        found, start = [], time.perf_counter()
        for seed in arguments.seeds:
            keras.utils.set_random_seed(seed)
            student = build(1, 96, 4)
            train(student, data(seed))
            found.append(perplexity(student, test, batch=16))
        each = ", ".join(f"{value:.2f}" for value in found)
        seconds = (time.perf_counter() - start) / len(found)
        print(
            f"{name:26}{np.mean(found):12.2f}  {each:24}{seconds:6.0f}",
            flush=True,
        )
    print(f"a student has {student.count_params():,} parameters")


if __name__ == "__main__":
    main()
