"""What a search gives back: best, front, table, pictures, rewards."""

import math
import re
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from kdtf.search.progress import Progress
from kdtf.search.result import SearchResult
from kdtf.search.rewards import EXPONENT
from kdtf.search.rewards import reward_of
from kdtf.search.trial import Trial


def complete(number, choices=None, **values):
    return Trial(
        number=number,
        choices=choices or {"n": number},
        status="complete",
        values=values,
        reward=0.0,
    )


def result_of(*trials, limits=None, minimize=False):
    return SearchResult(trials=trials, limits=limits or {}, minimize=minimize)


def numbers(trials):
    return [trial.number for trial in trials]


FIVE = (
    complete(0, {"width": 8, "op": "conv"}, accuracy=0.5, bytes=100.0),
    complete(1, {"width": 16, "op": "conv"}, accuracy=0.75, bytes=200.0),
    complete(2, {"width": 32, "op": "dense"}, accuracy=0.625, bytes=300.0),
    complete(3, {"width": 64, "op": "conv"}, accuracy=0.9, bytes=400.0),
    Trial(
        number=4,
        choices={"width": 128, "op": "conv"},
        status="failed",
        error="RuntimeError: no room (at build.py:3)",
    ),
    complete(5, {"width": 24, "op": "conv"}, accuracy=0.75, bytes=200.0),
    Trial(number=6, choices={}, status="infeasible", values={"bytes": 9e9}),
    Trial(
        number=7,
        choices={},
        status="stopped",
        values={"quality": 2.0},
        reward=2.0,
    ),
    Trial(number=8, choices={}, status="running"),
)


# What is best


@pytest.mark.parametrize(
    "limits, expected",
    [
        ({}, 3),
        ({"bytes": 400.0}, 3),
        ({"bytes": 399.9}, 1),
        ({"bytes": 200}, 1),
        ({"bytes": 199}, 0),
    ],
)
def test_the_best_is_within_the_limits_and_of_equals_the_first(
    limits, expected
):
    # What was stopped is not measured to the end, however good.
    assert result_of(*FIVE, limits=limits).best.number == expected


def test_all_limits_hold_at_once():
    trials = (
        complete(0, quality=3.0, a=1.0, b=9.0),
        complete(1, quality=2.0, a=9.0, b=1.0),
        complete(2, quality=1.0, a=5.0, b=5.0),
    )
    assert result_of(*trials, limits={"a": 5, "b": 5}).best.number == 2
    assert result_of(*trials, limits={"b": 5}).best.number == 1


def test_of_losses_the_lowest_is_best():
    trials = tuple(
        complete(i, loss=loss, cost=cost)
        for i, (loss, cost) in enumerate([(-1.0, 5), (-2.0, 7), (-2.0, 6)])
    )
    assert result_of(*trials, minimize=True).best.number == 1
    assert result_of(*trials, minimize=False).best.number == 0
    within = result_of(*trials, minimize=True, limits={"cost": 6.5})
    assert within.best.number == 2
    # The front ends with the best quality.
    assert numbers(result_of(*trials, minimize=True).pareto) == [0, 2]


def test_none_within_the_limits_says_what_was_least():
    result = result_of(*FIVE, limits={"bytes": 99})
    assert result.best_or_none is None
    message = r"limits=\{'bytes': 99\}; .* \{'bytes': 100\.0\}"
    with pytest.raises(ValueError, match=message):
        result.best  # noqa: B018


@pytest.mark.parametrize("trials", [(), FIVE[4:5], FIVE[6:9]])
def test_without_a_complete_trial_there_is_no_best_and_no_picture(trials):
    result = result_of(*trials, limits={"bytes": 1.0})
    assert result.best_or_none is None
    assert result.pareto == ()
    for ask in (lambda: result.best, result.history_svg, result.pareto_svg):
        message = f"complete trial. Received: {len(trials)} trials, none"
        with pytest.raises(ValueError, match=message):
            ask()
    # It can be shown nevertheless.
    assert str(result).startswith(f"Search: {len(trials)} trials (")
    assert "<svg" not in result._repr_html_()


