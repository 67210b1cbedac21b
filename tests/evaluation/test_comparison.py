import json
import math

import pytest

from kdtf.evaluation import Comparison
from kdtf.evaluation import Row
from kdtf.evaluation.latency import Latency


def make_row(name="teacher", **changes):
    values = {
        "kind": "keras",
        "num_parameters": 1000,
        "num_nonzero": 900,
        "size_bytes": 4000,
        "gzip_size_bytes": 3600,
        "latency": Latency(p50_ms=2.0, p90_ms=3.0, num_runs=5, num_threads=1),
        "metrics": {"accuracy": 0.9},
        "agreement": 1.0,
    }
    return Row(name=name, **{**values, **changes})


@pytest.fixture
def comparison():
    student = make_row(
        "student",
        kind="tflite",
        size_bytes=500,
        latency=None,
        metrics={"accuracy": 0.8},
        agreement=0.75,
        notes=("not timed: no reason",),
    )
    return Comparison(
        rows=(make_row(), student),
        directions={"accuracy": "higher"},
        num_examples=70,
        environment={"keras": "3"},
    )


def test_rows_are_found_by_name(comparison):
    assert comparison["student"].size_bytes == 500
    assert [row.name for row in comparison] == ["teacher", "student"]
    assert len(comparison) == 2


def test_an_unknown_row_names_the_known(comparison):
    with pytest.raises(KeyError, match="'teacher', 'student'"):
        comparison["pupil"]


def test_a_row_knows_its_zeros_and_latency(comparison):
    assert comparison["teacher"].sparsity == pytest.approx(0.1)
    assert comparison["teacher"].latency_ms_p50 == 2.0
    assert comparison["teacher"].latency_ms_p90 == 3.0
    assert comparison["student"].latency_ms_p50 is None


def test_json_gives_back_the_comparison(comparison, tmp_path):
    path = comparison.to_json(tmp_path / "deep" / "report.json")
    values = json.loads(path.read_text())
    assert values["schema_version"] == 1
    assert values["metrics"] == {"accuracy": {"better": "higher"}}
    assert Comparison.from_dict(values) == comparison


def test_json_has_null_where_a_number_is_missing(tmp_path):
    row = make_row(metrics={"loss": math.nan, "ratio": math.inf})
    path = Comparison(rows=(row,)).to_json(tmp_path / "report.json")
    values = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert values["rows"][0]["metrics"] == {"loss": None, "ratio": None}
    again = Comparison.from_dict(values)["teacher"].metrics
    assert math.isnan(again["loss"]) and math.isnan(again["ratio"])


@pytest.mark.parametrize("values", [{}, {"schema_version": 99}])
def test_another_schema_is_refused(values):
    with pytest.raises(ValueError, match="must be a comparison of schema 1"):
        Comparison.from_dict(values)
