"""Recipes for keras-nlp models, from a folder on the disk."""

import numpy as np
import pytest

from kdtf.recipes.recipe_files.running import run_recipe
from kdtf.recipes.recipe_files.steps import load_model

RECIPE = """\
model: preset
data: {train: texts.npz, validation: 0.25}
loss: sparse_categorical_crossentropy
metrics: [accuracy]
steps:
  - shrink: {keep: 0.7, what: [depth]}
  - distil: {epochs: 1}
  - quantize_aware: {scheme: int4, epochs: 1}
  - export: {file: writer.tflite, quantize: int4}
"""


@pytest.mark.slow
def test_a_task_with_its_preprocessor_takes_arrays_as_they_are(
    tmp_path, rng, monkeypatch
):
    import keras_nlp

    tokenizer = keras_nlp.models.GPT2Tokenizer(
        vocabulary={"a": 0, "b": 1, "ab": 2, "<|endoftext|>": 3},
        merges=["a b"],
    )
    backbone = keras_nlp.models.GPT2Backbone(
        vocabulary_size=32,
        num_layers=2,
        num_heads=2,
        hidden_dim=8,
        intermediate_dim=16,
        max_sequence_length=8,
    )
    preprocessor = keras_nlp.models.GPT2CausalLMPreprocessor(tokenizer)
    model = keras_nlp.models.GPT2CausalLM(backbone, preprocessor=preprocessor)
    model.save_to_preset(str(tmp_path / "preset"))
    tokens = rng.integers(0, 32, size=(16, 9))
    np.savez(
        tmp_path / "texts.npz",
        token_ids=tokens[:, :-1],
        padding_mask=np.ones((16, 8), "int32"),
        y=tokens[:, 1:],
    )
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    result = run_recipe(path.name)
    assert [made.name for made in result.made] == [
        "1-shrink.keras",
        "2-distil.keras",
        "3-quantize_aware.keras",
        "writer.tflite",
    ]
    assert "quantize int4" in result.made[-1].result
    small = load_model(tmp_path / "out/2-distil.keras")
    assert small.backbone.num_layers == 1
    assert small.preprocessor.tokenizer.vocabulary_size() == 4
