"""How long one call takes, measured so that noise hits every model alike."""

import dataclasses
import time
from collections.abc import Callable
from collections.abc import Sequence

Clock = Callable[[], float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Latency:
    """The time of one call at the file's own batch size.

    Attributes:
        p50_ms: The median, in milliseconds.
        p90_ms: 9 of 10 calls were at most this long, in milliseconds.
        num_runs: How many calls were timed, after the warm-up.
        num_threads: Threads the runtime was given.
        batch_size: Examples in one call.
    """

    p50_ms: float
    p90_ms: float
    num_runs: int
    num_threads: int
    batch_size: int = 1


def time_interleaved(
    calls: Sequence[Callable[[], object]],
    *,
    num_runs: int,
    num_warmup: int = 3,
    clock: Clock = time.perf_counter,
) -> list[list[float]]:
    """Times several functions in turn: a, b, c, a, b, c, ...

    A machine that gets slower for a second (another process, heat) then
    slows every function's runs of that second, not one function's.

    Args:
        calls: The functions, without arguments.
        num_runs: Timed calls of each, at least 1.
        num_warmup: Calls of each before that which are not timed: caches
            fill, and a runtime packs its weights at its first call.
        clock: Gives seconds.

    Returns:
        For each function its `num_runs` times, in milliseconds.

    Raises:
        ValueError: `num_runs` under 1 or `num_warmup` under 0.

    Example:
        >>> ticks = iter([0.0, 0.5, 1.0, 1.25])
        >>> time_interleaved(
        ...     [list, dict], num_runs=1, clock=lambda: next(ticks)
        ... )
        [[500.0], [250.0]]
    """
    if num_runs < 1 or num_warmup < 0:
        raise ValueError(
            "`num_runs` must be at least 1 and `num_warmup` at least 0. "
            f"Received: num_runs={num_runs}, num_warmup={num_warmup}."
        )
    for _ in range(num_warmup):
        for call in calls:
            call()
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(num_runs):
        for call, own in zip(calls, times, strict=True):
            start = clock()
            call()
            own.append((clock() - start) * 1000)
    return times
