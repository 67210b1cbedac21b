"""Opens what trials are stored in: memory, a journal file, or a server."""

import contextlib
import json
import os
import pathlib
import re
import warnings
from collections.abc import Iterator
from typing import Any

from kdtf.search.quiet_logs import import_optuna

__all__ = ["open_storage", "readable"]

# Each line that Optuna writes begins so.
_LINE = b'{"op_code":'


def open_storage(location: Any) -> Any:
    """Returns an Optuna storage; None stays None, which is memory.

    Args:
        location: None, the path of a journal file, or a URL: "sqlite:///...",
            "postgresql://..." or "grpc://host:port".
    """
    optuna = import_optuna()
    if location is None:
        return None
    text = os.fspath(location)
    if text.startswith("grpc://"):
        host, _, port = text.removeprefix("grpc://").partition(":")
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", optuna.exceptions.ExperimentalWarning
            )
            storage = optuna.storages.GrpcStorageProxy(
                host=host, port=int(port or 13000)
            )
        storage.wait_server_ready(timeout=60)
        return storage
    if "://" in text:
        # Optuna brings it.
        import sqlalchemy.pool

        # No connection is kept: trials take longer than to connect, and an open
        # one would be left when a study is refused or the search is over.
        return optuna.storages.RDBStorage(
            text, engine_kwargs={"poolclass": sqlalchemy.pool.NullPool}
        )
    return _journal(pathlib.Path(text))


@contextlib.contextmanager
def readable(location: Any) -> Iterator[None]:
    """Names the file if it cannot be read.

    Raises:
        ValueError: Instead of any other error.
    """
    try:
        yield
    # Whatever a damaged journal or database makes Optuna raise.
    except Exception as error:
        raise ValueError(
            "`study` must be a study that `kdtf.search` can continue, or a new "
            f"file. Received: study={_without_password(location)!r}, which "
            f"cannot be read: {type(error).__name__}: {error}. Move it away, "
            "or name another."
        ) from error


def _without_password(location: Any) -> str:
    return re.sub(r"://[^@/]*@", "://...@", os.fspath(location))


def _journal(path: pathlib.Path) -> Any:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend
    from optuna.storages.journal import JournalFileOpenLock

    if path.is_dir():
        raise IsADirectoryError(
            f"it is a folder; use {os.fspath(path / 'study.log')!r}"
        )
    # A process may change its folder; and others must find the same lock.
    path = path.absolute()

    class MendingLock(JournalFileOpenLock):
        """Also takes off a half line, which only one who died can leave.

        Optuna would read over it, and stumble once the next line is behind.
        A symbolic link for a lock would keep all out for good if its owner
        died and the folder was moved; a file is broken after 30 s.
        """

        def acquire(self) -> bool:
            acquired = super().acquire()
            _drop_cut_line(path)
            return acquired

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = MendingLock(os.fspath(path))
    backend = JournalFileBackend(os.fspath(path), lock)
    lock.acquire()
    try:
        _check_journal(path)
    finally:
        lock.release()
    return JournalStorage(backend)


def _drop_cut_line(path: pathlib.Path) -> None:
    with path.open("rb+") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - 1, 0))
        if file.read(1) in (b"", b"\n"):
            return
        file.seek(0)
        content = file.read()
        # Not of files that are no journals: they stay as they are.
        if content.startswith(_LINE) or _LINE.startswith(content):
            file.truncate(content.rfind(b"\n") + 1)


def _check_journal(path: pathlib.Path) -> None:
    """Refuses what Optuna would first write to and then not read."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                is_ours = line.startswith(_LINE) and bool(json.loads(line))
            except ValueError:
                is_ours = False
            if not is_ours:
                raise ValueError(f"line {number} is none of a journal's")
