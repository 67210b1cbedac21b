import keras
import numpy as np
import pytest

from kdtf import schedules
from kdtf.distillation.features import AttentionMaps
from kdtf.distillation.features import AttentionRelations
from kdtf.distillation.features import HiddenStates
from kdtf.distillation.features import PairwiseAngles
from kdtf.distillation.features import PairwiseDistances
from kdtf.distillation.features import Record
from kdtf.distillation.features import losses

ALL = [
    AttentionMaps,
    AttentionRelations,
    HiddenStates,
    PairwiseAngles,
    PairwiseDistances,
]


def outputs(value):
    return {"output": Record(None, {}, np.asarray(value, "float32"))}


class _Attention:
    """Stands for an attention layer without a rotary embedding."""


def attention(query, key, **arguments):
    return {
        "attention": Record(_Attention(), arguments, None),
        "query": Record(None, {}, np.asarray(query, "float32")),
        "key": Record(None, {}, np.asarray(key, "float32")),
    }


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"layers": {0: -1, "a/b": "c"}, "weight": 2},
        {"weight": schedules.CosineSchedule(final=2.0, end_step=9)},
    ],
)
def test_config_round_trip(kind, settings):
    term = kind(**settings)
    config = keras.saving.serialize_keras_object(term)
    config = keras.saving.deserialize_keras_object(config)
    assert config == term
    assert type(config) is kind


def test_own_settings_are_in_the_config():
    assert AttentionMaps(loss="kl").get_config()["loss"] == "kl"
    config = AttentionRelations(relation_heads=3).get_config()
    assert AttentionRelations.from_config(config).relation_heads == 3


@pytest.mark.parametrize("kind", ALL)
def test_settings_are_checked_at_once(kind):
    with pytest.raises(ValueError, match="`weight` must be >= 0.*-1"):
        kind(weight=-1)
    with pytest.raises(ValueError, match="`weight` must be >= 0"):
        ramp = schedules.CosineSchedule(initial=1.0, final=-0.1, end_step=9)
        kind(weight=ramp)
    with pytest.raises(TypeError, match="`weight` must be a number"):
        kind(weight="much")
    with pytest.raises(ValueError, match="layers='all'"):
        kind(layers="all")
    with pytest.raises(TypeError, match="positional"):
        kind("uniform")


def test_choices_are_checked_at_once():
    with pytest.raises(ValueError, match="`loss` must be one of.*'cosine'"):
        AttentionMaps(loss="cosine")
    with pytest.raises(ValueError, match="relation_heads=0"):
        AttentionRelations(relation_heads=0)


def test_hidden_states_name_what_must_agree():
    term = HiddenStates()
    image = np.zeros((2, 8, 8, 4))
    assert term.widths(outputs(image), outputs(image)) is None
    wide = outputs(np.zeros((2, 8, 8, 6)))
    assert term.widths(wide, outputs(image)) == (4, 6)
    with pytest.raises(ValueError, match=r"\(2, 8, 8, 4\).*\(2, 4, 4, 4\)"):
        term.widths(outputs(image), outputs(np.zeros((2, 4, 4, 4))))
    with pytest.raises(ValueError, match="all but the last axis"):
        term.widths(outputs(image), outputs(np.zeros((2, 8, 4))))


def test_hidden_states_are_projected():
    teacher, student = outputs(np.full((1, 2, 2), 4.0)), np.ones((1, 2, 1))
    value = HiddenStates().value(
        teacher, outputs(student), None, lambda x: np.repeat(3 * x, 2, -1)
    )
    np.testing.assert_allclose(value, [1.0])


def test_relations_say_which_numbers_divide(rng):
    records = [
        {
            role: Record(None, {}, np.zeros((2, 3, heads, 4)))
            for role, heads in (("query", q), ("key", kv), ("value", kv))
        }
        for q, kv in ((4, 2), (2, 2))
    ]
    assert AttentionRelations(relation_heads=4).widths(*records) is None
    with pytest.raises(ValueError, match=r"widths \[8, 16\].*\[1, 2, 4, 8\]"):
        AttentionRelations(relation_heads=3).widths(*records)


