"""Runs an exported file in a process of its own.

A runtime that meets a file it does not like may abort, and would take the
user's training session along.
"""

import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np

from kdtf.export.errors import ExportError
from kdtf.litert import Runner

TIME_LIMIT_SECONDS = 300.0
_NUM_TIMINGS = 15
_TIMING_SECONDS = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run gave.

    Args:
        outputs: By name, each of shape `(samples, ...)`.
        latency_ms: Best time of one call; None if it was not timed.
        baseline_latency_ms: The same of the float file.
    """

    outputs: dict[str, np.ndarray]
    latency_ms: float | None = None
    baseline_latency_ms: float | None = None


def run_isolated(
    path: str | os.PathLike[str],
    arrays: dict[str, np.ndarray],
    *,
    baseline: str | os.PathLike[str] | None = None,
    time_limit_seconds: float = TIME_LIMIT_SECONDS,
) -> Outcome:
    """Returns what the file at `path` gives, run in a fresh process.

    Args:
        path: A `.tflite` file of batch size 1.
        arrays: Inputs by signature name, each of shape `(samples, ...)`.
        baseline: Another file with the same inputs, timed in turn with this
            one. Defaults to no timing.
        time_limit_seconds: How long the process may take.

    Raises:
        ExportError: The runtime refused the file, crashed or took too long.
    """
    outputs, facts = ask(
        __name__,
        arrays,
        runtime="LiteRT",
        way_out="Another `quantize` may avoid the operator that it refuses.",
        time_limit_seconds=time_limit_seconds,
        model=str(path),
        baseline=None if baseline is None else os.fspath(baseline),
    )
    return Outcome(outputs=outputs, **facts)


def ask(
    module: str,
    arrays: dict[str, np.ndarray],
    *,
    runtime: str,
    way_out: str,
    time_limit_seconds: float = TIME_LIMIT_SECONDS,
    **facts: Any,
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Returns what a module answers that is run as a fresh process.

    Args:
        module: Its name; it calls `read` and `write` on its two arguments.
        arrays: What it is given, by name.
        runtime: What runs there, for messages.
        way_out: What may help if it fails.
        time_limit_seconds: How long it may take.
        **facts: What JSON can hold, for the module.

    Raises:
        ExportError: It crashed, raised or took too long.
    """
    with tempfile.TemporaryDirectory(prefix="kdtf-run-") as folder:
        request = pathlib.Path(folder, "request.npz")
        response = pathlib.Path(folder, "response.npz")
        write(request, arrays, **facts)
        # The child must find kdtf where the parent found it.
        paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
        command = [sys.executable, "-m", module, str(request), str(response)]
        try:
            done = subprocess.run(
                command,
                env={**os.environ, "PYTHONPATH": paths},
                capture_output=True,
                text=True,
                errors="replace",
                timeout=time_limit_seconds,
            )
        except subprocess.TimeoutExpired as error:
            raise ExportError(
                f"{runtime} must run the exported file in time. Received: no "
                f"answer within {time_limit_seconds:g} s. Verify on fewer or "
                "shorter samples with `verify_data=`."
            ) from error
        if done.returncode:
            raise ExportError(
                f"{runtime} must load and run the exported file. Received: "
                f"the process {_ending(done.returncode)}: "
                f"{_last_words(done.stderr)}. {way_out}"
            )
        return read(response)


def _ending(code: int) -> str:
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"ended with code {code}"


def _last_words(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return " | ".join(lines[-3:])[-600:] or "no message"


def write(
    path: str | os.PathLike[str], arrays: dict[str, np.ndarray], **facts: Any
) -> None:
    """Writes a request or a response.

    Args:
        path: An `.npz` file.
        arrays: By name; any text will do.
        **facts: What JSON can hold.
    """
    header = json.dumps({"names": list(arrays), **facts}).encode()
    entries = {f"array_{i}": value for i, value in enumerate(arrays.values())}
    entries["header"] = np.frombuffer(header, np.uint8)
    np.savez(path, allow_pickle=False, **entries)


def read(
    path: str | os.PathLike[str],
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Returns the arrays and the facts that `write` wrote."""
    with np.load(path, allow_pickle=False) as stored:
        facts = json.loads(stored["header"].tobytes())
        names = enumerate(facts.pop("names"))
        return {name: stored[f"array_{i}"] for i, name in names}, facts


def _best_latencies(runners: list[Runner]) -> list[float]:
    """Times the runners in turn, so that a busy machine hits all alike."""
    times: list[list[float]] = [[] for _ in runners]
    stop = time.perf_counter() + _TIMING_SECONDS
    while len(times[-1]) < _NUM_TIMINGS and time.perf_counter() < stop:
        for runner, record in zip(runners, times, strict=True):
            start = time.perf_counter()
            runner.invoke_once()
            record.append(1e3 * (time.perf_counter() - start))
    return [min(record) for record in times]


def main(request: str, response: str) -> None:
    """Answers one request; both are `.npz` files."""
    arrays, facts = read(request)
    runner = Runner(facts["model"])
    outputs = runner(arrays)
    latencies: dict[str, float] = {}
    if facts["baseline"] is not None:
        baseline = Runner(facts["baseline"])
        baseline({name: value[:1] for name, value in arrays.items()})
        best = _best_latencies([runner, baseline])
        keys = ("latency_ms", "baseline_latency_ms")
        latencies = dict(zip(keys, best, strict=True))
    write(response, outputs, **latencies)


if __name__ == "__main__":
    main(*sys.argv[1:])
