"""MediaPipe Tasks run our files as they are, and give Keras's scores.

MediaPipe cannot be installed beside tensorflow-model-optimization (absl-py),
so that it runs in the interpreter that MEDIAPIPE_PYTHON names.
"""

import json
import os
import pathlib
import subprocess

import keras
import numpy as np
import pytest

from kdtf.export import ImageMetadata
from kdtf.export import Metadata
from kdtf.export import TextMetadata
from kdtf.export import export_tflite

pytestmark = [pytest.mark.deploy, pytest.mark.slow]

SCRIPT = pathlib.Path(__file__).with_name("mediapipe_script.py")
LABELS = ["round", "eckig", "oval", "spitz"]
TEXTS = [
    "the cats run!",
    "THE dog, the Cat.",
    " ".join(["dogs"] * 20),
    "",
    "unknown words run",
    "dog-cats run?",
]
TOKENS = "[PAD] [UNK] [CLS] [SEP] [MASK] the cat dog ##s ! run - . , ?".split()


@pytest.fixture
def ask():
    """Runs one task in MediaPipe's interpreter; gives its answers."""
    python = os.environ.get("MEDIAPIPE_PYTHON")
    assert python, (
        "MEDIAPIPE_PYTHON must name a Python that has mediapipe (1.2 was "
        "tried), in a virtual environment of its own"
    )

    def run(task, path, *arguments):
        done = subprocess.run(
            [python, str(SCRIPT), task, str(path), *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=300,
            # Not our packages: the two environments do not mix.
            env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout.splitlines()[-1])

    return run


@pytest.fixture
def pixels(rng, tmp_path):
    """Pictures of the model's own size, so that nothing is resized."""
    pixels = rng.integers(0, 256, size=(12, 16, 12, 3)).astype("uint8")
    np.save(tmp_path / "pixels.npy", pixels)
    return pixels


def make_cnn(*, dtype="float32", activation="softmax"):
    inputs = keras.Input((16, 12, 3), name="image", dtype=dtype)
    x = inputs
    if dtype == "uint8":
        x = keras.layers.Rescaling(1 / 127.5, -1.0)(x)
    x = keras.layers.Conv2D(8, 3, activation="relu")(x)
    x = keras.layers.Flatten()(x)
    return keras.Model(inputs, keras.layers.Dense(4, activation=activation)(x))


def scores_of(answers, num_classes):
    """Gives scores in the order of the classes."""
    scores = np.full((len(answers), num_classes), np.nan)
    for row, answer in zip(scores, answers, strict=True):
        for index, _, score in answer:
            row[index] = score
    return scores


def labels_of(answers):
    return {index: label for answer in answers for index, label, _ in answer}


@pytest.mark.parametrize(
    "mode, mean, std, tolerance",
    [
        (None, 127.5, 127.5, 1e-5),
        (None, [120.0] * 3, [60.0] * 3, 1e-5),
        # An int8 step of a score is 1/256; the ranges cost two more.
        ("int8", 127.5, 127.5, 0.012),
    ],
)
def test_pictures_get_keras_scores_and_our_labels(
    ask, pixels, tmp_path, mode, mean, std, tolerance
):
    model = make_cnn()
    x = (pixels - np.float32(mean)) / np.float32(std)
    path = tmp_path / "cnn.tflite"
    export_tflite(
        model,
        path,
        quantize=mode,
        representative_data=x,
        metadata=ImageMetadata(labels=LABELS, mean=mean, std=std),
    )
    answers = ask("image", path, tmp_path / "pixels.npy")
    wanted = np.asarray(model(x))
    np.testing.assert_allclose(scores_of(answers, 4), wanted, atol=tolerance)
    assert labels_of(answers) == dict(enumerate(LABELS))
    for answer, row in zip(answers, wanted, strict=True):
        top_two = np.sort(row)[-2:]
        if top_two[1] - top_two[0] > 2 * tolerance:
            assert answer[0][1] == LABELS[row.argmax()]


def test_logits_come_as_they_are(ask, pixels, tmp_path):
    model = make_cnn(activation=None)
    x = pixels.astype("float32")
    path = tmp_path / "cnn.tflite"
    export_tflite(
        model, path, verify_data=x, metadata=ImageMetadata(mean=0, std=1)
    )
    answers = ask("image", path, tmp_path / "pixels.npy")
    wanted = np.asarray(model(x))
    assert np.abs(wanted).max() > 1
    np.testing.assert_allclose(scores_of(answers, 4), wanted, rtol=1e-4)


def test_pixels_are_taken_as_bytes(ask, pixels, tmp_path):
    model = make_cnn(dtype="uint8")
    path = tmp_path / "cnn.tflite"
    said = ImageMetadata(labels=LABELS)
    export_tflite(model, path, verify_data=pixels, metadata=said)
    answers = ask("image", path, tmp_path / "pixels.npy")
    wanted = np.asarray(model(pixels))
    np.testing.assert_allclose(scores_of(answers, 4), wanted, atol=1e-5)


@pytest.fixture(scope="module")
def bert():
    """A tiny BERT whose scores differ from text to text."""
    import keras_nlp

    keras.utils.set_random_seed(0)
    tokenizer = keras_nlp.models.BertTokenizer(
        vocabulary=TOKENS, lowercase=True
    )
    preprocessor = keras_nlp.models.BertTextClassifierPreprocessor(
        tokenizer, sequence_length=12
    )
    backbone = keras_nlp.models.BertBackbone(
        vocabulary_size=len(TOKENS),
        num_layers=2,
        num_heads=2,
        hidden_dim=16,
        intermediate_dim=32,
        max_sequence_length=12,
    )
    model = keras_nlp.models.BertTextClassifier(
        backbone=backbone,
        preprocessor=preprocessor,
        num_classes=3,
        activation="softmax",
    )
    rng = np.random.default_rng(0)
    for weight in model.weights:
        if weight.shape.rank != 1:
            weight.assign(weight + rng.normal(size=weight.shape, scale=0.3))
    return model


@pytest.mark.parametrize(
    # Dynamic int8 against float: the error that the export measured itself.
    "mode, tolerance",
    [(None, 1e-5), ("dynamic_int8", 0.03)],
)
def test_texts_get_keras_scores_and_our_labels(
    ask, bert, tmp_path, mode, tolerance
):
    path = tmp_path / "bert.tflite"
    labels = ["no", "so so", "yes"]
    export_tflite(
        bert,
        path,
        quantize=mode,
        verify_data=bert.preprocessor(TEXTS),
        metadata=TextMetadata(labels=labels),
    )
    answers = ask("text", path, *TEXTS)
    wanted = bert.predict(TEXTS, verbose=0)
    # Else a tokenizer that always gives [UNK] would pass.
    assert np.ptp(wanted, axis=0).max() > 10 * tolerance
    np.testing.assert_allclose(scores_of(answers, 3), wanted, atol=tolerance)
    assert labels_of(answers) == dict(enumerate(labels))


def test_mediapipes_own_schema_reads_what_we_write(ask, tmp_path):
    path = tmp_path / "cnn.tflite"
    said = ImageMetadata(
        name="shapes",
        description="what shape it is",
        version="7",
        author="me",
        license="MIT",
        labels=LABELS,
        mean=127.5,
        std=[64.0],
    )
    export_tflite(make_cnn(), path, metadata=said)
    assert ask("schema", path) == {
        "name": "shapes",
        "description": "what shape it is",
        "version": "7",
        "author": "me",
        "license": "MIT",
        "parser": "1.0.0",
        "inputs": ["image"],
        "outputs": ["output_0"],
        "size": [12, 16],
        "color_space": "RGB",
        "mean": [127.5],
        "std": [64.0],
        "files": ["labels.txt"],
    }


def test_without_our_metadata_it_does_not_run(ask, tmp_path):
    path = tmp_path / "cnn.tflite"
    export_tflite(make_cnn(), path, metadata=Metadata(name="plain"))
    np.save(tmp_path / "one.npy", np.zeros((1, 16, 12, 3), "uint8"))
    with pytest.raises(AssertionError, match="[Mm]etadata"):
        ask("image", path, tmp_path / "one.npy")
