"""Which candidate is taken, the front, and the words for it."""

import json
import math

import pytest

from kdtf.recipes.compression.budget import Budget
from kdtf.recipes.compression.candidate import Candidate
from kdtf.recipes.compression.candidate import pareto
from kdtf.recipes.compression.reasons import choose
from kdtf.recipes.compression.reasons import closest
from kdtf.recipes.compression.reasons import explain


def made(name, size, loss, latency=1.0, status="complete", reason=""):
    return Candidate(
        name=name,
        stage="shrunk",
        settings={"export": {"quantize": None}},
        status=status,
        reason=reason,
        size_bytes=size,
        latency_ms=latency,
        quality=1.0 - loss,
        quality_loss=loss,
    )


TRIED = (
    made("large", 90.0, 0.0),
    made("medium", 50.0, 0.01),
    made("small", 20.0, 0.3),
    made("broken", math.nan, math.nan, status="failed", reason="no\n kernel"),
)


@pytest.mark.parametrize(
    ("limits", "name"),
    [
        # Both fit: bytes are limited, so quality decides.
        ({"max_size": 60}, "medium"),
        ({"max_size": 100}, "large"),
        # Only quality is limited: bytes decide.
        ({"max_quality_loss": 0.05}, "medium"),
        ({"max_quality_loss": 0.5}, "small"),
        # None fits: 90 is 8 times over 10, 20 once.
        ({"max_size": 10}, "small"),
        # small misses by 5 limits of quality, medium by 0.25 of the size.
        ({"max_size": 40, "max_quality_loss": 0.05}, "medium"),
    ],
)
def test_the_chosen_one(limits, name):
    assert closest(TRIED, Budget(**limits)).name == name


def test_words_for_what_fits_and_what_does_not():
    _, fits = choose(TRIED, Budget(max_size=60))
    assert fits.startswith("Chosen: medium (50 bytes, 1 ms, 0.9900).")
    one, misses = choose(TRIED, Budget(max_size=10))
    assert one.name == "small"
    assert misses.startswith("Not reachable: at most 10 B. Closest is small")
    assert misses.endswith("20 B of 10 B.")
    nothing, none = choose(TRIED[3:], Budget(max_size=10))
    assert nothing is None
    assert none.endswith("at most 10 B. There is no file: broken: no kernel")


def test_stages_say_how_far_they_got():
    budget = Budget(max_size=60)
    assert explain("shrunk", TRIED, budget).endswith(
        "4 tried, 1 without a file, 2 within the budget."
    )
    assert "nothing to try" in explain("pruned", [], budget)
    assert explain("shrunk", TRIED[:1], budget).endswith(
        "1 tried, none within the budget; the closest is large: 90 B of 60 B."
    )


def test_front_by_hand():
    same = made("same", 20.0, 0.3)
    slow = made("slow", 20.0, 0.3, latency=2.0)
    front = pareto((*TRIED, same, slow, made("worse", 90.0, 0.1)))
    assert [one.name for one in front] == ["small", "medium", "large"]


def test_candidates_survive_json():
    for one in TRIED:
        again = Candidate.from_dict(json.loads(json.dumps(one.to_dict())))
        # A nan is not equal to itself.
        assert repr(again) == repr(one)