def test_a_limit_on_what_earlier_trials_did_not_measure():
    """The objective of a study may be given a further cost."""
    trials = (
        complete(0, score=9.0),
        complete(1, score=1.0, ms=4.0),
        complete(2, score=2.0, ms=6.0),
    )
    result = result_of(*trials, limits={"ms": 5})
    assert result.best.number == 1
    lines = str(result).splitlines()
    assert lines[4].split() == ["1", "1", "4", "best,", "front", "n=1"]
    assert lines[5].split() == ["0", "9", "front,", "over", "ms", "n=0"]
    markers(result.history_svg(), 3)
    assert "ms" in result._repr_html_()
    nothing = result_of(trials[0], limits={"ms": 5})
    with pytest.raises(ValueError, match=r"least .* \{'ms': inf\}"):
        nothing.best  # noqa: B018


# The front


def test_the_front_of_a_small_case():
    assert numbers(result_of(*FIVE).pareto) == [0, 1, 5, 3]


def test_limits_do_not_cut_the_front():
    assert numbers(result_of(*FIVE, limits={"bytes": 1}).pareto) == [0, 1, 5, 3]


few = st.integers(-2, 2).map(float)


@settings(deadline=None)
@given(st.lists(st.tuples(few, few, few), max_size=12), st.booleans())
def test_the_front_is_what_nothing_beats(rows, minimize):
    trials = tuple(
        complete(i, quality=q, a=a, b=b) for i, (q, a, b) in enumerate(rows)
    )

    def beats(one, other):
        (p, *costs), (q, *others) = one.values.values(), other.values.values()
        pairs = [
            (p, q) if minimize else (q, p),
            *zip(costs, others, strict=True),
        ]
        return all(x <= y for x, y in pairs) and any(x < y for x, y in pairs)

    front = result_of(*trials, minimize=minimize).pareto
    for trial in trials:
        is_beaten = any(beats(other, trial) for other in trials)
        assert (trial in front) == (not is_beaten)
        if is_beaten:
            assert any(beats(member, trial) for member in front)
    qualities = [t.values["quality"] for t in front]
    assert qualities == sorted(qualities, reverse=minimize)
    if trials:
        best = result_of(*trials, minimize=minimize).best.values["quality"]
        assert qualities[-1] == best


# The table


def test_the_table_line_by_line():
    text = str(result_of(*FIVE, limits={"bytes": 250.0}))
    assert text.splitlines() == [
        "Search: 9 trials (5 complete, 1 failed, 1 infeasible, 1 stopped, "
        "1 running)",
        "",
        " Trial  accuracy  bytes                     Choices",
        " " + "─" * 61,
        "     1      0.75    200  best, front        width=16, op=conv",
        "     3       0.9    400  front, over bytes  width=64, op=conv",
        "     5      0.75    200  front              width=24, op=conv",
        "     2     0.625    300  over bytes         width=32, op=dense",
        "     0       0.5    100  front              width=8, op=conv",
        "",
        "Trial 4 {'width': 128, 'op': 'conv'}: RuntimeError: no room (at "
        "build.py:3)",
    ]


def test_the_table_shows_the_best_ten():
    trials = [complete(i, score=float(i)) for i in range(30)]
    lines = str(result_of(*trials)).splitlines()[4:]
    shown = [int(line.split()[0]) for line in lines if line]
    assert shown == list(range(29, 19, -1))
    # The best within the limits is among them, however bad.
    trials = [complete(i, score=float(i), cost=float(i)) for i in range(30)]
    lines = str(result_of(*trials, limits={"cost": 2})).splitlines()[4:]
    shown = [int(line.split()[0]) for line in lines if line]
    assert shown == [2, *range(29, 20, -1)]


HOSTILE = ("[bold]x", "[/x]", "a [top-1]", "<b>&", ":smile:", "$x^{$", "[", "ü")


@pytest.mark.parametrize("name", HOSTILE)
def test_names_and_errors_are_shown_as_they_are(name):
    result = result_of(
        complete(0, {name: name}, **{name: 0.5, f"cost {name}": 2.0}),
        complete(1, {name: name}, **{name: 0.25, f"cost {name}": 3.0}),
        Trial(number=2, choices={name: 1}, status="failed", error=name),
        limits={f"cost {name}": 2.5},
    )
    lines = str(result).splitlines()
    head = ["Trial", *name.split(), "cost", *name.split(), "Choices"]
    assert lines[2].split() == head
    assert f"{name}={name}" in lines[4]
    assert f"over cost {name}" in lines[5]
    assert lines[-1].endswith(f": {name}")
    page = result._repr_html_()
    table, *pictures = page.split("<svg")
    assert len(pictures) == 2
    assert ElementTree.fromstring(table).text == str(result)
    markers(f"<svg{pictures[0]}", 2)
    # The front has one point, drawn once more.
    markers(f"<svg{pictures[1]}", 2 + 1)
    assert f"cost {name}" in texts(f"<svg{pictures[1]}")


