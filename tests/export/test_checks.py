"""Single checks on made-up evidence, at their limits."""

import dataclasses
import pathlib

import numpy as np
import pytest

from kdtf.export import checks
from kdtf.export import run_checks
from kdtf.export.float_reasons import FloatOperator
from kdtf.export.interface import Interface
from kdtf.export.parity import compare
from kdtf.export.targets import MODES
from kdtf.export.targets import get_target
from kdtf.flatbuffer import FileDescription
from kdtf.flatbuffer import Signature
from kdtf.flatbuffer import TensorDescription
from kdtf.flatbuffer import TensorSpec

X = TensorSpec(name="x", dtype="float32", shape=(1, 2))
Y = TensorSpec(name="y", dtype="float32", shape=(1, 3))


def tensor(name, *shape, **changes):
    values = {
        "dtype": "FLOAT32",
        "is_constant": True,
        "num_bytes": 4 * int(np.prod(shape)),
        "scale": None,
        "is_dynamic": False,
        "subgraph": 0,
    }
    return TensorDescription(name=name, shape=shape, **{**values, **changes})


def described(**changes):
    values = {
        "path": pathlib.Path("m.tflite"),
        "size_bytes": 100_000,
        "gzip_size_bytes": 900,
        "num_parameters": 20_000,
        "num_nonzero": 20_000,
        "weight_bytes": 80_000,
        "operators": {"FULLY_CONNECTED": 1},
        "operator_dtypes": {("FULLY_CONNECTED", "FLOAT32"): 1},
        "signatures": (
            Signature(key="serving_default", inputs=(X,), outputs=(Y,)),
        ),
        "tensors": (tensor("kernel", 3, 2),),
    }
    return FileDescription(**{**values, **changes})


def evidence(*, target="android", mode=None, baseline=None, **changes):
    values = {
        "kernels": {"dense/kernel": 6},
        "reference": {"y": np.zeros((4, 3))},
        "float_reasons": (),
    }
    taken = {key: changes.pop(key) for key in list(values) if key in changes}
    description = described(**changes)
    return checks.Evidence(
        description=description,
        baseline=baseline or description,
        target=get_target(target),
        mode=mode,
        interface=Interface(inputs=(X,), pack=lambda flat: flat[0]),
        weights=description.tensors,
        **{**values, **taken},
    )


def test_a_good_file_passes_every_check():
    assert [check(evidence()) for check in checks.CHECKS] == [None] * 11


def test_half_of_the_kernel_elements_must_be_there():
    kernels = {"a": 6, "b": 6}
    assert checks.check_weights_are_present(evidence(kernels=kernels)) is None
    kernels = {"a": 6, "b": 7}
    problem = checks.check_weights_are_present(evidence(kernels=kernels))
    assert problem == (
        "weights are missing: of 13 kernel elements the file holds 6. "
        "Missing: b"
    )


def test_reshaped_kernels_are_found():
    tensors = (tensor("kernel", 1, 1, 6),)
    assert checks.check_weights_are_present(evidence(tensors=tensors)) is None


@pytest.mark.parametrize("num_parts, found", [(4, True), (3, False)])
def test_kernels_split_into_gates_are_found(num_parts, found):
    tensors = tuple(tensor(str(i), 2, 3) for i in range(num_parts))
    kernels = {"lstm/kernel": 24}
    split = evidence(tensors=tensors, kernels=kernels)
    assert (checks.check_weights_are_present(split) is None) is found


def test_signature_differences_are_spelled_out():
    wrong = Signature(key="serving_default", inputs=(X,), outputs=(X,))
    problem = checks.check_signature(evidence(signatures=(wrong,)))
    assert problem == (
        "the outputs must be {'y': (1, 3)}, but they are {'x': (1, 2)}"
    )
    two = evidence(signatures=(wrong, wrong))
    assert "the one signature" in checks.check_signature(two)


def test_input_types_are_kept():
    spec = dataclasses.replace(X, dtype="int32")
    signature = Signature(key="serving_default", inputs=(spec,), outputs=(Y,))
    problem = checks.check_input_types(evidence(signatures=(signature,)))
    assert problem == (
        "the input types must be {'x': 'float32'}, but they are {'x': 'int32'}"
    )


