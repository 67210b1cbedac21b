"""Traps that show when the file is converted, run or timed (T11 to T14)."""

import dataclasses
import os
import signal
import struct
import subprocess

import keras
import numpy as np
import pytest

from kdtf.export import build
from kdtf.export import converter
from kdtf.export import export_tflite
from kdtf.export import verify
from kdtf.export import worker
from kdtf.flatbuffer import read_model
from kdtf.flatbuffer import write_model

pytestmark = pytest.mark.slow


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
        _experimental_disable_fuse_mul_and_fc = False
        _experimental_enable_dynamic_update_slice = False

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
        _experimental_disable_fuse_mul_and_fc = False
        _experimental_enable_dynamic_update_slice = False

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


@pytest.mark.slow
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
