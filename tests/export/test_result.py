"""The summary that users read."""

import dataclasses
import math
import pathlib

from kdtf.export import ExportResult
from kdtf.export.float_reasons import FloatOperator
from kdtf.flatbuffer import Signature
from kdtf.flatbuffer import TensorSpec


def made():
    ids = TensorSpec(name="ids", dtype="int32", shape=(1, 8))
    y = TensorSpec(name="y", dtype="float32", shape=(1, 3))
    return ExportResult(
        path=pathlib.Path("out/m.tflite"),
        size_bytes=12345,
        gzip_size_bytes=2345,
        target="android",
        quantize="dynamic_int8",
        signatures=(
            Signature(key="serving_default", inputs=(ids,), outputs=(y,)),
        ),
        operators={"ADD": 1, "GATHER": 2, "ABS": 1},
        float_operators={},
        per_sample_error=(0.25, 0.125),
        max_error=0.25,
        mean_error=0.0625,
        sqnr_db=math.inf,
        argmax_agreement=0.5,
        verified_on="2 samples of verify_data",
        warnings=("mind the gap",),
    )


def test_the_summary_says_all_that_matters():
    assert str(made()).splitlines() == [
        "out/m.tflite: 12,345 bytes (2,345 gzipped)",
        "  target android, quantize dynamic_int8",
        "  serving_default(ids: int32 [1, 8]) -> y: float32 [1, 3]",
        "  operators: GATHER x2, ABS x1, ADD x1",
        "  verified on 2 samples of verify_data: max error 0.25, mean 0.0625, "
        "SQNR inf dB, same argmax 50.0%",
        "  warning: mind the gap",
    ]


def test_what_stayed_float_is_listed_up_to_six():
    reasons = tuple(
        FloatOperator(operator="NEG", tensor=f"n{i}", reason="no form")
        for i in range(8)
    )
    result = dataclasses.replace(
        made(), float_reasons=reasons, within_one_step=0.75
    )
    lines = str(result).splitlines()
    assert "  stayed float: NEG 'n5': no form" in lines
    assert "  stayed float: 2 more" in lines
    assert len([line for line in lines if "stayed float" in line]) == 7
    assert "within one int8 step 75.0%" in str(result)
