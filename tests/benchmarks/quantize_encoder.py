"""Transformer encoders in int8 and int4: after training, trained, and float.

A keras-nlp BERT (4 layers x 128, from random weights) learns the topics of AG
News; then it is quantized after training and quantization-aware, beside the
float model trained equally long. Accuracy is Keras's on the simulation and
LiteRT's on the file (on --files articles); the speed is LiteRT's for one
article, next to the float file's in the same run.

    python tests/benchmarks/quantize_encoder.py --data ../shared/data

With --preset DIR, a folder with a pretrained BERT backbone such as
all-MiniLM-L6-v2, sentence embeddings (mean of the tokens') are compared
instead: mean cosine to the float ones, and how often the nearest neighbour
among the sentences is the same.
"""

import argparse
import os
import pathlib
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import keras_nlp
import numpy as np
import tensorflow as tf
from timing import describe
from timing import measure

import kdtf
from kdtf.litert import Runner

LENGTH, CLASSES = 64, 4
TABLE8 = {"*embedding*": "dynamic_int8", "*": "int4"}
AFTER = {
    "int8 (static)": ("int8", "nearest"),
    "dynamic_int8": ("dynamic_int8", "nearest"),
    "int4": ("int4", "nearest"),
    "int4 gptq": ("int4", "gptq"),
    "int4 gptq, tables int8": (TABLE8, "gptq"),
    "int4_block32": ("int4_block32", "nearest"),
}
TRAINED = ("int8", "dynamic_int8", "int4", "int4_block32")


def articles(path):
    lines = path.read_text().splitlines()
    pairs = [line.split("\t", 1) for line in lines]
    return [text for _, text in pairs], np.array([int(y) for y, _ in pairs])


def encode(tokenizer, texts):
    ids = np.zeros((len(texts), LENGTH), "int32")
    mask = np.zeros_like(ids)
    for row, text in enumerate(texts):
        found = np.asarray(tokenizer(text))[:LENGTH]
        ids[row, : len(found)] = found
        mask[row, : len(found)] = 1
    return {
        "token_ids": ids,
        "segment_ids": np.zeros_like(ids),
        "padding_mask": mask,
    }


def fit(model, data, rate, epochs, seed):
    x, y = data
    steps = epochs * -(-len(y) // 32)
    schedule = keras.optimizers.schedules.CosineDecay(rate, steps)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.AdamW(schedule), loss)
    keras.utils.set_random_seed(seed)
    batches = tf.data.Dataset.from_tensor_slices((x, y))
    batches = batches.shuffle(len(y), seed=seed).batch(32)
    # Keras would warn of its own default for datasets.
    model.fit(batches, epochs=epochs, verbose=0, shuffle=False)


def rows(x, start, stop):
    return {name: value[start:stop] for name, value in x.items()}


class Task:
    """What a model is measured on."""

    def __init__(self, test, labels, num_files):
        self.test, self.labels, self.num_files = test, labels, num_files
        self.float_outputs = None

    def quality(self, outputs):
        """Returns a number, and what it is called."""
        if self.labels is not None:
            hits = outputs.argmax(-1) == self.labels[: len(outputs)]
            return f"{hits.mean():9.2%}"
        mask = self.test["padding_mask"][: len(outputs), :, None]
        pooled = (outputs * mask).sum(1) / mask.sum(1)
        pooled /= np.linalg.norm(pooled, axis=-1, keepdims=True)
        if self.float_outputs is None:
            self.float_outputs = pooled
        before = self.float_outputs[: len(pooled)]
        same = nearest(pooled) == nearest(before)
        return f"{(pooled * before).sum(-1).mean():9.4f}{same.mean():9.1%}"


def nearest(vectors):
    """Returns the index of each row's most similar other row."""
    similar = vectors @ vectors.T
    np.fill_diagonal(similar, -1.0)
    return similar.argmax(-1)


