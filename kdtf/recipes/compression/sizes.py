"""Sizes of files that were seen and not kept, for the next run."""

import contextlib
import json
import pathlib
from collections.abc import Callable
from typing import Any

from kdtf.files import atomic_path
from kdtf.recipes.compression.claims import Claims
from kdtf.recipes.workspace import key_of

__all__ = ["Sizes"]

_FILE = "sizes.json"


class Sizes:
    """Bytes by what decides them; what was altered is measured again.

    Args:
        folder: Of the list.
        setting: What all files of the run have in common, plain data.
    """

    def __init__(self, folder: pathlib.Path, setting: dict[str, Any]) -> None:
        self._path = folder / _FILE
        self._setting = setting
        self._claims = Claims(folder / "claims")

    def of(
        self, settings: dict[str, Any], measure: Callable[[], int | None]
    ) -> int | None:
        """Returns the size with these settings, measured if none is known.

        Args:
            settings: All that decides it beside the run's setting.
            measure: Gives the bytes; None if there can be no such file, which
                is remembered, too.

        Example:
            >>> import tempfile
            >>> sizes = Sizes(pathlib.Path(tempfile.mkdtemp()), {"seed": 0})
            >>> sizes.of({"keep": 0.5}, lambda: 100)
            100
            >>> sizes.of({"keep": 0.5}, lambda: 1 / 0)
            100
        """
        key = key_of([self._setting, settings])
        known = self._read().get(key, {})
        if known.get("check") == _check(key, known.get("bytes")):
            size: int | None = known["bytes"]
            return size
        size = measure()
        entry = {"bytes": size, "check": _check(key, size)}
        with self._claims.wait("sizes"), atomic_path(self._path) as temporary:
            sizes = self._read() | {key: entry}
            temporary.write_text(json.dumps(sizes, indent=1))
        return size

    def _read(self) -> dict[str, dict[str, Any]]:
        # Nothing in it is dear: a damaged list is begun again.
        with contextlib.suppress(FileNotFoundError, TypeError, ValueError):
            return dict(json.loads(self._path.read_text()))
        return {}


def _check(key: str, size: int | None) -> str:
    return key_of([key, size])
