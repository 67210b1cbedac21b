"""`kdtf microcontroller`; that it writes its folder, tests/deploy shows."""

import pytest

from kdtf.cli import main


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "-o/--output"),
        (["-o", "out", "--ram-bytes", "0"], "at least 1, not '0'"),
        (["-o", "out", "--flash-bytes", "64k"], "at least 1, not '64k'"),
        (["-o", "out", "--name", "wake word"], "name='wake word'"),
    ],
)
def test_bad_options_are_one_line(options, message, capsys):
    assert main(["microcontroller", "model.tflite", *options]) == 2
    words = capsys.readouterr().err
    assert message in words
    assert words.count("\n") == 1
