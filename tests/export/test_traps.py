"""Conversions that go wrong in silence, planted one by one.

Every test breaks one step of the export as a wrong route would, and asks for
the error that names the trap, with no file left and the older one untouched.
T1 to T15 are the numbers of the research notes: T11 to T14 are planted in
test_runtime_traps.py, T15 in test_tflite_arguments.py. T13 concerns
`.litertlm` bundles, which are not written yet.
"""

import keras
import numpy as np
import pytest

from kdtf.export import build
from kdtf.export import converter
from kdtf.export.quantizer import Dynamic
from kdtf.flatbuffer import read_model
from kdtf.flatbuffer import write_model

# For its time; CI runs it.
pytestmark = pytest.mark.slow


def legacy_file(model, **changes):
    """What TFLiteConverter makes of a Keras model without our route."""
    import tensorflow as tf

    made = tf.lite.TFLiteConverter.from_keras_model(model)
    for name, value in changes.items():
        setattr(made, name, value)
    return made.convert()


def test_t1_variables_left_outside(tiny_cnn, refuses, monkeypatch):
    def save(function, variables, folder):
        import tensorflow as tf

        signatures = {converter.SIGNATURE: function}
        tf.saved_model.save(tiny_cnn, folder, signatures=signatures)

    monkeypatch.setattr(converter, "_save", save)
    refuses(tiny_cnn, "weights are not in the file.*VAR_HANDLE")


def test_t1_kernels_missing(tiny_cnn, refuses, monkeypatch):
    empty = keras.Sequential(
        [
            keras.Input((8, 8, 1), name="image"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(4, kernel_initializer="zeros"),
        ]
    )
    monkeypatch.setattr(
        build.converter, "to_float32", lambda traced: legacy_file(empty)
    )
    message = "weights are missing: of 52 kernel elements.*0. Missing: .*conv"
    refuses(tiny_cnn, message)


def test_t2_no_signature(tiny_cnn, refuses, monkeypatch):
    whole = converter.to_float32

    def nameless(traced):
        model = read_model(whole(traced))
        model.signatureDefs = None
        return write_model(model)

    monkeypatch.setattr(build.converter, "to_float32", nameless)
    refuses(tiny_cnn, r"one signature 'serving_default', but it has \[\]")


def test_t2_wrong_names(tiny_cnn, refuses, monkeypatch):
    monkeypatch.setattr(
        build, "name_signature", lambda content, inputs, outputs: content
    )
    refuses(tiny_cnn, "inputs must be {'image'.*but they are {'kdtf_input_0'")


def test_t3_outputs_swapped(two_branches, pair, refuses, monkeypatch):
    named = build.name_signature

    def swapped(content, inputs, outputs):
        return named(content, inputs, list(outputs)[::-1])

    monkeypatch.setattr(build, "name_signature", swapped)
    refuses(two_branches, "outputs differ from the Keras", verify_data=pair)


def test_t3_inputs_swapped(two_branches, pair, refuses, monkeypatch):
    named = build.name_signature

    def swapped(content, inputs, outputs):
        return named(content, list(inputs)[::-1], outputs)

    monkeypatch.setattr(build, "name_signature", swapped)
    refuses(two_branches, "outputs differ from the Keras", verify_data=pair)


def bicubic():
    return keras.Sequential(
        [
            keras.Input((4, 4, 1)),
            keras.layers.Resizing(6, 6, interpolation="bicubic"),
        ]
    )


def test_t4_flex_is_not_asked_for(refuses):
    refuses(bicubic(), r"builtin.*the model needs ResizeBicubic")


def test_t4_flex_admitted(refuses, monkeypatch):
    import tensorflow as tf

    def with_flex(traced):
        def configure(made):
            sets = tf.lite.OpsSet
            made.target_spec.supported_ops = [
                sets.TFLITE_BUILTINS,
                sets.SELECT_TF_OPS,
            ]

        return converter._convert(traced, configure)

    monkeypatch.setattr(build.converter, "to_float32", with_flex)
    refuses(bicubic(), "operators outside.*CUSTOM:FlexResizeBicubic")


def test_t5_free_dimensions(tiny_cnn, refuses, monkeypatch):
    monkeypatch.setattr(
        build.converter, "to_float32", lambda traced: legacy_file(tiny_cnn)
    )
    refuses(tiny_cnn, "tensors have free dimensions: .*image")


def test_t6_float_operator_on_a_microcontroller(rng, refuses):
    model = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(8),
            keras.layers.LayerNormalization(),
        ]
    )
    refuses(
        model,
        "compute in float in an int8 file: DEQUANTIZE x1, NEG x1",
        target="iot",
        representative_data=rng.normal(size=(16, 6)),
    )


