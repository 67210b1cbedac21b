"""What is caught, and that everything is put back."""

import logging
import os
import warnings

import pytest

from kdtf.export.quiet import quiet


def test_writes_below_python_are_caught_and_given(capfd):
    with quiet() as caught:
        os.write(2, b"loc(conv): error: no such op\n")
        assert caught() == "loc(conv): error: no such op\n"
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "after\n"


def test_levels_and_stderr_come_back_after_an_error(capfd):
    logger = logging.getLogger("tensorflow")
    level = logger.level
    with pytest.raises(KeyError, match="inner"), quiet():
        assert logger.level == logging.CRITICAL
        raise KeyError("inner")
    assert logger.level == level
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "after\n"


def test_only_the_converters_own_warnings_are_dropped():
    with quiet():
        warnings.warn("\n  Warning: tf.lite.Interpreter is old", stacklevel=1)
        with pytest.warns(UserWarning, match="something else"):
            warnings.warn("something else", stacklevel=1)
