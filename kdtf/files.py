"""Files that are written whole or not at all."""

import contextlib
import gzip
import os
import pathlib
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """Gives a temporary name that becomes `path` if the block succeeds.

    The temporary file lies beside `path`, with its suffix (Keras chooses its
    format by suffix), so that the final rename stays on one file system and is
    atomic. If the block raises, nothing of it is left and an older file at
    `path` is untouched.

    Args:
        path: Where the file shall be in the end; its folder is made.

    Raises:
        FileNotFoundError: The block wrote nothing.

    Example:
        >>> target = pathlib.Path(tempfile.mkdtemp()) / "a.txt"
        >>> with atomic_path(target) as temporary:
        ...     _ = temporary.write_text("whole")
        >>> target.read_text()
        'whole'
    """
    target = pathlib.Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(
        prefix=f".{target.stem}-", suffix=target.suffix, dir=target.parent
    )
    os.close(handle)
    temporary = pathlib.Path(name)
    # Some writers refuse to overwrite; only the name is wanted.
    temporary.unlink()
    try:
        yield temporary
        # mkstemp files are private; give what a plain open() would.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def gzip_bytes(data: bytes) -> int:
    """Returns the size of `data` after gzip, in bytes.

    What a download costs: app stores and web servers compress files, and
    that is where zeros and repeated values pay off.

    Example:
        >>> gzip_bytes(bytes(1000)) < 100
        True
    """
    return len(gzip.compress(data, compresslevel=6, mtime=0))
