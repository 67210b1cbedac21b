"""Distances worked out by hand."""

import math

import numpy as np
import pytest

from kdtf.export.parity import compare
from kdtf.export.parity import sqnr_db


def test_errors_per_sample_over_all_outputs():
    reference = {"a": np.array([[1.0, 2.0], [3.0, 4.0]]), "b": np.ones(2)}
    outputs = {"a": np.array([[1.0, 2.5], [3.0, 4.0]]), "b": np.array([1, 0.9])}
    parity = compare(reference, outputs)
    np.testing.assert_allclose(parity.per_sample_error, [0.5, 0.1])
    assert parity.max_error == 0.5
    assert parity.output_errors == pytest.approx({"a": 0.5, "b": 0.1})
    assert parity.mean_error == pytest.approx(0.6 / 6)
    assert parity.argmax_agreement is None
    # Signal (1 + 4 + 9 + 16) / 4 over noise 0.25 / 4, and 1 over 0.01 / 2.
    assert parity.sqnr_db["a"] == pytest.approx(10 * math.log10(30 / 0.25))
    assert parity.sqnr_db["b"] == pytest.approx(10 * math.log10(200))


def test_argmax_agreement_counts_rows():
    reference = np.array([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7], [0.4, 0.6]])
    outputs = np.array([[0.2, 0.8], [0.1, 0.9], [0.3, 0.7], [0.4, 0.6]])
    parity = compare({"y": reference}, {"y": outputs})
    assert parity.argmax_agreement == 0.75


@pytest.mark.parametrize(
    "shape, dtype, agreement",
    [
        ((4, 3), "float32", 1.0),
        ((4, 2, 3), "float32", 1.0),
        ((4, 1), "float32", None),
        ((4, 2, 2, 3), "float32", None),
        ((4, 3), "int32", None),
    ],
)
def test_only_tables_of_scores_have_an_argmax(shape, dtype, agreement):
    values = {"y": np.ones(shape, dtype)}
    assert compare(values, values).argmax_agreement == agreement


def test_constant_outputs_raise_no_alarm():
    assert sqnr_db(np.full(9, 5.0), np.full(9, 5.005)) == pytest.approx(60)


def test_ratio_at_its_ends():
    assert sqnr_db(np.zeros(3), np.zeros(3)) == math.inf
    assert sqnr_db(np.zeros(3), np.ones(3)) == -math.inf
    assert math.isnan(sqnr_db(np.ones(3), np.full(3, np.nan)))
