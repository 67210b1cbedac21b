import keras
import numpy as np
import pytest

from kdtf.distillation.features import AttentionMaps
from kdtf.distillation.features import Capture
from kdtf.distillation.features import attention
from kdtf.distillation.features import mapping

TIME = 6


def captured(model, path, x, roles=("attention", "query", "key", "value")):
    found = attention.find_attention(model, path)
    with Capture(model, found.values()) as records:
        model(x, training=False)
    return {role: records[found[role]] for role in roles}


def probabilities(records, padding_mask=None):
    scores, mask = attention.scores_and_mask(records, padding_mask)
    return np.exp(attention.log_probabilities(scores, mask))


def mistral():
    from keras_nlp import models

    return models.MistralCausalLM(
        models.MistralBackbone(
            vocabulary_size=40,
            num_layers=2,
            num_query_heads=4,
            num_key_value_heads=2,
            hidden_dim=16,
            intermediate_dim=8,
            sliding_window=2,
        ),
        preprocessor=None,
    )


def qwen(**kwargs):
    from keras_nlp import models

    return models.QwenCausalLM(
        models.QwenBackbone(
            vocabulary_size=40,
            num_layers=2,
            num_query_heads=4,
            num_key_value_heads=2,
            hidden_dim=16,
            intermediate_dim=8,
            **kwargs,
        ),
        preprocessor=None,
    )


def qwen3(**kwargs):
    from keras_nlp import models

    return models.Qwen3CausalLM(
        models.Qwen3Backbone(
            vocabulary_size=40,
            num_layers=2,
            num_query_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            hidden_dim=16,
            intermediate_dim=8,
            **kwargs,
        ),
        preprocessor=None,
    )


def gemma():
    from keras_nlp import models

    return models.GemmaCausalLM(
        models.GemmaBackbone(
            vocabulary_size=40,
            num_layers=2,
            num_query_heads=4,
            num_key_value_heads=2,
            hidden_dim=16,
            intermediate_dim=8,
            head_dim=4,
        ),
        preprocessor=None,
    )


@pytest.mark.parametrize(
    "family", ["bert", "gpt2", "llama", mistral, qwen, qwen3]
)
def test_maps_are_those_the_attention_used(family, makers, tokens):
    model = makers.get(family, family)()
    x = tokens(family)
    path = mapping.blocks(model)[-1]
    records = captured(model, path, x)
    maps = probabilities(records)
    value = np.array(records["value"].output)
    groups = maps.shape[1] // value.shape[2]
    value = value.repeat(groups, axis=2)
    mixed = np.einsum("bhqk,bkhd->bqhd", maps, value)
    layer = records["attention"].layer
    expected = layer._output_dense(mixed.astype("float32"))
    real = x["padding_mask"].astype(bool)
    np.testing.assert_allclose(
        np.array(records["attention"].output)[real],
        np.array(expected)[real],
        rtol=1e-4,
        atol=1e-5,
    )
    # Something had to be masked, or this would prove half of it.
    assert (maps[:, :, 0, 4:] == 0).all()
    assert (maps[:, :, 0, 1:4] == 0).all() == (family != "bert")


@pytest.mark.parametrize("causal", [False, True])
def test_maps_are_the_scores_keras_returns(causal, rng):
    inputs = keras.Input((TIME, 5))
    mixer = keras.layers.MultiHeadAttention(3, 4, name="mixer")
    outputs, scores = mixer(
        inputs, inputs, return_attention_scores=True, use_causal_mask=causal
    )
    model = keras.Model(inputs, [outputs, scores])
    x = rng.normal(size=(2, TIME, 5)).astype("float32")
    records = captured(model, "mixer", x)
    np.testing.assert_allclose(
        probabilities(records), model(x)[1], rtol=1e-5, atol=1e-6
    )


def test_maps_of_grouped_heads_are_the_scores_keras_returns(rng):
    inputs = keras.Input((TIME, 5))
    mixer = keras.layers.GroupQueryAttention(4, 4, 2, name="mixer")
    outputs, scores = mixer(
        inputs, inputs, return_attention_scores=True, use_causal_mask=True
    )
    model = keras.Model(inputs, [outputs, scores])
    x = rng.normal(size=(2, TIME, 5)).astype("float32")
    records = captured(model, "mixer", x)
    np.testing.assert_allclose(
        probabilities(records), model(x)[1], rtol=1e-5, atol=1e-6
    )


