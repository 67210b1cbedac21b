"""Who makes what, where several processes share a folder."""

import contextlib
import os
import pathlib
import socket
import threading
import time
import uuid
from collections.abc import Iterator

__all__ = ["Claims"]

_BEAT_SECONDS, _STALE_SECONDS = 5.0, 60.0


class Claims:
    """Files that say that something is being made.

    The process that makes it touches its file every few seconds; where that
    ended a minute ago the process died, and another may take over.

    Args:
        folder: Of the files; it is made when it is needed.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder

    @contextlib.contextmanager
    def take(self, name: str) -> Iterator[bool]:
        """Claims a name, unless another process has it.

        Args:
            name: What is to be made; a file name without its suffix.

        Yields:
            Whether it is ours, until the block ends.

        Example:
            >>> import tempfile
            >>> claims = Claims(pathlib.Path(tempfile.mkdtemp()))
            >>> with claims.take("a") as ours, claims.take("a") as again:
            ...     print(ours, again)
            True False
            >>> with claims.take("a") as ours:
            ...     print(ours)
            True
        """
        path = self._folder / f"{name}.claim"
        if not self._create(path):
            yield False
            return
        done = threading.Event()
        beat = threading.Thread(target=_touch, args=(path, done), daemon=True)
        beat.start()
        try:
            yield True
        finally:
            done.set()
            beat.join()
            path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def wait(self, name: str) -> Iterator[None]:
        """Claims a name, waiting until no other process has it."""
        while True:
            with self.take(name) as ours:
                if ours:
                    yield
                    return
            time.sleep(0.05)

    def _create(self, path: pathlib.Path) -> bool:
        self._folder.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > _STALE_SECONDS:
                # Of those who see it, one can move it.
                aside = path.with_suffix(f".{uuid.uuid4().hex}")
                path.rename(aside)
                aside.unlink()
        try:
            with path.open("x") as file:
                file.write(f"{socket.gethostname()}:{os.getpid()}\n")
        except FileExistsError:
            return False
        return True


def _touch(path: pathlib.Path, done: threading.Event) -> None:
    while not done.wait(_BEAT_SECONDS):
        with contextlib.suppress(FileNotFoundError):
            os.utime(path)
