"""Channels between the blocks of `keras_nlp` models, and their norms."""

import keras
import numpy as np
import pytest
from shrink_backbone_models import FAMILIES
from shrink_backbone_models import backbone
from shrink_backbone_models import inputs_of
from shrink_backbone_models import outputs
from shrink_backbone_models import zero_what_goes

import kdtf
from kdtf.backbones import backbone_of
from kdtf.pruning.shrinking.norms import energies
from kdtf.pruning.shrinking.norms import fit_gain
from kdtf.pruning.shrinking.sized import sized_parts

RMS = ("Llama", "Llama3", "Qwen", "Qwen3", "Gemma")
QUICK = ("Llama", "Gemma")


def families(names, quick):
    return [
        pytest.param(name, marks=() if name in quick else pytest.mark.slow)
        for name in names
    ]


def large(model):
    """Lets embeddings be so large that norms' epsilons are nothing."""
    table = backbone_of(model).token_embedding.embeddings
    table.assign(table.numpy() * 100)
    return model


def plan_of(model, x, keep=0.6):
    return kdtf.plan_shrink(model, keep, what=["hidden"], round_to=4, data=x)


def kept_channels(plan):
    channels, number = plan.removal.sized[0]
    assert channels.keys == {"hidden_dim": 16}
    return np.sort(channels.order[0, :number])


@pytest.mark.parametrize("family", families(RMS, QUICK))
def test_channels_of_zeros_go_and_rms_norms_change_nothing(family):
    model = large(backbone(family))
    x = inputs_of(model)
    zero_what_goes(plan_of(model, x))
    plan = plan_of(model, x)
    assert 0 < plan.widths[0].after < 16
    smaller = plan.build()
    (whole,), (found,) = outputs(model, x), outputs(smaller, x)
    np.testing.assert_allclose(
        found, whole[..., kept_channels(plan)], atol=2e-4
    )
    # Were the norms left alone they would give sqrt(16 / 8) or so less.
    assert np.abs(whole).max() > 1.0
    assert smaller.count_params() == plan.parameters[1]


def test_gemma_scores_tokens_as_before_with_a_larger_table():
    import keras_nlp

    model = keras_nlp.models.GemmaCausalLM(
        large(backbone("Gemma")), preprocessor=None
    )
    x = inputs_of(model)
    zero_what_goes(plan_of(model, x))
    plan = plan_of(model, x)
    smaller = plan.build()
    np.testing.assert_allclose(
        outputs(smaller, x)[0], outputs(model, x)[0], rtol=1e-4, atol=1e-4
    )
    assert type(smaller) is type(model)


@pytest.mark.parametrize("family", families(FAMILIES, ("Bert", "Qwen3")))
def test_what_stays_is_a_slice(family):
    model = backbone(family)
    plan = kdtf.plan_shrink(model, 0.6, what=["hidden"], round_to=4)
    smaller, kept = plan.build(), kept_channels(plan)
    old, new = (m.token_embedding.embeddings.numpy() for m in (model, smaller))
    # Gemma multiplies its embeddings by the root of their number.
    factor = np.sqrt(16 / len(kept)) if family == "Gemma" else 1.0
    np.testing.assert_allclose(new, old[:, kept] * factor, rtol=1e-6)
    blocks = [m.transformer_layers[1].weights for m in (model, smaller)]
    for before, after in zip(*blocks, strict=True):
        path = before.path
        if "feedforward_output_dense/kernel" in path or "ffw_linear" in path:
            np.testing.assert_array_equal(after, before.numpy()[:, kept])
            break
    else:
        raise AssertionError("no feed-forward seen")


def test_a_head_goes_with_its_channels():
    model = backbone("Bert", num_heads=4)
    # Three of 4 channels each are 12: no multiple of 8.
    coarse = kdtf.plan_shrink(model, 0.75, what=["hidden"])
    assert coarse.widths[0].after == 8
    plan = kdtf.plan_shrink(model, 0.75, what=["hidden"], round_to=4)
    smaller = plan.build()
    assert (smaller.num_heads, smaller.hidden_dim) == (3, 12)
    kept = kept_channels(plan)
    heads = plan.removal.sized[1][0].order
    for index, (old, new) in enumerate(
        zip(model.transformer_layers, smaller.transformer_layers, strict=True)
    ):
        query, smaller_query = (
            next(w for w in block.weights if "query/kernel" in w.path).numpy()
            for block in (old, new)
        )
        stay = np.sort(heads[index, :3])
        np.testing.assert_array_equal(smaller_query, query[kept][:, stay])
    pooled, smaller_pooled = (
        m.get_layer("pooled_dense").kernel.numpy() for m in (model, smaller)
    )
    np.testing.assert_array_equal(smaller_pooled, pooled[kept][:, kept])


def test_channels_go_by_all_that_follows_them():
    model = backbone("GPT2", num_layers=1)
    for weight in model.weights:
        weight.assign(np.zeros(weight.shape))
    # Kernels alone are scored: 3, and 4 and 1, by rows and columns.
    block = model.transformer_layers[0]
    read, written = (
        next(w for w in block.weights if part in w.path)
        for part in (
            "feedforward_intermediate_dense/kernel",
            "feedforward_output_dense/kernel",
        )
    )
    value = np.zeros((16, 24))
    value[2, 5], value[7, 0] = 3.0, 4.0
    read.assign(value)
    value = np.zeros((24, 16))
    value[0, 9], value[1, 2] = 1.0, 3.0
    written.assign(value)
    channels = sized_parts(model, "magnitude", None, ["hidden"])[0]
    # sqrt(9 + 9) of channel 2 is the most.
    assert channels.order[0, :3].tolist() == [2, 7, 9]


