"""Targets and modes, and who else lists them."""

import argparse

from kdtf.cli.export import add_parser
from kdtf.export.targets import MODES
from kdtf.export.targets import TARGETS


def test_the_command_line_offers_every_mode_and_target():
    parser = argparse.ArgumentParser()
    command = add_parser(parser.add_subparsers())
    choices = {action.dest: action.choices for action in command._actions}
    assert choices["quantize"] == [mode for mode in MODES if mode]
    # A server takes another format.
    assert choices["target"] == [*TARGETS, "cloud"]


def test_simulated_models_are_held_to_no_less():
    for mode in MODES.values():
        assert mode.simulated_sqnr_db[0] >= mode.min_sqnr_db
        assert mode.simulated_sqnr_db[1] >= mode.good_sqnr_db
        assert mode.min_sqnr_db < mode.good_sqnr_db


def test_blocks_are_for_four_bits():
    blocks = {name: m.num_bits for name, m in MODES.items() if m.block_size}
    assert set(blocks.values()) == {4}
    assert [MODES[name].block_size for name in blocks] == [32, 64, 128, 256]
