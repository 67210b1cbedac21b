"""What accelerators take of a file."""

import keras
import pytest
from ai_edge_litert import schema_py_generated as schema

from kdtf.export import delegate_report
from kdtf.export import export_tflite
from kdtf.export.delegates import Delegate
from kdtf.export.delegates.partition import partition
from kdtf.export.delegates.partition import taken_by_xnnpack
from kdtf.export.delegates.rules import RULES
from kdtf.flatbuffer import operator_name
from kdtf.flatbuffer import read_model
from kdtf.flatbuffer import write_model


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A file with ids, an embedding, five dimensions and a top k."""
    keras.utils.set_random_seed(0)
    ids = keras.Input((4,), dtype="int32", name="ids")
    x = keras.layers.Embedding(10, 8)(ids)
    x = keras.layers.Dense(8, activation="gelu")(x)
    deep = keras.ops.sum(keras.ops.reshape(x, (-1, 2, 2, 2, 4)), axis=4)
    best, _ = keras.ops.top_k(keras.layers.Flatten()(x), 3)
    model = keras.Model(ids, {"deep": deep, "best": best})
    path = tmp_path_factory.mktemp("delegates") / "mixed.tflite"
    export_tflite(model, path)
    return path


@pytest.fixture(scope="module")
def report(path):
    return delegate_report(path)


def reasons(delegate):
    return {found.operator: found.reason for found in delegate.fallbacks}


def test_parts_by_hand():
    # Two branches of one input, joined: 0 -> 1 -> 4, 2 -> 3 -> 4.
    inputs = [[0], [1], [0], [3], [2, 4]]
    outputs = [[1], [2], [3], [4], [5]]
    taken = [True, False, True, True, True]
    # 1 stays behind, so 4 waits; 2 and 3 need not.
    assert partition(inputs, outputs, taken) == [[0, 2, 3], [4]]
    assert partition(inputs, outputs, [True] * 5) == [[0, 1, 2, 3, 4]]
    assert partition(inputs, outputs, [False] * 5) == []
    assert partition([], [], []) == []


def test_a_part_waits_for_all_that_it_reads():
    # 0 (CPU) writes what 1 reads; 2 is free and comes after 0's round.
    assert partition([[0], [1], [0]], [[1], [2], [3]], [False, True, True]) == [
        [1, 2]
    ]


def test_circles_are_refused():
    with pytest.raises(ValueError, match="free of circles"):
        partition([[1], [0]], [[0], [1]], [True, True])


def test_parts_are_those_that_the_runtime_makes(path, report):
    model = read_model(path.read_bytes())
    operators = model.subgraphs[0].operators
    measured = taken_by_xnnpack(path, len(operators))
    taken = {index for part in measured for index in part}
    # Indices of constants do no harm: nothing writes them.
    ours = partition(
        [[int(i) for i in op.inputs] for op in operators],
        [[int(i) for i in op.outputs] for op in operators],
        [index in taken for index in range(len(operators))],
    )
    assert sorted(ours) == sorted(measured)
    sizes = tuple(sorted(map(len, measured), reverse=True))
    assert report["xnnpack"].parts == sizes
    assert 0 < report["xnnpack"].num_taken < len(operators)
    names = {operator_name(model, operators[i]) for i in taken}
    assert {"FULLY_CONNECTED", "GELU"} <= names
    assert "TOPK_V2" not in names


def test_xnnpack_leaves_integers_and_what_it_has_no_kernel_for(report):
    found = reasons(report["xnnpack"])
    assert found["SELECT"] == "type BOOL"
    assert found["LESS"] == "type INT32"
    assert found["TOPK_V2"].startswith("no kernel for it")
    assert report["xnnpack"].source.startswith("measured: ai-edge-litert 2.")


def test_the_gpu_delegate_goes_by_names_types_and_dimensions(report):
    found = reasons(report["gpu"])
    assert found["TOPK_V2"] == "not among its operators"
    assert found["LESS"] == "type INT32"
    assert found["SUM"] == "5 dimensions; it takes 4"
    assert "FULLY_CONNECTED" not in found
    assert "GATHER" not in found


def test_litert_2s_gpu_takes_integers_too(report):
    found = reasons(report["ml_drift"])
    assert "LESS" not in found and "TOPK_V2" not in found
    assert found["SUM"] == "5 dimensions; it takes 4"


def test_nnapi_is_said_to_be_deprecated(report):
    assert "deprecated since Android 15" in report["nnapi"].title
    assert reasons(report["nnapi"])["GELU"] == "not among its operators"
    assert "deprecated" in str(report)


def test_every_operator_is_taken_or_falls_back(report):
    for delegate in report.delegates:
        left = sum(found.count for found in delegate.fallbacks)
        assert sum(delegate.parts) + left == delegate.num_operators


def test_free_dimensions_fall_back(path, tmp_path):
    model = read_model(path.read_bytes())
    for tensor in model.subgraphs[0].tensors:
        if tensor.shape is not None and len(tensor.shape) == 2:
            tensor.shapeSignature = [-1, *tensor.shape[1:]]
    other = tmp_path / "free.tflite"
    other.write_bytes(write_model(model))
    assert "free dimensions" in reasons(delegate_report(other)["gpu"]).values()


def test_the_report_prints_tables(report):
    lines = str(report).splitlines()
    assert "mixed.tflite" in lines[0]
    row = next(line for line in lines if line.split()[:2] == ["LESS", "int32"])
    assert row.split() == ["LESS", "int32", "1", "type", "INT32"]
    assert any("model_builder.cc, June 2026" in line for line in lines)


def test_an_unknown_accelerator_is_a_key_error(report):
    with pytest.raises(KeyError, match="tpu"):
        report["tpu"]


def test_a_delegate_takes_so_many_parts_and_no_more():
    def make(max_parts):
        return Delegate(
            name="x",
            title="",
            source="",
            num_operators=9,
            parts=(4, 2, 1),
            max_parts=max_parts,
            fallbacks=(),
        )

    assert make(1).num_taken == 4
    assert str(make(1)) == (
        "x: 4 of 9 operators (could take 7 in 3 parts; by default it takes "
        "the largest 1)"
    )
    assert str(make(None)) == "x: 7 of 9 operators in 3 parts"
    assert str(make(3)) == "x: 7 of 9 operators in 3 parts"


@pytest.mark.parametrize("rules", RULES, ids=lambda rules: rules.name)
def test_rules_name_what_the_schema_has(rules):
    operators = set(vars(schema.BuiltinOperator))
    assert rules.operators <= operators
    assert rules.float_only <= rules.operators
    assert set(rules.more_dtypes) <= rules.operators
    dtypes = rules.dtypes.union(*rules.more_dtypes.values())
    assert dtypes <= set(vars(schema.TensorType))
    assert "2026" in rules.source


def test_missing_and_other_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError):
        delegate_report(tmp_path / "none.tflite")
    other = tmp_path / "a.tflite"
    other.write_bytes(b"0123456789")
    with pytest.raises(ValueError, match="TFL3"):
        delegate_report(other)


def test_a_file_that_litert_refuses_is_a_value_error(path, tmp_path):
    model = read_model(path.read_bytes())
    # A matrix product with an operand of another size.
    for operator in model.subgraphs[0].operators:
        if operator_name(model, operator) == "FULLY_CONNECTED":
            weight = model.subgraphs[0].tensors[operator.inputs[1]]
            weight.shape = [weight.shape[0], weight.shape[1] // 2]
    other = tmp_path / "bad.tflite"
    other.write_bytes(write_model(model))
    with pytest.raises(ValueError, match="must be able to load.*bad.tflite"):
        delegate_report(other)
