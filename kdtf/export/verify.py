"""Inspects, runs and compares an exported file; refuses it if need be."""

import contextlib
import dataclasses
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from kdtf.export import checks
from kdtf.export import run_checks
from kdtf.export.build import Build
from kdtf.export.errors import ExportError
from kdtf.export.graph import constants_read_by
from kdtf.export.graph import output_steps
from kdtf.export.parity import Parity
from kdtf.export.parity import compare
from kdtf.export.samples import Samples
from kdtf.export.worker import Outcome
from kdtf.export.worker import run_isolated
from kdtf.flatbuffer import FileDescription
from kdtf.flatbuffer import describe


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the checks of a good file found."""

    description: FileDescription
    parity: Parity
    warnings: tuple[str, ...]


def verify(
    path: pathlib.Path,
    build: Build,
    *,
    samples: Samples,
    reference: dict[str, np.ndarray],
) -> Verdict:
    """Writes the file to `path` and returns what the checks found.

    First the file is read (names, operators, weights, scales), then run in a
    fresh process, then its outputs are compared with the Keras model's.

    Args:
        path: Where to write; a temporary name.
        build: The file and what is known of it.
        samples: Inputs for the file.
        reference: The Keras model's outputs for them, by name.

    Raises:
        ExportError: The file failed a check.
    """
    path.write_bytes(build.content)
    # Simulated ranges in a float file are slow, and not every one runs.
    compared = None if build.plan.has_ranges else build.baseline
    with (
        _baseline_file(build.baseline) as baseline,
        _baseline_file(build.dense or compared) as timed,
    ):
        description = describe(path)
        evidence = checks.Evidence(
            description=description,
            baseline=describe(baseline) if baseline else description,
            target=build.plan.target,
            mode=build.plan.mode,
            interface=build.interface,
            reference=reference,
            kernels=build.kernels,
            weights=constants_read_by(checks.WEIGHT_OPERATORS, description),
            kept_float=build.kept_float,
            float_reasons=build.float_reasons,
        )
        _refuse(check(evidence) for check in checks.CHECKS)
        outcome = run_isolated(path, samples.arrays, baseline=timed)
    run = _run_evidence(build, outcome, reference)
    _refuse(check(run) for check in run_checks.CHECKS)
    found = [warn(evidence) for warn in checks.WARNINGS]
    found += [warn(run) for warn in run_checks.WARNINGS]
    return Verdict(
        description=description,
        parity=run.parity,
        warnings=tuple(text for text in found if text),
    )


def _run_evidence(
    build: Build, outcome: Outcome, reference: dict[str, np.ndarray]
) -> run_checks.RunEvidence:
    steps = output_steps(build.content)
    return run_checks.RunEvidence(
        mode=build.plan.mode,
        limits=build.plan.limits,
        is_simulated=build.plan.deployment is not None,
        is_sparse=build.sparse is not None,
        outputs=outcome.outputs,
        parity=compare(reference, outcome.outputs, steps),
        steps=steps,
        latency_ms=outcome.latency_ms,
        baseline_latency_ms=outcome.baseline_latency_ms,
    )


def _refuse(results: Any) -> None:
    problems = [problem for problem in results if problem]
    if problems:
        listed = "\n".join(f"- {problem}." for problem in problems)
        raise ExportError(
            "The exported file must compute what the Keras model computes, "
            f"on the target's terms. Received:\n{listed}\nNo file was left."
        )


@contextlib.contextmanager
def _baseline_file(content: bytes | None) -> Iterator[pathlib.Path | None]:
    if content is None:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="kdtf-baseline-") as folder:
        path = pathlib.Path(folder, "baseline.tflite")
        path.write_bytes(content)
        yield path
