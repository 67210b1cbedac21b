"""What a file must be, for TensorFlow Lite Micro to run it."""

import keras
import numpy as np
import pytest

from kdtf.export import ExportError
from kdtf.export import export_tflite
from kdtf.export.micro.entry import check_file
from kdtf.export.micro.entry import read_entry
from kdtf.flatbuffer import describe
from kdtf.flatbuffer import read_model
from kdtf.flatbuffer import write_model


@pytest.fixture(scope="module")
def model():
    zeta = keras.Input((3,), name="zeta")
    alpha = keras.Input((4,), name="alpha")
    joined = keras.layers.concatenate([zeta, alpha])
    return keras.Model(
        [zeta, alpha], {"yes": keras.layers.Dense(2, name="yes")(joined)}
    )


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    return {
        "zeta": rng.normal(size=(20, 3)).astype("float32"),
        "alpha": rng.normal(size=(20, 4)).astype("float32"),
    }


@pytest.fixture(scope="module")
def file(model, data, tmp_path_factory):
    path = tmp_path_factory.mktemp("entry") / "good.tflite"
    return export_tflite(
        model, path, target="iot", representative_data=data
    ).path


@pytest.fixture
def changed(file, tmp_path):
    """Writes the good file with a change and gives its path."""

    def make(change):
        tree = read_model(file.read_bytes())
        change(tree)
        path = tmp_path / "changed.tflite"
        path.write_bytes(write_model(tree))
        return path

    return make


def refused(path, message):
    with pytest.raises(ExportError, match=message):
        check_file(describe(path), read_entry(path))


def test_entry_has_the_graphs_order_and_the_signatures_names(file):
    entry = read_entry(file)
    graph = read_model(file.read_bytes()).subgraphs[0]
    widths = [graph.tensors[i].shape[-1] for i in graph.inputs]
    assert [spec.shape[-1] for spec in entry.inputs] == widths
    assert {spec.name: spec.shape for spec in entry.inputs} == {
        "zeta": (1, 3),
        "alpha": (1, 4),
    }
    (output,) = entry.outputs
    assert (output.name, output.dtype, output.shape) == ("yes", "int8", (1, 2))
    tensor = graph.tensors[graph.outputs[0]]
    assert output.scale == float(tensor.quantization.scale[0]) > 0
    assert output.zero_point == int(tensor.quantization.zeroPoint[0])
    check_file(describe(file), entry)


def test_without_a_signature_the_tensors_have_their_own_names(changed):
    def change(tree):
        tree.signatureDefs = []
        tree.subgraphs[0].tensors[tree.subgraphs[0].inputs[0]].name = b"first"

    path = changed(change)
    entry = read_entry(path)
    assert entry.inputs[0].name == "first"
    assert entry.outputs[0].shape == (1, 2)
    check_file(describe(path), entry)


def test_a_free_batch_is_one_sample(changed):
    def change(tree):
        graph = tree.subgraphs[0]
        graph.tensors[graph.inputs[0]].shapeSignature = [-1, 3]

    path = changed(change)
    assert read_entry(path).inputs[0].shape[0] == 1
    check_file(describe(path), read_entry(path))


def test_other_free_dimensions_are_refused(changed):
    def change(tree):
        graph = tree.subgraphs[0]
        graph.tensors[graph.inputs[0]].shapeSignature = [1, -1]

    refused(changed(change), r"fixed, of one sample.*\(1, None\)")


def test_a_batch_of_two_is_refused(changed):
    def change(tree):
        graph = tree.subgraphs[0]
        graph.tensors[graph.outputs[0]].shape = [2, 2]

    refused(changed(change), r"one sample.*'yes': \(2, 2\)")


def test_types_that_c_does_not_have_are_refused(changed):
    from ai_edge_litert import schema_py_generated as schema

    def change(tree):
        graph = tree.subgraphs[0]
        tensor = graph.tensors[graph.inputs[0]]
        tensor.type = schema.TensorType.INT4

    refused(changed(change), "integers of C, but are: .*int4")


@pytest.mark.parametrize("scale", [0.0, -1.0, float("inf"), float("nan")])
def test_scales_must_be_positive_numbers(changed, scale):
    def change(tree):
        graph = tree.subgraphs[0]
        graph.tensors[graph.outputs[0]].quantization.scale = [scale]

    refused(changed(change), f"'yes': 'int8, scale {scale}")


def test_an_output_outside_the_file_is_refused(changed):
    def change(tree):
        tree.subgraphs[0].outputs = [999]

    with pytest.raises(ValueError, match="inputs or outputs are not in it"):
        read_entry(changed(change))


def test_several_signatures_are_refused(changed):
    def change(tree):
        tree.signatureDefs = tree.signatureDefs * 2

    with pytest.raises(ExportError, match="runs one entry"):
        read_entry(changed(change))


@pytest.mark.slow
@pytest.mark.parametrize("quantize", ["dynamic_int8", "int8"])
def test_files_with_float_parts_are_refused(model, data, tmp_path, quantize):
    path = tmp_path / "float.tflite"
    export_tflite(
        model,
        path,
        quantize=quantize,
        representative_data=data if quantize == "int8" else None,
    )
    refused(path, "takes integers only.*(alpha|yes)")


def test_operators_without_a_kernel_are_refused(changed):
    from ai_edge_litert import schema_py_generated as schema

    def change(tree):
        for code in tree.operatorCodes:
            code.builtinCode = schema.BuiltinOperator.SELECT
            code.deprecatedBuiltinCode = schema.BuiltinOperator.SELECT

    refused(changed(change), "no kernel for: SELECT")


def test_variables_are_refused(changed):
    from ai_edge_litert import schema_py_generated as schema

    def change(tree):
        for code in tree.operatorCodes:
            code.builtinCode = schema.BuiltinOperator.VAR_HANDLE

    refused(changed(change), "still variables")


@pytest.mark.parametrize("content", [b"", b"a picture, by mistake"])
def test_no_tflite_file_is_refused(tmp_path, content):
    path = tmp_path / "bad.tflite"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="TFL3"):
        read_entry(path)
