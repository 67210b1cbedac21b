"""Names, structures and fixed shapes of a model's inputs and outputs."""

import keras
import numpy as np
import pytest

from kdtf.export import ExportError
from kdtf.export.interface import interface_of
from kdtf.export.interface import outputs_by_name


def names_of(interface):
    return [spec.name for spec in interface.inputs]


def test_lists_keep_their_order_and_structure():
    b, a = keras.Input((2,), name="b"), keras.Input((3,), name="a")
    interface = interface_of(
        keras.Model([b, a], keras.layers.add([b, b])), None
    )
    assert names_of(interface) == ["b", "a"]
    assert interface.pack([1, 2]) == [1, 2]
    assert [spec.shape for spec in interface.inputs] == [(None, 2), (None, 3)]


def test_dicts_are_packed_by_key():
    inputs = {
        "b": keras.Input((2,), name="b"),
        "a": keras.Input((2,), name="a"),
    }
    interface = interface_of(
        keras.Model(inputs, inputs["b"] - inputs["a"]), None
    )
    packed = interface.pack([f"for {name}" for name in names_of(interface)])
    assert packed == {"a": "for a", "b": "for b"}


class Plain(keras.Model):
    def call(self, inputs):
        return inputs


@pytest.mark.parametrize(
    "example, names, packed",
    [
        (np.zeros((4, 2)), ["input_0"], 1),
        ((np.zeros((4, 2)), np.zeros((4, 1), int)), None, (1, 2)),
        ({"b": np.zeros((4, 2)), "a": np.zeros(4)}, ["b", "a"], None),
    ],
)
def test_an_example_shows_a_subclassed_models_inputs(example, names, packed):
    interface = interface_of(Plain(), example)
    assert names_of(interface) == (names or ["input_0", "input_1"])
    flat = list(range(1, 1 + len(interface.inputs)))
    assert interface.pack(flat) == (packed or {"b": 1, "a": 2})


def test_numpys_wide_types_are_narrowed():
    example = (
        np.zeros((4, 2)),
        np.zeros((4, 1), "int64"),
        np.ones((4, 1), bool),
    )
    interface = interface_of(Plain(), example)
    dtypes = [spec.dtype for spec in interface.inputs]
    assert dtypes == ["float32", "int32", "bool"]


def test_samples_fix_free_dimensions():
    x = keras.Input((None, 3), name="x")
    interface = interface_of(keras.Model(x, 2 * x), None)
    fixed = interface.fixed({"x": np.zeros((9, 5, 3))})
    assert [spec.shape for spec in fixed.inputs] == [(1, 5, 3)]
    with pytest.raises(ExportError, match=r"'x' of shape \(None, None, 3\)"):
        interface.fixed(None)


def test_outputs_are_named_by_key_or_number():
    one, two = np.zeros(1), np.ones(1)
    assert list(outputs_by_name({"b": one, "a": two})) == ["b", "a"]
    assert list(outputs_by_name([one, two])) == ["output_0", "output_1"]
    assert list(outputs_by_name(one)) == ["output_0"]


def test_nested_outputs_are_refused():
    with pytest.raises(ExportError, match="list as output 'a'"):
        outputs_by_name({"a": [np.zeros(1)]})
