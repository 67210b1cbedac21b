"""A pretrained encoder, fine-tuned, teaches one of a fifth of its size.

all-MiniLM-L6-v2 (22.7M parameters) learns the topics of AG News. Students of
3 layers x 128 (4.5M, most of them embeddings, which start as the teacher's
projected to their width) are then trained on the same 8,000 articles: on the
labels alone, from the teacher's cached logits, and with one pass of matching
hidden states and attention relations before that. Accuracy on the test set
over --seeds, and the share of the teacher's that is kept.

    python tests/benchmarks/distill_encoder.py --preset DIR --data DIR --out DIR
"""

import argparse
import os
import pathlib
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import keras_nlp
import numpy as np
import tensorflow as tf
from quantize_encoder import CLASSES
from quantize_encoder import LENGTH
from quantize_encoder import articles
from quantize_encoder import encode

import kdtf
from kdtf.distillation import AttentionRelations
from kdtf.distillation import HiddenStates


def batches(data, seed=None):
    pairs = tf.data.Dataset.from_tensor_slices(data)
    if seed is not None:
        pairs = pairs.shuffle(len(data[1]), seed=seed)
    return pairs.batch(32, drop_remainder=seed is not None)


def fit(model, data, *, rate, epochs):
    steps = epochs * int(data.cardinality())
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, steps, warmup_target=rate, warmup_steps=steps // 10
    )
    model.compile(
        keras.optimizers.AdamW(schedule, global_clipnorm=1.0),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.fit(data, epochs=epochs, verbose=0, shuffle=False)


def accuracy(model, test):
    x, y = test
    return (model.predict(x, batch_size=64, verbose=0).argmax(-1) == y).mean()


def trained_teacher(arguments, train):
    path = arguments.out / "teacher.keras"
    if not path.exists():
        keras.utils.set_random_seed(0)
        backbone = keras_nlp.models.BertBackbone.from_preset(
            str(arguments.preset)
        )
        model = keras_nlp.models.BertTextClassifier(
            backbone, num_classes=CLASSES, preprocessor=None
        )
        fit(model, batches(train, seed=0), rate=1e-4, epochs=1)
        model.save(path)
    return keras.saving.load_model(path)


def new_student(teacher, seed):
    keras.utils.set_random_seed(seed)
    backbone = keras_nlp.models.BertBackbone(
        vocabulary_size=teacher.backbone.vocabulary_size,
        num_layers=3,
        num_heads=4,
        hidden_dim=128,
        intermediate_dim=512,
        max_sequence_length=LENGTH,
    )
    table = teacher.backbone.token_embedding.embeddings
    own = backbone.token_embedding.embeddings
    own.assign(projected(np.asarray(table), own.shape[1]))
    return keras_nlp.models.BertTextClassifier(
        backbone, num_classes=CLASSES, preprocessor=None
    )


def projected(table, width):
    """Returns the rows' principal components, as spread as the rows."""
    centred = table - table.mean(0)
    _, directions = np.linalg.eigh(centred.T @ centred)
    parts = centred @ directions[:, -width:]
    return parts * table.std() / parts.std()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", type=pathlib.Path, required=True)
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--articles", type=int, default=8000)
    parser.add_argument("--tests", type=int, default=7600)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--temperature", type=float, default=2.0)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    tokenizer = keras_nlp.models.BertTokenizer.from_preset(
        str(arguments.preset)
    )
    parts = []
    for name, count in (
        ("train8k", arguments.articles),
        ("test", arguments.tests),
    ):
        texts, labels = articles(
            arguments.data / "text" / f"ag_news_{name}.tsv"
        )
        # Spread over the file, which is sorted by topic.
        every = slice(None, None, max(1, len(texts) // count))
        parts.append((encode(tokenizer, texts[every]), labels[every]))
    train, test = parts
    teacher = trained_teacher(arguments, train)
    top = accuracy(teacher, test)
    print(f"teacher {top:.4f}, {teacher.count_params():,} parameters")
    start = time.perf_counter()
    cache = kdtf.cache_teacher(
        teacher, batches(train), arguments.out / "cache", verbose=0
    )
    print(f"cached {len(cache)} articles, {time.perf_counter() - start:.0f} s")

    def distiller(source, student, **kwargs):
        return kdtf.Distiller(
            source, student, temperature=arguments.temperature, **kwargs
        )

    def alone(student, data):
        fit(student, data, rate=arguments.rate, epochs=arguments.epochs)

    def from_cache(student, data):
        alone(distiller(cache, student, alpha=0.1), cache.attach(data))

    def from_features(student, data):
        features = [
            HiddenStates(layers="uniform"),
            AttentionRelations(layers="last", relation_heads=4),
        ]
        model = distiller(teacher, student, alpha=0.1, features=features)
        fit(model, data, rate=arguments.rate, epochs=1)
        from_cache(student, data)

    ways = {
        "alone": alone,
        "logits, cached": from_cache,
        "features, then cached": from_features,
    }
    print(f"{'student':24}{'accuracy':>10}{'kept':>8}  {'each':26}{'s':>6}")
    for name, train_student in ways.items():
        found, start = [], time.perf_counter()
        for seed in arguments.seeds:
            student = new_student(teacher, seed)
            train_student(student, batches(train, seed=seed))
            found.append(accuracy(student, test))
        each = ", ".join(f"{value:.4f}" for value in found)
        seconds = (time.perf_counter() - start) / len(found)
        mean = np.mean(found)
        print(
            f"{name:24}{mean:10.4f}{mean / top:8.1%}  {each:26}{seconds:6.0f}",
            flush=True,
        )
    print(f"a student has {student.count_params():,} parameters")


if __name__ == "__main__":
    main()
