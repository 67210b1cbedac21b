"""Where trials are kept: an Optuna study that several processes share.

A trial is claimed by one atomic write that holds all of it. Of two claims to
the same number, or to the same model, the first written counts and the other
is withdrawn: nothing is done twice. A claim whose process died is released,
and its number is open to the next one who asks: nothing is lost.
"""

import contextlib
import os
import pathlib
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from collections.abc import Mapping
from typing import Any

from kdtf.search.quiet_optuna import quiet_optuna
from kdtf.search.space import Point
from kdtf.search.space import Space
from kdtf.search.trial import Trial

__all__ = ["Claim", "Store"]

_NAME = "kdtf"
# Seconds between signs of life, and after how many without one a process on
# another machine counts as dead. On this machine it is looked up.
BEAT, GRACE = 15.0, 120.0
_CLOSED = ("withdrawn", "abandoned")


class Claim:
    """A trial of ours that runs."""

    def __init__(self, store: "Store", trial: Any) -> None:
        self._store = store
        self._id = trial._trial_id  # noqa: SLF001  Optuna's storages ask for it.
        self.number = int(trial.user_attrs["number"])
        self.point: Point = tuple(trial.user_attrs["point"])

    @contextlib.contextmanager
    def alive(self) -> Iterator[None]:
        """Gives signs of life while the block runs."""
        done = threading.Event()

        def beat() -> None:
            while not done.wait(BEAT):
                # Storage may be away for a moment; the next one comes soon.
                with contextlib.suppress(Exception):
                    self._note("beat", time.time())

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def report(self, step: int, value: float, pruner: Any) -> bool:
        """Records a quality on the way, the higher the better.

        Returns:
            Whether to stop.
        """
        storage = self._store.storage
        storage.set_trial_intermediate_value(self._id, step, value)
        if pruner is None:
            return False
        trial = storage.get_trial(self._id)
        return bool(pruner.prune(self._store.study, trial))

    def last_report(self) -> float:
        """Returns the quality that was last reported."""
        found = self._store.storage.get_trial(self._id).intermediate_values
        return float(found[max(found)])

    def finish(
        self,
        status: str,
        *,
        values: Mapping[str, float] | None = None,
        reward: float | None = None,
        seconds: float | None = None,
        error: str | None = None,
    ) -> bool:
        """Records how the trial ended.

        Returns:
            False if it was taken from us meanwhile, as when this machine
            slept: then another process has run it, and its result counts.
        """
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        ends = {
            "complete": TrialState.COMPLETE,
            "stopped": TrialState.PRUNED,
        }
        state = ends.get(status, TrialState.FAIL)
        is_measured = state != TrialState.FAIL
        try:
            self._note("values", dict(values or {}))
            self._note("reward", reward)
            self._note("seconds", seconds)
            self._note("error", error)
            self._note("status", status)
            self._store.storage.set_trial_state_values(
                self._id, state, [reward] if is_measured else None
            )
        except UpdateFinishedTrialError:
            return False
        return True

    def _note(self, key: str, value: Any) -> None:
        self._store.storage.set_trial_user_attr(self._id, key, value)


