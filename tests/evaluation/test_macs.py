import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from kdtf.evaluation.macs import executed_operators
from kdtf.evaluation.macs import macs_of_execution
from kdtf.evaluation.macs import macs_of_file
from kdtf.export import export_tflite
from kdtf.flatbuffer import read_model
from kdtf.flatbuffer import write_model

pytestmark = pytest.mark.slow

layers = keras.layers


def export(folder, inputs, outputs, **options):
    path = folder / "model.tflite"
    export_tflite(keras.Model(inputs, outputs), path, **options)
    return path


def counts_of(path):
    """Gives each operator that multiplies and its count, in any order."""
    model = read_model(path.read_bytes())
    found = [(e.name, macs_of_execution(e)) for e in executed_operators(model)]
    return sorted(pair for pair in found if pair[1])


def test_counts_convolutions_as_by_hand(tmp_path):
    image = keras.Input((8, 8, 4))
    outputs = [
        layer(image)
        for layer in (
            layers.Conv2D(3, 3),
            layers.Conv2D(5, 3, strides=2, padding="same"),
            layers.Conv2D(6, 3, groups=2),
            layers.Conv2D(4, 3, dilation_rate=2),
            layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same"),
            layers.DepthwiseConv2D(3, strides=2, padding="same"),
            layers.Conv2DTranspose(5, 3, strides=2, padding="same"),
        )
    ]
    path = export(tmp_path, image, outputs)
    expected = [
        ("CONV_2D", 6 * 6 * 3 * 36),
        ("CONV_2D", 4 * 4 * 5 * 36),
        # Each output sees half of the channels.
        ("CONV_2D", 6 * 6 * 6 * 18),
        ("CONV_2D", 4 * 4 * 4 * 36),
        ("DEPTHWISE_CONV_2D", 8 * 8 * 8 * 9),
        ("DEPTHWISE_CONV_2D", 4 * 4 * 4 * 9),
        ("TRANSPOSE_CONV", 8 * 8 * 4 * 5 * 9),
    ]
    assert counts_of(path) == sorted(expected)
    assert macs_of_file(path) == 29664


def test_counts_convolutions_over_time_and_over_volumes(tmp_path):
    series, volume = keras.Input((10, 4)), keras.Input((5, 5, 5, 2))
    outputs = [layers.Conv1D(5, 3)(series), layers.Conv3D(3, 2)(volume)]
    path = export(tmp_path, [series, volume], outputs)
    assert counts_of(path) == [
        ("CONV_2D", 8 * 5 * 12),
        ("CONV_3D", 64 * 3 * 16),
    ]


def test_counts_products_as_by_hand(tmp_path):
    """The left factor as it is, and summed over its other axis."""
    flat, left, right = (keras.Input(s) for s in ((7,), (6, 8), (6, 5)))
    transpose = keras.ops.transpose
    outputs = [
        layers.Dense(5)(flat),
        layers.Dense(4)(left),
        keras.ops.matmul(transpose(left, (0, 2, 1)), right),
        keras.ops.matmul(left, transpose(left, (0, 2, 1))),
        layers.MaxPooling1D()(right),
    ]
    path = export(tmp_path, [flat, left, right], outputs)
    assert counts_of(path) == sorted(
        [
            ("BATCH_MATMUL", 8 * 5 * 6),
            ("BATCH_MATMUL", 6 * 6 * 8),
            ("FULLY_CONNECTED", 7 * 5),
            ("FULLY_CONNECTED", 6 * 8 * 4),
        ]
    )


def test_attention_counts_its_projections_and_both_products(tmp_path):
    inputs = keras.Input((6, 8))
    outputs = layers.MultiHeadAttention(2, 4)(inputs, inputs)
    projections = 4 * 6 * 8 * 8
    products = 2 * (2 * 6 * 6 * 4)
    path = export(tmp_path, inputs, outputs)
    assert macs_of_file(path) == projections + products


def test_recurrent_layers_count_every_step(tmp_path):
    """Five steps; 4 gates (LSTM) or 3 (GRU) of 3 + 4 values to 4 each."""
    inputs = keras.Input((5, 3))
    outputs = [layers.LSTM(4)(inputs), layers.GRU(4)(inputs)]
    path = export(tmp_path, inputs, outputs)
    expected = 5 * 4 * (3 + 4) * 4 + 5 * 3 * (3 + 4) * 4
    assert macs_of_file(path) == expected == 980


@pytest.mark.slow
def test_fused_lstm_counts_every_step(tmp_path):
    path = tmp_path / "lstm.tflite"
    model = tf_keras.Sequential(
        [tf_keras.Input((5, 3), batch_size=1), tf_keras.layers.LSTM(4)]
    )
    # Keras 3's is not fused, and ours refuses to export this one.
    path.write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())
    assert counts_of(path) == [("UNIDIRECTIONAL_SEQUENCE_LSTM", 560)]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The bytes of a Dense layer's file and of an LSTM's."""
    folder = tmp_path_factory.mktemp("files")
    flat, series = keras.Input((7,)), keras.Input((5, 3))
    dense = export(folder, flat, layers.Dense(5)(flat)).read_bytes()
    lstm = export(folder, series, layers.LSTM(4)(series)).read_bytes()
    return {"dense": dense, "lstm": lstm}


@pytest.fixture
def changed(tmp_path, exported):
    """Lets a function change a file's objects."""

    def change(kind, function):
        model = read_model(exported[kind])
        function(model)
        path = tmp_path / "changed.tflite"
        path.write_bytes(write_model(model))
        return path

    return change


def test_free_dimensions_are_refused(changed):
    def free(model):
        graph = model.subgraphs[0]
        graph.tensors[graph.inputs[0]].shapeSignature = np.array([-1, 7], "i4")

    path = changed("dense", free)
    with pytest.raises(ValueError, match=r"Received: path=.*\(-1, 7\)"):
        macs_of_file(path)


def test_loops_of_unknown_length_are_refused(changed):
    def forget_bounds(model):
        cond = model.subgraphs[1]
        for operator in cond.operators:
            operator.inputs[-1] = cond.inputs[0]

    path = changed("lstm", forget_bounds)
    with pytest.raises(ValueError, match=r"Received: path=.*WHILE"):
        macs_of_file(path)


def test_loops_that_count_by_two_are_refused(changed):
    def count_by_two(model):
        body = model.subgraphs[2]
        place = body.outputs[0]
        for operator in body.operators:
            if operator.outputs[0] == place:
                step = body.tensors[operator.inputs[1]]
                two = np.array([2], "<i4").view("u1")
                model.buffers[step.buffer].data = two

    path = changed("lstm", count_by_two)
    with pytest.raises(ValueError, match="WHILE"):
        macs_of_file(path)


def test_operators_that_multiply_unseen_are_refused(changed):
    def rename(model):
        code = model.operatorCodes[model.subgraphs[0].operators[0].opcodeIndex]
        # SVDF in the schema.
        code.builtinCode = code.deprecatedBuiltinCode = 27

    path = changed("dense", rename)
    with pytest.raises(ValueError, match=r"SVDF is not counted. Received"):
        macs_of_file(path)


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "text.tflite"
    path.write_text("no model at all")
    with pytest.raises(ValueError, match=r"Received: path='.*text.tflite'"):
        macs_of_file(path)
    with pytest.raises(FileNotFoundError):
        macs_of_file(tmp_path / "none.tflite")
