"""Several ways of storing kernels in one file."""

import keras
import numpy as np
import pytest

import kdtf
from kdtf.export import ExportError
from kdtf.export import export_tflite
from kdtf.export import mixed
from kdtf.export.weights import block_scales
from kdtf.export.weights import weights_of
from kdtf.flatbuffer import dtype_name
from kdtf.flatbuffer import read_model

pytestmark = pytest.mark.slow

RULES = {"first": "int4_block32", "head/kernel": None, "*": "dynamic_int8"}


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((64,)),
            layers.Dense(96, activation="relu", name="first"),
            layers.Dense(80, activation="relu", name="second"),
            layers.Dense(6, name="head"),
        ]
    )


@pytest.fixture(scope="module")
def x():
    rng = np.random.default_rng(0)
    return rng.normal(size=(50, 64)).astype("float32")


def stored(path):
    """Gives type and block size of each weight, by its number of elements."""
    file = read_model(path.read_bytes())
    found = {}
    for weight in weights_of(file):
        blocks = block_scales(file, weight.tensor)
        size = blocks and blocks[0]
        found[weight.size] = (dtype_name(weight.tensor), size)
    return found


def test_each_kernel_is_stored_as_the_first_rule_says(tmp_path, model, x):
    path = tmp_path / "m.tflite"
    result = export_tflite(model, path, quantize=RULES, verify_data=x)
    assert stored(path) == {
        64 * 96: ("INT4", 32),
        96 * 80: ("INT8", None),
        80 * 6: ("FLOAT32", None),
    }
    assert result.quantize == "int4_block32"
    assert result.warnings[0] == (
        "weights of several widths: 6,144 in 4 bits in blocks of 32, 7,680 in "
        "8 bits, 480 in float32"
    )


def test_bytes_and_errors_lie_between_those_of_its_modes(tmp_path, model, x):
    results = {
        name: export_tflite(
            model, tmp_path / f"{name}.tflite", quantize=mode, verify_data=x
        )
        for name, mode in {
            "coarse": "int4",
            "mixed": {"first": "int4", "*": "dynamic_int8"},
            "fine": "dynamic_int8",
        }.items()
    }
    coarse, between, fine = results.values()
    assert coarse.size_bytes < between.size_bytes < fine.size_bytes
    assert coarse.sqnr_db < between.sqnr_db < fine.sqnr_db - 3


def test_a_budget_makes_the_rules(tmp_path, model, x):
    modes = ["dynamic_int8", "int4"]
    found = kdtf.sensitivity(model, x, modes, verbose=0)
    # In 8 bits they take more, in 4 less.
    rules = found.mixed(max_bytes=12_000)
    assert set(rules.values()) == set(modes)
    path = tmp_path / "m.tflite"
    export_tflite(model, path, quantize=rules, verify_data=x)
    widths = {"dynamic_int8": "INT8", "int4": "INT4"}
    for name, size in (("first", 64 * 96), ("second", 96 * 80)):
        assert stored(path)[size][0] == widths[rules[f"{name}/kernel"]]


def test_folded_and_wider_kernels_are_found(tmp_path, rng):
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((10, 10, 3)),
            layers.Conv2D(32, 3, name="conv"),
            layers.BatchNormalization(),
            layers.DepthwiseConv2D(3, name="depthwise"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(4, name="head"),
        ]
    )
    scales = rng.uniform(0.5, 2.0, 32)
    model.layers[1].gamma.assign(scales)
    path = tmp_path / "m.tflite"
    rules = {"conv": "int4", "depthwise": "int4", "*": "dynamic_int8"}
    images = rng.normal(size=(20, 10, 10, 3)).astype("float32")
    result = export_tflite(model, path, quantize=rules, verify_data=images)
    assert stored(path) == {
        3 * 3 * 3 * 32: ("INT4", None),
        3 * 3 * 32: ("INT8", None),
        32 * 4: ("INT8", None),
    }
    assert (
        "288 weights of DEPTHWISE_CONV_2D are stored in 8 bits, not 4"
        in (result.warnings[1])
    )


