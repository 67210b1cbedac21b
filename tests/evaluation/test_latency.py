import pytest

from kdtf.evaluation.latency import time_interleaved


class FakeMachine:
    """A clock, and functions that take a known time of it."""

    def __init__(self):
        self.now = 0.0
        self.calls = []

    def __call__(self):
        return self.now

    def function(self, name, *durations):
        rest = list(durations)

        def call():
            self.calls.append(name)
            self.now += rest.pop(0)

        return call


def test_runs_alternate_and_warm_up_is_not_timed():
    machine = FakeMachine()
    slow_start = machine.function("a", 9.0, 0.001, 0.003)
    other = machine.function("b", 5.0, 0.010, 0.030)
    times = time_interleaved(
        [slow_start, other], num_runs=2, num_warmup=1, clock=machine
    )
    assert machine.calls == ["a", "b", "a", "b", "a", "b"]
    assert times[0] == pytest.approx([1.0, 3.0])
    assert times[1] == pytest.approx([10.0, 30.0])


def test_noise_of_a_moment_hits_all_alike():
    machine = FakeMachine()

    def call():
        is_noisy = 0.0035 < machine.now < 0.02
        machine.now += 0.010 if is_noisy else 0.001

    times = time_interleaved(
        [call, call], num_runs=4, num_warmup=0, clock=machine
    )
    # One after the other the first would have all the noise, or none.
    assert times[0] == pytest.approx([1.0, 1.0, 10.0, 1.0])
    assert times[1] == pytest.approx([1.0, 1.0, 10.0, 1.0])


def test_no_functions_take_no_time():
    assert time_interleaved([], num_runs=3) == []


@pytest.mark.parametrize(("runs", "warmup"), [(0, 1), (1, -1)])
def test_counts_that_make_no_sense_are_refused(runs, warmup):
    with pytest.raises(ValueError, match="`num_runs` must be at least 1"):
        time_interleaved([], num_runs=runs, num_warmup=warmup)