def test_html_lets_no_markup_through():
    evil = "<script>alert('&amp;')</script>"
    result = result_of(
        complete(0, {"n": evil}, **{evil: 1.0, "cost": 2.0}),
        Trial(number=1, choices={}, status="failed", error=evil),
    )
    page = result._repr_html_()
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 4


# The pictures


SVG = "{http://www.w3.org/2000/svg}"


def texts(svg):
    return [
        "".join(element.itertext()).strip()
        for element in ElementTree.fromstring(svg).iter(f"{SVG}text")
    ]


def markers(svg, expected):
    """Checks how many trials are drawn, ticks and legend aside."""
    root = ElementTree.fromstring(svg)
    assert root.tag == f"{SVG}svg"
    # Points are uses within a group that is clipped, one alone a round path.
    found = [
        use
        for group in root.iter(f"{SVG}g")
        if "clip-path" in group.attrib
        for use in group.iter(f"{SVG}use")
    ]
    alone = [
        path
        for path in root.iter(f"{SVG}path")
        if "clip-path" in path.attrib and "C" in path.attrib["d"]
    ]
    assert len(found) + len(alone) == expected


def test_the_history_shows_each_complete_trial_and_the_best():
    svg = result_of(*FIVE).history_svg()
    markers(svg, 5)
    assert {"Trial", "accuracy", "trial", "best so far"} <= set(texts(svg))
    assert "over a limit" not in texts(svg)
    limited = result_of(*FIVE, limits={"bytes": 250}).history_svg()
    markers(limited, 5)
    assert {"over a limit", "best so far"} <= set(texts(limited))
    none = result_of(*FIVE, limits={"bytes": 1}).history_svg()
    markers(none, 5)
    assert "best so far" not in texts(none)
    assert "trial" not in texts(none)


def test_the_front_s_picture_shows_the_cost_that_was_asked_for():
    trials = [
        complete(i, score=float(i), bytes=100.0 + i, ms=9.0 - i)
        for i in range(4)
    ]
    result = result_of(*trials, limits={"ms": 7.5})
    first = result.pareto_svg()
    assert {"bytes", "score", "trial", "front"} <= set(texts(first))
    assert "limit" not in texts(first)
    second = result.pareto_svg("ms")
    assert {"ms", "score", "limit"} <= set(texts(second))
    assert "bytes" not in texts(second)
    # Quality rises as the time falls: the front is one model.
    markers(first, 4 + 4)
    markers(second, 4 + 1)
    # The line of the limit, and nothing else, is dashed.
    assert "stroke-dasharray: 3.7" in second
    assert "stroke-dasharray" not in first


@pytest.mark.parametrize("cost", ["score", "macs", ""])
def test_a_cost_that_was_not_measured_is_refused(cost):
    result = result_of(complete(0, score=1.0, bytes=2.0))
    message = rf"`cost`.*\['bytes'\]. Received: cost='{cost}'"
    with pytest.raises(ValueError, match=message):
        result.pareto_svg(cost)


def test_without_costs_there_is_no_picture_of_a_front():
    result = result_of(complete(0, score=1.0), complete(1, score=2.0))
    with pytest.raises(ValueError, match=r"`cost`.*\[\]. Received: cost=None"):
        result.pareto_svg()
    assert result._repr_html_().count("<svg") == 1


def test_one_trial_can_be_drawn():
    result = result_of(complete(7, score=-1.0, cost=0.0), minimize=True)
    markers(result.history_svg(), 1)
    markers(result.pareto_svg(), 2)


# Progress


def shown_by(capsys, *results, total=9):
    found = iter(results)
    progress = Progress(total, verbose=1, best=lambda: next(found).best_or_none)
    # It is drawn at most so often; here every time.
    progress._bar.interval = 0
    for result in results:
        progress.update(result.trials)
    # The bar is drawn over itself, in colours.
    last = capsys.readouterr().out.split("\r")[-1]
    return re.sub(r"\x1b\[[0-9;]*m|\x08", "", last).strip()


