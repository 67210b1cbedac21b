import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies

from kdtf.search.space import Choice
from kdtf.search.space import Space
from kdtf.search.space import as_space


def conditional(seen=None):
    """A kernel size for convolutions, a dilation for kernels over 3."""

    def has_kernel(chosen):
        if seen is not None:
            seen.append(chosen)
        return chosen["op"] == "conv"

    return Space(
        {
            "op": ["pool", "conv"],
            "kernel": Choice([3, 5], when=has_kernel),
            "dilation": Choice(
                [1, 2, 4], when=lambda chosen: chosen.get("kernel", 0) > 3
            ),
            "width": [8, 16],
        }
    )


def test_a_point_is_decoded_by_index():
    space = Space({"layers": range(2, 5), "act": ["relu", None], "on": [True]})
    assert space.decode((2, 0, 0)) == {"layers": 4, "act": "relu", "on": True}
    assert space.decode((0, 1, 0)) == {"layers": 2, "act": None, "on": True}


@pytest.mark.parametrize(
    "point, chosen",
    [
        ((0, 1, 2, 1), {"op": "pool", "width": 16}),
        ((1, 0, 2, 0), {"op": "conv", "kernel": 3, "width": 8}),
        (
            (1, 1, 2, 0),
            {"op": "conv", "kernel": 5, "dilation": 4, "width": 8},
        ),
    ],
)
def test_choices_not_in_force_are_left_out(point, chosen):
    assert conditional().decode(point) == chosen


def test_a_condition_sees_what_is_in_force_before_it():
    seen = []
    space = conditional(seen)
    space.decode((0, 1, 2, 1))
    assert seen == [{"op": "pool"}]


def test_a_condition_cannot_change_what_is_chosen():
    space = Space(
        {"a": [1, 2], "b": Choice([3], when=lambda chosen: chosen.clear())}
    )
    assert space.decode((1, 0)) == {"a": 2}


def test_points_that_differ_out_of_force_share_a_key():
    space = conditional()
    assert space.key((0, 0, 0, 1)) == space.key((0, 1, 2, 1))
    assert space.key((0, 1, 2, 1)) == (0, None, None, 1)
    assert space.key((1, 0, 0, 1)) == space.key((1, 0, 2, 1))
    assert space.key((1, 1, 0, 1)) != space.key((1, 1, 2, 1))
    # 1 * 2 without a kernel, 1 * 2 of kernel 3, 3 * 2 of kernel 5.
    assert len({space.key(point) for point in space.points()}) == 10


def test_counts_names_size_and_points():
    space = Space({"a": range(2), "b": "x y z".split()})
    assert space.names == ("a", "b")
    assert space.counts == (2, 3)
    assert space.size == 6
    assert list(space.points()) == [
        (0, 0),
        (0, 1),
        (0, 2),
        (1, 0),
        (1, 1),
        (1, 2),
    ]


def test_the_size_of_a_wide_space_is_exact():
    assert Space({str(i): range(10) for i in range(30)}).size == 10**30


def test_encode_by_hand():
    space = conditional()
    assert space.encode({"op": "conv", "kernel": 5, "width": 16}) == (
        1,
        1,
        0,
        1,
    )
    assert space.encode({}) == (0, 0, 0, 0)


def test_encode_tells_equal_options_apart():
    space = Space({"a": [1, True, 1.0]})
    assert [space.encode(space.decode((i,))) for i in range(3)] == [
        (0,),
        (1,),
        (2,),
    ]


def test_encode_takes_an_equal_option_of_another_kind():
    space = Space({"a": [0.5, 1.0]})
    assert space.encode({"a": 1}) == (1,)
    assert space.encode({"a": np.float32(0.5)}) == (0,)


plain = strategies.one_of(
    strategies.text(max_size=3),
    strategies.integers(-3, 3),
    strategies.floats(-1, 1),
    strategies.booleans(),
    strategies.none(),
    strategies.tuples(strategies.integers(0, 2), strategies.text(max_size=1)),
)
options = strategies.lists(
    plain, min_size=1, max_size=5, unique_by=lambda one: (type(one), one)
)


@given(data=strategies.data())
def test_a_point_comes_back(data):
    lists = data.draw(strategies.lists(options, min_size=1, max_size=4))
    space = Space({f"choice {i}": found for i, found in enumerate(lists)})
    point = tuple(
        data.draw(strategies.integers(0, count - 1)) for count in space.counts
    )
    assert space.encode(space.decode(point)) == point


