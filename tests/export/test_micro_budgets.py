"""Flash and RAM: margins, limits and what is said over them."""

import pathlib

import pytest

from kdtf.export import ExportError
from kdtf.export.micro.budgets import Budget
from kdtf.export.micro.budgets import arena_margin
from kdtf.flatbuffer import FileDescription
from kdtf.flatbuffer import TensorDescription


@pytest.mark.parametrize(
    ("arena", "margin"),
    # 8192 / 8 is the floor itself; 8208 / 8 = 1026, aligned 1040.
    [(16, 1024), (8192, 1024), (8208, 1040), (16_000, 2000), (55_984, 7008)],
)
def test_margin_is_an_aligned_eighth(arena, margin):
    assert arena_margin(arena) == margin


def tensor(name, shape, *, num_bytes=0, dtype="INT8"):
    return TensorDescription(
        name=name,
        dtype=dtype,
        shape=shape,
        is_constant=num_bytes > 0,
        num_bytes=num_bytes,
        scale=1.0,
        is_dynamic=False,
        subgraph=0,
    )


@pytest.fixture
def file():
    """Of 1000 bytes, with two weights and three activations."""
    return FileDescription(
        path=pathlib.Path("m.tflite"),
        size_bytes=1000,
        gzip_size_bytes=900,
        num_parameters=0,
        num_nonzero=0,
        weight_bytes=0,
        operators={},
        operator_dtypes={},
        signatures=(),
        tensors=(
            tensor("small", (3,), num_bytes=12, dtype="INT32"),
            tensor("kernel", (700,), num_bytes=700),
            tensor("image", (1, 8, 8, 3)),
            tensor("sums", (1, 60), dtype="INT32"),
            tensor("handle", (1,), dtype="RESOURCE"),
        ),
    )


def test_what_fits_exactly_passes(file):
    Budget().check(file, 16_000)
    Budget(flash_bytes=1000, ram_bytes=18_000).check(file, 16_000)


def test_flash_over_budget_names_the_largest_constants(file):
    with pytest.raises(ExportError) as caught:
        Budget(flash_bytes=999, ram_bytes=18_000).check(file, 16_000)
    text = str(caught.value)
    assert "the file takes 1,000 bytes of flash_bytes=999, 1 too many" in text
    assert "interpreter's own code not counted" in text
    assert "constants: 'kernel' 700, 'small' 12." in text
    assert "RAM:" not in text


def test_ram_over_budget_names_arena_margin_and_activations(file):
    with pytest.raises(ExportError) as caught:
        Budget(ram_bytes=17_999).check(file, 16_000)
    text = str(caught.value)
    assert "arena takes 18,000 bytes (16,000 measured" in text
    assert "2,000 of margin) of ram_bytes=17,999, 1 too many" in text
    # Four bytes each for the sums; handles take nothing of the arena's.
    assert "activations: 'sums' 240, 'image' 192." in text
    assert "flash:" not in text


def test_both_are_told_at_once(file):
    with pytest.raises(ExportError, match="(?s)flash: .*RAM: "):
        Budget(flash_bytes=1, ram_bytes=1).check(file, 16)


@pytest.mark.parametrize("argument", ["flash_bytes", "ram_bytes"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True, "64k"])
def test_budgets_are_whole_numbers(argument, value):
    with pytest.raises(ValueError, match=f"`{argument}` .*{value!r}"):
        Budget(**{argument: value})