def test_t6_layers_left_in_float(tiny_cnn, images, refuses, monkeypatch):
    monkeypatch.setattr(
        build.converter,
        "to_int8",
        lambda traced, samples, **options: converter.to_float16(traced),
    )
    refuses(
        tiny_cnn,
        "compute in float in an int8 file: CONV_2D x1, FULLY_CONNECTED x1",
        quantize="int8",
        representative_data=images,
    )


class FakeQuantized(keras.layers.Dense):
    def call(self, inputs):
        import tensorflow as tf

        fake = tf.quantization.fake_quant_with_min_max_args
        return fake(super().call(fake(inputs, -4, 4)), -8, 8)


def test_t10_fake_quantization_without_optimizations(rng, refuses, monkeypatch):
    model = keras.Sequential([keras.Input((6,)), FakeQuantized(8)])
    monkeypatch.setattr(
        build.converter,
        "to_int8",
        lambda traced, samples, **options: converter.to_float32(traced),
    )
    refuses(
        model,
        "compute in float in an int8 file: .*FULLY_CONNECTED x1",
        quantize="int8",
        representative_data=rng.normal(size=(16, 6)),
    )


def test_t7_quantizer_does_nothing(tiny_cnn, refuses, monkeypatch):
    monkeypatch.setattr(
        build, "to_dynamic", lambda content, **options: Dynamic(content=content)
    )
    refuses(
        tiny_cnn,
        "'dynamic_int8' reached only 0 of 52 weights; still in FLOAT32",
        quantize="dynamic_int8",
    )


def test_t7_t8_embeddings_left_in_float(
    tiny_transformer, token_ids, refuses, monkeypatch
):
    monkeypatch.setattr(
        build, "rewrite_embeddings", lambda content: (content, 0)
    )
    refuses(
        tiny_transformer,
        "reached only 768 of 1024 weights; still in FLOAT32: arith.constant",
        quantize="dynamic_int8",
        verify_data=token_ids,
    )


def test_t8_weights_stored_twice(tiny_cnn, refuses, monkeypatch):
    from ai_edge_litert import schema_py_generated as schema

    quantized = build.to_dynamic

    def with_copy(content, **options):
        model = read_model(quantized(content, **options).content)
        buffer, tensor = schema.BufferT(), schema.TensorT()
        buffer.data = np.ones(2000, "uint8")
        model.buffers.append(buffer)
        tensor.name, tensor.shape = b"copy", [20, 100]
        tensor.type = schema.TensorType.INT8
        tensor.buffer = len(model.buffers) - 1
        model.subgraphs[0].tensors.append(tensor)
        return Dynamic(content=write_model(model))

    monkeypatch.setattr(build, "to_dynamic", with_copy)
    refuses(
        tiny_cnn,
        "2056 weights where the float file holds 56.*more than once",
        quantize="dynamic_int8",
    )


def test_t9_softmax_mask_drowns_int8(masked_softmax, rng, refuses):
    mask = rng.integers(0, 2, size=(16, 4)).astype("float32")
    error = refuses(
        masked_softmax,
        "activation '.*' has an int8 step of .*softmax mask of -1e9",
        quantize="int8",
        representative_data=(rng.normal(size=(16, 4)), mask),
    )
    assert "quantize='dynamic_int8'" in str(error)
