"""Files that are written whole or not at all."""

import contextlib
import gzip
import os
import pathlib
import shutil
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


@contextlib.contextmanager
def whole_folder(
    directory: str | os.PathLike[str], names: frozenset[str]
) -> Iterator[pathlib.Path]:
    """Gives a temporary folder that becomes `directory` if the block succeeds.

    It lies beside `directory`, so that taking its place is a rename. If the
    block raises, nothing of it is left and an older folder is untouched.

    Args:
        directory: Where it shall be in the end; its parent is made.
        names: What the block writes. An older folder that holds nothing else
            is replaced; another one is refused, lest its files get lost.

    Raises:
        ValueError: There is a file, or a folder with other files in it.

    Example:
        >>> target = pathlib.Path(tempfile.mkdtemp(), "new")
        >>> with whole_folder(target, frozenset({"a.txt"})) as staging:
        ...     _ = (staging / "a.txt").write_text("whole")
        >>> (target / "a.txt").read_text()
        'whole'
    """
    # A link to a folder stays a link to it.
    target = pathlib.Path(directory).resolve()
    _check_folder(target, names)
    target.parent.mkdir(parents=True, exist_ok=True)
    made = tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent)
    staging = pathlib.Path(made)
    try:
        yield staging
        # mkdtemp's folders are private; give what a plain mkdir would.
        umask = os.umask(0)
        os.umask(umask)
        staging.chmod(0o777 & ~umask)
        _take_place(staging, target, names)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _check_folder(target: pathlib.Path, names: frozenset[str]) -> None:
    if not target.exists():
        return
    if not target.is_dir():
        raise ValueError(
            "`directory` must be a folder, or not exist yet. Received: "
            f"directory={str(target)!r}, which is a file."
        )
    others = sorted({path.name for path in target.iterdir()} - names)
    if others:
        raise ValueError(
            "`directory` must be new, empty, or hold an earlier export of the "
            f"same name: it is replaced as a whole. Received: "
            f"directory={str(target)!r} with {', '.join(others[:4])} in it. "
            "Choose another folder."
        )


def _take_place(
    staging: pathlib.Path, target: pathlib.Path, names: frozenset[str]
) -> None:
    if not target.exists():
        staging.rename(target)
        return
    # A file may have come in since the start.
    _check_folder(target, names)
    aside = staging.with_name(f"{staging.name}-old")
    target.rename(aside)
    try:
        staging.rename(target)
    except OSError:
        aside.rename(target)
        raise
    shutil.rmtree(aside)
