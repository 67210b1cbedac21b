"""The README's blocks about language models run, in order, as they stand."""

import re

import pytest
from test_readme import blocks
from test_readme import check_zeros
from test_readme import classifier
from test_readme import is_of_language_models


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
def namespace(rng):
    """What a reader brings along, and has from the blocks before."""
    namespace = {
        "student": classifier(4),
        "teacher_lm": language_model(16),
        "student_lm": language_model(8),
        "token_ids": rng.integers(0, 32, size=500),
    }
    first = blocks("python")[0]
    kept = re.findall(r"^(?:import|loss =) .*$", first, flags=re.MULTILINE)
    exec("\n".join(kept), namespace)
    assert set(namespace) >= {"keras", "kdtf", "loss"}
    return namespace


@pytest.mark.slow
def test_python_blocks_run(namespace, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stripped = False
    for block in filter(is_of_language_models, blocks("python")):
        exec(compile(block, "README.md", "exec"), namespace)
        if "kdtf.strip(student_lm)" in block:
            check_zeros(namespace["student_lm"], 0.5)
            stripped = True
    assert stripped
    assert {path.name for path in tmp_path.iterdir()} == {
        "app",
        "cache",
        "lm.tflite",
        "lm-int4.tflite",
        "pruned.tflite",
        "served",
        "shapes.tflite",
        "writer.tflite",
    }
    assert len(namespace["next_tokens"]) == 8