class Store:
    """The trials of one search.

    Args:
        location: None for memory; a path for a journal file; a URL for what
            several machines share ("sqlite:///...", "postgresql://...", or
            "grpc://host:port").
        space: What is searched; a study of another space is refused.
        seed: Of the search; None takes the study's, or draws one.
        minimize: Whether the quality is a loss.

    Raises:
        ValueError: The study belongs to another search, or the file is
            damaged or none of Optuna's.
    """

    def __init__(
        self,
        location: Any,
        space: Space,
        *,
        seed: int | None,
        minimize: bool,
    ) -> None:
        import optuna

        self.space = space
        self.storage = _storage(location)
        with quiet_optuna(), _readable(location):
            self.study = optuna.create_study(
                study_name=_NAME,
                storage=self.storage,
                direction="maximize",
                load_if_exists=True,
            )
            self.storage = self.study._storage  # noqa: SLF001  None became memory.
            kept = dict(self.study.user_attrs)
        ours = {"space": space.describe(), "minimize": minimize}
        for key, value in ours.items():
            if kept.setdefault(key, value) != value:
                raise ValueError(
                    f"A study must be continued with the {key} it was begun "
                    f"with, {kept[key]}. Received: {value}. Use another "
                    "`study`."
                )
        if seed is None:
            seed = kept.get("seed", uuid.uuid4().int % 2**31)
        if kept.get("seed", seed) != seed:
            raise ValueError(
                "A study must be continued with the seed it was begun with. "
                f"Received: seed={seed}, not {kept['seed']}. Leave `seed` out."
            )
        if "seed" not in kept:
            for key, value in (*ours.items(), ("seed", int(seed))):
                self.study.set_user_attr(key, value)
        # Another process may have begun it at the same time.
        self.seed = int(self.study.user_attrs["seed"])

    def trials(self) -> list[Trial]:
        """Returns each number's trial, in order; the lost are "abandoned"."""
        found: dict[int, Any] = {}
        for trial in self._all():
            if trial.user_attrs.get("status") != "withdrawn":
                # A later one took the abandoned up.
                found[trial.user_attrs["number"]] = trial
        return [self._record(found[number]) for number in sorted(found)]

    def keys(self) -> set[tuple[int | None, ...]]:
        """Returns the keys of all points that are or were tried."""
        return {
            self.space.key(tuple(trial.user_attrs["point"]))
            for trial in self._all()
            if trial.user_attrs.get("status") != "withdrawn"
        }

    def point(self, number: int) -> Point:
        """Returns the point of a trial."""
        for trial in reversed(self._all()):
            attributes = trial.user_attrs
            if attributes["number"] == number and (
                attributes.get("status") != "withdrawn"
            ):
                return tuple(attributes["point"])
        raise KeyError(number)

    def claim(self, number: int, point: Point, seed: int) -> Claim | None:
        """Takes a trial for this process.

        Returns:
            None if another process was first; look again then.
        """
        import optuna
        from optuna.trial import TrialState

        token = uuid.uuid4().hex
        params = {
            name: _shown(value)
            for name, value in self.space.decode(point).items()
        }
        self.study.add_trial(
            optuna.trial.create_trial(
                state=TrialState.RUNNING,
                params=params,
                distributions={
                    name: self._distribution(name) for name in params
                },
                user_attrs={
                    "token": token,
                    "number": number,
                    "point": list(point),
                    "seed": seed,
                    "host": socket.gethostname(),
                    "process": os.getpid(),
                    "beat": time.time(),
                },
            )
        )
        key = self.space.key(point)
        for trial in self._all():
            attributes = trial.user_attrs
            if attributes["token"] == token:
                return Claim(self, trial)
            if attributes.get("status") in _CLOSED:
                continue
            theirs = self.space.key(tuple(attributes["point"]))
            if attributes["number"] == number or theirs == key:
                break
        ours = next(t for t in self._all() if t.user_attrs["token"] == token)
        Claim(self, ours).finish("withdrawn")
        return None

    def release_lost(self) -> None:
        """Opens the trials of processes that died to others."""
        from optuna.trial import TrialState

        for trial in self._all():
            if trial.state == TrialState.RUNNING and _is_lost(trial):
                status = trial.user_attrs.get("status")
                Claim(self, trial).finish(
                    status if status == "withdrawn" else "abandoned"
                )

    def _all(self) -> list[Any]:
        found = self.study.get_trials(deepcopy=False)
        # A study may hold trials of the user's own; they are not ours.
        return [trial for trial in found if "token" in trial.user_attrs]

    def _record(self, trial: Any) -> Trial:
        from optuna.trial import TrialState

        attributes = trial.user_attrs
        is_running = trial.state == TrialState.RUNNING
        return Trial(
            number=int(attributes["number"]),
            choices=self.space.decode(tuple(attributes["point"])),
            status="running" if is_running else attributes["status"],
            values=dict(attributes.get("values") or {}),
            reward=attributes.get("reward"),
            seconds=attributes.get("seconds"),
            seed=int(attributes["seed"]),
            error=attributes.get("error"),
            worker=f"{attributes['host']}:{attributes['process']}",
        )

    def _distribution(self, name: str) -> Any:
        import optuna

        return optuna.distributions.CategoricalDistribution(
            [_shown(option) for option in self.space.options(name)]
        )


def _shown(option: Any) -> Any:
    """Gives an option in a form that Optuna's own pictures can show."""
    return repr(option) if isinstance(option, tuple) else option


def _is_lost(trial: Any) -> bool:
    attributes = trial.user_attrs
    if time.time() - attributes["beat"] > GRACE:
        return True
    if attributes["host"] != socket.gethostname():
        return False
    return not _is_running(int(attributes["process"]))


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _storage(location: Any) -> Any:
    import optuna
    from optuna.storages.journal import JournalFileBackend
    from optuna.storages.journal import JournalFileSymlinkLock

    if location is None:
        return None
    text = os.fspath(location)
    if text.startswith("grpc://"):
        host, _, port = text.removeprefix("grpc://").partition(":")
        storage = optuna.storages.GrpcStorageProxy(
            host=host, port=int(port or 13000)
        )
        storage.wait_server_ready(timeout=60)
        return storage
    if "://" in text:
        return optuna.storages.RDBStorage(text)
    path = pathlib.Path(text)
    if path.is_dir():
        raise ValueError(
            f"`study` must be a file or a URL. Received: study={text!r}, a "
            f"folder. Use {os.fspath(path / 'study.log')!r}."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = JournalFileSymlinkLock(os.fspath(path))
    backend = JournalFileBackend(os.fspath(path), lock)
    _drop_cut_line(path, lock)
    with _readable(location):
        return optuna.storages.JournalStorage(backend)


def _drop_cut_line(path: pathlib.Path, lock: Any) -> None:
    """Takes off the end of a line that a killed process left half written.

    Optuna would read over it, and stumble once the next line is behind it.
    """
    lock.acquire()
    try:
        with path.open("rb+") as file:
            content = file.read()
            whole = content.rfind(b"\n") + 1
            if whole < len(content) and content[:1] == b"{":
                file.truncate(whole)
    finally:
        lock.release()


@contextlib.contextmanager
def _readable(location: Any) -> Iterator[None]:
    """Names the file if it cannot be read."""
    try:
        yield
    # Whatever a damaged journal or database makes Optuna raise.
    except Exception as error:
        raise ValueError(
            "`study` must be a study that `kdtf.search` can continue, or a new "
            f"file. Received: study={os.fspath(location)!r}, which cannot be "
            f"read: {type(error).__name__}: {error}. Move it away, or name "
            "another."
        ) from error
