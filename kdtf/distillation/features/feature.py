"""What the features of a teacher have in common, whatever they teach."""

import dataclasses
from collections.abc import Mapping
from typing import Any
from typing import ClassVar

import keras

from kdtf import schedules
from kdtf.distillation.features import mapping
from kdtf.distillation.features.capture import Record

__all__ = ["Feature", "Records"]

Records = Mapping[str, Record]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Feature:
    """What the features have in common: which layers, and how much.

    Args:
        layers: Which of the student's layers learn from which of the
            teacher's. "uniform" spreads the teacher's transformer blocks over
            the student's, "last" pairs the last ones; or a dict or pairs of
            paths, names that are unique, or indices of blocks. Defaults to
            "uniform".
        weight: Factor >= 0 in the total loss; number or schedule. The loss is
            the mean over the pairs of layers, so that the weight does not
            depend on their number. Defaults to 1.0.

    Raises:
        TypeError: `weight` is neither a number nor a schedule.
        ValueError: `weight` may be negative, or `layers` is nothing known.
    """

    layers: Any = "uniform"
    weight: Any = 1.0
    name: ClassVar[str] = "feature"

    def __post_init__(self) -> None:
        """Checks the settings."""
        layers = mapping.check_layers(self.layers)
        object.__setattr__(self, "layers", layers)
        low, _ = self.schedule.bounds()
        if low < 0.0:
            raise ValueError(
                "`weight` must be >= 0. Received: "
                f"weight={self.weight!r}. Use 0 to switch a feature off."
            )

    @property
    def schedule(self) -> schedules.Schedule:
        """The weight as a function of the optimizer's step."""
        return schedules.get(self.weight, argument="weight")

    def taps(self, model: Any, path: str) -> dict[str, str]:
        """Returns what to record for one layer: paths by role."""
        del model
        return {"output": path}

    def widths(self, teacher: Records, student: Records) -> Any:
        """Returns the widths (student, teacher) of a projection, or None.

        Args:
            teacher: Records by role, whose outputs have static shapes.
            student: The same of the student.

        Raises:
            ValueError: The two layers cannot be compared.
        """
        del teacher, student
        return None

    def value(
        self, teacher: Records, student: Records, mask: Any, project: Any
    ) -> Any:
        """Returns the loss of one pair of layers, float32 `(batch,)`.

        Args:
            teacher: Records by role.
            student: The same of the student.
            mask: Real positions, `(batch, time)`, or None.
            project: Maps the student's width to the teacher's, or None.
        """
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments as plain data."""
        config = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
        }
        if not isinstance(self.layers, str):
            config["layers"] = [list(pair) for pair in self.layers]
        weight = keras.saving.serialize_keras_object(self.weight)
        return {**config, "weight": weight}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Feature":
        """Returns the feature that `get_config` described."""
        weight = keras.saving.deserialize_keras_object(config["weight"])
        return cls(**{**config, "weight": weight})
