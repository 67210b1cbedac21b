"""Atoms and choices, by hand."""

import numpy as np
import pytest

from kdtf.pruning.shrinking.atoms import Atoms
from kdtf.pruning.shrinking.atoms import lines
from kdtf.pruning.shrinking.atoms import spread
from kdtf.pruning.shrinking.choosing import choose
from kdtf.pruning.shrinking.choosing import counts_allowed
from kdtf.pruning.shrinking.families import Family
from kdtf.pruning.shrinking.importance import group_scores
from kdtf.pruning.shrinking.tracing import Slicing


def family(*groups):
    return Family(settings=(), groups=np.array(groups), kind="width")


def test_ties_reach_through_others():
    atoms = Atoms()
    a, b, c = (atoms.new(2) for _ in range(3))
    atoms.tie(a, b)
    atoms.tie(b, c[::-1])
    assert atoms.roots().tolist() == [0, 1, 2, 1, 2, 2, 1]


def test_without_ties_each_is_its_own():
    atoms = Atoms()
    atoms.new(3)
    assert atoms.roots().tolist() == [0, 1, 2, 3]


def test_a_full_tensor_is_left_alone_and_others_are_tied_along_the_last_axis():
    atoms = Atoms()
    rows = spread(atoms.new(2), (2, 3), axis=0)
    assert atoms.whole(rows) is rows
    flat = atoms.new(4)
    assert atoms.whole(flat) is flat
    both = atoms.new(6).reshape(2, 3)
    ((axis, line),) = lines(atoms.whole(both)).items()
    assert axis == 1
    np.testing.assert_array_equal(line, both[0])
    assert (atoms.roots()[both[1]] == both[0]).all()


def test_steps_of_a_width():
    assert counts_allowed(16, "width", 8).tolist() == [8, 16]
    assert counts_allowed(5, "width", 8).tolist() == [1, 2, 3, 4, 5]
    assert counts_allowed(12, "heads", 8).tolist() == list(range(1, 13))


@pytest.mark.parametrize(
    ("uniform", "kept"),
    [
        # Divided by their means: 0.4 0.8 1.2 1.6, and 0.2 0.2 0.2 3.4.
        (False, [0, 2, 3, 4, 8]),
        (True, [0, 3, 4, 7, 8]),
    ],
)
def test_the_lowest_go_until_the_target_is_met(uniform, kept):
    families = [family(1, 2, 3, 4), family(5, 6, 7, 8)]
    scores = np.array([0, 1, 2, 3, 4, 10, 10, 10, 170.0])
    mask = choose(
        families,
        scores,
        lambda mask: mask.sum() - 1,
        target=4,
        uniform=uniform,
        round_to=1,
    )
    # Of equal scores the first stays.
    expected = [5 if group == 7 else group for group in kept]
    assert np.flatnonzero(mask).tolist() == expected


def test_what_is_left_of_the_target_is_filled():
    families = [family(1, 2), family(3, 4)]
    cost = {1: 5, 2: 5, 3: 2, 4: 2}
    mask = choose(
        families,
        np.array([0.0, 9, 1, 9, 8]),
        lambda mask: sum(cost[g] for g in cost if mask[g]),
        target=9,
        uniform=True,
        round_to=1,
    )
    assert np.flatnonzero(mask).tolist() == [0, 1, 3, 4]


@pytest.mark.parametrize(
    ("exchanges", "kept"), [(False, [0, 1, 2, 3]), (True, [0, 1, 3, 4])]
)
def test_steps_are_exchanged_where_the_target_is_far(exchanges, kept):
    cost = {1: 1, 2: 2, 3: 3, 4: 4}
    mask = choose(
        [family(1, 2), family(3, 4)],
        np.array([0.0, 9, 8, 9, 1]),
        lambda mask: sum(cost[g] for g in cost if mask[g]),
        target=8,
        uniform=False,
        round_to=1,
        exchanges=exchanges,
    )
    # 6 of 8 are used, and 4 more would not fit; 4 for 2 is just right.
    assert np.flatnonzero(mask).tolist() == kept


def test_an_impossible_target_is_refused_with_the_least_cost():
    with pytest.raises(ValueError, match="smallest widths cost 8"):
        choose(
            [family(*range(1, 17))],
            np.ones(17),
            lambda mask: mask.sum() - 1,
            target=4,
            uniform=False,
            round_to=8,
        )


def test_scores_of_a_group_are_the_norm_of_all_its_weights():
    into = Slicing(
        layer=("a",),
        weight=0,
        shape=(2, 2),
        axes={1: np.array([1, 2])},
        uses=1,
    )
    out = Slicing(
        layer=("b",),
        weight=0,
        shape=(4, 1),
        # Flattened: each channel twice.
        axes={0: np.array([1, 2, 1, 2])},
        uses=1,
    )
    scores = {
        (("a",), 0): np.array([[1.0, 0.0], [2.0, 3.0]]),
        (("b",), 0): np.array([[2.0], [0.0], [4.0], [4.0]]),
    }
    found = group_scores([into, out], np.arange(4), scores)
    np.testing.assert_allclose(found, [np.nan, 5.0, 5.0, np.nan])
