import keras
import numpy as np
import pytest
import tf_keras

from kdtf.evaluation.macs import macs_of_file
from kdtf.export import export_tflite
from kdtf.flatbuffer import read_model
from kdtf.flatbuffer import write_model

layers = keras.layers


@pytest.fixture
def macs_of(tmp_path):
    """Exports a model, or layers in a row, and counts its file."""

    def count(shape, *parts):
        model = keras.Sequential([keras.Input(shape), *parts])
        path = tmp_path / "model.tflite"
        export_tflite(model, path, target="float")
        return macs_of_file(path)

    return count


@pytest.mark.parametrize(
    ("shape", "layer", "expected"),
    [
        ((8, 8, 3), layers.Conv2D(4, 3), 6 * 6 * 4 * 27),
        ((8, 8, 3), layers.Conv2D(4, 3, strides=2, padding="same"), 1728),
        ((8, 8, 4), layers.Conv2D(6, 3, groups=2), 6 * 6 * 6 * 9 * 2),
        ((8, 8, 3), layers.Conv2D(4, 3, dilation_rate=2), 4 * 4 * 4 * 27),
        ((10, 4), layers.Conv1D(5, 3), 8 * 5 * 12),
        ((5, 5, 5, 2), layers.Conv3D(3, 2), 64 * 3 * 16),
        (
            (8, 8, 3),
            layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same"),
            8 * 8 * 6 * 9,
        ),
        (
            (4, 4, 3),
            layers.Conv2DTranspose(5, 3, strides=2, padding="same"),
            4 * 4 * 3 * 5 * 9,
        ),
        ((7,), layers.Dense(5), 35),
        ((6, 7), layers.Dense(5), 6 * 35),
        # A step of an LSTM is 4 gates of 3 + 4 values to 4; 5 steps.
        ((5, 3), layers.LSTM(4), 5 * 4 * (3 + 4) * 4),
        # A GRU has 3 gates.
        ((5, 3), layers.GRU(4), 5 * 3 * (3 + 4) * 4),
        ((8, 8, 1), layers.MaxPooling2D(), 0),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_counts_what_can_be_computed_by_hand(macs_of, shape, layer, expected):
    assert macs_of(shape, layer) == expected


def test_layers_add_up(macs_of):
    parts = [layers.Conv2D(4, 3), layers.Flatten(), layers.Dense(2)]
    assert macs_of((8, 8, 3), *parts) == 36 * 4 * 27 + 144 * 2


def test_attention_counts_its_projections_and_both_products(tmp_path):
    inputs = keras.Input((6, 8))
    outputs = layers.MultiHeadAttention(2, 4)(inputs, inputs)
    path = tmp_path / "attention.tflite"
    export_tflite(keras.Model(inputs, outputs), path)
    projections = 4 * 6 * 8 * 8
    products = 2 * (2 * 6 * 6 * 4)
    assert macs_of_file(path) == projections + products


def test_transposed_left_factor_is_summed_over_its_other_axis(tmp_path):
    """Six rows of (6, 8) transposed: 8 x 5 sums of 6 products."""
    path = tmp_path / "product.tflite"
    left, right = keras.Input((6, 8)), keras.Input((6, 5))
    outputs = keras.ops.matmul(keras.ops.transpose(left, (0, 2, 1)), right)
    export_tflite(keras.Model([left, right], outputs), path)
    assert macs_of_file(path) == 8 * 5 * 6


def test_fused_lstm_of_the_other_flavour_counts_the_same(tmp_path):
    path = tmp_path / "lstm.tflite"
    model = tf_keras.Sequential(
        [tf_keras.Input((5, 3)), tf_keras.layers.LSTM(4)]
    )
    result = export_tflite(model, path)
    assert result.operators["UNIDIRECTIONAL_SEQUENCE_LSTM"] == 1
    assert macs_of_file(path) == 5 * 4 * (3 + 4) * 4


def test_number_format_does_not_change_the_count(tmp_path, rng):
    model = keras.Sequential(
        [keras.Input((8, 8, 3)), layers.Conv2D(4, 3), layers.Flatten()]
    )
    path = tmp_path / "int8.tflite"
    data = rng.normal(size=(8, 8, 8, 3)).astype("float32")
    export_tflite(model, path, quantize="int8", representative_data=data)
    assert macs_of_file(path) == 6 * 6 * 4 * 27


@pytest.fixture
def changed(tmp_path):
    """Exports a layer, lets a function change the file's objects."""

    def change(shape, layer, function):
        path = tmp_path / "changed.tflite"
        export_tflite(keras.Sequential([keras.Input(shape), layer]), path)
        model = read_model(path.read_bytes())
        function(model)
        path.write_bytes(write_model(model))
        return path

    return change


def test_free_dimensions_are_refused(changed):
    def free(model):
        graph = model.subgraphs[0]
        graph.tensors[graph.inputs[0]].shapeSignature = np.array([-1, 7], "i4")

    path = changed((7,), layers.Dense(5), free)
    with pytest.raises(ValueError, match=r"Received: path=.*\(-1, 7\)"):
        macs_of_file(path)


def test_loops_of_unknown_length_are_refused(changed):
    def forget_bounds(model):
        cond = model.subgraphs[1]
        for operator in cond.operators:
            operator.inputs[-1] = cond.inputs[0]

    path = changed((5, 3), layers.LSTM(4), forget_bounds)
    with pytest.raises(ValueError, match=r"Received: path=.*WHILE"):
        macs_of_file(path)


def test_loops_that_count_by_two_are_refused(changed):
    def count_by_two(model):
        body = model.subgraphs[2]
        place = list(body.outputs)[0]
        for operator in body.operators:
            if operator.outputs[0] == place:
                step = body.tensors[operator.inputs[1]]
                two = np.array([2], "<i4").view("u1")
                model.buffers[step.buffer].data = two

    path = changed((5, 3), layers.LSTM(4), count_by_two)
    with pytest.raises(ValueError, match="WHILE"):
        macs_of_file(path)


def test_operators_that_multiply_unseen_are_refused(changed):
    def rename(model):
        code = model.operatorCodes[model.subgraphs[0].operators[0].opcodeIndex]
        # SVDF in the schema.
        code.builtinCode = code.deprecatedBuiltinCode = 27

    path = changed((7,), layers.Dense(5), rename)
    with pytest.raises(ValueError, match=r"SVDF is not counted. Received"):
        macs_of_file(path)


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "text.tflite"
    path.write_text("no model at all")
    with pytest.raises(ValueError, match=r"Received: path='.*text.tflite'"):
        macs_of_file(path)
    with pytest.raises(FileNotFoundError):
        macs_of_file(tmp_path / "none.tflite")
