"""A folder of finished stages, so that a second run goes on from there."""

import hashlib
import json
import os
import pathlib
import warnings
from collections.abc import Callable
from typing import Any

import keras
import rich.console

from kdtf.files import atomic_path

__all__ = ["Workspace", "digest_of", "key_of", "plain"]

_MANIFEST = "stages.json"


class Workspace:
    """Keeps the models and files a recipe made, each with how it was made.

    A stage is made again when its settings changed, or when its file is
    missing or was altered; otherwise it is loaded. Every stage's settings
    contain those of the stages it was made from.

    Args:
        folder: Where the files lie; it is made.
        console: Says what is made and what is reused. Defaults to the
            terminal.

    Raises:
        ValueError: `folder` is a file.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        console: rich.console.Console | None = None,
    ) -> None:
        self.folder = pathlib.Path(folder)
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(
                "`out` must be a folder for the results. Received: "
                f"out={str(folder)!r}, which is a file."
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        self.console = console or rich.console.Console()
        self._manifest = self._read_manifest()

    def model(
        self,
        name: str,
        *,
        settings: dict[str, Any],
        make: Callable[[], Any],
        title: str,
    ) -> Any:
        """Gives the model `name`, loaded if it is up to date, else made.

        Args:
            name: File name without its suffix.
            settings: All that decides how the model turns out; plain data.
            make: Makes the model, if it has to be made.
            title: What is being made, for people.

        Returns:
            The Keras model; the file is `<name>.keras`.
        """
        path = self.folder / f"{name}.keras"
        if self._is_current(path, settings):
            self.console.print(f"[dim]{title}: reusing {path}[/dim]")
            return _load(path)
        self.console.rule(title, align="left")
        model = make()
        # Finished: an optimizer would triple the file.
        model.optimizer = None
        model.compiled = False
        with atomic_path(path) as temporary:
            model.save(temporary)
        self._record(path, settings)
        return model

    def _is_current(self, path: pathlib.Path, settings: dict[str, Any]) -> bool:
        entry = self._manifest.get(path.name)
        if entry is None or not path.exists():
            return False
        if entry["settings"] != plain(settings):
            self.console.print(f"{path}: other settings now, made again")
            return False
        if entry["sha256"] != digest_of(path):
            self.console.print(
                f"[red]{path} is not as it was written (its checksum "
                "differs); made again[/red]"
            )
            return False
        return True

    def _record(self, path: pathlib.Path, settings: dict[str, Any]) -> None:
        self._manifest[path.name] = {
            "settings": plain(settings),
            "sha256": digest_of(path),
        }
        with atomic_path(self.folder / _MANIFEST) as temporary:
            temporary.write_text(json.dumps(self._manifest, indent=1))

    def _read_manifest(self) -> dict[str, Any]:
        path = self.folder / _MANIFEST
        if not path.exists():
            return {}
        try:
            return dict(json.loads(path.read_text()))
        except ValueError as error:
            raise ValueError(
                f"{path} is damaged: it is not the JSON that was written. "
                f"Received: {error}. Delete it to make all stages again."
            ) from error


def _load(path: pathlib.Path) -> Any:
    with warnings.catch_warnings():
        # keras-nlp models compile themselves and then miss their optimizer.
        warnings.filterwarnings("ignore", message="Skipping variable loading")
        return keras.saving.load_model(path, compile=False)


def plain(settings: Any) -> Any:
    """Returns settings as JSON gives them back: tuples as lists."""
    return json.loads(json.dumps(settings))


def digest_of(path: pathlib.Path) -> str:
    """Returns the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def key_of(settings: Any) -> str:
    """Returns a short name that only these settings have, plain data.

    Example:
        >>> key_of({"a": 1, "b": 2}) == key_of({"b": 2, "a": 1})
        True
    """
    text = json.dumps(settings, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
