"""Ready-made spaces: what their models are made of, and what they refuse."""

import functools
import itertools
import pickle

import keras
import numpy as np
import pytest

import kdtf
from kdtf.search.preset import middle
from kdtf.search.space import Space
from kdtf.search.spaces import Preset
from kdtf.search.spaces import cnns
from kdtf.search.spaces import compressions
from kdtf.search.spaces import decoders
from kdtf.search.spaces import encoders

K = keras.layers
# Small ones, as each model takes a second to build.
small_encoders = functools.partial(
    encoders,
    vocabulary_size=30,
    sequence_length=8,
    num_classes=3,
    layers=[1, 2],
    width=[16, 24, 32],
)
small_decoders = functools.partial(
    decoders,
    vocabulary_size=30,
    sequence_length=8,
    layers=[1, 2],
    width=[16, 24, 32],
)
digits = functools.partial(cnns, input_shape=(8, 8, 1), num_classes=10)
PRESETS = {
    "encoders": small_encoders,
    "decoders": small_decoders,
    "cnns": digits,
}


def random_valid(space, rng, count):
    points = (space.random(rng) for _ in itertools.count())
    valid = (p for p in points if space.refusal(p) is None)
    return [space.decode(p) for p in itertools.islice(valid, count)]


def example_of(model, batch_size=2):
    """Gives inputs of zeros and ones, 8 long where the length is free."""
    return {
        name: np.ones(
            (batch_size, *(dim or 8 for dim in tensor.shape[1:])), "int32"
        )
        for name, tensor in model.input.items()
    }


def kernels_of(model):
    return {c.path: c for c in kdtf.quantization_report(model).kernels}


# Presets.


@pytest.mark.parametrize("name", PRESETS)
def test_default_is_a_valid_point_in_force(name):
    preset = PRESETS[name]()
    point = preset.space.encode(preset.default)
    assert preset.space.refusal(point) is None
    assert preset.space.decode(point) == preset.default


@pytest.mark.parametrize("name", PRESETS)
def test_presets_can_be_sent_to_other_processes(name):
    preset = PRESETS[name]()
    again = pickle.loads(pickle.dumps(preset))
    assert again.default == preset.default
    assert again.space.describe() == preset.space.describe()
    assert again.space.decode(preset.space.encode(preset.default)) == (
        preset.default
    )


def test_preset_refuses_a_default_that_is_not_valid():
    space = Space({"a": [1, 2]}, valid=lambda chosen: chosen["a"] == 1)
    with pytest.raises(ValueError, match="point.*not valid in this space"):
        Preset(space, print, {"a": 2})
    with pytest.raises(ValueError, match=r"in force are \['a', 'b'\]"):
        Preset(Space({"a": [1], "b": [1]}), print, {"a": 1})


def test_middle_goes_to_the_nearest_valid_point():
    space = Space(
        {"a": [1, 2, 3], "b": [1, 2, 3]},
        valid=lambda chosen: chosen["b"] == 3 and chosen["a"] != 2,
    )
    # (1, 3) and (3, 3) are as near to (2, 2); the first wins.
    assert middle(space) == {"a": 1, "b": 3}


# Transformers.


def test_transformers_have_a_default_from_the_middle():
    expected = {"layers": 2, "width": 64, "heads": 2, "feed_forward": 2}
    sizes = {"vocabulary_size": 30, "sequence_length": 8}
    assert encoders(**sizes, num_classes=2).default == expected
    assert decoders(**sizes).default == expected


