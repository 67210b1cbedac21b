"""Keeps the converter's chatter out of the user's terminal."""

import contextlib
import io
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from collections.abc import Iterator

_LOGGERS = ("tensorflow", "absl")


@contextlib.contextmanager
def quiet() -> Iterator[Callable[[], str]]:
    """Catches what C++, loggers and progress bars write to stderr.

    TensorFlow's C++ side can be silenced only by the environment, and only
    before it is imported; so its file descriptor is turned aside for a while.

    Yields:
        A function that gives the text caught so far, for error messages.
    """
    bars = io.StringIO()
    with (
        tempfile.TemporaryFile() as caught,
        # Python's stream need not be the descriptor: notebooks have their own.
        contextlib.redirect_stderr(bars),
        _levels_raised(),
        _stderr_to(caught.fileno()),
        warnings.catch_warnings(),
    ):
        # Calibration inside TFLiteConverter itself uses TensorFlow's own
        # deprecated interpreter, and int8 needs no statistics of the inputs.
        warnings.filterwarnings("ignore", message=r"[\s\S]*tf.lite.Interpreter")
        warnings.filterwarnings("ignore", message="Statistics for quantized")

        def text() -> str:
            caught.seek(0)
            return caught.read().decode(errors="replace") + bars.getvalue()

        yield text


@contextlib.contextmanager
def _levels_raised() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextlib.contextmanager
def _stderr_to(descriptor: int) -> Iterator[None]:
    if sys.stderr is not None:
        sys.stderr.flush()
    try:
        kept = os.dup(2)
    except OSError:
        # A program without a terminal has no descriptor 2.
        yield
        return
    try:
        os.dup2(descriptor, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
