"""Whole exports: models, targets, modes, and names."""

import gzip

import keras
import numpy as np
import pytest

from kdtf.export import ExportError
from kdtf.export import export_tflite
from kdtf.flatbuffer import read_model
from kdtf.litert import Runner
from kdtf.litert import describe


def inputs_of(result):
    (signature,) = result.signatures
    return {spec.name: (spec.dtype, spec.shape) for spec in signature.inputs}


def outputs_of(result):
    (signature,) = result.signatures
    return {spec.name: (spec.dtype, spec.shape) for spec in signature.outputs}


def dense_model(*shape, **options):
    return keras.Sequential(
        [keras.Input(shape, **options), keras.layers.Dense(2)]
    )


def assert_is_integer_throughout(result):
    assert result.float_operators == {}
    kinds = {dtype for _, dtype in describe(result.path).operator_dtypes}
    assert kinds == {"INT8"}
    # One scale for the whole Dense kernel: TFLM's arena depends on it.
    tensors = read_model(result.path.read_bytes()).subgraphs[0].tensors
    (kernel,) = (t for t in tensors if list(t.shape) == [4, 4])
    assert len(kernel.quantization.scale) == 1


@pytest.mark.parametrize(
    "target, quantize, dtype, operators, min_sqnr_db",
    [
        ("android", None, "float32", ["CONV_2D"], 100),
        ("float", None, "float32", ["CONV_2D"], 100),
        ("android", "float16", "float32", ["CONV_2D", "DEQUANTIZE"], 55),
        ("android", "dynamic_int8", "float32", ["CONV_2D"], 30),
        ("android", "int8", "float32", ["QUANTIZE", "DEQUANTIZE"], 25),
        ("iot", None, "int8", ["CONV_2D"], 25),
    ],
)
def test_a_cnn_reaches_every_target(
    tiny_cnn, images, tmp_path, target, quantize, dtype, operators, min_sqnr_db
):
    result = export_tflite(
        tiny_cnn,
        tmp_path / "cnn.tflite",
        target=target,
        quantize=quantize,
        representative_data=images,
    )
    assert inputs_of(result) == {"image": (dtype, (1, 8, 8, 1))}
    assert outputs_of(result) == {"output_0": (dtype, (1, 4))}
    assert set(operators) <= set(result.operators)
    assert result.sqnr_db > min_sqnr_db
    assert result.warnings == ()
    if target == "iot":
        assert result.quantize == "int8"
        assert_is_integer_throughout(result)
    outputs = Runner(result.path)(images)["output_0"]
    difference = np.abs(outputs - np.asarray(tiny_cnn(images)))
    np.testing.assert_allclose(
        result.per_sample_error, difference.max(axis=1), atol=1e-6
    )
    assert result.max_error == max(result.per_sample_error)
    np.testing.assert_allclose(result.mean_error, difference.mean(), atol=1e-6)


def test_result_states_sizes_and_prints_them(tiny_cnn, images, tmp_path):
    path = tmp_path / "cnn.tflite"
    result = export_tflite(tiny_cnn, path, verify_data=images[:5])
    content = path.read_bytes()
    assert result.size_bytes == len(content)
    assert result.gzip_size_bytes == len(gzip.compress(content, 6, mtime=0))
    assert len(result.per_sample_error) == 5
    assert result.argmax_agreement == 1.0
    text = str(result)
    assert "5 samples of verify_data" in text
    assert "serving_default(image: float32 [1, 8, 8, 1])" in text
    assert "target android, quantize float32" in text
    assert "CONV_2D x1" in text


def test_input_order_is_the_models_not_the_alphabets(
    two_branches, pair, tmp_path
):
    path = tmp_path / "two.tflite"
    result = export_tflite(two_branches, path, verify_data=pair)
    assert list(inputs_of(result)) == ["zeta", "alpha"]
    assert list(outputs_of(result)) == ["yes", "no"]
    runner = Runner(path)
    assert list(runner.input_specs) == ["zeta", "alpha"]
    expected = two_branches(pair)
    outputs = runner({"alpha": pair[1], "zeta": pair[0]})
    for name in ("yes", "no"):
        np.testing.assert_allclose(outputs[name], expected[name], atol=1e-6)
    assert result.argmax_agreement is None