def test_masks_that_keras_hands_on_are_kept(rng):
    inputs = keras.Input((TIME,), dtype="int32")
    embedded = keras.layers.Embedding(9, 5, mask_zero=True)(inputs)
    mixer = keras.layers.MultiHeadAttention(1, 4, name="mixer")
    model = keras.Model(inputs, mixer(embedded, embedded))
    records = captured(model, "mixer", np.array([[1, 2, 3, 0, 0, 0]]))
    _, mask = attention.scores_and_mask(records)
    real = np.array([1, 1, 1, 0, 0, 0], bool)
    expected = np.broadcast_to(real[:, None] & real[None], (1, 1, 6, 6))
    np.testing.assert_array_equal(mask, expected)


def test_padding_counts_for_queries_and_keys(makers, tokens):
    model, x = makers["gpt2"](), tokens("gpt2")
    path = mapping.blocks(model)[0]
    records = captured(model, path, x)
    _, mask = attention.scores_and_mask(records, x["padding_mask"])
    real = x["padding_mask"].astype(bool)
    expected = np.tril(np.ones((TIME, TIME), bool))
    expected = expected & real[:, :, None] & real[:, None]
    np.testing.assert_array_equal(mask, expected[:, None])


def test_mean_over_heads_is_the_mean_of_probabilities(rng):
    scores = rng.normal(size=(2, 3, 4, 4)).astype("float32")
    mask = np.tril(np.ones((4, 4), bool))
    logs = attention.log_probabilities(scores, mask)
    expected = np.exp(logs).mean(1, keepdims=True)
    np.testing.assert_allclose(
        np.exp(attention.mean_over_heads(logs)), expected, rtol=1e-5
    )


@pytest.mark.parametrize("make", [gemma, qwen, qwen3])
def test_projections_are_found_in_other_families(make, tokens):
    model = make()
    path = mapping.blocks(model)[0]
    records = captured(model, path, tokens("gemma"))
    heads = [
        records[role].output.shape[2] for role in ("query", "key", "value")
    ]
    assert heads == [4, 2, 2]


def test_queries_of_qwen3_are_taken_after_their_norm():
    model = qwen3()
    found = attention.find_attention(model, mapping.blocks(model)[0])
    assert "norm" in found["query"] and "norm" in found["key"]


def test_cross_attention_is_left_out():
    import keras_nlp

    decoder = keras_nlp.layers.TransformerDecoder(8, 2, name="decoder")
    x, memory = keras.Input((TIME, 8)), keras.Input((TIME, 8))
    model = keras.Model([x, memory], decoder(x, memory))
    found = attention.find_attention(model, "decoder")
    assert found["attention"] == "decoder/self_attention"
    assert found["query"] == "decoder/self_attention/query"


def test_a_layer_without_one_attention_is_refused(makers):
    model = makers["gpt2"]()
    name = model.backbone.name
    with pytest.raises(
        ValueError, match=f"'{name}/embeddings_add'.*holds none"
    ):
        attention.find_attention(model, f"{name}/embeddings_add")
    with pytest.raises(ValueError, match="layer_0/self.*layer_1/self"):
        attention.find_attention(model, name)


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (gemma, "CachedGemmaAttention"),
        (
            lambda: qwen(use_sliding_window_attention=True),
            "QwenAttention",
        ),
        (lambda: qwen3(sliding_window_size=2), "Qwen3Attention"),
    ],
)
def test_maps_that_would_be_wrong_are_refused(make, kind):
    model = make()
    path = mapping.blocks(model)[0]
    with pytest.raises(ValueError, match=f"{kind} at .*AttentionRelations"):
        AttentionMaps().taps(model, path)


def test_a_window_of_kerass_own_is_refused():
    inputs = keras.Input((TIME, 5))
    mixer = keras.layers.MultiHeadAttention(
        1, 4, name="mixer", sliding_window=2
    )
    model = keras.Model(inputs, mixer(inputs, inputs))
    with pytest.raises(ValueError, match="MultiHeadAttention at 'mixer'"):
        AttentionMaps().taps(model, "mixer")
