import keras
import pytest

from kdtf.distillation.features import mapping


def cnn():
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(4, 3, name="conv"),
            keras.layers.GlobalAveragePooling2D(name="pool"),
        ],
        name="cnn",
    )


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_blocks_are_the_repeated_layers_with_attention(family, makers):
    model = makers[family](num_layers=3)
    name = model.backbone.name
    expected = [f"{name}/transformer_layer_{i}" for i in range(3)]
    assert mapping.blocks(model) == expected
    assert mapping.blocks(model.backbone) == [
        f"transformer_layer_{i}" for i in range(3)
    ]


def test_blocks_beyond_ten_are_in_the_order_of_the_model(makers):
    model = makers["gpt2"](num_layers=12)
    found = [path.rpartition("_")[2] for path in mapping.blocks(model)]
    assert found == [str(i) for i in range(12)]


def test_a_single_block_is_not_taken_for_its_backbone(makers):
    found = mapping.blocks(makers["gpt2"](num_layers=1))
    assert [path.rpartition("/")[2] for path in found] == [
        "transformer_layer_0"
    ]


def test_uniform_spreads_the_teachers_blocks(makers):
    student = makers["bert"](num_layers=2)
    teacher = makers["gpt2"](num_layers=5)
    s, t = student.backbone.name, teacher.backbone.name
    # (0 + 1) * 5 // 2 - 1 and (1 + 1) * 5 // 2 - 1
    assert mapping.pair_layers("uniform", student, teacher) == [
        (f"{s}/transformer_layer_0", f"{t}/transformer_layer_1"),
        (f"{s}/transformer_layer_1", f"{t}/transformer_layer_4"),
    ]
    assert mapping.pair_layers("last", student, teacher) == [
        (f"{s}/transformer_layer_1", f"{t}/transformer_layer_4"),
    ]
    with pytest.raises(ValueError, match="5 blocks in the student, 2 in"):
        mapping.pair_layers("uniform", teacher, student)


def test_pairs_are_paths_names_or_indices(makers):
    student = makers["bert"](num_layers=2)
    s = student.backbone.name
    layers = mapping.check_layers(
        {"transformer_layer_0": -1, 1: f"{s}/transformer_layer_0"}
    )
    assert mapping.pair_layers(layers, student, student) == [
        (f"{s}/transformer_layer_0", f"{s}/transformer_layer_1"),
        (f"{s}/transformer_layer_1", f"{s}/transformer_layer_0"),
    ]
    assert mapping.check_layers([[0, "a"]]) == ((0, "a"),)


@pytest.mark.parametrize(
    "layers", ["first", {}, [], 3, None, [(0,)], {0: 1.5}, {True: 0}, ["ab"]]
)
def test_other_layers_are_refused(layers):
    with pytest.raises(ValueError, match="`layers` must be 'uniform'"):
        mapping.check_layers(layers)


def test_index_out_of_range_is_refused(makers):
    model = makers["bert"](num_layers=2)
    with pytest.raises(ValueError, match="from -2 to 1. Received: 2"):
        mapping.find_path(model, 2)
    with pytest.raises(ValueError, match="Received: -3"):
        mapping.find_path(model, -3)


@pytest.mark.parametrize("layers", ["uniform", "last", ((0, 0),)])
def test_models_without_blocks_need_names(layers):
    with pytest.raises(ValueError, match="'cnn', which has none. Name the"):
        mapping.pair_layers(layers, cnn(), cnn())


def test_names_must_be_of_one_layer(makers):
    model = makers["gpt2"](num_layers=2)
    with pytest.raises(ValueError, match="only one.*transformer_layer_1"):
        mapping.find_path(model, "self_attention")
    assert mapping.find_path(model, "transformer_layer_1/self_attention") == (
        f"{model.backbone.name}/transformer_layer_1/self_attention"
    )


def test_unknown_names_are_refused_with_near_ones(makers):
    model = makers["gpt2"](num_layers=2)
    with pytest.raises(ValueError, match="Near to it: '.*transformer_layer_1'"):
        mapping.find_path(model, "tranformer_layer_1")
    with pytest.raises(ValueError, match="It has .*'conv', 'pool'"):
        mapping.find_path(cnn(), "zzz")


def test_find_layer_gives_the_layer(makers):
    model = makers["bert"](num_layers=2)
    layer = model.backbone.get_layer("transformer_layer_1")
    assert mapping.find_layer(model, "transformer_layer_1") is layer
    assert mapping.find_layer(model, -1) is layer
