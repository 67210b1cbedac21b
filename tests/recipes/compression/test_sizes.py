"""Sizes are measured once, and again where the list was altered."""

import json

import pytest

from kdtf.recipes.compression.sizes import Sizes

STEPS = {"shrink": {"keep": 0.5}}


def never():
    raise AssertionError("measured again")


def test_remembered_by_another_process(tmp_path):
    assert Sizes(tmp_path, {"seed": 0}).of(STEPS, lambda: 7) == 7
    assert Sizes(tmp_path, {"seed": 0}).of(STEPS, never) == 7
    assert Sizes(tmp_path, {"seed": 1}).of(STEPS, lambda: 8) == 8
    assert Sizes(tmp_path, {"seed": 0}).of({}, lambda: 9) == 9
    assert Sizes(tmp_path, {"seed": 0}).of(STEPS, never) == 7


def test_that_there_is_none_is_remembered(tmp_path):
    assert Sizes(tmp_path, {}).of(STEPS, lambda: None) is None
    assert Sizes(tmp_path, {}).of(STEPS, never) is None


def altered(text):
    (key,) = json.loads(text)
    entry = json.loads(text)[key] | {"bytes": 1}
    return json.dumps({key: entry})


@pytest.mark.parametrize(
    "change", [altered, lambda text: text[:-5], lambda text: "[1]"]
)
def test_what_was_altered_is_measured_again(tmp_path, change):
    sizes = Sizes(tmp_path, {})
    sizes.of(STEPS, lambda: 7)
    path = tmp_path / "sizes.json"
    path.write_text(change(path.read_text()))
    assert sizes.of(STEPS, lambda: 8) == 8
    assert sizes.of(STEPS, never) == 8
