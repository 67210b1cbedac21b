"""Runs a file in TensorFlow Lite Micro and in LiteRT, in fresh processes.

Micro trusts what it reads and writes past an arena that is far too small: on
files and arenas that do not suit it, it crashes. So it runs in a process of
its own, and each arena that is tried, in a fork of that.
"""

import os
import pathlib
import signal
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from kdtf.export.worker import ask
from kdtf.export.worker import read
from kdtf.export.worker import write

__all__ = ["check_installed", "run_litert", "run_micro"]

# Micro's portable kernels are slow.
TIME_LIMIT_SECONDS = 600.0
# The interpreter aligns what it allocates; no size between helps.
_ALIGNMENT = 16
# Far beyond a microcontroller; memory that is not touched costs nothing.
_MAX_ARENA_BYTES = 64 * 1024 * 1024
# Loading takes milliseconds; a damaged file may never end it.
_TRIAL_SECONDS = 60
_WAY_OUT = "Replace the layer that it refuses, or export the model anew."


def check_installed() -> None:
    """Refuses to go on without TensorFlow Lite Micro's interpreter.

    Raises:
        ImportError: It is not installed; the message says how to.
    """
    import importlib.util

    if importlib.util.find_spec("tflite_micro") is None:
        raise ImportError(
            "Files for microcontrollers are run in TensorFlow Lite Micro's "
            "own interpreter. Received: no package `tflite_micro`. Install "
            'it with `pip install "kdtf[deploy]"`.'
        )


def run_micro(
    path: str | os.PathLike[str],
    inputs: Sequence[np.ndarray],
    *,
    time_limit_seconds: float = TIME_LIMIT_SECONDS,
) -> tuple[int, list[np.ndarray]]:
    """Returns the smallest arena, in bytes, and the outputs computed in it.

    Args:
        path: A `.tflite` file of batch size 1.
        inputs: In the graph's order and types, each `(samples, ...)`.
        time_limit_seconds: How long it may take.

    Raises:
        ExportError: Micro refuses the file, crashes or takes too long.
    """
    outputs, facts = ask(
        __name__,
        {f"input_{index}": value for index, value in enumerate(inputs)},
        runtime="TensorFlow Lite Micro",
        way_out=_WAY_OUT,
        time_limit_seconds=time_limit_seconds,
        model=os.fspath(path),
        is_micro=True,
    )
    return facts["arena_bytes"], list(outputs.values())


def run_litert(
    path: str | os.PathLike[str],
    inputs: Sequence[np.ndarray],
    *,
    time_limit_seconds: float = TIME_LIMIT_SECONDS,
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Returns the outputs of LiteRT's default and of its reference kernels.

    Args:
        path: A `.tflite` file of batch size 1.
        inputs: In the graph's order and types, each `(samples, ...)`.
        time_limit_seconds: How long it may take.

    Raises:
        ExportError: LiteRT refuses the file, crashes or takes too long.
    """
    outputs, _ = ask(
        __name__,
        {f"input_{index}": value for index, value in enumerate(inputs)},
        runtime="LiteRT",
        way_out=_WAY_OUT,
        time_limit_seconds=time_limit_seconds,
        model=os.fspath(path),
        is_micro=False,
    )
    both = list(outputs.values())
    return both[: len(both) // 2], both[len(both) // 2 :]


def main(request: str, response: str) -> None:
    """Answers one request; both are `.npz` files."""
    arrays, facts = read(request)
    path, inputs = facts["model"], list(arrays.values())
    if facts["is_micro"]:
        content = pathlib.Path(path).read_bytes()
        arena_bytes = _smallest_arena(content)
        outputs = _micro_outputs(content, arena_bytes, inputs)
        write(response, _numbered(outputs), arena_bytes=arena_bytes)
        return
    default = _litert_outputs(path, inputs, is_reference=False)
    try:
        reference = _litert_outputs(path, inputs, is_reference=True)
    except (RuntimeError, ValueError):
        # Not every operator has a reference kernel.
        reference = default
    write(response, _numbered(default + reference))


def _numbered(outputs: list[np.ndarray]) -> dict[str, np.ndarray]:
    return {f"output_{index}": value for index, value in enumerate(outputs)}


def _smallest_arena(content: bytes) -> int:
    """Finds by bisection what the interpreter starts with."""
    # Loaded here once, not in each fork.
    from tflite_micro import runtime  # noqa: F401

    _check_loads(content)
    low, high = 0, _MAX_ARENA_BYTES // _ALIGNMENT
    while high - low > 1:
        middle = (low + high) // 2
        if _trial(content, middle * _ALIGNMENT, is_quiet=True):
            low = middle
        else:
            high = middle
    return high * _ALIGNMENT


def _check_loads(content: bytes) -> None:
    code = _trial(content, _MAX_ARENA_BYTES, is_quiet=False)
    if code < 0:
        print(f"killed by {signal.Signals(-code).name}", file=sys.stderr)
    if code:
        raise SystemExit(1)


def _trial(content: bytes, arena_bytes: int, *, is_quiet: bool) -> int:
    """Tells how a process ends that loads the file into such an arena.

    Returns:
        0 if it loaded, 1 if it was refused, minus the signal after a crash.
    """
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        signal.alarm(_TRIAL_SECONDS)
        if is_quiet:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        _load(content, arena_bytes)
    except BaseException as error:
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
        # Not `exit`: the parent's clean-up is not this process's.
        os._exit(1)
    os._exit(0)


def _load(content: bytes, arena_bytes: int) -> Any:
    from tflite_micro import runtime

    return runtime.Interpreter.from_bytes(content, arena_size=arena_bytes)


def _micro_outputs(
    content: bytes, arena_bytes: int, inputs: list[np.ndarray]
) -> list[np.ndarray]:
    from ai_edge_litert import schema_py_generated as schema

    graph = schema.Model.GetRootAs(content, 0).Subgraphs(0)
    interpreter = _load(content, arena_bytes)
    rows = []
    for sample in range(len(inputs[0])):
        # The arena is used again for what comes after: set all each time.
        for index, values in enumerate(inputs):
            interpreter.set_input(values[sample : sample + 1], index)
        interpreter.invoke()
        rows.append(
            [interpreter.get_output(i) for i in range(graph.OutputsLength())]
        )
    return [np.concatenate(column) for column in zip(*rows, strict=True)]


def _litert_outputs(
    path: str, inputs: list[np.ndarray], *, is_reference: bool
) -> list[np.ndarray]:
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_litert.interpreter import OpResolverType

    interpreter = Interpreter(
        model_path=path,
        num_threads=1,
        experimental_op_resolver_type=(
            OpResolverType.BUILTIN_REF if is_reference else OpResolverType.AUTO
        ),
    )
    interpreter.allocate_tensors()
    places = [d["index"] for d in interpreter.get_input_details()]
    results = [d["index"] for d in interpreter.get_output_details()]
    rows = []
    for sample in range(len(inputs[0])):
        for place, values in zip(places, inputs, strict=True):
            interpreter.set_tensor(place, values[sample : sample + 1])
        interpreter.invoke()
        rows.append([interpreter.get_tensor(result) for result in results])
    return [np.concatenate(column) for column in zip(*rows, strict=True)]


if __name__ == "__main__":
    main(*sys.argv[1:])
