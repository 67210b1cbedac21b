"""What was tried so far, so that a run that was killed goes on from there."""

import contextlib
import json
import pathlib
from typing import Any

from kdtf.files import atomic_path
from kdtf.recipes.compression.candidate import Candidate
from kdtf.recipes.compression.claims import Claims
from kdtf.recipes.workspace import digest_of
from kdtf.recipes.workspace import key_of
from kdtf.recipes.workspace import plain

__all__ = ["Ledger"]

_FILE = "candidates.json"


class Ledger:
    """The candidates in a folder, by what decides how they turn out.

    Args:
        folder: Where the files lie.
        setting: What all candidates of the run have in common, plain data: a
            candidate that was made with another is not used.

    Raises:
        ValueError: The folder's list is damaged.
    """

    def __init__(self, folder: pathlib.Path, setting: dict[str, Any]) -> None:
        self._path = folder / _FILE
        self._setting = setting
        self._claims = Claims(folder / "claims")
        # Raises if it is damaged.
        self._read()

    def claim(
        self, settings: dict[str, Any]
    ) -> contextlib.AbstractContextManager[bool]:
        """Claims what has these settings, unless another process makes it."""
        return self._claims.take(key_of([self._setting, settings]))

    def find(self, settings: dict[str, Any]) -> Candidate | None:
        """Returns the candidate with these settings if its file is whole."""
        for entry in self._read():
            found = Candidate.from_dict(entry["candidate"])
            is_same = found.settings == plain(settings)
            if is_same and entry["setting"] == plain(self._setting):
                is_whole = self._digest(found) == entry["sha256"]
                return found if is_whole else None
        return None

    def add(self, candidate: Candidate) -> None:
        """Writes down a candidate, in place of one with the same settings."""
        added = {
            "setting": plain(self._setting),
            "candidate": candidate.to_dict(),
            "sha256": self._digest(candidate),
        }
        with self._claims.wait("candidates"):
            others = [
                entry
                for entry in self._read()
                if entry["setting"] != added["setting"]
                or entry["candidate"]["settings"] != plain(candidate.settings)
            ]
            with atomic_path(self._path) as temporary:
                temporary.write_text(json.dumps([*others, added], indent=1))

    def _digest(self, candidate: Candidate) -> str:
        """Returns the file's SHA-256; nothing where there is none."""
        path = self._path.parent / candidate.file
        if not candidate.is_complete or not path.is_file():
            return ""
        return digest_of(path)

    def _read(self) -> list[dict[str, Any]]:
        if not self._path.exists():
            return []
        try:
            return list(json.loads(self._path.read_text()))
        except ValueError as error:
            raise ValueError(
                f"{self._path} is damaged: it is not the JSON that was "
                f"written. Received: {error}. Delete it to try all again."
            ) from error
