"""Every Python block of the README runs, in order, as it stands there."""

import pathlib
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import kdtf

README = pathlib.Path(__file__).parent.parent / "README.md"


def blocks(language):
    pattern = rf"```{language}\n(.*?)```"
    return re.findall(pattern, README.read_text(), flags=re.DOTALL)


def classifier(width):
    layers = keras.layers
    hidden = layers.Conv2D(width, 3, activation="relu")
    pool = layers.GlobalAveragePooling2D()
    image = keras.Input((8, 8, 1), name="image")
    return keras.Sequential([image, hidden, pool, layers.Dense(4)])


def language_model(width):
    import keras_nlp

    backbone = keras_nlp.models.GPT2Backbone(
        vocabulary_size=32,
        num_layers=1,
        num_heads=2,
        hidden_dim=width,
        intermediate_dim=16,
        max_sequence_length=64,
    )
    return keras_nlp.models.GPT2CausalLM(backbone, preprocessor=None)


@pytest.fixture
def namespace(batch, rng):
    """What a reader brings along: models and data."""
    data = tf.data.Dataset.from_tensor_slices(batch).batch(8)
    return {
        "teacher": classifier(16),
        "student": classifier(4),
        "train": data,
        "test": data,
        "teacher_lm": language_model(16),
        "student_lm": language_model(8),
        "token_ids": rng.integers(0, 32, size=500),
    }


def test_python_blocks_run(namespace, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    found = blocks("python")
    assert len(found) == 9
    stripped = []
    for block in found:
        exec(compile(block, "README.md", "exec"), namespace)
        if "student.save(" in block:
            weights = namespace["student"].get_weights()
        for name, sparsity in (("student", 0.8), ("student_lm", 0.5)):
            if f"kdtf.strip({name})" in block:
                check_zeros(namespace[name], sparsity)
                stripped.append(name)
    assert stripped == ["student", "student_lm"]
    printed = capsys.readouterr().out
    assert "student.tflite" in printed and "on the phone" in printed
    written = {path.name for path in tmp_path.iterdir()}
    assert written == {
        "app",
        "cache",
        "lm.tflite",
        "lm-int4.tflite",
        "pruned.tflite",
        "report.html",
        "served",
        "shapes.tflite",
        "student.keras",
        "student.tflite",
        "student-int8.tflite",
        "study.log",
        "writer.tflite",
    }
    assert len(namespace["next_tokens"]) == 8
    assert namespace["found"].best.values["bytes"] <= 4000
    loaded = keras.saving.load_model(tmp_path / "student.keras")
    for a, b in zip(weights, loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def check_zeros(model, sparsity):
    report = kdtf.sparsity_report(model)
    pruned = [k for k in report.kernels if k.note or k.sparsity > 0.4]
    assert pruned
    for kernel in pruned:
        # Kernels this small round their share.
        assert abs(kernel.sparsity - sparsity) < 0.05, kernel


def test_commands_exist_with_their_options():
    from kdtf.cli import main
    from kdtf.cli import make_parser

    listed = [
        line.split()
        for block in blocks("bash")
        for line in block.splitlines()
        if line.startswith("kdtf ")
    ]
    assert {words[1] for words in listed} == {
        "inspect",
        "export",
        "benchmark",
        "search",
    }
    for words in listed:
        if words[1] == "search":
            # It would begin.
            assert make_parser().parse_args(words[1:]).workers == 2
            continue
        # The files do not exist: a clean error, not one about the options.
        assert main([*words[1:]]) == 2