def test_dict_inputs_keep_their_keys_and_types(tmp_path):
    inputs = {
        "ids": keras.Input((4,), dtype="int32", name="ids"),
        "age": keras.Input((1,), name="age"),
    }
    table = keras.layers.Embedding(10, 3)(inputs["ids"])
    joined = keras.layers.concatenate(
        [keras.layers.Flatten()(table), inputs["age"]]
    )
    model = keras.Model(inputs, [keras.layers.Dense(1)(joined), joined])
    result = export_tflite(model, tmp_path / "dict.tflite")
    assert inputs_of(result) == {
        "age": ("float32", (1, 1)),
        "ids": ("int32", (1, 4)),
    }
    assert list(outputs_of(result)) == ["output_0", "output_1"]
    assert result.verified_on == "16 random samples (seed 0)"


def test_counted_names_become_stable_ones(tmp_path):
    keras.Input((9,))
    result = export_tflite(dense_model(3), tmp_path / "plain.tflite")
    assert list(inputs_of(result)) == ["input_0"]


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(3)

    def call(self, inputs):
        return {"scores": self.dense(inputs["x"]) + inputs["bias"]}


def test_subclassed_model_is_shown_by_a_sample(tmp_path):
    model = Subclassed()
    data = {"x": np.ones((4, 2), "float32"), "bias": np.ones((4, 3))}
    model(data)
    result = export_tflite(model, tmp_path / "sub.tflite", verify_data=data)
    assert inputs_of(result) == {
        "x": ("float32", (1, 2)),
        "bias": ("float32", (1, 3)),
    }
    assert list(outputs_of(result)) == ["scores"]
    with pytest.raises(ExportError, match="subclassed.*verify_data="):
        export_tflite(model, tmp_path / "sub.tflite")


def test_causal_lm_embeddings_are_quantized(
    tiny_transformer, token_ids, tmp_path
):
    result = export_tflite(
        tiny_transformer,
        tmp_path / "gpt.tflite",
        quantize="dynamic_int8",
        verify_data=token_ids,
    )
    assert inputs_of(result) == {
        "padding_mask": ("int32", (1, 8)),
        "token_ids": ("int32", (1, 8)),
    }
    assert outputs_of(result) == {"output_0": ("float32", (1, 8, 32))}
    assert result.operators["EMBEDDING_LOOKUP"] == 1
    assert "GATHER" not in result.operators
    assert result.sqnr_db > 30
    assert result.argmax_agreement > 0.9
    # The tied table is held once: 32 tokens of 8 numbers, in one byte each.
    tables = [
        tensor
        for tensor in describe(result.path).tensors
        if tensor.is_constant and tensor.shape == (32, 8)
    ]
    assert [tensor.dtype for tensor in tables] == ["INT8"]


@pytest.mark.slow
def test_a_language_model_with_its_tokenizer_exports(tmp_path):
    import keras_nlp

    import kdtf.data

    # The tokenizer's lookup tables are no part of the graph, and no operator
    # of LiteRT: they must stay behind.
    tokenizer = kdtf.data.train_tokenizer("the cat " * 9, vocabulary_size=262)
    backbone = keras_nlp.models.GPT2Backbone(
        vocabulary_size=262,
        num_layers=1,
        num_heads=2,
        hidden_dim=8,
        intermediate_dim=16,
        max_sequence_length=6,
    )
    model = keras_nlp.models.GPT2CausalLM(
        backbone,
        preprocessor=keras_nlp.models.GPT2CausalLMPreprocessor(
            tokenizer, sequence_length=6
        ),
    )
    ids = np.ones((2, 6), "int32")
    samples = {"token_ids": ids, "padding_mask": ids}
    result = export_tflite(model, tmp_path / "lm.tflite", verify_data=samples)
    assert result.max_error < 1e-4
    assert not [name for name in result.operators if "Hash" in name]


