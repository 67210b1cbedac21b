"""Other families and ways of storing: minutes, so `slow`."""

import keras_nlp
import numpy as np
import pytest
from test_language_model import LENGTH
from test_language_model import gpt2
from test_language_model import llama
from test_language_model import randomized
from test_language_model import tokens_of_keras

import kdtf
from kdtf.export.language_model import LanguageModelRunner
from kdtf.export.language_model import export_language_model

pytestmark = pytest.mark.slow
MODELS = keras_nlp.models


def llama3():
    return MODELS.Llama3CausalLM(
        MODELS.Llama3Backbone(64, 2, 4, 32, 48, 2, tie_word_embeddings=True),
        preprocessor=None,
    )


def mistral():
    backbone = MODELS.MistralBackbone(64, 2, 4, 32, 48, 2, sliding_window=8)
    return MODELS.MistralCausalLM(backbone, preprocessor=None)


def qwen3():
    backbone = MODELS.Qwen3Backbone(64, 2, 4, 2, 8, 32, 48)
    return MODELS.Qwen3CausalLM(backbone, preprocessor=None)


def gemma():
    backbone = MODELS.GemmaBackbone(64, 2, 4, 1, 32, 96, 8)
    return MODELS.GemmaCausalLM(backbone, preprocessor=None)


@pytest.mark.parametrize("make", [llama3, mistral, qwen3, gemma])
def test_every_family_writes_the_tokens_of_keras(tmp_path, make):
    model = randomized(make(), 0.2)
    result = export_language_model(
        model,
        tmp_path / "a.tflite",
        quantize=None,
        max_length=LENGTH,
        prefill_lengths=[4, 8],
    )
    assert result.sqnr_db > 80
    runner = LanguageModelRunner(result.path)
    for count in (1, 8, 9, 15):
        ids = np.random.default_rng(count).integers(0, 64, count).tolist()
        assert list(runner.generate_ids(ids)) == tokens_of_keras(model, ids)


@pytest.mark.parametrize("make", [gpt2, llama])
def test_fewer_bits_make_smaller_and_noisier_files(tmp_path, make):
    model = make()
    randomized(model, 0.1)
    sizes, ratios = [], []
    for mode in (None, "dynamic_int8", "int4_block32", "int4"):
        result = export_language_model(
            model,
            tmp_path / f"{mode}.tflite",
            quantize=mode,
            max_length=LENGTH,
            prefill_lengths=[4],
        )
        assert result.quantize == mode
        sizes.append(result.size_bytes)
        ratios.append(result.sqnr_db)
    # Block scales and names are much of so small a file.
    assert sizes[0] > 1.5 * max(sizes[1:]) and sizes[3] < sizes[1]
    assert ratios[0] > 80 > ratios[1] > 25 > min(ratios[2:]) > 6


def test_a_quantized_model_keeps_its_grid(tmp_path):
    model = randomized(llama(), 0.1)
    kdtf.quantize(model, "int4")
    with pytest.raises(ValueError, match="which is 'int4'"):
        export_language_model(
            model,
            tmp_path / "a.tflite",
            quantize="dynamic_int8",
            max_length=LENGTH,
        )
    result = export_language_model(
        model, tmp_path / "a.tflite", quantize="int4", max_length=LENGTH
    )
    # Keras computes with the same weights: what is left are activations.
    assert result.sqnr_db > 25 and result.token_agreement > 0.8


def test_a_pruned_model_keeps_its_zeros(tmp_path):
    model = randomized(llama(), 0.1)
    kdtf.prune(model, sparsity=0.5)
    dense = model.backbone.transformer_layers[0]._feedforward_gate_dense
    result = export_language_model(
        model, tmp_path / "a.tflite", quantize=None, max_length=LENGTH
    )
    assert np.mean(np.asarray(dense.kernel) == 0) == pytest.approx(
        0.5, abs=0.01
    )
    assert result.token_agreement == 1.0
