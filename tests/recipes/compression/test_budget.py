"""Limits: how they are read, and by how much they are missed."""

import math

import pytest

from kdtf.recipes.compression.budget import Budget
from kdtf.recipes.compression.budget import bytes_of
from kdtf.recipes.compression.candidate import Candidate


def candidate(size=50.0, latency=2.0, loss=0.0):
    return Candidate(
        name="one",
        stage="post-training",
        settings={},
        status="complete",
        size_bytes=size,
        latency_ms=latency,
        quality_loss=loss,
    )


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (1, 1),
        (1.5e3, 1500),
        ("700", 700),
        ("2MB", 2_000_000),
        (" 1.5 kb ", 1500),
        ("64KiB", 65_536),
        ("3 GB", 3_000_000_000),
    ],
)
def test_sizes_by_hand(text, size):
    assert bytes_of(text) == size


@pytest.mark.parametrize(
    "size", [0, -1, 0.5, math.nan, math.inf, True, "", "MB", "2 XB", "-2MB"]
)
def test_what_is_no_size_is_refused(size):
    with pytest.raises(ValueError, match=r"`max_size` must be .* Received"):
        bytes_of(size)


def test_a_budget_without_a_limit_is_refused():
    with pytest.raises(ValueError, match="A budget needs a limit"):
        Budget()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_latency_ms", 0.0),
        ("max_latency_ms", -1.0),
        ("max_latency_ms", math.nan),
        ("max_quality_loss", -0.1),
        ("max_quality_loss", math.inf),
        ("max_quality_loss", "1%"),
    ],
)
def test_limits_out_of_range_are_refused(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be a number"):
        Budget(**{name: value})


def test_misses_are_parts_of_the_limits():
    budget = Budget(max_size=40, max_latency_ms=1.0, max_quality_loss=0.02)
    found = budget.misses(candidate(size=50.0, latency=3.0, loss=0.05))
    assert found == pytest.approx(
        {"max_size": 0.25, "max_latency_ms": 2.0, "max_quality_loss": 1.5}
    )
    assert budget.misses(candidate(size=40.0, latency=1.0, loss=0.02)) == {}


def test_a_limit_of_zero_is_missed_by_the_number_itself():
    budget = Budget(max_quality_loss=0)
    assert budget.misses(candidate(loss=-0.5)) == {}
    assert budget.misses(candidate(loss=0.25)) == {"max_quality_loss": 0.25}


def test_a_nan_fits_nothing():
    budget = Budget(max_latency_ms=1.0)
    assert budget.misses(candidate(latency=math.nan)) == {
        "max_latency_ms": math.inf
    }


def test_words_name_only_what_is_missed():
    budget = Budget(max_size=40, max_latency_ms=3.0)
    assert budget.describe(candidate()) == "50 B of 40 B"
    assert str(budget) == "at most 40 B, 3 ms"
