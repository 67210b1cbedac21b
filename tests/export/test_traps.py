"""Conversions that go wrong in silence, planted one by one.

Every test breaks one step of the export as a wrong route would, and asks for
the error that names the trap, with no file left and the older one untouched.
Numbers T1 to T15 are those of the research notes; T13 concerns `.litertlm`.
"""

import dataclasses
import os
import signal
import struct
import subprocess

import keras
import numpy as np
import pytest

from kdtf.export import ExportError
from kdtf.export import build
from kdtf.export import converter
from kdtf.export import export_tflite
from kdtf.export import verify
from kdtf.export import worker
from kdtf.flatbuffer import read_model
from kdtf.flatbuffer import write_model


@pytest.fixture
def refuses(older, untouched):
    """Exports over an older file and asks for a certain refusal."""

    def check(model, message, **arguments):
        with pytest.raises(ExportError, match=message) as caught:
            export_tflite(model, older, **arguments)
        untouched()
        return caught.value

    return check


def legacy_file(model, **changes):
    """What TFLiteConverter makes of a Keras model without our route."""
    import tensorflow as tf

    made = tf.lite.TFLiteConverter.from_keras_model(model)
    for name, value in changes.items():
        setattr(made, name, value)
    return made.convert()


def test_t1_variables_left_outside(tiny_cnn, refuses, monkeypatch):
    def save(model, function, folder):
        import tensorflow as tf

        signatures = {converter.SIGNATURE: function}
        tf.saved_model.save(model, folder, signatures=signatures)

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
    monkeypatch.setattr(build, "to_dynamic_int8", lambda content: content)
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

    quantized = build.to_dynamic_int8

    def with_copy(content):
        model = read_model(quantized(content))
        buffer, tensor = schema.BufferT(), schema.TensorT()
        buffer.data = np.ones(2000, "uint8")
        model.buffers.append(buffer)
        tensor.name, tensor.shape = b"copy", [20, 100]
        tensor.type = schema.TensorType.INT8
        tensor.buffer = len(model.buffers) - 1
        model.subgraphs[0].tensors.append(tensor)
        return write_model(model)

    monkeypatch.setattr(build, "to_dynamic_int8", with_copy)
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


def without_weights(whole):
    """Gives a conversion whose file no runtime can prepare."""

    def convert(traced):
        model = read_model(whole(traced))
        dense = model.subgraphs[0].operators[-1]
        dense.inputs = dense.inputs[:1]
        return write_model(model)

    return convert


def test_t11_runtime_refuses_the_file(tiny_cnn, refuses, monkeypatch):
    broken = without_weights(converter.to_float32)
    monkeypatch.setattr(build.converter, "to_float32", broken)
    refuses(tiny_cnn, "LiteRT must load and run.*ended with code 1")


def test_t11_runtime_aborts(tiny_cnn, refuses, monkeypatch):
    def aborted(command, **options):
        code = "import os, sys; sys.stderr.write('invalid op'); os.abort()"
        return subprocess.run([command[0], "-c", code], **options)

    class Shell:
        TimeoutExpired = subprocess.TimeoutExpired
        run = staticmethod(aborted)

    monkeypatch.setattr(worker, "subprocess", Shell)
    refuses(tiny_cnn, "killed by SIGABRT: invalid op")


def test_t11_runtime_never_ends(tiny_cnn, refuses, monkeypatch):
    isolated = worker.run_isolated
    monkeypatch.setattr(
        verify,
        "run_isolated",
        lambda *args, **options: isolated(
            *args, **options, time_limit_seconds=0.01
        ),
    )
    refuses(tiny_cnn, "no answer within 0.01 s")


def test_t12_slower_than_float_is_a_warning(tiny_cnn, tmp_path, monkeypatch):
    isolated = worker.run_isolated

    def slow(*args, **options):
        outcome = isolated(*args, **options)
        return dataclasses.replace(
            outcome, latency_ms=5.8, baseline_latency_ms=1.0
        )

    monkeypatch.setattr(verify, "run_isolated", slow)
    result = export_tflite(
        tiny_cnn, tmp_path / "slow.tflite", quantize="dynamic_int8"
    )
    (warning,) = result.warnings
    assert "slower than the float one" in warning
    assert "5.80 ms against 1.00 ms" in warning
    assert f"warning: {warning}" in str(result)


@pytest.mark.parametrize(
    "planted, message",
    [
        (struct.error("unpack_from requires 4"), "struct|error: unpack_from"),
        (RuntimeError("mlir says no"), "RuntimeError: mlir says no"),
    ],
)
def test_t14_unrelated_errors_get_their_context(
    tiny_cnn, refuses, monkeypatch, planted, message
):
    import tensorflow as tf

    class Converter:
        @classmethod
        def from_saved_model(cls, folder, signature_keys):
            return cls()

        def convert(self):
            raise planted

    monkeypatch.setattr(tf.lite, "TFLiteConverter", Converter)
    error = refuses(tiny_cnn, f"failed while converting.*({message})")
    assert error.__cause__ is planted


def test_t14_an_empty_file_is_an_error(tiny_cnn, refuses, monkeypatch):
    import tensorflow as tf

    class Converter:
        @classmethod
        def from_saved_model(cls, folder, signature_keys):
            return cls()

        def convert(self):
            return b""

    monkeypatch.setattr(tf.lite, "TFLiteConverter", Converter)
    refuses(tiny_cnn, "must give a file. Received: nothing")


def test_nan_from_the_file_alone(tiny_cnn, refuses, monkeypatch):
    isolated = worker.run_isolated

    def broken(*args, **options):
        outcome = isolated(*args, **options)
        outcome.outputs["output_0"][0, 0] = np.nan
        return outcome

    monkeypatch.setattr(verify, "run_isolated", broken)
    refuses(tiny_cnn, "file gives nan or infinity in output_0")


def test_loops_are_refused_before_they_abort_calibration(rng, refuses):
    class Loop(keras.layers.Layer):
        def call(self, inputs):
            import tensorflow as tf

            return tf.while_loop(
                lambda x: tf.reduce_sum(x) < 9, lambda x: [x + 1], [inputs]
            )[0]

    inputs = keras.Input((3,))
    model = keras.Model(inputs, Loop()(keras.layers.Dense(3)(inputs)))
    refuses(
        model,
        r"free of loops.*\['WHILE'\].*dynamic_int8",
        quantize="int8",
        representative_data=rng.normal(size=(4, 3)),
    )


def test_a_split_left_in_float_by_chance_is_converted_again(
    tiny_cnn, images, tmp_path, monkeypatch
):
    tried = []
    kinds = [{("SPLIT", "FLOAT32")}, {("SPLIT", "FLOAT32")}, set()]

    def operators(content):
        tried.append(content)
        # The first look is at the float file, for loops.
        return set() if len(tried) == 1 else kinds[len(tried) - 2]

    monkeypatch.setattr(build, "_operators", operators)
    export_tflite(
        tiny_cnn,
        tmp_path / "a.tflite",
        quantize="int8",
        representative_data=images,
    )
    assert len(tried) == 1 + 3


def test_an_interrupted_process_is_named():
    assert worker._ending(-signal.SIGSEGV) == "was killed by SIGSEGV"
    assert worker._ending(3) == "ended with code 3"


def test_temporary_folders_are_removed(tiny_cnn, tmp_path, monkeypatch):
    import tempfile

    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    export_tflite(tiny_cnn, tmp_path / "a.tflite", quantize="dynamic_int8")
    assert os.listdir(scratch) == []