def test_text_classifier_exports_with_its_own_names(token_ids, tmp_path):
    import keras_nlp

    backbone = keras_nlp.models.BertBackbone(
        vocabulary_size=32,
        num_layers=1,
        num_heads=2,
        hidden_dim=8,
        intermediate_dim=16,
        max_sequence_length=8,
    )
    model = keras_nlp.models.BertTextClassifier(
        backbone, num_classes=3, preprocessor=None
    )
    data = {**token_ids, "segment_ids": np.zeros((12, 8), "int32")}
    result = export_tflite(model, tmp_path / "bert.tflite", verify_data=data)
    names = {"padding_mask", "segment_ids", "token_ids"}
    assert inputs_of(result) == dict.fromkeys(names, ("int32", (1, 8)))
    assert outputs_of(result) == {"output_0": ("float32", (1, 3))}
    assert result.sqnr_db > 100


def test_free_length_needs_a_sample(tiny_transformer, tmp_path, older):
    with pytest.raises(ExportError, match="fixed shapes.*verify_data="):
        export_tflite(tiny_transformer, older)


@pytest.mark.slow
@pytest.mark.parametrize(
    "target, operator", [("android", "WHILE"), ("iot", "UNPACK")]
)
def test_recurrent_layers_loop_in_float_and_unroll_in_int8(
    rng, tmp_path, target, operator
):
    layer = keras.layers.LSTM(4)
    model = keras.Sequential([keras.Input((5, 3)), layer])
    data = rng.normal(size=(20, 5, 3)).astype("float32")
    result = export_tflite(
        model, tmp_path / "rnn.tflite", target=target, representative_data=data
    )
    assert operator in result.operators
    assert result.sqnr_db > 25
    assert layer.unroll is False


def test_tf_keras_model_exports(rng, tmp_path):
    import tf_keras

    model = tf_keras.Sequential(
        [
            tf_keras.Input((8, 8, 1), name="picture"),
            tf_keras.layers.Conv2D(4, 3, activation="relu"),
            tf_keras.layers.BatchNormalization(),
            tf_keras.layers.Flatten(),
            tf_keras.layers.Dense(4),
        ]
    )
    data = rng.normal(size=(16, 8, 8, 1)).astype("float32")
    result = export_tflite(
        model,
        tmp_path / "legacy.tflite",
        target="iot",
        representative_data=data,
    )
    assert inputs_of(result) == {"picture": ("int8", (1, 8, 8, 1))}
    assert result.sqnr_db > 25


def test_subclassed_tf_keras_model_exports(tmp_path):
    import tf_keras

    class Legacy(tf_keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = tf_keras.layers.Dense(2)

        def call(self, inputs):
            return self.dense(inputs)

    data = np.ones((4, 3), "float32")
    model = Legacy()
    model(data)
    result = export_tflite(model, tmp_path / "sub.tflite", verify_data=data)
    assert inputs_of(result) == {"input_0": ("float32", (1, 3))}


@pytest.mark.parametrize("policy", ["mixed_float16", "bfloat16"])
def test_half_precision_model_is_computed_in_float32(tmp_path, policy):
    keras.config.set_dtype_policy(policy)
    model = dense_model(3)
    keras.config.set_dtype_policy("float32")
    result = export_tflite(model, tmp_path / "half.tflite")
    assert result.sqnr_db > 100
    expected = f"computed in float32; the model's own policy is '{policy}'"
    assert result.warnings == (expected,)
    assert model.layers[-1].dtype_policy.name == policy


def test_export_leaves_the_model_as_it_was(tiny_cnn, images, tmp_path):
    tiny_cnn.compile("sgd", "mse")
    before = tiny_cnn.get_weights()
    export_tflite(tiny_cnn, tmp_path / "cnn.tflite")
    for old, new in zip(before, tiny_cnn.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    history = tiny_cnn.fit(images, np.zeros((16, 4)), verbose=0).history
    assert len(history["loss"]) == 1


@pytest.mark.slow
def test_datasets_of_pairs_serve_as_data(tiny_cnn, batch, tmp_path):
    import tensorflow as tf

    dataset = tf.data.Dataset.from_tensor_slices(batch).batch(4).repeat()
    result = export_tflite(
        tiny_cnn,
        tmp_path / "cnn.tflite",
        quantize="int8",
        representative_data=dataset,
    )
    assert result.verified_on == "100 samples of representative_data"


def test_nothing_is_printed(tiny_cnn, images, tmp_path, capfd):
    export_tflite(
        tiny_cnn,
        tmp_path / "cnn.tflite",
        quantize="int8",
        representative_data=images,
    )
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")
