"""`kdtf.compress` on three tasks and two targets, and tfmot by hand on one.

    python tests/benchmarks/compress_tasks.py --data ../shared/data --out DIR

For each task a model is trained, its post-training files measured, and some
budgets asked for: one that quantization alone meets, some that it does not
meet, and one that does not exist. Every result is judged once more on test
data that chose nothing; beside it the best single technique at no more bytes.
Then, for the network of convolutions, what a user does by hand: a tf_keras
copy, `tfmot.quantize_model`, as many epochs, TFLiteConverter.

With --singles only the middle budget for android is asked for, and each
technique alone then brought to the size of what was chosen, as far as it goes
(`single_techniques.py`), with as many steps and --seeds seeds.

All is kept in --out, and a second run goes on from there.
"""

import argparse
import dataclasses
import os
import pathlib
import re
import zlib
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import keras_nlp
import numpy as np
from quantize_encoder import articles
from quantize_twin import write_tfmot
from single_techniques import contend

from kdtf.data import digits
from kdtf.evaluation import compare
from kdtf.recipes import demo_image
from kdtf.recipes import demo_text
from kdtf.recipes.compression import compress
from kdtf.transforms.tfmot_models import load_tfmot

WORDS, LENGTH = 8192, 48


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """A trained model, its data, and the budgets to ask for."""

    model: Any
    train: Any
    validation: Any
    test: Any
    metric: Any
    budgets: dict[str, list[dict[str, Any]]]
    epochs: int
    rate: float = 1e-3


def kept(path, make):
    if not path.exists():
        keras.utils.set_random_seed(0)
        make().save(path)
    return keras.saving.load_model(path, compile=False)


def logits_loss():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def halves(x, y):
    """Every second example: data may be sorted by class."""

    def part(start):
        inputs = keras.tree.map_structure(lambda array: array[start::2], x)
        return inputs, y[start::2]

    return part(0), part(1)


def digits_task(folder, data):
    train, held_out = digits()

    def make():
        model = demo_image.build_teacher()
        settings = demo_image.ImageSettings(seed=0)
        demo_image.fit_image(model, train, settings, 20, verbose=0)
        return model

    validation, test = halves(*held_out)
    budgets = [
        {"max_size": "70kB", "max_quality_loss": 0.005},
        {"max_size": "25kB", "max_quality_loss": 0.01},
        {"max_size": "1kB"},
    ]
    return Task(
        model=kept(folder / "digits.keras", make),
        train=train,
        validation=validation,
        test=test,
        metric="accuracy",
        budgets={"android": budgets, "iot": budgets},
        epochs=5,
    )


def encoded(texts):
    """Words as numbers from 2 on, by their hash; 0 is padding, 1 begins."""
    tokens = np.zeros((len(texts), LENGTH), "int32")
    for row, text in zip(tokens, texts, strict=True):
        words = re.findall(r"[a-z0-9]+", text.lower())[: LENGTH - 1]
        ids = [zlib.crc32(word.encode()) % (WORDS - 2) + 2 for word in words]
        row[: len(ids) + 1] = [1, *ids]
    return {
        "token_ids": tokens,
        "padding_mask": (tokens > 0).astype("int32"),
        "segment_ids": np.zeros_like(tokens),
    }


