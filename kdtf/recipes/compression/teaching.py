"""Trains what a pipeline changed: by the original, or by the labels alone."""

import dataclasses
import functools
import json
import math
import pathlib
import shutil
import time
from collections.abc import Mapping
from typing import Any

import keras

from kdtf.batches import is_dataset
from kdtf.batches import iterate_batches
from kdtf.batches import num_examples_of
from kdtf.distillation import Distiller
from kdtf.recipes.preprocessing import fit_arrays

__all__ = ["Diverged", "Teaching", "TimeIsUp"]


class Diverged(Exception):  # noqa: N818  It is no error of the program.
    """A training whose loss is no number any more."""


class TimeIsUp(BaseException):
    """Ends a training when a time budget is used up; a later run goes on.

    An interrupt, no error: a search leaves its trial open for the next run.
    """


@dataclasses.dataclass(frozen=True, kw_only=True)
class Teaching:
    """How students are trained.

    Args:
        train: `(x, y)` or `(x, y, sample_weight)` arrays, or a finite
            `tf.data.Dataset` of batches.
        loss: As for Keras's `compile`.
        rate: The learning rate of Adam, which falls to 0 as a cosine.
        epochs: Of a training that changes little.
        batch_size: For arrays.
        deadline: `time.monotonic()` at which a training is broken off.
        verbose: As for Keras's `fit`.
    """

    train: Any
    loss: Any
    rate: float
    epochs: int
    batch_size: int
    deadline: float = math.inf
    verbose: Any = "auto"

    @functools.cached_property
    def steps(self) -> int:
        """Batches in an epoch."""
        if is_dataset(self.train):
            batches = int(self.train.cardinality())
            if batches < 0:
                batches = sum(1 for _ in iterate_batches(self.train))
        else:
            batches = math.ceil(
                num_examples_of(self.train[0]) / self.batch_size
            )
        return batches

    @property
    def distils(self) -> bool:
        """Whether the original can teach: classes have a cross-entropy."""
        loss = self.loss
        name = loss if isinstance(loss, str) else getattr(loss, "name", "")
        return "crossentropy" in f"{name or loss}".lower().replace("_", "")

    @property
    def told(self) -> str:
        """The loss in words, with what it was told."""
        if isinstance(self.loss, keras.losses.Loss):
            name = type(self.loss).__qualname__
            return f"{name} {json.dumps(self.loss.get_config(), default=str)}"
        return getattr(self.loss, "__qualname__", f"{self.loss}")

    def __call__(
        self,
        student: Any,
        teacher: Any,
        *,
        alpha: float,
        temperature: float,
        rate: float,
        epochs: int,
        backup: pathlib.Path,
    ) -> None:
        """Trains a student in place; goes on where a killed process was.

        Args:
            student: What is trained.
            teacher: The original.
            alpha: Weight of the labels.
            temperature: Softens both models' outputs.
            rate: The learning rate to begin with.
            epochs: How many.
            backup: A folder for the state after each epoch.

        Raises:
            Diverged: The loss became nan or infinite.
            TimeIsUp: The deadline passed.
        """
        model = student
        if self.distils:
            model = Distiller(
                teacher, student, alpha=alpha, temperature=temperature
            )
        decay = keras.optimizers.schedules.CosineDecay(
            rate, epochs * self.steps
        )
        # Those that keras-nlp tasks add may not suit the labels; None leaves
        # earlier ones.
        none: dict[str, Any] = {"metrics": [], "weighted_metrics": []}
        optimizer = keras.optimizers.Adam(decay)
        model.compile(optimizer, loss=self.loss, **none)
        data: dict[str, Any] = {"x": self.train}
        if not is_dataset(self.train):
            names = ("x", "y", "sample_weight")
            data = dict(zip(names, self.train, strict=False))
            data["batch_size"] = self.batch_size
        try:
            fit_arrays(
                model,
                **data,
                epochs=epochs,
                verbose=self.verbose,
                callbacks=[
                    keras.callbacks.BackupAndRestore(str(backup)),
                    _Watch(self.deadline),
                ],
            )
        except Diverged:
            # The backup holds what led there.
            shutil.rmtree(backup, ignore_errors=True)
            raise


class _Watch(keras.callbacks.Callback):
    """Ends a training that diverges, or whose time is up."""

    def __init__(self, deadline: float) -> None:
        super().__init__()
        self._deadline = deadline

    def on_train_batch_end(
        self, batch: int, logs: Mapping[str, float] | None = None
    ) -> None:
        """Looks at the loss and at the clock."""
        loss = float((logs or {}).get("loss", 0.0))
        if not math.isfinite(loss):
            raise Diverged(f"the loss became {loss} in batch {batch}")
        if time.monotonic() > self._deadline:
            raise TimeIsUp("the time budget was up during its training")