def test_float_edges_are_refused_on_a_microcontroller():
    problem = checks.check_input_types(evidence(target="iot", mode="int8"))
    assert problem == (
        "the target 'iot' takes integers only, but these are float: x, y"
    )


def test_micro_operators_are_limited():
    operators = {"GELU": 2, "FULLY_CONNECTED": 1}
    check = checks.check_operators_fit_target
    assert check(evidence(operators=operators)) is None
    problem = check(evidence(target="iot", operators=operators))
    assert problem.startswith("TensorFlow Lite Micro has no kernel for: GELU.")


def test_long_lists_are_cut():
    operators = {f"CUSTOM:Flex{i}": 1 for i in range(6)}
    problem = checks.check_operators_are_builtin(evidence(operators=operators))
    assert "CUSTOM:Flex0, CUSTOM:Flex1, CUSTOM:Flex2, CUSTOM:Flex3 and 2" in (
        problem
    )


@pytest.mark.parametrize("num_left, refused", [(1, False), (2, True)])
def test_a_tenth_of_the_weights_may_stay_float(num_left, refused):
    tensors = (
        tensor("small", num_left, 10),
        tensor("large", 10 - num_left, 10, dtype="INT8"),
        tensor("bias", 99),
    )
    problem = checks.check_weights_are_quantized(
        evidence(mode="dynamic_int8", tensors=tensors)
    )
    assert bool(problem) == refused
    if refused:
        assert "reached only 80 of 100 weights" in problem


def test_weights_kept_in_float_on_purpose_do_not_count():
    tensors = (tensor("book", 10, 10), tensor("small", 2, 2, dtype="INT4"))
    found = evidence(mode="int4", tensors=tensors)
    assert "reached only 4 of 104" in checks.check_weights_are_quantized(found)
    kept = dataclasses.replace(found, kept_float=frozenset({"book"}))
    assert checks.check_weights_are_quantized(kept) is None


def test_size_is_compared_where_weights_decide_it():
    check = checks.check_size
    before = described(size_bytes=100_000)
    larger = evidence(mode="int8", baseline=before, size_bytes=100_001)
    assert "made the file larger: 100000 bytes in float" in check(larger)
    # Thousands of operators, as of an unrolled LSTM.
    before = described(size_bytes=100_000, weight_bytes=3_000)
    small = evidence(mode="int8", baseline=before, size_bytes=100_001)
    assert check(small) is None


def test_a_file_of_codebooks_need_not_shrink():
    before = described(size_bytes=100_000)
    same = evidence(mode="int4", baseline=before)
    assert "made the file larger" in checks.check_size(same)
    kept = dataclasses.replace(same, kept_float=frozenset({"book"}))
    assert checks.check_size(kept) is None


def test_scales_of_constants_do_not_count():
    check = checks.check_activation_scales
    kernel = tensor("k", 2, 2, scale=1e6)
    assert check(evidence(tensors=(kernel,))) is None
    edge = tensor("a", 2, is_constant=False, scale=1e3)
    assert check(evidence(tensors=(edge,))) is None
    over = (edge, dataclasses.replace(edge, name="worst", scale=3.9e6))
    assert "'worst' has an int8 step of 3.9e+06" in check(
        evidence(tensors=over)
    )


def test_float_operators_on_a_phone_are_a_warning():
    dtypes = {("NEG", "FLOAT32"): 2, ("DEQUANTIZE", "FLOAT32"): 3}
    found = evidence(mode="int8", operator_dtypes=dtypes)
    assert checks.check_operators_are_integer(found) is None
    assert checks.warn_of_float_operators(found) == (
        "these operators stay float: DEQUANTIZE x3, NEG x2"
    )
    edge = {("DEQUANTIZE", "FLOAT32"): 1, ("CONV_2D", "INT8"): 1}
    found = evidence(mode="int8", operator_dtypes=edge)
    assert checks.warn_of_float_operators(found) is None


