"""Why operators of an int8 file stayed float."""

import keras
import numpy as np
import pytest

from kdtf.export import converter
from kdtf.export.float_reasons import FloatOperator
from kdtf.export.float_reasons import float_reasons
from kdtf.export.interface import interface_of


class Ranged(keras.layers.Layer):
    """Says the int8 range of what passes."""

    def call(self, inputs):
        import tensorflow as tf

        return tf.quantization.fake_quant_with_min_max_args(inputs, -4, 4)


def int8_file(*layers):
    model = keras.Sequential([keras.Input((6,)), *layers])
    interface = interface_of(model, None).fixed(None)
    with converter.traced(model, interface) as traced:
        return converter.to_int8(
            traced, None, integer_io=False, dense_per_tensor=False
        )


def test_a_file_in_integers_has_none():
    content = int8_file(Ranged(), keras.layers.Dense(3), Ranged())
    assert float_reasons(content, is_calibrated=False) == ()


def test_a_missing_range_is_named():
    content = int8_file(
        Ranged(),
        keras.layers.Dense(3, name="first"),
        keras.layers.Dense(3, name="second"),
        Ranged(),
    )
    reasons = float_reasons(content, is_calibrated=False)
    assert "first" in str(reasons[0])
    texts = [found.reason for found in reasons]
    assert any(
        text.startswith("no range is known of what it") for text in texts
    )


def test_a_calibrated_operator_has_no_int8_form():
    content = int8_file(Ranged(), keras.layers.Activation(keras.ops.negative))
    (found,) = float_reasons(content, is_calibrated=True)
    assert found.operator == "NEG"
    assert found.reason == "the converter has no int8 form of it here"


def test_it_prints_in_one_line():
    found = FloatOperator(operator="NEG", tensor="a/Neg", reason="no form")
    assert str(found) == "NEG 'a/Neg': no form"


@pytest.mark.parametrize("is_calibrated", [True, False])
def test_lookups_have_a_reason_of_their_own(is_calibrated):
    model = keras.Sequential(
        [keras.Input((4,), dtype="int32"), keras.layers.Embedding(9, 3)]
    )
    interface = interface_of(model, np.zeros((1, 4))).fixed(None)
    with converter.traced(model, interface) as traced:
        content = converter.to_float32(traced)
    reasons = {
        found.operator: found.reason
        for found in float_reasons(content, is_calibrated=is_calibrated)
    }
    assert reasons["GATHER"] == "its table stayed float"