def test_energies_are_mean_squares_of_each_position_alike():
    model = backbone("Llama", num_layers=1, vocabulary_size=2)
    table = np.ones((2, 16), "float32")
    # Three quarters of a position's squares are in its first half; the
    # second token is a thousand times larger, and counts no more.
    table[0, :8] = np.sqrt(3.0)
    table[1] = 1000.0
    model.token_embedding.embeddings.assign(table)
    channels = sized_parts(model, "magnitude", None, ["hidden"])[0]
    x = {
        "token_ids": np.array([[0, 1]]),
        "padding_mask": np.ones((1, 2), "int32"),
    }
    block, others = energies(model, channels, x)
    expected = np.array([(1.5 + 1) / 2] * 8 + [(0.5 + 1) / 2] * 8)
    np.testing.assert_allclose(block[0], expected, rtol=1e-6)
    assert block.shape == (2, 16)
    assert others.shape == (1, 16)
    x["padding_mask"][0, 1] = 0
    alone = energies(model, channels, x)[0][0]
    np.testing.assert_allclose(alone, [1.5] * 8 + [0.5] * 8, rtol=1e-6)


def test_layer_norms_count_squares_without_the_mean():
    model = backbone("GPT2", num_layers=1, vocabulary_size=1)
    model.token_embedding.embeddings.assign([[5.0] * 8 + [9.0, 5.0] * 4])
    model.get_layer("position_embedding").position_embeddings.assign(
        np.zeros((6, 16))
    )
    channels = sized_parts(model, "magnitude", None, ["hidden"])[0]
    x = {
        "token_ids": np.zeros((1, 2), "int32"),
        "padding_mask": np.ones((1, 2), "int32"),
    }
    block, _ = energies(model, channels, x)
    # The mean is 6: squares of 1 and 9, whose mean is 3.
    expected = [1 / 3] * 8 + [3, 1 / 3] * 4
    np.testing.assert_allclose(block[0], expected, rtol=1e-5)


def test_a_gain_makes_up_for_what_the_norm_divides_by():
    norm = keras.layers.RMSNormalization(epsilon=0.0)
    norm.build((None, None, 2))
    norm.scale.assign([2.0, 4.0])
    fit_gain(norm, np.array([0.5, 0.5, 3.0, 0.0]), np.array([0, 2]))
    # Of a mean of 1 there is 1.75 in what is left.
    np.testing.assert_allclose(
        norm.scale, np.sqrt(1.75) * np.array([2.0, 4.0]), rtol=1e-6
    )


@pytest.mark.parametrize(
    ("family", "task"),
    [
        ("Roberta", "RobertaTextClassifier"),
        ("DistilBert", "DistilBertTextClassifier"),
    ],
)
def test_a_classifier_keeps_its_classes(family, task):
    import keras_nlp

    model = getattr(keras_nlp.models, task)(
        backbone(family), num_classes=3, preprocessor=None
    )
    x = inputs_of(model)
    plan = plan_of(model, x, 0.7)
    smaller = plan.build()
    assert outputs(smaller, x)[0].shape == (2, 3)
    assert smaller.count_params() == plan.parameters[1]
    assert backbone_of(smaller).hidden_dim == 8
    assert plan.macs[1] < plan.macs[0]


def test_what_scales_queries_by_the_channels_is_held():
    model = backbone("Gemma", query_head_dim_normalize=False)
    plan = kdtf.plan_shrink(model, 0.9, what=["width", "heads", "hidden"])
    assert set(plan.held) == {"heads", "hidden"}
    assert "held: hidden" in str(plan)
    assert plan.build().hidden_dim == 16
    with pytest.raises(ValueError, match="queries are scaled"):
        kdtf.plan_shrink(model, 0.9, what=["hidden"])


def test_shares_of_kinds_are_told():
    model = backbone("Gemma", num_layers=4)
    shares = {"width": 0.5, "hidden": 0.5, "depth": 0.5, "heads": 0.5}
    plan = kdtf.plan_shrink(model, shares, round_to=2)
    smaller = plan.build()
    assert (smaller.num_layers, smaller.hidden_dim) == (2, 8)
    assert (smaller.num_query_heads, smaller.num_key_value_heads) == (2, 1)
    # It says 24, and has half of them: 6 of 12.
    assert smaller.intermediate_dim == 12
    assert plan.keep is None
    assert "asked for" not in str(plan)


def test_shares_of_one_leave_a_model_as_it_is():
    model = backbone("GPT2")
    x = inputs_of(model)
    same = kdtf.shrink(model, {"width": 1.0, "depth": 1.0})
    np.testing.assert_array_equal(outputs(same, x)[0], outputs(model, x)[0])


@pytest.mark.parametrize(
    ("keep", "match"),
    [
        ({}, "must be a number in"),
        ({"width": 0.0}, "must be a number in"),
        ({"width": "half"}, "must be a number in"),
        ({"transformer_layer_0": 0.5}, "fit none of"),
        ({"heads": 0.5, "width": 0.5}, "`keep` must name what"),
    ],
)
def test_wrong_shares_are_refused(keep, match):
    with pytest.raises(ValueError, match=match):
        kdtf.shrink(backbone("Bert"), keep)