def test_relations_are_the_sum_of_three(rng):
    roles = ("query", "key", "value")
    teacher, student = (
        {
            role: Record(None, {}, rng.normal(size=(2, 3, 2, 4)))
            for role in roles
        }
        for _ in range(2)
    )
    mask = np.array([[1, 1, 0], [1, 1, 1]], bool)
    term = AttentionRelations(relation_heads=4)
    value = term.value(teacher, student, mask, None)
    expected = sum(
        losses.relation_kl(
            teacher[role].output, student[role].output, mask, relation_heads=4
        )
        for role in roles
    )
    np.testing.assert_allclose(value, expected, rtol=1e-6)


@pytest.mark.parametrize("heads", [(2, 2), (4, 2)])
@pytest.mark.parametrize("loss", ["mse", "kl", "scores_mse"])
def test_maps_are_compared_as_said(loss, heads, rng):
    teacher, student = (
        (rng.normal(size=(1, 3, h, 4)), rng.normal(size=(1, 3, h, 4)))
        for h in heads
    )
    value = AttentionMaps(loss=loss).value(
        attention(*teacher), attention(*student), None, None
    )
    t, s = (
        np.einsum("bqhd,bkhd->bhqk", q, k) / 2.0 for q, k in (teacher, student)
    )
    if loss != "scores_mse":
        t, s = softmax(t), softmax(s)
    if heads[0] != heads[1]:
        t, s = (x.mean(1, keepdims=True) for x in (t, s))
    if loss == "kl":
        expected = (t * np.log(t / s)).sum(-1).mean((1, 2))
    else:
        expected = ((t - s) ** 2).mean((1, 2, 3))
    np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("loss", ["mse", "kl", "scores_mse"])
def test_maps_do_not_see_an_order_of_heads_that_both_have(loss, rng):
    teacher, student = (
        (rng.normal(size=(1, 3, 3, 4)), rng.normal(size=(1, 3, 3, 4)))
        for _ in range(2)
    )
    order = [2, 0, 1]
    term = AttentionMaps(loss=loss)

    def run(teacher, student):
        return np.array(
            term.value(attention(*teacher), attention(*student), None, None)
        )

    shuffled = [
        tuple(x[:, :, order] for x in pair) for pair in (teacher, student)
    ]
    expected = run(teacher, student)
    np.testing.assert_allclose(run(*shuffled), expected, rtol=1e-5)
    assert np.abs(run(teacher, shuffled[1]) - expected).max() > 1e-3


@pytest.mark.parametrize("loss", ["mse", "kl", "scores_mse"])
def test_maps_leave_out_what_the_attention_masked(loss, rng):
    query, key = rng.normal(size=(2, 1, 3, 2, 4))
    other = rng.normal(size=(1, 3, 2, 4))
    masked = np.ones((1, 3, 3), bool)
    masked[:, :, 2] = False
    term = AttentionMaps(loss=loss)
    changed = key.copy()
    changed[:, 2] = 50.0

    def run(key, **arguments):
        return np.array(
            term.value(
                attention(other, other, **arguments),
                attention(query, key, **arguments),
                None,
                None,
            )
        )

    np.testing.assert_allclose(
        run(changed, attention_mask=masked), run(key, attention_mask=masked)
    )
    assert np.abs(run(changed) - run(key)).max() > 1e-3


@pytest.mark.parametrize(
    ("kind", "loss"),
    [
        (PairwiseDistances, losses.pairwise_distance),
        (PairwiseAngles, losses.pairwise_angle),
    ],
)
def test_pairs_are_of_pooled_outputs(kind, loss, rng):
    teacher, student = rng.normal(size=(2, 4, 3, 5))
    mask = np.array([[1, 1, 0]] * 3 + [[1, 0, 0]], bool)
    value = kind().value(outputs(teacher), outputs(student), mask, None)
    pooled = [
        np.stack([row[m].mean(0) for row, m in zip(x, mask, strict=True)])
        for x in (teacher, student)
    ]
    np.testing.assert_allclose(value, loss(*pooled), rtol=1e-4, atol=1e-6)
