"""The finite softmax mask, on small encoders."""

import contextlib

import keras
import numpy as np
import pytest

from kdtf.export import build
from kdtf.export import export_tflite
from kdtf.export import masks
from kdtf.flatbuffer import describe


@pytest.fixture(params=[0.1, 0.0], ids=["softmax layer", "fused attention"])
def encoder(request):
    """Keras takes another way through attention without dropout."""
    import keras_nlp

    backbone = keras_nlp.models.BertBackbone(
        vocabulary_size=32,
        num_layers=2,
        num_heads=2,
        hidden_dim=16,
        intermediate_dim=32,
        max_sequence_length=8,
        dropout=request.param,
    )
    return keras_nlp.models.BertTextClassifier(
        backbone, num_classes=3, preprocessor=None
    )


@pytest.fixture
def sentences(token_ids):
    return {**token_ids, "segment_ids": np.zeros((12, 8), "int32")}


def test_float_outputs_stay_the_same(encoder, sentences):
    before = np.asarray(encoder(sentences))
    with masks.finite_masks():
        during = np.asarray(encoder(sentences))
    assert np.abs(during - before).max() < 1e-5


def test_masked_scores_are_finite_in_the_block_only():
    softmax = keras.layers.Softmax()
    scores = np.array([[0.0, 10.0, 0.0]], "float32")
    mask = np.array([[True, False, False]])
    with masks.finite_masks():
        # Scores under the mask would show it.
        low = np.asarray(softmax(scores - 31, mask=mask))
    np.testing.assert_allclose(low[0, 0], 1 / (1 + 2 * np.e), rtol=1e-5)
    high = np.asarray(softmax(scores - 31, mask=mask))
    np.testing.assert_allclose(high[0, 0], 1.0)


def test_masks_come_back_after_an_error():
    from keras.src.layers.activations import softmax

    with pytest.raises(RuntimeError, match="in the block"):
        with masks.finite_masks():
            assert float(softmax._large_negative_number("float32")) == -30.0
            raise RuntimeError("in the block")
    assert softmax._large_negative_number("float32") == -1e9


def test_legacy_softmax_is_reached():
    import tf_keras

    scores = np.array([[-31.0, 0.0]], "float32")
    mask = np.array([[1.0, 0.0]], "float32")
    with masks.finite_masks():
        low = tf_keras.layers.Softmax()(scores, mask)
    np.testing.assert_allclose(low[0, 0], 1 / (1 + np.e), rtol=1e-5)


@pytest.mark.slow
def test_an_encoder_survives_int8(encoder, sentences, tmp_path, monkeypatch):
    arguments = {"quantize": "int8", "representative_data": sentences}
    result = export_tflite(encoder, tmp_path / "b.tflite", **arguments)
    assert result.sqnr_db > 25
    assert result.argmax_agreement > 0.9
    scales = [t.scale for t in describe(result.path).tensors if t.scale]
    assert max(scales) < 1
    # LayerNormalization's negation is what the converter leaves.
    assert {found.operator for found in result.float_reasons} == {"NEG"}
    assert "stayed float: NEG '" in str(result)

    monkeypatch.setattr(build, "finite_masks", contextlib.nullcontext)
    with pytest.raises(ValueError, match="int8 step of .*softmax mask"):
        export_tflite(encoder, tmp_path / "b.tflite", **arguments)
