"""Files made by the converter from plain TensorFlow, counted by hand."""

import dataclasses

import numpy as np
import pytest

from kdtf.flatbuffer import describe
from kdtf.flatbuffer import read_model
from kdtf.flatbuffer import write_model

KERNEL = np.array([[1.0, 0.0, 2.0], [0.0, -4.0, 8.0]], "float32")
SHIFT = np.array([0.5, 0.0, 1.0], "float32")


@pytest.fixture(scope="module")
def content():
    """y = x @ KERNEL + SHIFT, with x `(1, 2)` and a signature."""
    import tensorflow as tf

    module = tf.Module()

    @tf.function(input_signature=[tf.TensorSpec((1, 2), name="x")])
    def serve(x):
        return {"y": x @ KERNEL + SHIFT}

    module.serve = serve
    concrete = serve.get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [concrete], module
    )
    return converter.convert()


@pytest.fixture
def path(content, tmp_path):
    file = tmp_path / "dense.tflite"
    file.write_bytes(content)
    return file


def test_weights_are_counted_without_shapes(path):
    description = describe(path)
    assert description.num_parameters == 9
    assert description.num_nonzero == 6
    assert description.weight_bytes == 36
    assert description.size_bytes == path.stat().st_size
    assert 0 < description.gzip_size_bytes < description.size_bytes


def test_operators_are_named_with_their_types(path):
    description = describe(path)
    assert description.operators == {"FULLY_CONNECTED": 1}
    assert description.operator_dtypes == {("FULLY_CONNECTED", "FLOAT32"): 1}


def test_signature_has_names_types_and_shapes(path):
    (signature,) = describe(path).signatures
    assert signature.key == "serving_default"
    (x,), (y,) = signature.inputs, signature.outputs
    assert (x.name, x.dtype, x.shape, x.scale) == ("x", "float32", (1, 2), None)
    assert (y.name, y.dtype, y.shape) == ("y", "float32", (1, 3))


def test_tensors_tell_constants_from_activations(path):
    tensors = describe(path).tensors
    sizes = sorted(t.num_bytes for t in tensors if t.is_constant)
    assert sizes == [12, 24]
    assert all(not t.is_dynamic and t.scale is None for t in tensors)


def test_a_free_dimension_is_none_and_marked(content, tmp_path):
    model = read_model(content)
    subgraph = model.subgraphs[0]
    subgraph.tensors[subgraph.inputs[0]].shapeSignature = [-1, 2]
    path = tmp_path / "free.tflite"
    path.write_bytes(write_model(model))
    description = describe(path)
    assert description.signatures[0].inputs[0].shape == (None, 2)
    assert sum(tensor.is_dynamic for tensor in description.tensors) == 1


def _with_weights(content, dtype, data, *, scale=None, zero_point=0):
    """Gives the file with the (2, 3) kernel stored as another type."""
    from ai_edge_litert import schema_py_generated as schema

    model = read_model(content)
    for tensor in model.subgraphs[0].tensors:
        buffer = model.buffers[tensor.buffer]
        if buffer.data is not None and len(buffer.data) == 24:
            tensor.type = getattr(schema.TensorType, dtype)
            buffer.data = np.frombuffer(data.tobytes(), np.uint8)
            if scale is not None:
                tensor.quantization = schema.QuantizationParametersT()
                tensor.quantization.scale = scale
                tensor.quantization.zeroPoint = [zero_point] * len(scale)
    return write_model(model)


@pytest.mark.parametrize(
    "dtype, data, num_nonzero, num_bytes",
    [
        # Two 4-bit values per byte: 1 0, 2 0, 0 15.
        ("INT4", np.array([0x01, 0x02, 0xF0], "uint8"), 3, 3),
        # Four 2-bit values per byte: 1 0 2 0, then 0 3 and two of padding.
        ("INT2", np.array([0b00_10_00_01, 0b11_11_11_00], "uint8"), 3, 2),
        ("INT8", np.array([1, 0, 2, 0, -4, 0], "int8"), 3, 6),
        ("FLOAT16", np.array([1, 0, -0.0, 0, -4, 8], "float16"), 3, 12),
        ("FLOAT8_E4M3FN", np.array([1, 128, 0, 0, 5, 9], "uint8"), 3, 6),
    ],
)
def test_small_types_are_unpacked(
    content, tmp_path, dtype, data, num_nonzero, num_bytes
):
    path = tmp_path / "small.tflite"
    path.write_bytes(_with_weights(content, dtype, data))
    description = describe(path)
    # Beside the kernel's 6 there is the bias: 0.5, 0, 1.
    assert description.num_parameters == 9
    assert description.num_nonzero == num_nonzero + 2
    assert description.weight_bytes == num_bytes + 12


def test_zero_is_the_zero_point(content, tmp_path):
    data = np.array([128, 128, 130, 0, 1, 128], "uint8")
    path = tmp_path / "unsigned.tflite"
    path.write_bytes(
        _with_weights(content, "UINT8", data, scale=[0.5], zero_point=128)
    )
    assert describe(path).num_nonzero == 3 + 2


def test_the_largest_scale_of_a_channel_counts(content, tmp_path):
    data = np.ones(6, "int8")
    path = tmp_path / "scaled.tflite"
    path.write_bytes(
        _with_weights(content, "INT8", data, scale=[0.5, 4.0, 2.0])
    )
    scales = {tensor.scale for tensor in describe(path).tensors}
    assert scales == {None, 4.0}


def test_shared_weights_count_once(content, tmp_path):
    model = read_model(content)
    tensors = model.subgraphs[0].tensors
    twin = next(t for t in tensors if model.buffers[t.buffer].data is not None)
    tensors.append(type(twin)())
    for name, value in vars(twin).items():
        setattr(tensors[-1], name, value)
    path = tmp_path / "shared.tflite"
    path.write_bytes(write_model(model))
    assert describe(path).num_parameters == 9
    assert describe(path).weight_bytes == 36


def test_ids_and_shapes_are_no_weights(content, tmp_path):
    path = tmp_path / "ids.tflite"
    data = np.arange(6, dtype="int32")
    path.write_bytes(_with_weights(content, "INT32", data))
    assert describe(path).num_parameters == 3
    path.write_bytes(_with_weights(content, "INT32", data, scale=[0.1]))
    assert describe(path).num_parameters == 9


def test_reading_and_writing_keeps_the_description(content, path, tmp_path):
    again = tmp_path / "again.tflite"
    again.write_bytes(write_model(read_model(content)))
    before, after = describe(path), describe(again)
    for field in ("num_parameters", "operators", "signatures", "tensors"):
        assert getattr(before, field) == getattr(after, field)
    assert dataclasses.is_dataclass(before)


def test_another_file_is_refused_by_name(tmp_path):
    path = tmp_path / "notes.tflite"
    path.write_bytes(b"these are notes")
    with pytest.raises(ValueError, match="'TFL3'.*notes.tflite"):
        describe(path)


@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.9, 0.99])
def test_a_truncated_file_is_refused_by_name(content, tmp_path, share):
    path = tmp_path / "half.tflite"
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match="half.tflite.*cut short or damaged"):
        describe(path)


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        describe(tmp_path / "nowhere.tflite")