def test_random_encoders_have_the_sizes_chosen(rng):
    preset = small_encoders()
    for chosen in random_valid(preset.space, rng, 3):
        model = preset.build(chosen)
        assert set(model.input) == {
            "token_ids",
            "segment_ids",
            "padding_mask",
        }
        inputs = example_of(model)
        assert model(inputs).shape == (2, 3)
        backbone = model.backbone
        assert len(backbone.transformer_layers) == chosen["layers"]
        layer = backbone.transformer_layers[0]
        query = layer._self_attention_layer._query_dense.kernel
        width, heads = chosen["width"], chosen["heads"]
        assert query.shape == (width, heads, width // heads)
        inner = layer._feedforward_intermediate_dense.kernel
        assert inner.shape == (width, chosen["feed_forward"] * width)


def test_encoder_has_the_parameters_of_a_bert():
    model = small_encoders().build(
        {"layers": 2, "width": 24, "heads": 2, "feed_forward": 4}
    )
    d, f = 24, 96
    tables = (30 + 8 + 2) * d + 2 * d
    layer = 4 * (d * d + d) + (d * f + f) + (f * d + d) + 2 * 2 * d
    head = (d * d + d) + (d * 3 + 3)
    assert model.count_params() == tables + 2 * layer + head


def test_random_decoders_have_the_sizes_chosen(rng):
    preset = small_decoders()
    for chosen in random_valid(preset.space, rng, 3):
        model = preset.build(chosen)
        assert set(model.input) == {"token_ids", "padding_mask"}
        assert model(example_of(model)).shape == (2, 8, 30)
        layers = model.backbone.transformer_layers
        assert len(layers) == chosen["layers"]
        width, heads = chosen["width"], chosen["heads"]
        query = layers[0]._self_attention_layer._query_dense.kernel
        assert query.shape == (width, heads, width // heads)
        inner = layers[0]._feedforward_intermediate_dense.kernel
        assert inner.shape == (width, chosen["feed_forward"] * width)


def test_decoder_has_the_parameters_of_a_gpt2():
    model = small_decoders().build(
        {"layers": 2, "width": 16, "heads": 2, "feed_forward": 2}
    )
    d, f = 16, 32
    layer = 4 * (d * d + d) + (d * f + f) + (f * d + d) + 2 * 2 * d
    # The output layer is the table of tokens.
    assert model.count_params() == (30 + 8) * d + 2 * layer + 2 * d


@pytest.mark.parametrize("width", [16, 32])
@pytest.mark.parametrize("make", [small_encoders, small_decoders])
def test_initial_weights_spread_by_the_width(make, width):
    model = make(layers=[2]).build(
        {"layers": 2, "width": width, "heads": 2, "feed_forward": 2}
    )
    weights = np.concatenate(
        [
            np.ravel(v)
            for v in model.backbone.trainable_variables
            if v.path.endswith(("kernel", "embeddings"))
        ]
    )
    # Truncated at two deviations a normal's spread is 0.88 of itself (some
    # initializers are truncated, others not); a fifth covers the sampling.
    spread = 0.02 * np.sqrt(768 / width)
    assert 0.8 * spread < weights.std() < 1.1 * spread


def test_nothing_is_dropped_in_training():
    model = small_decoders().build(small_decoders().default)
    inputs = example_of(model)
    np.testing.assert_array_equal(
        model(inputs, training=True), model(inputs, training=False)
    )


@pytest.mark.parametrize("make", [small_encoders, small_decoders])
def test_heads_that_do_not_fit_the_width_are_refused(make):
    space = make(width=[16, 20, 32], heads=[2, 4, 3]).space

    def refusal(width, heads):
        chosen = {"layers": 1, "width": width, "heads": heads}
        return space.refusal(space.encode(chosen | {"feed_forward": 1}))

    assert refusal(32, 4) is refusal(16, 2) is None
    assert refusal(20, 3) == "width 20 is not divisible by 3 heads"
    assert "4 heads share a width of 16: each must have at least 8" in refusal(
        16, 4
    )


@pytest.mark.parametrize(
    "argument",
    [
        {"vocabulary_size": 0},
        {"sequence_length": 2.5},
        {"num_classes": True},
        {"layers": []},
        {"width": [16, 16]},
        {"heads": [0, 2]},
        {"feed_forward": [1.5]},
        {"layers": 3},
    ],
)
def test_encoders_refuse_bad_arguments(argument):
    with pytest.raises(ValueError, match=next(iter(argument))):
        small_encoders(**argument)


@pytest.mark.parametrize(
    "argument", [{"vocabulary_size": -1}, {"sequence_length": "8"}]
)
def test_decoders_refuse_bad_arguments(argument):
    with pytest.raises(ValueError, match=next(iter(argument))):
        small_decoders(**argument)


def test_a_space_without_a_valid_point_is_refused():
    with pytest.raises(ValueError, match="width 30 is not divisible by 4"):
        small_decoders(width=[30], heads=[4])


# CNNs.


def test_random_cnns_have_the_sizes_chosen(rng):
    preset = digits()
    for chosen in random_valid(preset.space, rng, 4):
        model = preset.build(chosen)
        assert model.input_shape == (None, 8, 8, 1)
        assert model.output_shape == (None, 10)
        filters = [x for x in model.layers if isinstance(x, K.DepthwiseConv2D)]
        found = iter(filters)
        for stage in range(1, chosen["stages"] + 1):
            for block in range(1, chosen[f"stage{stage}_depth"] + 1):
                name = f"stage{stage}_block{block}"
                layer = next(found)
                assert layer.name == f"{name}_depthwise"
                size = chosen[f"stage{stage}_kernel"]
                assert layer.kernel_size == (size, size)
                strides = 2 if stage > 1 and block == 1 else 1
                assert layer.strides == (strides, strides)
                project = model.get_layer(f"{name}_project")
                assert project.filters == chosen[f"stage{stage}_width"]
                channels, times = layer.kernel.shape[2:]
                narrow = channels // chosen[f"stage{stage}_expansion"]
                before = chosen[f"stage{max(1, stage - (block == 1))}_width"]
                assert (narrow, times) == (before, 1)
        assert next(found, None) is None


def test_cnn_has_the_parameters_of_its_blocks():
    model = digits().build(
        {
            "stages": 2,
            "stage1_width": 8,
            "stage1_depth": 1,
            "stage1_kernel": 3,
            "stage1_expansion": 1,
            "stage2_width": 16,
            "stage2_depth": 2,
            "stage2_kernel": 5,
            "stage2_expansion": 3,
        }
    )

    def norm(channels):
        return 4 * channels

    stem = 9 * 1 * 8 + norm(8)
    first = (9 * 8 + norm(8)) + (8 * 8 + norm(8))
    second = (8 * 24 + norm(24)) + (25 * 24 + norm(24)) + (24 * 16 + norm(16))
    third = (16 * 48 + norm(48)) + (25 * 48 + norm(48)) + (48 * 16 + norm(16))
    head = 16 * 10 + 10
    assert model.count_params() == stem + first + second + third + head
    # Shapes agree in the stem's block and in the last.
    added = [x.name for x in model.layers if isinstance(x, K.Add)]
    assert added == ["stage1_block1_add", "stage2_block2_add"]


def test_stages_that_do_not_exist_leave_no_trace():
    preset = digits(stages=[1, 2, 3])
    space = preset.space
    deep = space.encode(preset.default | {"stages": 3, "stage3_depth": 3})
    shallow = (0, *deep[1:])
    assert set(space.decode(shallow)) == {
        "stages",
        "stage1_width",
        "stage1_depth",
        "stage1_kernel",
        "stage1_expansion",
    }
    other = (*shallow[:-1], (shallow[-1] + 1) % 3)
    assert space.key(shallow) == space.key(other)
    assert space.key(deep) != space.key((*deep[:-1], other[-1]))


@pytest.mark.parametrize(
    ("shape", "stages", "last"),
    [
        ((8, 8, 1), (2, 3), (2, 2)),
        ((32, 32, 3), (2, 3, 4, 5), (2, 2)),
        ((96, 96, 3), (2, 3, 4, 5), (3, 3)),
        ((49, 10, 1), (2, 3, 4), (7, 2)),
        ((3, 3, 1), (2,), (2, 2)),
        ((2, 2, 1), (1,), (2, 2)),
        ((1, 1, 4), (1,), (1, 1)),
    ],
)
def test_images_are_halved_as_far_as_they_go(shape, stages, last):
    preset = cnns(input_shape=shape, num_classes=2, width=[4], depth=[1])
    space = preset.space
    assert space.choices["stages"].options == stages
    names = [name for name in space.names if name.endswith("_width")]
    assert len(names) == max(stages)
    deepest = space.encode(preset.default | {"stages": max(stages)})
    model = preset.build(space.decode(deepest))
    assert model.get_layer("pool").input.shape == (None, *last, 4)


def test_default_widths_rise_from_stage_to_stage():
    default = cnns(input_shape=(32, 32, 3), num_classes=10).default
    widths = [default[f"stage{number}_width"] for number in (1, 2, 3)]
    assert widths == [16, 24, 48]


@pytest.mark.parametrize(
    ("argument", "match"),
    [
        ({"input_shape": (8, 8)}, r"`input_shape`.*\(8, 8\)"),
        ({"input_shape": (8, 8, 0)}, "input_shape"),
        ({"input_shape": 8}, "input_shape"),
        ({"num_classes": 0}, "num_classes"),
        ({"stages": [2, 4]}, r"stages=\(2, 4\).*\(8, 8, 1\).*room for 3"),
        ({"stages": [0]}, "stages"),
        ({"width": []}, "width"),
        ({"depth": [1.0]}, "depth"),
        ({"kernel": [3, 4]}, r"odd sizes.*\(3, 4\)"),
        ({"expansion": [1, 1]}, "expansion"),
    ],
)
def test_cnns_refuse_bad_arguments(argument, match):
    with pytest.raises(ValueError, match=match):
        digits(**argument)


@pytest.mark.slow
def test_a_cnn_goes_to_a_microcontroller(rng, tmp_path):
    preset = digits(width=[4, 8], depth=[1])
    model = preset.build(preset.default)
    images = rng.normal(size=(32, 8, 8, 1)).astype("float32")
    # Moving averages of real activations: with fresh ones signals vanish.
    for _ in range(20):
        model(images, training=True)
    result = kdtf.export_tflite(
        model,
        tmp_path / "cnn.tflite",
        target="iot",
        representative_data=images,
    )
    assert set(result.operators) <= {
        "ADD",
        "CONV_2D",
        "DEPTHWISE_CONV_2D",
        "FULLY_CONNECTED",
        "MEAN",
    }


# Compressions.


@pytest.fixture(scope="module")
def language_model():
    return small_decoders(layers=[1]).build(
        {"layers": 1, "width": 16, "heads": 2, "feed_forward": 2}
    )


def mlp(*widths, name="mlp"):
    layers = [K.Dense(w, name=f"dense{i}") for i, w in enumerate(widths)]
    return keras.Sequential([keras.Input((8,)), *layers], name=name)


def test_each_group_has_its_scheme_and_each_kernel_its_zeros(language_model):
    before = language_model.get_weights()
    preset = compressions(language_model)
    assert preset.space.names == (
        "sparsity",
        "embeddings_scheme",
        "layers_scheme",
        "temperature",
        "alpha",
    )
    assert preset.default == {
        "sparsity": 0.5,
        "embeddings_scheme": "dynamic_int8",
        "layers_scheme": "dynamic_int8",
        "temperature": 2.0,
        "alpha": 0.5,
    }
    model = preset.build(
        preset.default | {"sparsity": 0.75, "layers_scheme": "int4"}
    )
    assert type(model) is type(language_model)
    for path, kernel in kernels_of(model).items():
        if path.endswith("position_embedding/embeddings"):
            assert kernel.note == "not called a kernel; see `select`"
        elif path.endswith("token_embedding/embeddings"):
            assert kernel.note == "8 bits per channel"
        else:
            assert kernel.note == "4 bits per channel"
    for kernel in kdtf.sparsity_report(model).kernels:
        is_table = kernel.path.endswith("embeddings")
        assert kernel.sparsity == (0.0 if is_table else 0.75), kernel.path
    for old, new in zip(before, language_model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert "8 bits" not in str(kdtf.quantization_report(language_model))


def test_builds_are_not_compiled_and_keep_their_names():
    original = mlp(4, 4, name="original")
    original.compile("adam", "mse")
    preset = compressions(original)
    model = preset.build(preset.default)
    assert original.compiled and not model.compiled
    assert model.name == "original"


def test_builds_are_copies_that_share_nothing(language_model):
    preset = compressions(language_model)
    plain = {"sparsity": 0.0, "embeddings_scheme": None, "layers_scheme": None}
    first = preset.build(preset.default | plain)
    inputs = example_of(language_model)
    np.testing.assert_array_equal(first(inputs), language_model(inputs))
    kept = language_model.get_weights()
    first.set_weights([np.zeros_like(weight) for weight in kept])
    second = preset.build(preset.default | plain)
    for model in (language_model, second):
        for old, new in zip(kept, model.get_weights(), strict=True):
            np.testing.assert_array_equal(old, new)


def test_the_first_and_the_last_kernel_have_groups_of_their_own():
    preset = compressions(mlp(8, 8, 8, 4))
    model = preset.build(
        preset.default
        | {
            "sparsity": 0.5,
            "first_scheme": "dynamic_int8",
            "middle_scheme": "int4",
            "last_scheme": None,
        }
    )
    notes = {path: k.note for path, k in kernels_of(model).items()}
    assert notes == {
        "dense0/kernel": "8 bits per channel",
        "dense1/kernel": "4 bits per channel",
        "dense2/kernel": "4 bits per channel",
        "dense3/kernel": "`scheme` leaves it in float",
    }
    kernels = kdtf.sparsity_report(model).kernels
    assert [kernel.sparsity for kernel in kernels] == [0.5] * 4


def test_groups_of_ones_own_take_the_first_that_matches():
    groups = {"thin": ["dense1/*"], "rest": [K.Dense]}
    preset = compressions(mlp(8, 8, 4), groups=groups, sparsity=[0.0])
    model = preset.build(
        preset.default | {"thin_scheme": "int4", "rest_scheme": "int2"}
    )
    notes = [kernel.note[:6] for kernel in kernels_of(model).values()]
    assert notes == ["2 bits", "4 bits", "2 bits"]


def test_a_scheme_of_whole_models_is_for_all_groups_or_none(tiny_cnn):
    groups = {"filters": ["conv"], "head": ["logits"]}
    preset = compressions(
        tiny_cnn, schemes=[None, "int8", "int4"], groups=groups
    )
    space = preset.space

    def refusal(filters, head):
        named = {"filters_scheme": filters, "head_scheme": head}
        return space.refusal(space.encode(preset.default | named))

    assert refusal("int8", "int8") is refusal("int4", None) is None
    assert refusal("int8", None).startswith("'int8' is of a whole model")
    assert refusal("int4", "int8").startswith("'int8' is of a whole model")
    model = preset.build(preset.default)
    assert preset.default["head_scheme"] == "int8"
    report = kdtf.quantization_report(model)
    assert [k.note for k in report.kernels] == ["8 bits per channel"] * 2
    assert "input_0" in report.ranges


def test_what_is_built_can_be_fine_tuned_under_a_distiller(batch, tiny_cnn):
    preset = compressions(tiny_cnn, schemes=["int4"])
    chosen = preset.default
    student = preset.build(chosen)
    distiller = kdtf.Distiller(
        tiny_cnn,
        student,
        alpha=chosen["alpha"],
        temperature=chosen["temperature"],
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile("adam", loss, jit_compile=False)
    distiller.fit(*batch, verbose=0)
    kernels = kdtf.sparsity_report(student).kernels
    assert [kernel.sparsity for kernel in kernels] == [0.5, 0.5]
    moved = student.get_layer("conv").kernel - tiny_cnn.get_layer("conv").kernel
    assert np.abs(moved).max() > 0


@pytest.mark.parametrize(
    ("argument", "match"),
    [
        ({"sparsity": [0.5, 1.0]}, r"`sparsity`.*in \[0, 1\)"),
        ({"sparsity": []}, "sparsity"),
        ({"sparsity": 0.5}, "`sparsity` must be a list"),
        ({"schemes": ["int3"]}, r"`schemes`.*'int8'.*'int3'"),
        ({"schemes": "int8"}, "schemes='int8'"),
        ({"schemes": [None, None]}, "schemes"),
        ({"temperature": [0.0]}, "temperature"),
        ({"temperature": [float("nan")]}, "temperature"),
        ({"alpha": [1.5]}, "alpha"),
        ({"groups": {"a": ["nothing*"]}}, "`groups`.*'nothing\\*'"),
        ({"groups": {"a": ["*"], "b": ["dense0"]}}, r"left for \['b'\]"),
        ({"groups": {"a": ["*"], "b": ["*"]}}, "each path pattern once"),
    ],
)
def test_compressions_refuse_bad_arguments(argument, match):
    with pytest.raises(ValueError, match=match):
        compressions(mlp(4, 4), **argument)


@pytest.mark.parametrize("groups", [{}, ["*"], {"a": "*"}, {1: ["*"]}])
def test_groups_must_map_names_to_lists(groups):
    with pytest.raises(TypeError, match="`groups` must map names to lists"):
        compressions(mlp(4), groups=groups)


def test_groups_refuse_layers_which_no_copy_has():
    model = mlp(4)
    with pytest.raises(ValueError, match="Write a layer's path"):
        compressions(model, groups={"a": [model.layers[0]]})


class Unsaved(keras.Model):
    """Not registered, so that Keras cannot load it."""

    def __init__(self):
        super().__init__()
        self.dense = K.Dense(2)

    def call(self, inputs):
        return self.dense(inputs)


def test_models_that_cannot_be_compressed_are_refused():
    with pytest.raises(TypeError, match="`model` must be a `keras.Model`"):
        compressions("model.keras")
    with pytest.raises(ValueError, match="must be built"):
        compressions(keras.Sequential([K.Dense(2)]))
    with pytest.raises(ValueError, match="pruned or quantized already"):
        compressions(kdtf.prune(mlp(4), 0.5))
    with pytest.raises(ValueError, match="pruned or quantized already"):
        compressions(kdtf.quantize_aware(mlp(4), "int4"))
    unsaved = Unsaved()
    unsaved(np.ones((1, 4), "float32"))
    with pytest.raises(ValueError, match="register_keras_serializable"):
        compressions(unsaved)
    relu = keras.Sequential([keras.Input((4,)), K.ReLU()])
    with pytest.raises(ValueError, match="must have a kernel to quantize"):
        compressions(relu)
    table = keras.Sequential([keras.Input((4,)), K.Embedding(8, 4)])
    with pytest.raises(ValueError, match="which embeddings are not"):
        compressions(table)
    assert compressions(table, sparsity=[0.0]).default == {
        "sparsity": 0.0,
        "embeddings_scheme": "dynamic_int8",
        "temperature": 2.0,
        "alpha": 0.5,
    }


@pytest.mark.tfmot
def test_tf_keras_models_are_refused():
    import tf_keras

    layers = [tf_keras.layers.Dense(2, input_shape=(4,))]
    with pytest.raises(ValueError, match="must be one of Keras 3"):
        compressions(tf_keras.Sequential(layers))
