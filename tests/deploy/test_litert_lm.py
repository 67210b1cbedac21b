"""Bundles run in LiteRT-LM's engine and write what Keras writes."""

import keras_nlp
import numpy as np
import pytest

import kdtf
from kdtf.export.language_model import export_language_model
from kdtf.export.language_model import verification
from kdtf.export.language_model import worker

pytestmark = [pytest.mark.deploy, pytest.mark.slow]
LENGTH = 48
PROMPT = "the cat sat on the mat"


@pytest.fixture(scope="module")
def model():
    text = "the cat sat on the mat, the hat of the cat was flat. "
    backbone = keras_nlp.models.GPT2Backbone(
        280, 2, 2, 32, 64, dropout=0.0, max_sequence_length=LENGTH
    )
    preprocessor = keras_nlp.models.GPT2CausalLMPreprocessor(
        kdtf.data.train_tokenizer(text * 4, vocabulary_size=280),
        sequence_length=LENGTH,
    )
    result = keras_nlp.models.GPT2CausalLM(backbone, preprocessor)
    rng = np.random.default_rng(0)
    for weight in result.weights:
        if len(weight.shape) > 1:
            weight.assign(0.1 * rng.normal(size=weight.shape))
    return result


@pytest.mark.parametrize("quantize", [None, "dynamic_int8", "int4_block32"])
def test_the_engine_writes_the_tokens_of_the_interpreter(
    tmp_path, model, quantize
):
    result = export_language_model(
        model,
        tmp_path / "a.litertlm",
        quantize=quantize,
        max_length=LENGTH,
        prefill_lengths=[8],
        verify_prompts=[PROMPT, "the hat of the cat was flat. the cat"],
    )
    assert result.litert_lm == "wrote the same 32 tokens after 2 prompts"
    assert "LiteRT-LM: wrote" in str(result)
    assert [p.name for p in tmp_path.iterdir()] == ["a.litertlm"]
    if quantize is not None:
        return
    # Of a float file that is what Keras writes.
    assert result.token_agreement == 1.0
    ids = [0, *np.asarray(model.preprocessor.tokenizer(PROMPT)).tolist()]
    [written] = verification.written_by(model, [ids], max_length=LENGTH)
    [answer] = worker.engine_texts(result.path, [PROMPT], [written.tokens])
    assert answer["ids"] == ids[1:]
    assert answer["text"] == answer["expected"] != ""


def test_a_bundle_that_writes_something_else_is_refused(
    tmp_path, model, monkeypatch
):
    def other(*_args):
        return [{"ids": [1], "text": "b", "expected": "b"}]

    monkeypatch.setattr(verification, "engine_texts", other)
    with pytest.raises(kdtf.ExportError, match="as the tokens Keras reads"):
        export_language_model(
            model,
            tmp_path / "a.litertlm",
            quantize=None,
            max_length=LENGTH,
            prefill_lengths=[8],
            verify_prompts=[PROMPT],
        )
    assert not list(tmp_path.iterdir())