def news_task(folder, data):
    texts, labels = articles(data / "text" / "ag_news_train8k.tsv")
    order = np.random.default_rng(0).permutation(len(texts))
    train = encoded([texts[i] for i in order]), labels[order]
    texts, labels = articles(data / "text" / "ag_news_test.tsv")
    every = slice(None, None, max(1, len(texts) // 2000))
    validation, test = halves(encoded(texts[every]), labels[every])

    def make():
        backbone = keras_nlp.models.BertBackbone(
            vocabulary_size=WORDS,
            num_layers=2,
            num_heads=4,
            hidden_dim=64,
            intermediate_dim=256,
            max_sequence_length=LENGTH,
        )
        model = keras_nlp.models.BertTextClassifier(
            backbone, num_classes=4, preprocessor=None
        )
        model.compile(keras.optimizers.Adam(1e-3), logits_loss())
        model.fit(*train, batch_size=32, epochs=3, verbose=0)
        return model

    budgets = [
        {"max_size": "750kB", "max_quality_loss": 0.01},
        {"max_size": "380kB", "max_quality_loss": 0.02},
        {"max_size": "20kB"},
    ]
    return Task(
        model=kept(folder / "news.keras", make),
        train=train,
        validation=validation,
        test=test,
        metric="accuracy",
        budgets={"android": budgets, "iot": budgets[:1]},
        epochs=1,
    )


def language_task(folder, data):
    settings = demo_text.TextSettings(seed=0)
    corpus = demo_text.read_corpus(settings)

    def make():
        model = demo_text.build_model(settings, corpus, settings.teacher)
        demo_text.fit_text(
            model,
            corpus,
            settings,
            settings.teacher_epochs,
            settings.teacher_learning_rate,
            verbose=0,
        )
        demo_text.add_tokenizer(model, corpus, settings.window)
        return model

    x, y = corpus.train
    held_out = demo_text.text_inputs(corpus.test[0]), corpus.test[1]
    validation, test = halves(*held_out)
    model = kept(folder / "language.keras", make)
    budgets = [
        {"max_size": "1.2MB", "max_quality_loss": 0.5},
        {"max_size": "250kB", "max_quality_loss": 5.0},
        {"max_size": "120kB", "max_quality_loss": 15.0},
        {"max_size": "20kB"},
    ]
    return Task(
        model=model,
        train=(demo_text.text_inputs(x), y),
        validation=validation,
        test=test,
        metric=demo_text.perplexity(),
        budgets={"android": budgets},
        epochs=1,
    )


TASKS = {"digits": digits_task, "news": news_task, "language": language_task}


def quality(file, task):
    row = compare(
        {"file": file}, task.test, metrics=[task.metric], latency_runs=0
    )["file"]
    (value,) = row.metrics.values()
    return value


def compressed(name, task, folder, target, budget):
    task.model.compile(loss=logits_loss())
    return compress(
        task.model,
        task.train,
        task.validation,
        target=target,
        metric=task.metric,
        epochs=task.epochs,
        learning_rate=task.rate,
        out=folder / f"{name}-{target}",
        verbose=0,
        **budget,
    )


def singles(name, task, folder, seeds):
    found = compressed(
        name, task, folder, "android", task.budgets["android"][1]
    )
    print(f"\n{name}, android\n{found}\n")
    contend(task, found, folder / f"{name}-singles", seeds)


def run(name, task, folder):
    for target, budgets in task.budgets.items():
        for budget in budgets:
            found = compressed(name, task, folder, target, budget)
            asked = ", ".join(f"{k}={v}" for k, v in budget.items())
            print(f"\n{name}, {target}, {asked}")
            print(found)
            first = quality(folder / f"{name}-{target}/original.tflite", task)
            if found.chosen is not None:
                chosen = quality(found.path, task)
                print(
                    f"on test data: original {first:.4f}, chosen {chosen:.4f}"
                )
            print(flush=True)
            if not found.is_met:
                continue
            rivals = [
                one
                for one in found.candidates
                if one.is_complete
                and one.stage in ("post-training", "quantization-aware")
                and one.size_bytes <= found.chosen.size_bytes
                and one is not found.chosen
            ]
            if not rivals:
                print("no single technique has a file of no more bytes")
            for one in rivals:
                path = found.folder / one.file
                print(f"  {one.name}: {quality(path, task):.4f}")


def by_hand(task, folder):
    """tfmot's quantization-aware training and TFLiteConverter."""
    import tf_keras

    layers = tf_keras.layers
    twin = tf_keras.Sequential(
        [
            tf_keras.Input((8, 8, 1)),
            *[
                layer
                for width, pools in ((32, False), (64, True), (64, False))
                for layer in (
                    layers.Conv2D(width, 3, padding="same", use_bias=False),
                    layers.BatchNormalization(),
                    layers.ReLU(),
                    *([layers.MaxPooling2D()] if pools else []),
                )
            ],
            layers.GlobalAveragePooling2D(),
            layers.Dense(10),
        ]
    )
    twin.set_weights(task.model.get_weights())
    model = load_tfmot().quantization.keras.quantize_model(twin)
    model.compile(
        tf_keras.optimizers.legacy.Adam(1e-4),
        tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.fit(*task.train, batch_size=32, epochs=task.epochs, verbose=0)
    path = folder / "by-hand.tflite"
    write_tfmot(model, path)
    print(
        f"\nby hand with tfmot and TFLiteConverter: "
        f"{path.stat().st_size:,} bytes, test accuracy "
        f"{quality(path, task):.4f}"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS))
    parser.add_argument("--singles", action="store_true")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in arguments.tasks:
        task = TASKS[name](arguments.out, arguments.data)
        if arguments.singles:
            singles(name, task, arguments.out, arguments.seeds)
            continue
        run(name, task, arguments.out)
        if name == "digits":
            by_hand(task, arguments.out)


if __name__ == "__main__":
    main()
