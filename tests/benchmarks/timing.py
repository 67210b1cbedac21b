"""Times things that lie side by side on a noisy machine."""

import time

import numpy as np


def measure(runs, rounds, steps):
    """Returns seconds per step, an array `(rounds, contenders)`.

    Args:
        runs: Name to a function that takes a number of steps.
        rounds: How often each has its turn: A B C A B C.
        steps: Steps in a turn.
    """
    for run in runs.values():
        run(3)
    times = np.zeros((rounds, len(runs)))
    for index in range(rounds):
        for column, run in enumerate(runs.values()):
            start = time.perf_counter()
            run(steps)
            times[index, column] = (time.perf_counter() - start) / steps
    return times


def describe(ratios):
    """Returns the median and the quartiles of the rounds' ratios."""
    low, middle, high = np.quantile(ratios, (0.25, 0.5, 0.75))
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"