def report(name, model, task, float_run, data):
    outputs = model.predict(task.test, batch_size=32, verbose=0)
    cells = f"{name:26}{task.quality(main_output(outputs))}"
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "model.tflite")
        try:
            result = kdtf.export_tflite(
                model,
                path,
                verify_data=rows(task.test, 0, 16),
                **({"representative_data": data} if data is not None else {}),
            )
        except kdtf.ExportError as error:
            print(f"{cells}  not exported: {error}", flush=True)
            return None
        runner = Runner(path)
        found = [
            main_output(runner(rows(task.test, index, index + 1)))[0]
            for index in range(task.num_files)
        ]
        one = rows(task.test, 0, 1)

        def run(times):
            for _ in range(times):
                runner(one)

        cells += f" {task.quality(np.array(found))}"
        cells += f"{result.size_bytes / 1e6:8.2f}{result.sqnr_db:8.1f}"
        if float_run:
            times = measure({"float": float_run, "this": run}, 9, 20)
            cells += f"  {describe(times[:, 0] / times[:, 1])}"
    print(cells, flush=True)
    return run


def main_output(outputs):
    """Returns the logits, or of a backbone the output for each token."""
    if isinstance(outputs, dict):
        outputs = max(outputs.values(), key=np.size)
    return np.asarray(outputs)


def classifier(tokenizer):
    backbone = keras_nlp.models.BertBackbone(
        vocabulary_size=tokenizer.vocabulary_size(),
        num_layers=4,
        num_heads=4,
        hidden_dim=128,
        intermediate_dim=512,
        max_sequence_length=LENGTH,
    )
    return keras_nlp.models.BertTextClassifier(
        backbone, num_classes=CLASSES, preprocessor=None
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--preset", type=pathlib.Path)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--more", type=int, default=2)
    parser.add_argument("--articles", type=int, default=2000)
    parser.add_argument("--files", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    keras.utils.set_random_seed(arguments.seed)
    texts, labels = articles(arguments.data / "text" / "ag_news_train8k.tsv")
    held_texts, held = articles(arguments.data / "text" / "ag_news_test.tsv")
    held_texts, held = (
        part[: arguments.articles] for part in (held_texts, held)
    )
    if arguments.preset:
        preset = str(arguments.preset)
        tokenizer = keras_nlp.models.BertTokenizer.from_preset(preset)
        model = keras_nlp.models.BertBackbone.from_preset(preset)
        held = None
    else:
        tokenizer = kdtf.data.train_tokenizer(
            "\n".join(texts), vocabulary_size=4000
        )
        model = classifier(tokenizer)
    train = encode(tokenizer, texts), labels
    task = Task(encode(tokenizer, held_texts), held, arguments.files)
    if not arguments.preset:
        fit(model, train, 1e-3, arguments.epochs, arguments.seed)
    weights = model.get_weights()
    calibration = rows(train[0], 0, 128)
    what = "cosine   nearest" if arguments.preset else "accuracy"
    print(
        f"{model.name}: {model.count_params():,} weights\n"
        f"{'':26}{what:>9} {'file':>9}{'MB':>8}{'dB':>8}  times as fast"
    )
    float_run = report("float", model, task, None, None)
    for name, (scheme, method) in AFTER.items():
        model.set_weights(weights)
        kdtf.quantize(model, scheme, calibration, method=method)
        data = calibration if scheme == "int8" else None
        report(name, model, task, float_run, data)
        kdtf.strip(model)
    if arguments.preset:
        return
    model.set_weights(weights)
    fit(model, train, 1e-4, arguments.more, arguments.seed)
    report("float, trained on", model, task, float_run, None)
    for scheme in TRAINED:
        model.set_weights(weights)
        kdtf.quantize_aware(model, scheme, data=calibration)
        fit(model, train, 1e-4, arguments.more, arguments.seed)
        data = calibration if scheme == "int8" else None
        report(f"{scheme} trained", model, task, float_run, data)
        kdtf.strip(model)


if __name__ == "__main__":
    main()
