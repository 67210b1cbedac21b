"""Keeps the native runtimes' logs out of the command line's output."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from typing import TextIO

_LEVEL = "TF_CPP_MIN_LOG_LEVEL"


@contextlib.contextmanager
def native_logs_aside() -> Iterator[None]:
    """Sends what C++ code logs to a file, shown only if the block fails.

    TensorFlow greets with several lines whatever its log level, LiteRT with
    one. Their descriptor is turned aside; Python's own standard error stays
    on the terminal. A library must not do this; the command line owns its
    process. Whoever sets `TF_CPP_MIN_LOG_LEVEL` wants the logs and gets them.

    ValueError, TypeError and OSError are answers to bad input, for which the
    logs are not shown.
    """
    if _LEVEL in os.environ:
        yield
        return
    os.environ[_LEVEL] = "3"
    try:
        kept = os.dup(2)
    except OSError:
        # A program without a terminal has no descriptor 2.
        yield
        return
    python_stderr = sys.stderr
    with tempfile.TemporaryFile() as logs:
        try:
            if _writes_to(python_stderr, 2):
                python_stderr.flush()
                sys.stderr = os.fdopen(kept, "w", buffering=1, closefd=False)
            os.dup2(logs.fileno(), 2)
            yield
        except (ValueError, TypeError, OSError):
            raise
        except Exception:
            logs.seek(0)
            sys.stderr.write(logs.read().decode(errors="replace"))
            raise
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            sys.stderr = python_stderr
            os.close(kept)


def _writes_to(stream: TextIO, descriptor: int) -> bool:
    try:
        return stream.fileno() == descriptor
    # Replaced streams, as in tests and notebooks, have no descriptor.
    except (OSError, ValueError, AttributeError):
        return False
