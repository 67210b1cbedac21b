"""Keeps log lines that say nothing about a search out of its progress."""

import contextlib
import importlib
import logging
import warnings
from collections.abc import Iterator
from typing import Any


def import_optuna() -> Any:
    """Returns Optuna, without what its import warns of in notebooks."""
    with warnings.catch_warnings():
        # Its progress bars, which are not used, miss ipywidgets.
        warnings.filterwarnings("ignore", message="IProgress not found")
        return importlib.import_module("optuna")


@contextlib.contextmanager
def quiet_optuna() -> Iterator[None]:
    """Lets Optuna log nothing below warnings while the block runs."""
    optuna = import_optuna()
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


@contextlib.contextmanager
def quiet_retracing() -> Iterator[None]:
    """Keeps back TensorFlow's advice against tracing while the block runs.

    A search traces a graph for each model; that is what it is for.
    """
    logger = logging.getLogger("tensorflow")
    logger.addFilter(_says_more_than_retracing)
    try:
        yield
    finally:
        logger.removeFilter(_says_more_than_retracing)


def _says_more_than_retracing(record: logging.LogRecord) -> bool:
    return "triggered tf.function retracing" not in str(record.msg)
