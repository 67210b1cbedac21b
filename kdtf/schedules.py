"""Numbers that change over training: sparsity, alpha, temperature.

A schedule is a function of the optimizer's step, usable inside a compiled
training step. Wherever kdtf takes one it also takes a plain number, and
tfmot's `ConstantSparsity` and `PolynomialDecay` as they are.
"""

import dataclasses
import math
import numbers
from typing import Any

import keras

__all__ = [
    "ConstantSchedule",
    "CosineSchedule",
    "OneShotSchedule",
    "PolynomialSchedule",
    "Schedule",
    "get",
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule:
    """Maps an optimizer step to a float32 scalar; subclasses say how."""

    def __call__(self, step: Any) -> Any:
        """Returns the value at `step`, an integer or an integer tensor."""
        raise NotImplementedError

    def bounds(self) -> tuple[float, float]:
        """Returns the least and the greatest value the schedule can take."""
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Schedule":
        """Returns the schedule that `get_config` described."""
        return cls(**config)


@keras.saving.register_keras_serializable("kdtf")
@dataclasses.dataclass(frozen=True, kw_only=True)
class ConstantSchedule(Schedule):
    """Stays at `value` for all of training.

    Args:
        value: The number to give at every step.

    Example:
        >>> float(ConstantSchedule(value=0.5)(1000))
        0.5
    """

    value: float

    def __post_init__(self) -> None:
        """Refuses a value that is not a finite number."""
        _check_finite(value=self.value)

    def __call__(self, step: Any) -> Any:
        """Returns `value`, whatever the step."""
        del step
        return keras.ops.convert_to_tensor(self.value, "float32")

    def bounds(self) -> tuple[float, float]:
        """Returns `value` twice."""
        return self.value, self.value


@keras.saving.register_keras_serializable("kdtf")
@dataclasses.dataclass(frozen=True, kw_only=True)
class OneShotSchedule(Schedule):
    """Jumps from 0 to `final` at one step and stays there.

    Args:
        final: The value from `step` on.
        step: Optimizer step at which it jumps, at least 0. Defaults to 0.

    Raises:
        ValueError: `final` is not finite, or `step` is negative.

    Example:
        >>> jump = OneShotSchedule(final=0.5, step=10)
        >>> [float(jump(step)) for step in (9, 10, 11)]
        [0.0, 0.5, 0.5]
    """

    final: float
    step: int = 0

    def __post_init__(self) -> None:
        """Checks the value and the step."""
        _check_finite(final=self.final)
        _check_whole(step=self.step)
        if self.step < 0:
            raise ValueError(
                "`step` counts optimizer steps and must be >= 0. Received: "
                f"step={self.step}. 0 is before the first one."
            )

    def __call__(self, step: Any) -> Any:
        """Returns 0 before the jump, then `final`."""
        return keras.ops.where(
            keras.ops.cast(step, "int64") >= self.step,
            keras.ops.convert_to_tensor(self.final, "float32"),
            keras.ops.convert_to_tensor(0.0, "float32"),
        )

    def bounds(self) -> tuple[float, float]:
        """Returns 0 and `final`, the smaller one first."""
        return min(0.0, self.final), max(0.0, self.final)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Ramp(Schedule):
    """Goes from `initial` to `final` between two steps, flat outside them."""

    initial: float = 0.0
    final: float
    begin_step: int = 0
    end_step: int

    def __post_init__(self) -> None:
        _check_finite(initial=self.initial, final=self.final)
        _check_whole(begin_step=self.begin_step, end_step=self.end_step)
        if self.begin_step < 0 or self.end_step <= self.begin_step:
            raise ValueError(
                "`begin_step` must be >= 0 and `end_step` greater than it. "
                f"Received: begin_step={self.begin_step}, "
                f"end_step={self.end_step}. For a jump in one step use "
                "`OneShotSchedule`, for no change `ConstantSchedule`."
            )

    def __call__(self, step: Any) -> Any:
        """Returns the value at `step`, a float32 scalar tensor."""
        # Steps in float32 are exact up to 2**24; subtract as integers first.
        since = keras.ops.cast(step, "int64") - self.begin_step
        length = self.end_step - self.begin_step
        share = keras.ops.cast(since, "float32") / length
        left = self._left(keras.ops.clip(share, 0.0, 1.0))
        return self.final + (self.initial - self.final) * left

    def _left(self, progress: Any) -> Any:
        """Returns which part of the way is left, from 1 down to 0."""
        raise NotImplementedError

    def bounds(self) -> tuple[float, float]:
        """Returns `initial` and `final`, the smaller one first."""
        return min(self.initial, self.final), max(self.initial, self.final)


@keras.saving.register_keras_serializable("kdtf")
@dataclasses.dataclass(frozen=True, kw_only=True)
class PolynomialSchedule(_Ramp):
    """Rises from `initial` to `final` between two steps, fast then slow.

    value(t) = final + (initial - final) * (1 - p)^power, where p goes from 0
    at `begin_step` to 1 at `end_step`. Cubic is the usual choice for pruning:
    many weights go while the network can still recover.

    Args:
        initial: The value up to `begin_step`. Defaults to 0.0.
        final: The value from `end_step` on.
        begin_step: Optimizer step at which it starts. Defaults to 0.
        end_step: Optimizer step at which it ends, greater than `begin_step`.
        power: Exponent > 0; 1 is a straight line. Defaults to 3.0.

    Raises:
        ValueError: The steps are not in order, or `power` is not positive.

    Example:
        >>> half = PolynomialSchedule(final=0.8, end_step=100)(50)
        >>> round(float(half), 4)
        0.7

    Reference:
        Zhu & Gupta 2017, https://arxiv.org/abs/1710.01878 (equation 1)
    """

    power: float = 3.0

    def __post_init__(self) -> None:
        """Checks the steps and the power."""
        super().__post_init__()
        if not self.power > 0:
            raise ValueError(
                f"`power` must be positive. Received: power={self.power}. "
                "Use 1.0 for a straight line."
            )

    def _left(self, progress: Any) -> Any:
        return (1.0 - progress) ** self.power


@keras.saving.register_keras_serializable("kdtf")
@dataclasses.dataclass(frozen=True, kw_only=True)
class CosineSchedule(_Ramp):
    """Moves from `initial` to `final` along half a cosine: slow, fast, slow.

    value(t) = final + (initial - final) * (1 + cos(pi * p)) / 2, where p goes
    from 0 at `begin_step` to 1 at `end_step`.

    Args:
        initial: The value up to `begin_step`. Defaults to 0.0.
        final: The value from `end_step` on.
        begin_step: Optimizer step at which it starts. Defaults to 0.
        end_step: Optimizer step at which it ends, greater than `begin_step`.

    Raises:
        ValueError: The steps are not in order.

    Example:
        >>> cool = CosineSchedule(initial=8.0, final=2.0, end_step=100)
        >>> [round(float(cool(step)), 4) for step in (0, 50, 100)]
        [8.0, 5.0, 2.0]

    Reference:
        Loshchilov & Hutter 2017, https://arxiv.org/abs/1608.03983 (equation 5)
    """

    def _left(self, progress: Any) -> Any:
        return (1.0 + keras.ops.cos(math.pi * progress)) / 2.0


def get(value: Any, *, argument: str = "schedule") -> Schedule:
    """Returns the schedule for a number, a schedule or one of tfmot's.

    Args:
        value: A number, one of this module's schedules, or tfmot's
            `ConstantSparsity` or `PolynomialDecay` (their values; the steps at
            which tfmot would update a mask are not part of a value).
        argument: The name of the caller's parameter, for the message.

    Raises:
        TypeError: `value` is none of these.
        ValueError: The number is not finite, or tfmot's steps are not in
            order (tfmot accepts those and then gives nan).

    Example:
        >>> float(get(4)(step=0))
        4.0
    """
    if isinstance(value, Schedule):
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return ConstantSchedule(value=float(value))
    # Told by name: importing tfmot would switch tf.keras to legacy Keras.
    bases = {base.__name__ for base in type(value).__mro__}
    if "PruningSchedule" in bases:
        return _from_tfmot(value)
    raise TypeError(
        f"`{argument}` must be a number or a schedule such as "
        f"`kdtf.PolynomialSchedule`. Received: {argument}={value!r} of type "
        f"{type(value).__name__}."
    )


def _from_tfmot(schedule: Any) -> Schedule:
    kind = type(schedule).__name__
    if kind == "ConstantSparsity":
        return ConstantSchedule(value=float(schedule.target_sparsity))
    if kind == "PolynomialDecay":
        return PolynomialSchedule(
            initial=float(schedule.initial_sparsity),
            final=float(schedule.final_sparsity),
            begin_step=int(schedule.begin_step),
            end_step=int(schedule.end_step),
            power=float(schedule.power),
        )
    raise TypeError(
        "Of tfmot's schedules `ConstantSparsity` and `PolynomialDecay` are "
        f"known. Received: {kind}. Write it as a subclass of "
        "`kdtf.schedules.Schedule`."
    )


def _check_whole(**values: int) -> None:
    for name, value in values.items():
        if not isinstance(value, numbers.Integral):
            raise ValueError(
                f"`{name}` counts steps and must be a whole number. Received: "
                f"{name}={value!r}. Divide with `//`."
            )


def _check_finite(**values: float) -> None:
    for name, value in values.items():
        if not math.isfinite(value):
            raise ValueError(
                f"`{name}` must be a finite number. Received: {name}={value}. "
                "Check where it was computed."
            )