def test_progress_counts_what_ended_and_names_the_best(capsys):
    shown = shown_by(capsys, result_of(*FIVE, limits={"bytes": 300}))
    # Running and infeasible ones do not count.
    assert shown.startswith("7/9 ")
    assert shown.endswith(" - best accuracy: 0.7500")


def test_progress_shows_no_best_until_there_is_one(capsys):
    limits = {"bytes": 200}
    none = result_of(FIVE[3], limits=limits)
    assert "best" not in shown_by(capsys, none)
    one = result_of(FIVE[3], FIVE[0], limits=limits)
    two = result_of(FIVE[3], FIVE[0], FIVE[1], limits=limits)
    shown = shown_by(capsys, none, one, two)
    # It is the best, not a mean of what was the best.
    assert shown.startswith("3/9 ")
    assert shown.count(" - ") == 1
    assert shown.endswith(" - best accuracy: 0.7500")


def test_progress_of_a_study_that_holds_more_than_was_asked_for(capsys):
    shown = shown_by(capsys, result_of(*FIVE), total=3)
    assert shown.startswith("3/3 ")


@pytest.mark.parametrize("name", HOSTILE)
def test_progress_shows_names_as_they_are(capsys, name):
    shown = shown_by(capsys, result_of(complete(0, **{name: 1.0})))
    assert shown.endswith(f" - best {name}: 1.0000")


def test_progress_can_be_silent(capsys):
    Progress(3, verbose=0, best=pytest.fail).update(FIVE)
    assert capsys.readouterr().out == ""


# Rewards


def test_rewards_by_hand():
    values = {"accuracy": 0.8, "bytes": 200.0, "ms": 5.0, "other": 1e9}
    # 2 ** -0.07 = 0.95264, 0.5 ** -0.07 = 1.04972.
    one = reward_of(values, limits={"bytes": 100.0})
    assert one == pytest.approx(0.8 * 0.952638, rel=1e-6)
    both = reward_of(values, limits={"bytes": 100.0, "ms": 10.0})
    # The one is twice its limit, the other half of it.
    assert both == pytest.approx(0.8, rel=1e-12)
    worse = reward_of(values | {"accuracy": -0.8}, limits={"bytes": 100})
    assert worse == pytest.approx(-0.8 / 0.952638, rel=1e-6)
    loss = reward_of(values, limits={"bytes": 100}, minimize=True)
    assert loss == pytest.approx(-0.8 / 0.952638, rel=1e-6)
    negative = reward_of(
        values | {"accuracy": -0.8}, limits={"bytes": 100}, minimize=True
    )
    assert negative == pytest.approx(0.8 * 0.952638, rel=1e-6)
    assert EXPONENT == -0.07


qualities = st.floats(-1e6, 1e6, allow_nan=False)
costs = st.floats(1e-6, 1e12)


@given(qualities, costs, costs, st.booleans())
def test_costs_at_their_limits_change_nothing(quality, a, b, minimize):
    reward = reward_of(
        {"q": quality, "a": a, "b": b},
        limits={"a": a, "b": b},
        minimize=minimize,
    )
    assert reward == (-quality if minimize else quality)


@given(qualities, st.tuples(costs, costs), costs, costs, st.booleans())
def test_a_higher_cost_is_never_worth_more(quality, pair, b, limit, minimize):
    low, high = sorted(pair)

    def reward(a):
        return reward_of(
            {"q": quality, "a": a, "b": b, "free": a},
            limits={"a": limit, "b": limit},
            minimize=minimize,
        )

    assert reward(high) <= reward(low)
    if high > 1.01 * low and abs(quality) > 1e-6:
        assert reward(high) < reward(low)


@given(st.tuples(qualities, qualities), costs, costs, st.booleans())
def test_a_better_quality_is_never_worth_less(pair, cost, limit, minimize):
    worse, better = sorted(pair, reverse=minimize)

    def reward(quality):
        return reward_of(
            {"q": quality, "a": cost}, limits={"a": limit}, minimize=minimize
        )

    assert reward(better) >= reward(worse)


def test_a_cost_of_nothing_is_worth_a_finite_reward():
    rewards = [
        reward_of({"q": 1.0, "a": cost}, limits={"a": 1.0})
        for cost in (1.0, 1e-9, 0.0)
    ]
    assert rewards == sorted(rewards)
    assert math.isfinite(rewards[-1])
    assert rewards[-1] == pytest.approx(1e-12**-0.07)
