"""How far to shrink, from what the unshrunk file costs."""

import dataclasses

import pytest

from kdtf.recipes.compression import stages
from kdtf.recipes.compression.budget import Budget
from kdtf.recipes.compression.candidate import Candidate
from kdtf.recipes.compression.ways import Kind

KIND = Kind(
    target="android",
    is_static=True,
    has_tables=False,
    has_rows=False,
    has_graph=True,
)


class Ruler:
    """Stands for a maker: a file is a head and 10,000 bytes of weights."""

    def size_before_training(self, way):
        self.asked = [*getattr(self, "asked", []), way.keep]
        bits = 4 if way.scheme == "int4" else 8
        size = 500 + int(10_000 * bits / 8 * way.keep)
        return None if way.keep < 0.05 else size


def unshrunk(mode, size):
    return Candidate(
        name=mode,
        stage="post-training",
        settings={"export": {"quantize": mode}},
        status="complete",
        size_bytes=size,
        latency_ms=2.0,
        quality=0.9,
        quality_loss=0.0,
    )


TRIED = unshrunk("int8", 10_500.0), unshrunk("int4", 5_500.0)


def found(budget, maker=None, target="iot"):
    kind = dataclasses.replace(KIND, target=target)
    return list(stages.shrinkings(maker, kind, budget, TRIED))


def test_what_is_small_enough_is_not_shrunk():
    assert found(Budget(max_size=10_500), Ruler()) == []


def test_it_fits_and_little_is_given_away():
    (way,) = found(Budget(max_size=6_000), Ruler())
    assert way.by == "parameters"
    # 200 bytes are left for what training changes.
    assert 5_400 < Ruler().size_before_training(way) <= 5_800


def test_what_would_be_too_small_is_not_tried():
    maker = Ruler()
    assert found(Budget(max_size=700), maker) == []
    assert maker.asked[-1] < 0.05


def test_a_transformer_is_narrowed_where_nothing_else_helps():
    class Table(Ruler):
        """Half of the bytes are a table."""

        def size_before_training(self, way):
            if way.keep < 0.5 and "hidden" not in way.what:
                return None
            return super().size_before_training(way)

    kind = dataclasses.replace(KIND, is_static=False, has_graph=False)
    maker, tried = Table(), [unshrunk("int4_block32", 10_500.0)]
    (wide,) = stages.shrinkings(maker, kind, Budget(max_size=7_000), tried)
    assert wide.what == ("width", "heads", "depth")
    (narrow,) = stages.shrinkings(maker, kind, Budget(max_size=3_000), tried)
    assert narrow.what == ("width", "heads", "depth", "hidden")
    assert narrow.name.startswith("narrowed to ")
    assert maker.size_before_training(narrow) <= 2_800


def test_4_bits_lose_less_of_the_network():
    wide, narrow = found(Budget(max_size=3_000), Ruler(), "android")[::-1]
    assert (narrow.scheme, wide.scheme) == ("int8", "int4")
    assert wide.keep > 1.7 * narrow.keep
    # Unshrunk it is small enough.
    (only,) = found(Budget(max_size=6_000), Ruler(), "android")
    assert only.scheme == "int8"


def test_where_only_quality_is_limited_all_are_tried():
    ways = found(Budget(max_quality_loss=0.1), None, "android")
    assert len({(way.keep, way.scheme) for way in ways}) == 8


def test_time_is_cut_by_operations():
    (way,) = found(Budget(max_latency_ms=1.0))
    assert (way.keep, way.by) == (0.49, "macs")


@pytest.mark.parametrize(
    "budget", [Budget(max_latency_ms=1e-9), Budget(max_size=1)]
)
def test_where_nothing_may_stay_there_is_no_crash(budget):
    for way in found(budget, Ruler()):
        assert way.steps["shrink"]["keep"] == pytest.approx(1e-4)
