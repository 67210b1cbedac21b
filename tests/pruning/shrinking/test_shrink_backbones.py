"""`keras_nlp` models: exact for what is zero, in every family."""

import keras
import numpy as np
import pytest
from shrink_backbone_models import FAMILIES
from shrink_backbone_models import QUICK
from shrink_backbone_models import backbone
from shrink_backbone_models import inputs_of
from shrink_backbone_models import outputs
from shrink_backbone_models import zero_what_goes

import kdtf
from kdtf.pruning.shrinking.blocks import axes_of
from kdtf.pruning.shrinking.blocks import block_influence


@pytest.mark.parametrize(
    "family",
    [
        pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
        for name in FAMILIES
    ],
)
def test_zeros_go_and_nothing_changes(family):
    model = backbone(family)
    x = inputs_of(model)
    plan = kdtf.plan_shrink(model, 0.8, what=["width", "heads"], round_to=4)
    assert any(width.after < width.before for width in plan.widths)
    before = outputs(model, x)
    zero_what_goes(plan)
    whole = outputs(model, x)
    smaller = plan.build()
    for left, right in zip(whole, outputs(smaller, x), strict=True):
        np.testing.assert_allclose(right, left, atol=1e-6)
    assert (
        max(np.abs(a - b).max() for a, b in zip(before, whole, strict=True))
        > 1e-4
    )
    assert smaller.count_params() == plan.parameters[1]
    assert type(smaller) is type(model)


def test_heads_go_with_the_queries_that_share_them():
    model = backbone("Qwen3")
    smaller = kdtf.shrink(model, 0.85, what=["heads"])
    assert smaller.num_key_value_heads == 1
    assert smaller.num_query_heads == 2
    old, new = (m.transformer_layers[1].weights for m in (model, smaller))
    paths = [weight.path.rsplit("/", 2)[-2] for weight in old]
    query, key = paths.index("query"), paths.index("key")
    kept = next(
        head
        for head in range(2)
        if (old[key].numpy()[:, head] == new[key].numpy()[:, 0]).all()
    )
    np.testing.assert_array_equal(
        new[query], old[query].numpy()[:, 2 * kept : 2 * kept + 2]
    )


def test_gemma_has_half_of_the_neurons_it_says():
    model = backbone("Gemma")
    axes = axes_of(model, {"intermediate_dim": 48}).block
    weights = model.transformer_layers[0].weights
    assert sorted(
        (*found, weights[position].shape[found[0]])
        for position, found in axes.items()
    ) == [(0, 12), (1, 12), (1, 12)]


def test_equal_sizes_are_told_apart():
    model = backbone("GPT2", intermediate_dim=16, hidden_dim=16)
    found = axes_of(model, {"intermediate_dim": 8})
    names = {
        model.transformer_layers[0].weights[i].path.split("/", 1)[1]: axes
        for i, axes in found.block.items()
    }
    assert names == {
        "feedforward_intermediate_dense/kernel": (1,),
        "feedforward_intermediate_dense/bias": (0,),
        "feedforward_output_dense/kernel": (0,),
    }
    assert found.outside == {}


def still(block):
    """Lets a block of GPT-2 pass its inputs on: both branches give 0."""
    for weight in block.weights:
        if "output" in weight.path:
            weight.assign(np.zeros(weight.shape))


def test_a_block_that_does_nothing_has_no_influence_and_goes_first():
    model = backbone("GPT2", num_layers=4)
    still(model.transformer_layers[2])
    x = inputs_of(model)
    influence = block_influence(model, x)
    np.testing.assert_allclose(influence[2], 0.0, atol=1e-6)
    assert (influence[[0, 1, 3]] > 1e-4).all()
    target = model.count_params() - 1
    plan = kdtf.plan_shrink(
        model, target / model.count_params(), what=["depth"], data=x
    )
    assert plan.removal.blocks == [0, 1, 3]
    np.testing.assert_allclose(
        outputs(plan.build(), x), outputs(model, x), atol=1e-6
    )


def test_influence_is_one_minus_the_cosine_of_positions_that_count():
    model = backbone("GPT2", num_layers=1)
    x = inputs_of(model)
    x["padding_mask"][1, 3:] = 0
    block = model.transformer_layers[0]
    entering = model.layers[
        [layer is block for layer in model.layers].index(True)
    ].input
    parts = keras.Model(
        model.input, [keras.tree.flatten(entering)[0], block.output]
    )
    first, second = (np.asarray(y, "float64") for y in parts(x))
    lengths = np.linalg.norm(first, axis=-1) * np.linalg.norm(second, axis=-1)
    cosine = (first * second).sum(-1) / lengths
    mean = cosine[x["padding_mask"] == 1].mean()
    np.testing.assert_allclose(block_influence(model, x), [1 - mean], rtol=1e-5)


def test_without_data_the_blocks_that_stay_are_evenly_spaced():
    model = backbone("Bert", num_layers=5)
    inside = sum(np.prod(w.shape) for w in model.transformer_layers[0].weights)
    keep = 1 - 2 * inside / model.count_params()
    plan = kdtf.plan_shrink(model, keep + 1e-9, what=["depth"])
    assert plan.removal.blocks == [0, 2, 4]


def test_a_task_stays_one_with_its_preprocessor_and_head():
    import keras_nlp

    task = keras_nlp.models.BertTextClassifier(
        backbone("Bert"), num_classes=3, preprocessor=None
    )
    smaller = kdtf.shrink(task, 0.8)
    assert type(smaller) is type(task)
    assert smaller.count_params() <= 0.8 * task.count_params()
    np.testing.assert_array_equal(
        smaller.get_layer("logits").kernel, task.get_layer("logits").kernel
    )


def test_macs_are_those_of_kernels_for_one_token():
    import keras_nlp

    model = keras_nlp.models.GPT2CausalLM(backbone("GPT2"), preprocessor=None)
    plan = kdtf.plan_shrink(model, 0.7, "macs", round_to=4)
    # 4 kernels of attention, 2 of the feed-forward, and the tied output.
    before, after = (
        3 * (4 * 16 * 16 + 2 * 16 * width) + 50 * 16 for width in (24, 4)
    )
    assert plan.macs == (before, after)
    assert plan.cost == plan.macs
    assert kdtf.plan_shrink(model.backbone, 0.9).macs[0] == before - 50 * 16


def test_depth_and_width_keep_about_the_same_share():
    model = backbone("GPT2", num_layers=6, intermediate_dim=64)
    what = ["width", "depth"]
    for keep in (0.8, 0.6, 0.5):
        plan = kdtf.plan_shrink(model, keep, what=what, round_to=1)
        shares = [width.after / width.before for width in plan.widths]
        # A block more or less is 1/6.
        assert max(shares) - min(shares) <= 1 / 6
        assert 0.98 * keep <= plan.cost[1] / plan.cost[0] <= keep
        again = kdtf.plan_shrink(model, keep, what=what, round_to=1)
        assert again.widths == plan.widths
    text = str(plan)
    assert f"{plan.cost[1] / plan.cost[0]:.1%} of 50.0% asked for" in text


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"what": ["heads"]}, "they go only with a `head_dim`"),
        ({"keep": 0.01}, "cannot be met"),
    ],
)
def test_what_a_configuration_cannot_say_is_refused(kwargs, match):
    with pytest.raises(ValueError, match=match):
        kdtf.shrink(backbone("Bert"), **kwargs)
