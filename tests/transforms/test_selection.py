import keras
import pytest

from kdtf.transforms.selection import Rules
from kdtf.transforms.selection import candidates
from kdtf.transforms.selection import select_kernels


@pytest.fixture
def mixed():
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(4, 3, name="conv"),
            layers.DepthwiseConv2D(3, name="deep"),
            layers.SeparableConv2D(4, 3, name="separable"),
            layers.BatchNormalization(name="norm"),
            layers.Reshape((2, 8), name="reshape"),
            layers.LSTM(3, name="lstm"),
            layers.Dense(5, name="head"),
        ]
    )


def taken(selection):
    return [candidate.path for candidate in selection.taken]


def test_default_takes_matrices_and_filters(mixed):
    assert taken(select_kernels(mixed)) == [
        "conv/kernel",
        "separable/pointwise_kernel",
        "lstm/lstm_cell/kernel",
        "lstm/lstm_cell/recurrent_kernel",
        "head/kernel",
    ]


def test_default_says_why_the_others_are_skipped(mixed):
    skipped = {c.path: why for c, why in select_kernels(mixed).skipped}
    assert "depthwise" in skipped["deep/kernel"]
    assert "depthwise" in skipped["separable/depthwise_kernel"]
    for path in ("conv/bias", "norm/gamma", "norm/moving_mean", "head/bias"):
        assert skipped[path] == "no matrix: a bias or a norm"


def test_kernels_that_only_scale_are_skipped():
    scale = keras.layers.EinsumDense("abc,bc->abc", (3, 4), name="scale")
    model = keras.Sequential([keras.Input((3, 4)), scale])
    ((candidate, reason),) = select_kernels(model).skipped
    assert candidate.path == "scale/kernel" and "one by one" in reason


def test_kernels_inside_attention_are_found(tiny_transformer):
    selection = select_kernels(tiny_transformer)
    paths = taken(selection)
    assert len(paths) == 6
    assert sum("self_attention" in path for path in paths) == 4
    skipped = {c.path: why for c, why in selection.skipped}
    (tokens,) = [p for p in skipped if p.endswith("token_embedding/embeddings")]
    assert "looked up" in skipped[tokens]
    (places,) = [p for p in skipped if "/position_embedding/" in p]
    assert "not called a kernel" in skipped[places]
    # With one entry for each head and position, but a bias all the same.
    (bias,) = [p for p in skipped if p.endswith("query/bias")]
    assert skipped[bias] == "no matrix: a bias or a norm"


def test_a_pattern_a_layer_and_a_predicate_choose(mixed):
    assert taken(select_kernels(mixed, "head")) == ["head/kernel"]
    assert taken(select_kernels(mixed, ["lstm/*", "con?/kernel"])) == [
        "conv/kernel",
        "lstm/lstm_cell/kernel",
        "lstm/lstm_cell/recurrent_kernel",
    ]
    layer = mixed.get_layer("deep")
    assert taken(select_kernels(mixed, layer)) == ["deep/kernel"]
    assert taken(select_kernels(mixed, keras.layers.Dense)) == ["head/kernel"]
    big = select_kernels(mixed, lambda candidate: candidate.size > 90)
    assert taken(big) == ["conv/kernel", "lstm/lstm_cell/kernel"]


def test_the_first_rule_that_matches_decides(mixed):
    rules = [("lstm/*", False), ("*", True)]
    assert "lstm/lstm_cell/kernel" not in taken(select_kernels(mixed, rules))
    assert "deep/kernel" in taken(select_kernels(mixed, rules))
    turned = [("*", True), ("lstm/*", False)]
    assert "lstm/lstm_cell/kernel" in taken(select_kernels(mixed, turned))


def test_biases_and_frozen_layers_are_never_taken(mixed):
    mixed.get_layer("head").trainable = False
    selection = select_kernels(mixed, "*")
    skipped = {c.path: why for c, why in selection.skipped}
    assert skipped["head/kernel"] == "frozen (trainable=False)"
    assert skipped["conv/bias"].startswith("no matrix")


def test_a_shared_weight_is_given_once():
    shared = keras.layers.Dense(2, name="shared")
    inputs = keras.Input((2,))
    model = keras.Model(inputs, shared(shared(inputs)))
    paths = [candidate.path for candidate in candidates(model)]
    assert paths == ["shared/kernel", "shared/bias"]


def test_rules_give_the_value_of_the_first_match(mixed):
    rules = Rules({"head": 0.5, "*/kernel": 0.8}, argument="allocation")
    values = {c.path: rules(c) for c in candidates(mixed)}
    assert values["head/kernel"] == 0.5
    assert values["conv/kernel"] == 0.8
    assert values["conv/bias"] is None


def test_a_rule_that_matches_nothing_is_refused(mixed):
    with pytest.raises(ValueError, match="'hed', which matches none of"):
        select_kernels(mixed, ["conv", "hed"])
    stranger = keras.layers.Dense(2, name="stranger")
    with pytest.raises(ValueError, match="`select` must match a variable"):
        select_kernels(mixed, stranger)


def test_a_rule_of_another_kind_is_refused(mixed):
    with pytest.raises(TypeError, match="`select` must be made of.*3 of type"):
        select_kernels(mixed, [3])
