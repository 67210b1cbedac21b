import collections

import numpy as np
import pytest

from kdtf.search.evolution import Evolution
from kdtf.search.space import Choice
from kdtf.search.space import Space
from kdtf.search.strategies import Measured

WIDE = Space({str(i): range(4) for i in range(6)})


def at(*points_and_rewards):
    return [
        Measured(point=point, reward=float(reward))
        for point, reward in points_and_rewards
    ]


def children(strategy, space, history, count=300, attempt=0):
    rng = np.random.default_rng(0)
    return [
        strategy.propose(space, history, rng=rng, attempt=attempt)
        for _ in range(count)
    ]


def distance(a, b):
    return sum(x != y for x, y in zip(a, b, strict=True))


def chi_square(counts, expected):
    counts, expected = np.asarray(counts), np.asarray(expected)
    return float(np.sum((counts - expected) ** 2 / expected))


def test_the_first_population_is_random():
    history = at(*[((i % 4,) * 6, i) for i in range(9)])
    for seed in range(5):
        found = Evolution(10, 5).propose(
            WIDE, history, rng=np.random.default_rng(seed)
        )
        assert found == WIDE.random(np.random.default_rng(seed))


def test_a_full_population_has_children():
    history = at(*[((0,) * 6, i) for i in range(10)])
    for child in children(Evolution(10, 5), WIDE, history, 20):
        assert distance(child, (0,) * 6) == 1


def test_the_old_die_however_good_they_are():
    history = at(((3,) * 6, 100), ((0,) * 6, 1), ((1,) * 6, 3), ((2,) * 6, 2))
    for child in children(Evolution(3, 3), WIDE, history, 50):
        assert distance(child, (1,) * 6) == 1
    # One trial less is forgotten with one place more.
    for child in children(Evolution(4, 4), WIDE, history, 50):
        assert distance(child, (3,) * 6) == 1


def parents(history, strategy, count=600):
    points = [one.point for one in history]
    found = collections.Counter(
        min(range(len(points)), key=lambda i: distance(child, points[i]))
        for child in children(strategy, WIDE, history, count)
    )
    return [found[i] for i in range(len(points))]


def test_the_best_of_a_tournament_is_the_parent():
    history = at(((0,) * 6, 2), ((1,) * 6, 9), ((2,) * 6, 5), ((3,) * 6, 1))
    # Two of four: 3 of the 6 pairs have the best, 2 of the rest the second,
    # one the third, none the worst. 13.8 is the 99.9% quantile for 2 degrees.
    counts = parents(history, Evolution(4, 2))
    assert counts[3] == 0
    assert chi_square(counts[:3], [100, 300, 200]) < 13.8
    # A tournament of one takes anybody. 16.3: for 3 degrees.
    counts = parents(history, Evolution(4, 1))
    assert chi_square(counts, [150] * 4) < 16.3
    assert parents(history, Evolution(4, 4)) == [0, 600, 0, 0]


def test_rivals_are_different_trials():
    # With replacement the worse of two would win one time in four.
    history = at(((0,) * 6, 2), ((1,) * 6, 9))
    assert parents(history, Evolution(2, 2), 100) == [0, 100]


def test_every_other_option_of_every_choice_is_as_likely():
    space = Space({"a": range(2), "b": range(4)})
    found = collections.Counter(
        children(Evolution(1, 1), space, at(((1, 2), 0)), 600)
    )
    assert set(found) == {(0, 2), (1, 0), (1, 1), (1, 3)}
    counts = [found[0, 2], found[1, 0], found[1, 1], found[1, 3]]
    # A choice is drawn first; 16.3 is the 99.9% quantile for 3 degrees.
    assert chi_square(counts, [300, 100, 100, 100]) < 16.3


def test_choices_not_in_force_do_not_change():
    space = Space(
        {
            "op": ["pool", "conv"],
            "kernel": Choice([3, 5], when=lambda c: c["op"] == "conv"),
            "fixed": [1],
            "width": [8, 16],
        }
    )
    strategy = Evolution(1, 1)
    # The kernel's index is kept, also where the operation changes.
    found = set(children(strategy, space, at(((0, 1, 0, 0), 0))))
    assert found == {(1, 1, 0, 0), (0, 1, 0, 1)}
    found = set(children(strategy, space, at(((1, 1, 0, 0), 0))))
    assert found == {(0, 1, 0, 0), (1, 0, 0, 0), (1, 1, 0, 1)}


@pytest.mark.parametrize(
    "attempt, most", [(0, 1), (19, 1), (20, 2), (39, 2), (40, 3)]
)
def test_refused_children_go_farther(attempt, most):
    parent = (0,) * 6
    found = [
        distance(child, parent)
        for child in children(
            Evolution(1, 1), WIDE, at((parent, 0)), attempt=attempt
        )
    ]
    assert max(found) == most
    # One choice may be drawn twice, with 4 options rarely back to where it was.
    assert found.count(most) > 300 / 2


def test_what_cannot_change_stays():
    space = Space({"a": [1], "b": ["x"]})
    assert children(Evolution(1, 1), space, at(((0, 0), 0)), 3) == [(0, 0)] * 3


@pytest.mark.parametrize(
    "arguments, match",
    [
        ({"population": 0}, "`population`.* Received: population=0"),
        ({"tournament": 2.0}, "`tournament`.* Received: tournament=2.0"),
        (
            {"population": 4, "tournament": 5},
            "at most `population`. Received: tournament=5, population=4",
        ),
    ],
)
def test_bad_settings_are_refused(arguments, match):
    with pytest.raises(ValueError, match=match):
        Evolution(**arguments)
