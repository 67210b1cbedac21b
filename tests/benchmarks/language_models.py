"""Language models that benchmarks measure, and what they are measured on."""

import pathlib
import subprocess
import sys

import keras
import keras_nlp
import numpy as np
import tokenizers

import kdtf


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


def add_arguments(parser, out):
    """Adds what `load` needs to the options of a script."""
    parser.add_argument("--preset", type=pathlib.Path)
    parser.add_argument("--data", type=pathlib.Path)
    parser.add_argument("--calibration", type=int, default=32)
    parser.add_argument("--windows", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(out))


def load(parser, arguments):
    """Returns a model, windows to learn from, and windows to test on."""
    if arguments.preset and not arguments.data:
        parser.error("--preset needs --data, the folder that has lm/test.txt")
    return (preset_model if arguments.preset else demo_model)(arguments)
