"""What can only be told after a file ran: its outputs and its speed."""

import dataclasses
from collections.abc import Callable

import numpy as np

from kdtf.export.parity import Parity
from kdtf.export.targets import Mode

_SLOWER = 1.5
_TIMER_NOISE_MS = 0.2
# Of output numbers: rounding at a tie differs now and then.
_SIMULATED_SHARE = 0.95
# Sparse files are compared with a twin that differs in nothing else.
_SPARSE_SLOWER = 1.2
_SPARSE_NOISE_MS = 0.05


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunEvidence:
    """What is known after the file ran.

    Args:
        mode: How it was quantized.
        limits: What that way must keep.
        outputs: What it gave, by name.
        parity: Their distance from the Keras model's.
        steps: One integer step of each quantized output, as a real value.
        latency_ms: Best time of one call, or None.
        baseline_latency_ms: The same of the float file; of the dense one if
            the file is sparse.
        is_sparse: Whether weights are stored sparse.
        is_simulated: Whether the Keras model itself computed as the file
            should.
    """

    mode: str | None
    limits: Mode
    outputs: dict[str, np.ndarray]
    parity: Parity
    steps: dict[str, float]
    latency_ms: float | None
    baseline_latency_ms: float | None
    is_sparse: bool = False
    is_simulated: bool = False


def check_outputs_are_finite(evidence: RunEvidence) -> str | None:
    """Finds nan and infinity in what the file gave."""
    found = [k for k, v in evidence.outputs.items() if not _is_finite(v)]
    if not found:
        return None
    return (
        f"the file gives nan or infinity in {', '.join(found)} where the Keras "
        "model gives numbers"
    )


def check_outputs_agree(evidence: RunEvidence) -> str | None:
    """Finds outputs that are not the Keras model's.

    Errors within two steps of the output's own int8 grid always pass (a
    softmax over many classes is below one step everywhere), and so does what
    float32 cannot tell from zero.
    """
    limit = evidence.limits.min_sqnr_db
    bad = {
        name: sqnr
        for name, sqnr in evidence.parity.sqnr_db.items()
        if not sqnr >= limit
        and evidence.parity.output_errors[name]
        > max(2.01 * evidence.steps.get(name, 0.0), 1e-6)
    }
    if not bad:
        return None
    listed = ", ".join(f"{name!r}: {db:.1f} dB" for name, db in bad.items())
    return (
        f"the outputs differ from the Keras model's ({listed}; at least "
        f"{limit:g} dB are required of quantize={evidence.mode!r}; largest "
        f"error {evidence.parity.max_error:.4g}). Verify on typical samples "
        "with `verify_data=`, or quantize less"
    )


def warn_of_noise(evidence: RunEvidence) -> str | None:
    """Tells of quality under what is usual for this way of quantizing."""
    worst = min(evidence.parity.sqnr_db.values())
    usual = evidence.limits.good_sqnr_db
    if not worst < usual or _is_as_simulated(evidence):
        return None
    return (
        f"the signal-to-noise ratio is {worst:.1f} dB; usual for "
        f"quantize={evidence.mode!r} is {usual:g} dB and more. Check the task "
        "metric with `kdtf.compare`"
    )


def warn_of_other_integers(evidence: RunEvidence) -> str | None:
    """Tells of an int8 file that does not round as its simulation did."""
    share = evidence.parity.within_one_step
    if not evidence.is_simulated or share is None or _is_as_simulated(evidence):
        return None
    return (
        f"only {share:.1%} of the output numbers are within one int8 step of "
        "the simulation: some operators were not simulated, or got another "
        "range"
    )


def warn_of_slowness(evidence: RunEvidence) -> str | None:
    """Tells of a quantized file that is slower than the float one."""
    after, before = evidence.latency_ms, evidence.baseline_latency_ms
    if after is None or before is None or evidence.is_sparse:
        return None
    if after < _SLOWER * before or after - before < _TIMER_NOISE_MS:
        return None
    return (
        f"the file is slower than the float one on this CPU: {after:.2f} ms "
        f"against {before:.2f} ms. Depthwise convolutions want 'int8', "
        "transformers 'dynamic_int8'"
    )


def warn_of_slow_sparsity(evidence: RunEvidence) -> str | None:
    """Tells of a sparse file that is slower than the dense one."""
    after, before = evidence.latency_ms, evidence.baseline_latency_ms
    if after is None or before is None or not evidence.is_sparse:
        return None
    if after < _SPARSE_SLOWER * before or after - before < _SPARSE_NOISE_MS:
        return None
    return (
        f"the sparse file is slower than the dense one on this CPU: "
        f"{after:.2f} ms against {before:.2f} ms; only its size gains. Prune "
        "more blocks (float32 pays from about 80% on), or leave `sparse` out"
    )


CHECKS: tuple[Callable[[RunEvidence], str | None], ...] = (
    check_outputs_are_finite,
    check_outputs_agree,
)
WARNINGS: tuple[Callable[[RunEvidence], str | None], ...] = (
    warn_of_noise,
    warn_of_other_integers,
    warn_of_slowness,
    warn_of_slow_sparsity,
)


def _is_as_simulated(evidence: RunEvidence) -> bool:
    share = evidence.parity.within_one_step or 0.0
    return evidence.is_simulated and share >= _SIMULATED_SHARE


def _is_finite(values: np.ndarray) -> bool:
    return values.dtype.kind != "f" or bool(np.isfinite(values).all())
