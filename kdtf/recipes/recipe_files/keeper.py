"""Keeps what the steps of a recipe made, and says how each came about."""

import dataclasses
import datetime
import json
import pathlib
from collections.abc import Callable
from typing import Any

import rich.console

from kdtf.evaluation.environment import describe_environment
from kdtf.files import atomic_path
from kdtf.recipes.workspace import Workspace

__all__ = ["Keeper", "Made", "save_model"]

_LINEAGE = "lineage.json"
_SCHEMA_VERSION = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Made:
    """A file of a run.

    Attributes:
        name: Of the file, in the run's folder.
        steps: What led to it, in words, from the first model on.
        size_bytes: Of the file.
        seconds: What its last step took when it was made; None if unknown.
        metrics: On the validation data.
        is_reused: Whether it was there before.
        result: What the step said, such as an export of its file.
    """

    name: str
    steps: tuple[str, ...]
    size_bytes: int
    seconds: float | None
    metrics: dict[str, float]
    is_reused: bool = False
    result: str = ""


class Keeper(Workspace):
    """A `Workspace` for files of any kind, with `lineage.json` beside them.

    Args:
        folder: Where the files lie; it is made.
        console: Says what is made and what is reused.
        judged_by: Tells validation data and metrics: those of a kept file are
            measured again where it changed.

    Raises:
        ValueError: `folder` is a file, or what it keeps is damaged.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        *,
        console: rich.console.Console,
        judged_by: str,
    ) -> None:
        super().__init__(folder, console=console)
        self._judged_by = judged_by
        self._lineage = self._read_lineage()

    def is_current(self, name: str, settings: dict[str, Any]) -> bool:
        """Returns whether a file is there, as these settings made it."""
        return self._is_current(self.folder / name, settings)

    def keep(
        self,
        name: str,
        settings: dict[str, Any],
        *,
        seconds: float,
    ) -> None:
        """Takes a file that was just written for as good as its settings."""
        path = self.folder / name
        self._record(path, settings)
        self._lineage[name] = {
            "sha256": self._manifest[name]["sha256"],
            "size_bytes": path.stat().st_size,
            "made": datetime.datetime.now()
            .astimezone()
            .isoformat("T", "seconds"),
            "seconds": round(seconds, 2),
            **settings,
            "versions": describe_environment(),
        }

    def judge(
        self, name: str, measure: Callable[[], tuple[dict[str, float], str]]
    ) -> dict[str, Any]:
        """Returns a file's lineage, measured if it was not by these data.

        Args:
            name: The file's.
            measure: Gives metrics, and what else there is to say.
        """
        digest = self._manifest[name]["sha256"]
        entry = self._lineage.get(name, {})
        if entry.get("sha256") != digest:
            # Someone took the lineage away: what is known is kept.
            entry = {"sha256": digest, **self._manifest[name]["settings"]}
        if entry.get("judged_by") != self._judged_by:
            metrics, result = measure()
            entry |= {"metrics": metrics, "judged_by": self._judged_by}
            if result:
                entry["result"] = result
        self._lineage[name] = entry
        self._write_lineage()
        return entry

    def _write_lineage(self) -> None:
        files = {
            name: entry
            for name, entry in self._lineage.items()
            if (self.folder / name).exists()
        }
        text = json.dumps(
            {"schema_version": _SCHEMA_VERSION, "files": files}, indent=1
        )
        with atomic_path(self.folder / _LINEAGE) as temporary:
            temporary.write_text(f"{text}\n", encoding="utf-8")

    def _read_lineage(self) -> dict[str, Any]:
        path = self.folder / _LINEAGE
        if not path.exists():
            return {}
        try:
            return dict(json.loads(path.read_text("utf-8"))["files"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path} is damaged: it is not the JSON that was written. "
                f"Received: {error}. Delete it; what it says is measured again."
            ) from error


def save_model(model: Any, path: pathlib.Path) -> None:
    """Writes a model without its optimizer, whole or not at all."""
    # Finished: an optimizer would triple the file.
    model.optimizer = None
    model.compiled = False
    with atomic_path(path) as temporary:
        model.save(temporary)