def test_float_operators_on_a_microcontroller_are_explained():
    reasons = (
        FloatOperator(operator="NEG", tensor="a/Neg", reason="no form"),
        FloatOperator(operator="ADD", tensor="a/Add", reason="unseen"),
    )
    found = evidence(
        target="iot",
        mode="int8",
        operator_dtypes={("NEG", "FLOAT32"): 1},
        float_reasons=reasons,
    )
    problem = checks.check_operators_are_integer(found)
    assert "in an int8 file: NEG x1 (NEG 'a/Neg': no form)." in problem


def ran(reference, outputs, *, mode="int8", steps=None, latencies=(None, None)):
    outputs = {"y": np.asarray(outputs, "float32")}
    reference = {"y": np.asarray(reference, "float32")}
    return run_checks.RunEvidence(
        mode=mode,
        limits=MODES[mode],
        outputs=outputs,
        parity=compare(reference, outputs, steps),
        steps=steps or {},
        latency_ms=latencies[0],
        baseline_latency_ms=latencies[1],
    )


def test_outputs_under_the_limit_are_refused():
    check = run_checks.check_outputs_agree
    # 20 dB and 6 dB; int8 asks for 10.
    assert check(ran([[1.0]], [[0.9]])) is None
    assert "'y': 6.0 dB; at least 10 dB" in check(ran([[1.0]], [[0.5]]))
    assert "at least 80 dB" in check(ran([[1.0]], [[0.99]], mode=None))


def test_errors_within_the_output_grid_pass():
    check = run_checks.check_outputs_agree
    uniform = np.full((1, 1000), 0.001)
    assert check(ran(uniform, 0 * uniform)) is not None
    assert check(ran(uniform, 0 * uniform, steps={"y": 1 / 256})) is None


def test_what_float_cannot_tell_from_zero_passes():
    assert run_checks.check_outputs_agree(ran([[0.0]], [[1e-7]])) is None


def test_an_output_is_not_blamed_for_anothers_error():
    reference = {"zero": np.zeros((1, 1)), "large": np.full((1, 1), 100.0)}
    outputs = {"zero": np.full((1, 1), 1e-8), "large": np.full((1, 1), 100.001)}
    found = ran([[1.0]], [[1.0]], mode=None)
    parity = compare(reference, outputs)
    found = dataclasses.replace(found, outputs=outputs, parity=parity)
    assert run_checks.check_outputs_agree(found) is None


def test_unusual_noise_is_a_warning():
    assert run_checks.warn_of_noise(ran([[1.0]], [[0.95]])) is None
    warning = run_checks.warn_of_noise(ran([[1.0]], [[0.8]]))
    assert "is 14.0 dB; usual for quantize='int8' is 20 dB" in warning


@pytest.mark.parametrize("num_off, share", [(1, 0.95), (2, 0.9)])
def test_a_simulated_file_must_round_as_it_was_simulated(num_off, share):
    reference = np.zeros((1, 20))
    outputs = np.full((1, 20), 0.1)
    outputs[0, :num_off] = 0.25
    found = ran(reference, outputs, steps={"y": 0.1})
    assert found.parity.within_one_step == share
    assert run_checks.warn_of_other_integers(found) is None
    simulated = dataclasses.replace(found, is_simulated=True)
    warning = run_checks.warn_of_other_integers(simulated)
    assert bool(warning) == (share < 0.95)
    assert warning is None or "only 90.0% of the output numbers" in warning
    # The noise of one step is no news.
    assert bool(run_checks.warn_of_noise(simulated)) == (share < 0.95)


def test_float_outputs_have_no_steps():
    assert ran([[1.0]], [[0.9]]).parity.within_one_step is None


@pytest.mark.parametrize(
    "latencies, warned",
    [
        ((None, None), False),
        ((1.4, 1.0), False),
        ((1.6, 1.0), True),
        # A tenth of a millisecond is the timer's noise.
        ((0.2, 0.1), False),
    ],
)
def test_only_clear_slowness_is_a_warning(latencies, warned):
    found = ran([[1.0]], [[1.0]], latencies=latencies)
    assert bool(run_checks.warn_of_slowness(found)) == warned
