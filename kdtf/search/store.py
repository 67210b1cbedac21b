"""Where trials are kept: an Optuna study that several processes share.

A trial is claimed by one atomic write that holds all of it. Of two claims to
the same number, or to the same model, the first written counts and the other
is withdrawn: nothing is done twice. A claim whose process died is released,
and its number is open to the next one who asks: nothing is lost.
"""

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from kdtf.search.quiet_logs import import_optuna
from kdtf.search.quiet_logs import quiet_optuna
from kdtf.search.space import Point
from kdtf.search.space import Space
from kdtf.search.storage import open_storage
from kdtf.search.storage import readable
from kdtf.search.trial import Trial

__all__ = ["Claim", "Store"]

_NAME = "kdtf"
# Seconds between signs of life, and after how many without one a process on
# another machine counts as dead. On this machine it is looked up.
BEAT, GRACE = 15.0, 120.0
_CLOSED = ("withdrawn", "abandoned")
# How a trial ended that something else has ended, such as Optuna's dashboard.
_LOST = {"status": "abandoned"}


class Claim:
    """A trial of ours that runs."""

    def __init__(self, store: "Store", trial: Any) -> None:
        self._store = store
        self._id = trial._trial_id  # noqa: SLF001  Optuna's storages ask for it.
        self.number = int(trial.user_attrs["number"])
        self.point: Point = tuple(trial.user_attrs["point"])
        self._reports: dict[int, float] = {}

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
            Whether to stop; also if the trial was taken from us meanwhile.
        """
        from optuna.exceptions import UpdateFinishedTrialError

        storage = self._store.storage
        self._reports[step] = value
        try:
            storage.set_trial_intermediate_value(self._id, step, value)
            if pruner is None:
                return False
            trial = storage.get_trial(self._id)
            return bool(pruner.prune(self._store.study, trial))
        except UpdateFinishedTrialError:
            return True

    def last_report(self) -> float | None:
        """Returns the quality that was last reported, if any."""
        return self._reports[max(self._reports)] if self._reports else None

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
        end = {
            "status": status,
            "values": dict(values or {}),
            "reward": reward,
            "seconds": seconds,
            "error": error,
        }
        try:
            # One write, so that it is never half of ours and half of one who
            # takes us for dead; it counts once the state is set.
            self._note("end", end)
            self._store.storage.set_trial_state_values(
                self._id,
                state,
                None if reward is None else [reward],
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
        optuna = import_optuna()

        self.space = space
        with quiet_optuna(), readable(location):
            self.study = optuna.create_study(
                study_name=_NAME,
                storage=open_storage(location),
                direction="maximize",
                load_if_exists=True,
            )
            self.storage = self.study._storage  # noqa: SLF001  None became memory.
            kept = dict(self.study.user_attrs)
        ours = {"space": space.describe(), "minimize": minimize}
        for key, value in ours.items():
            # As text: the order of the choices counts, and 1 is not True.
            if json.dumps(kept.setdefault(key, value)) != json.dumps(value):
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
        live = self._live()
        return [self._record(live[number]) for number in sorted(live)]

    def keys(self) -> set[tuple[int | None, ...]]:
        """Returns the keys of all points that are or were tried."""
        tried = [t for t in self._all() if _status(t) != "withdrawn"]
        return {self._key(trial) for trial in tried}

    def claim(self, number: int, point: Point, seed: int) -> Claim | None:
        """Takes a trial for this process.

        Returns:
            None if another process was first; look again then.
        """
        optuna = import_optuna()
        from optuna.trial import TrialState

        token = uuid.uuid4().hex
        chosen = self.space.decode(point)
        params = {name: _shown(option) for name, option in chosen.items()}
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
        known = self._all()
        ours = next(t for t in known if t.user_attrs["token"] == token)
        claim = Claim(self, ours)
        if self._is_first(ours, known):
            return claim
        claim.finish("withdrawn")
        return None

    def release_lost(self) -> None:
        """Opens the trials of processes that died to others."""
        known = self._all()
        # From the last on: a claim that had lost to one that is lost itself
        # must not be taken up in its place.
        for trial in reversed(known):
            if _status(trial) == "running" and _is_lost(trial):
                end = trial.user_attrs.get("end")
                if end is None:
                    is_first = self._is_first(trial, known)
                    end = _LOST if is_first else {"status": "withdrawn"}
                # Else it died when all was written but that it is final.
                Claim(self, trial).finish(**end)

    def _is_first(self, ours: Any, known: Sequence[Any]) -> bool:
        """Tells whether no earlier claim has the number, or is the model."""
        number, key = ours.user_attrs["number"], self._key(ours)
        for trial in known:
            if trial.user_attrs["token"] == ours.user_attrs["token"]:
                break
            if _status(trial) not in _CLOSED and (
                trial.user_attrs["number"] == number or self._key(trial) == key
            ):
                return False
        return True

    def _live(self) -> dict[int, Any]:
        """Gives the trial that counts of each number."""
        found: dict[int, Any] = {}
        numbers, keys = set(), set()
        for trial in self._all():
            status, key = _status(trial), self._key(trial)
            number = int(trial.user_attrs["number"])
            if status == "withdrawn":
                continue
            # Else it is about to be withdrawn. The abandoned block nothing.
            if number not in numbers and key not in keys:
                found[number] = trial
            if status not in _CLOSED:
                numbers.add(number)
                keys.add(key)
        return found

    def _key(self, trial: Any) -> tuple[int | None, ...]:
        return self.space.key(tuple(trial.user_attrs["point"]))

    def _all(self) -> list[Any]:
        found = self.study.get_trials(deepcopy=False)
        # A study may hold trials of the user's own; they are not ours.
        return [trial for trial in found if "token" in trial.user_attrs]

    def _record(self, trial: Any) -> Trial:
        attributes = trial.user_attrs
        status = _status(trial)
        end = {} if status == "running" else attributes.get("end", _LOST)
        return Trial(
            number=int(attributes["number"]),
            choices=self.space.decode(tuple(attributes["point"])),
            point=tuple(attributes["point"]),
            status=status,
            values=dict(end.get("values", {})),
            reward=end.get("reward"),
            seconds=end.get("seconds"),
            seed=int(attributes["seed"]),
            error=end.get("error"),
            worker=f"{attributes['host']}:{attributes['process']}",
        )

    def _distribution(self, name: str) -> Any:
        optuna = import_optuna()

        return optuna.distributions.CategoricalDistribution(
            [_shown(option) for option in self.space.options(name)]
        )


def _shown(option: Any) -> Any:
    """Gives an option in a form that Optuna's own pictures can show."""
    return repr(option) if isinstance(option, tuple) else option


def _status(trial: Any) -> str:
    # How it ended is written before it has ended.
    if not trial.state.is_finished():
        return "running"
    return str(trial.user_attrs.get("end", _LOST)["status"])


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
    except OSError as error:
        # Another user's may not be asked, but is there.
        return isinstance(error, PermissionError)
    return True