def test_a_conditional_point_comes_back_as_the_same_model():
    space = conditional()
    for point in space.points():
        back = space.encode(space.decode(point))
        assert space.key(back) == space.key(point)


@pytest.mark.parametrize(
    "found, ordered",
    [
        ([1, 2, 4], True),
        ([0.1, 0.5, 2], True),
        ([7], True),
        ([2, 1], False),
        ([1, 3, 2], False),
        ([False, True], False),
        (["1", "2"], False),
        ([1, None], False),
        ([(1,), (2,)], False),
    ],
)
def test_rising_numbers_are_ordered(found, ordered):
    assert Choice(found).is_ordered is ordered
    assert Space({"a": found}).is_ordered("a") is ordered


@pytest.mark.parametrize(
    "given_options, kept",
    [
        (range(3), (0, 1, 2)),
        (np.array([0.5, 1.0]), (0.5, 1.0)),
        ([np.int64(3), np.bool_(True)], (3, True)),
        ([[1, [2, 3]], (4,)], ((1, (2, 3)), (4,))),
    ],
)
def test_options_are_kept_plain(given_options, kept):
    found = Choice(given_options).options
    assert found == kept
    assert [type(one) for one in found] == [type(one) for one in kept]


def test_what_is_described_can_be_stored():
    space = Space({"a": [(1, (2, "x")), None], "b": [0.5, True]})
    described = space.describe()
    assert described == {"a": [[1, [2, "x"]], None], "b": [0.5, True]}
    stored = json.loads(json.dumps(described))
    assert as_space(stored).describe() == described
    assert as_space(stored).encode({"a": (1, (2, "x")), "b": True}) == (0, 1)


def test_refusals():
    def valid(chosen):
        if "kernel" in chosen and chosen["width"] == 8:
            return "too narrow"
        return chosen["width"] == 8 or chosen["op"] == "conv"

    space = dataclasses.replace(conditional(), valid=valid)
    assert space.refusal((0, 1, 0, 0)) is None
    assert space.refusal((1, 1, 0, 1)) is None
    assert space.refusal((1, 1, 0, 0)) == "too narrow"
    assert space.refusal((0, 0, 0, 1)) == "not valid in this space"
    assert conditional().refusal((0, 0, 0, 1)) is None
    assert space.size == 24


def test_a_space_stays_as_it_is():
    space = conditional()
    assert as_space(space) is space
    with pytest.raises(dataclasses.FrozenInstanceError):
        space.valid = None
    rebuilt = as_space({"a": [1, 2]})
    assert rebuilt.decode((1,)) == {"a": 2}


@pytest.mark.parametrize(
    "options, error, match",
    [
        ([], ValueError, r"at least one.* Received: options=\[\]"),
        ([1, 2, 1], ValueError, r"different\. Received: options=\[1, 2, 1\]"),
        ([[1], (1,)], ValueError, r"Received: options=\[\(1,\), \(1,\)\]"),
        ("relu", TypeError, "must be a list. Received: options='relu'"),
        (b"relu", TypeError, "must be a list. Received: options=b'relu'"),
        ({"relu"}, TypeError, "must be a list. Received: options={'relu'}"),
        ({"relu": 1}, TypeError, "Received: options={'relu': 1}"),
        (5, TypeError, "must be a list. Received: options=5"),
        ([1, {}], TypeError, "Options must be .* Received: {}"),
        ([(1, {})], TypeError, "Options must be .* Received: {}"),
        ([print], TypeError, "Received: <built-in function print>"),
    ],
)
def test_bad_options_are_refused(options, error, match):
    with pytest.raises(error, match=match):
        Choice(options)
    # With the name of the choice, where it is known.
    with pytest.raises(error, match=f"Choice 'act': .*{match}"):
        Space({"act": options})


@pytest.mark.parametrize(
    "choices, error, match",
    [
        ({}, ValueError, "at least one choice. Received: {}"),
        ([1, 2], ValueError, r"at least one choice. Received: \[1, 2\]"),
        ({3: [1]}, TypeError, "must be strings. Received: 3"),
    ],
)
def test_bad_choices_are_refused(choices, error, match):
    with pytest.raises(error, match=match):
        Space(choices)


@pytest.mark.parametrize(
    "chosen, match",
    [
        (
            {"width": 8, "depth": 1},
            r"among \['op', .*'width'\]\. Received: \['depth'\]",
        ),
        ({"width": 9}, r"'width' must be one of \[8, 16\]\. Received: 9"),
    ],
)
def test_what_is_not_in_the_space_is_not_encoded(chosen, match):
    with pytest.raises(ValueError, match=match):
        conditional().encode(chosen)
