"""What may be asked for, and what is refused before anything is done."""

import dataclasses

import pytest

from kdtf.quantization import SCHEMES
from kdtf.quantization import Activations
from kdtf.quantization import Codebook
from kdtf.quantization import Linear
from kdtf.quantization import NormalFloat4
from kdtf.quantization import PowerOfTwo
from kdtf.quantization import Scheme
from kdtf.quantization import schemes


@pytest.mark.parametrize("name", SCHEMES)
def test_names_give_their_schemes(name):
    assert schemes.get(name) is SCHEMES[name]
    assert schemes.get(SCHEMES[name]) is SCHEMES[name]
    assert str(SCHEMES[name].weights)


def test_only_int8_quantizes_activations():
    found = {name for name, s in SCHEMES.items() if s.activations}
    assert found == {"int8", "int8_iot"}


def test_weights_alone_leave_activations_in_float():
    weights = Linear(num_bits=3, granularity="per_tensor")
    assert schemes.get(weights) == Scheme(weights=weights)


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        (Linear(), "8 bits per channel"),
        (
            Linear(
                num_bits=4,
                granularity="per_group",
                group_size=32,
                learn_step=True,
            ),
            "4 bits per group of 32, learned step",
        ),
        (Codebook(num_entries=8), "codebook of 8"),
        (PowerOfTwo(), "4-bit power of two"),
        (PowerOfTwo(num_bits=5, num_terms=2), "5-bit sum of two powers of two"),
        (NormalFloat4(), "NormalFloat4 per 64"),
    ],
)
def test_schemes_say_what_they_are(weights, said):
    assert str(weights) == said


@pytest.mark.parametrize(
    ("kind", "options", "match"),
    [
        (Linear, {"num_bits": 1}, "num_bits"),
        (Linear, {"num_bits": 16}, "num_bits"),
        (Linear, {"num_bits": True}, "num_bits"),
        (Linear, {"granularity": "per_row"}, "granularity.*per_tensor"),
        (Linear, {"range": "kl"}, "range.*mean_squared_error"),
        (Linear, {"granularity": "per_group"}, "group_size"),
        (Linear, {"group_size": 32}, "group_size.*per_channel"),
        (Linear, {"group_size": 7}, "group_size=7"),
        (
            Linear,
            {"num_bits": 4, "granularity": "per_group", "group_size": 48},
            "group_size=48",
        ),
        (
            Linear,
            {"num_bits": 8, "granularity": "per_group", "group_size": 32},
            "num_bits=8",
        ),
        (Codebook, {"num_entries": 1}, "num_entries"),
        (Codebook, {"num_entries": 257}, "num_entries"),
        (Codebook, {"num_entries": 16.0}, "num_entries"),
        (Codebook, {"initialization": "random"}, "initialization.*density"),
        (PowerOfTwo, {"num_bits": 9}, "num_bits"),
        (PowerOfTwo, {"num_terms": 3}, "num_terms=3"),
        (PowerOfTwo, {"granularity": "per_group"}, "granularity"),
        # No way to deal the bits.
        (PowerOfTwo, {"num_bits": 8}, "num_terms=1"),
        (PowerOfTwo, {"num_bits": 2, "num_terms": 2}, "num_terms=2"),
        (NormalFloat4, {"group_size": 0}, "group_size=0"),
        (NormalFloat4, {"group_size": 64.0}, "group_size=64.0"),
        (Activations, {"range": "max"}, "range.*percentile"),
        (Activations, {"decay": 1.0}, "decay=1.0"),
        (Activations, {"decay": -0.1}, "decay=-0.1"),
        (Activations, {"decay": float("nan")}, "decay=nan"),
    ],
)
def test_values_out_of_range_are_refused_at_once(kind, options, match):
    with pytest.raises(ValueError, match=match):
        kind(**options)


@pytest.mark.parametrize(
    "weights",
    [
        Linear(num_bits=4),
        Linear(range="mean_squared_error"),
        Linear(learn_step=True),
        Codebook(),
        PowerOfTwo(),
        NormalFloat4(),
    ],
    ids=str,
)
def test_integer_activations_go_with_plain_8_bit_weights_only(weights):
    with pytest.raises(ValueError, match="activations.*8-bit"):
        Scheme(weights=weights, activations=Activations())


def test_parts_of_another_kind_are_refused():
    with pytest.raises(TypeError, match="weights.*'int4'"):
        Scheme(weights="int4")
    with pytest.raises(TypeError, match="activations.*True"):
        Scheme(weights=Linear(), activations=True)


def test_unknown_schemes_are_refused_with_those_known():
    with pytest.raises(ValueError, match="int4_block32.*scheme='int5'"):
        schemes.get("int5")
    with pytest.raises(TypeError, match="scheme=4"):
        schemes.get(4)
    with pytest.raises(TypeError, match="mapping's values"):
        schemes.get({"*": "int4"})


def test_schemes_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError, match="num_bits"):
        Linear().num_bits = 4