def test_a_tied_table_is_one_kernel(tmp_path, rng):
    import keras_nlp

    ids = keras.Input((8,), dtype="int32", name="ids")
    table = keras_nlp.layers.ReversibleEmbedding(64, 32, name="table")
    hidden = keras.layers.Dense(32, activation="relu", name="d")(table(ids))
    model = keras.Model(ids, table(hidden, reverse=True))
    path = tmp_path / "m.tflite"
    data = rng.integers(0, 64, (20, 8)).astype("int32")
    rules = {"*embeddings": "dynamic_int8", "*": "int4_block32"}
    export_tflite(model, path, quantize=rules, verify_data=data)
    assert stored(path) == {64 * 32: ("INT8", None), 32 * 32: ("INT4", 32)}


TABLE = {"*embeddings": "dynamic_int8", "*": "int4_block32"}


@pytest.fixture
def language_model():
    import keras_nlp

    keras.utils.set_random_seed(0)
    backbone = keras_nlp.models.GPT2Backbone(
        40, 1, 2, 32, 32, max_sequence_length=8
    )
    return keras_nlp.models.GPT2CausalLM(backbone, preprocessor=None)


def export_language_model(model, path, mode):
    result = kdtf.export_language_model(
        model, path, quantize=mode, max_length=8, prefill_lengths=(4,)
    )
    found = stored(path)
    assert found[40 * 32] == ("INT8", None)
    assert found[32 * 32] == ("INT4", 32)
    return result


def test_a_language_model_keeps_its_table_in_more_bits(
    tmp_path, language_model
):
    path = tmp_path / "m.tflite"
    result = export_language_model(language_model, path, TABLE)
    assert result.quantize == "int4_block32"
    assert "in 8 bits" in result.warnings[0]
    with pytest.raises(ValueError, match="whole files"):
        kdtf.export_language_model(language_model, path, quantize={"*": "int8"})


def test_a_language_model_made_up_for_is_stored_as_it_is(
    tmp_path, language_model, rng
):
    ids = rng.integers(0, 40, (32, 8)).astype("int32")
    data = {"token_ids": ids, "padding_mask": np.ones_like(ids)}
    kdtf.quantize(language_model, TABLE, data, method="gptq")
    path = tmp_path / "m.tflite"
    # The widest of its schemes.
    result = export_language_model(language_model, path, "dynamic_int8")
    assert result.sqnr_db > 25


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"quantize": {"none/*": "int4"}}, "'none/.*matches none of"),
        ({"quantize": {"*": "int8"}}, "whole files"),
        ({"quantize": {"*": None}}, "not all None"),
        ({"quantize": {}}, "not all None"),
        ({"quantize": {"*": "int4"}, "target": "iot"}, "target 'iot'"),
        ({"quantize": {"*": "int4"}, "sparse": True}, "`sparse=True` goes"),
    ],
)
def test_wrong_rules_are_refused(tmp_path, model, arguments, message):
    with pytest.raises(ValueError, match=message):
        export_tflite(model, tmp_path / "m.tflite", **arguments)
    assert not list(tmp_path.iterdir())


def test_a_model_that_has_its_grid_already_is_refused(tmp_path, x):
    model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(4)])
    kdtf.quantize(model, "int4")
    with pytest.raises(ValueError, match="quantized for, which is 'int4'"):
        export_tflite(model, tmp_path / "m.tflite", quantize={"*": "int4"})


def test_a_quantizer_that_did_nothing_is_found(tmp_path, model, monkeypatch):
    monkeypatch.setattr(mixed, "quantized", lambda content, *_: content)
    with pytest.raises(ExportError, match="4 bits in blocks|float32, of 2"):
        export_tflite(model, tmp_path / "m.tflite", quantize=RULES)
    assert not list(tmp_path.iterdir())
