"""Prunes `tf_keras` models: kdtf's arguments, tfmot's wrappers.

tfmot masks in the training forward pass and multiplies the weights by the
mask in every forward pass after that.
"""

import dataclasses
import functools
from typing import Any

import keras
import tensorflow as tf
import tf_keras

from kdtf import schedules
from kdtf.pruning import structures
from kdtf.pruning.updates import updates_of
from kdtf.transforms import tfmot_models

__all__ = ["TfmotSchedule", "check_supported", "prune"]

_KNOWN = (
    "tf_keras models are pruned by tfmot, which knows only criterion="
    "'magnitude', allocation='uniform' and the structures 'unstructured', "
    "'N:M' and blocks such as (4, 1)."
)


@tf_keras.saving.register_keras_serializable("kdtf")
@dataclasses.dataclass(frozen=True, kw_only=True)
class TfmotSchedule:
    """One of kdtf's schedules, in the form that tfmot asks for one.

    Masks are updated as on Keras 3 (see `updates_of`), at the last step in any
    case: tfmot's own `PolynomialDecay` never reaches its end where that is no
    multiple of the frequency.

    Args:
        schedule: A `kdtf.schedules.Schedule` of the sparsity.
        frequency: Steps between two updates, at least 1. Defaults to 100.

    Raises:
        ValueError: `frequency` is not positive, or the sparsity leaves [0, 1).

    Example:
        >>> ramp = schedules.PolynomialSchedule(final=0.8, end_step=25)
        >>> adapter = TfmotSchedule(schedule=ramp, frequency=10)
        >>> [s for s in range(1, 40) if bool(adapter(s)[0])]
        [10, 20, 25]
    """

    schedule: Any
    frequency: int = 100

    def __post_init__(self) -> None:
        """Checks the frequency and the range."""
        updates_of(self.schedule, self.frequency)
        low, high = self.schedule.bounds()
        if low < 0 or high >= 1:
            raise ValueError(
                "Sparsity is the fraction of zeros, in [0, 1). Received: a "
                f"schedule from {low} to {high}. For 80 % write 0.8."
            )

    def __call__(self, step: Any) -> tuple[Any, Any]:
        """Returns whether to update the masks, and the sparsity.

        Args:
            step: Number of the training step, from 1; 0 is before training,
                where an update is always due.
        """
        due = updates_of(self.schedule, self.frequency).is_due(step)
        return due | (tf.cast(step, tf.int64) == 0), self.schedule(step)

    def get_config(self) -> dict[str, Any]:
        """Returns class and arguments, as tfmot's schedules do."""
        config = {
            "schedule": keras.saving.serialize_keras_object(self.schedule),
            "frequency": self.frequency,
        }
        return {"class_name": "kdtf>TfmotSchedule", "config": config}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "TfmotSchedule":
        """Returns the schedule whose inner `config` this is."""
        schedule = keras.saving.deserialize_keras_object(config["schedule"])
        return cls(schedule=schedule, frequency=config["frequency"])


def check_supported(
    *, criterion: Any = "magnitude", allocation: Any = "uniform", data: Any
) -> None:
    """Refuses what tfmot cannot do for a `tf_keras` model.

    Args:
        criterion: As in `kdtf.prune`.
        allocation: As in `kdtf.prune`.
        data: As in `kdtf.prune`.

    Raises:
        ValueError: One of them is not what tfmot does.

    Example:
        >>> check_supported(data=None)
    """
    given = {"criterion": criterion, "allocation": allocation, "data": data}
    known = {"criterion": "magnitude", "allocation": "uniform", "data": None}
    for name, value in given.items():
        is_known = value is None if name == "data" else value == known[name]
        if not is_known:
            shown = type(value).__name__ if name == "data" else repr(value)
            raise ValueError(
                f"{_KNOWN} Received: {name}={shown}. Use a Keras 3 model for "
                "the others."
            )


def prune(
    model: Any,
    *,
    schedule: Any,
    frequency: int = 100,
    structure: Any = None,
    select: Any = None,
) -> Any:
    """Returns a `tf_keras` model whose `fit` prunes it, by tfmot's wrappers.

    What the schedule wants at step 0 is zero as soon as this returns. The
    callback tfmot needs is added by the model's own `fit`, and by a Distiller
    for its student. Compile the returned model; nothing of the old `compile`
    is kept. It shares its layers with `model`, which must not be trained any
    more. A layer that the model calls several times goes through the schedule
    as many times as fast, and embeddings and frozen layers are left alone, as
    are kinds of layers that tfmot does not know.

    A saved model needs `tfmot.sparsity.keras.prune_scope()` and this module
    to load; a stripped one needs neither.

    Args:
        model: A built functional or Sequential `tf_keras` model.
        schedule: One of kdtf's schedules, or tfmot's, which then has its own
            frequency and first prunes in training.
        frequency: Steps between two updates of the masks.
        structure: None, `"unstructured"`, `"N:M"` (N of M weights stay), or
            a block (along inputs, along outputs) for dense kernels.
        select: Which layers, see `transforms.tfmot_models.wrap_layers`.

    Returns:
        A `tf_keras` model with `PruneLowMagnitude` wrappers, not compiled.

    Raises:
        TypeError: The schedule or `select` is of an unknown kind.
        ValueError: tfmot cannot do it, the model is pruned already, or
            nothing in it can be pruned.

    Example:
        >>> dense = tf_keras.layers.Dense(2, use_bias=False, input_shape=(4,))
        >>> half = schedules.OneShotSchedule(final=0.5)
        >>> pruned = prune(tf_keras.Sequential([dense]), schedule=half)
        >>> float((pruned.layers[0].get_weights()[0] == 0).mean())
        0.5
    """
    tfmot = tfmot_models.load_tfmot()
    schedule = _schedule(tfmot, schedule, frequency)
    structure, arguments = _structure(structure)
    if isinstance(structure, structures.NM):
        _check_at_once(structure, schedule)

    def wrap(layer: Any) -> Any:
        try:
            wrapper = tfmot.sparsity.keras.prune_low_magnitude(
                layer,
                pruning_schedule=schedule,
                # Else the global policy's, which a float32 head differs from.
                dtype=layer.dtype_policy,
                **arguments,
            )
        except ValueError:
            # Its registry has no such layer; `wrap_layers` speaks of it.
            return None
        kernels = wrapper.layer.get_prunable_weights()
        for kernel in kernels:
            _check_shape(structure, tuple(kernel.shape), layer.name)
        return wrapper if kernels else None

    pruned = tfmot_models.wrap_layers(model, wrap, select=select)
    if isinstance(schedule, TfmotSchedule):
        for wrapper in tfmot_models.wrappers(pruned)[0]:
            _mask_now(wrapper, is_nm=isinstance(structure, structures.NM))
    # On the instance: the class is tf_keras's and knows no callback.
    pruned.fit = functools.partial(
        tfmot_models.fit_with_callbacks, pruned.fit, pruned
    )
    return pruned


def _schedule(tfmot: Any, schedule: Any, frequency: int) -> Any:
    if isinstance(schedule, tfmot.sparsity.keras.PruningSchedule):
        if isinstance(schedule, tfmot.sparsity.keras.PolynomialDecay):
            # tfmot takes one that ends where it begins, and gives nan there.
            schedules.get(schedule)
        return schedule
    schedule = schedules.get(schedule)
    return TfmotSchedule(schedule=schedule, frequency=frequency)


def _structure(structure: Any) -> tuple[Any, dict[str, Any]]:
    """Returns the structure, and tfmot's arguments for it."""
    known = structures.get("unstructured" if structure is None else structure)
    if isinstance(known, structures.Unstructured):
        return known, {}
    if isinstance(known, structures.Block):
        return known, {"block_size": known.shape}
    if isinstance(known, structures.NM):
        # tfmot counts the zeros.
        return known, {"sparsity_m_by_n": (known.m - known.n, known.m)}
    raise ValueError(
        f"{_KNOWN} Received: structure={structure!r}. Use a Keras 3 model for "
        "the others."
    )


def _check_at_once(structure: Any, schedule: Any) -> None:
    values = [float(schedule(tf.constant(s, tf.int64))[1]) for s in (0, 2**31)]
    if any(abs(value - structure.sparsity) > 1e-6 for value in values):
        raise ValueError(
            f"tfmot makes '{structure.n}:{structure.m}' at once, with sparsity "
            f"{structure.sparsity:.4g}. Received: a schedule from "
            f"{values[0]:.4g} to {values[1]:.4g}. Use no schedule, or a Keras "
            "3 model."
        )


def _check_shape(structure: Any, shape: tuple[int, ...], name: str) -> None:
    """Refuses kernels on which tfmot fails in training, or errs in silence."""
    if isinstance(structure, structures.NM) and len(shape) not in (2, 4):
        rule = "tfmot makes 'N:M' in kernels of 2 or 4 dimensions only."
    elif isinstance(structure, structures.Block) and len(shape) != 2:
        rule = "tfmot makes blocks in kernels of 2 dimensions only."
    elif isinstance(structure, structures.Block) and any(
        # It pads both ends and then masks other blocks than it has pooled;
        # and a side with a single block it cannot expand.
        dim % side or dim == side
        for dim, side in zip(shape, structure.shape, strict=True)
    ):
        rule = (
            f"tfmot places blocks {structure.shape} rightly only where each "
            "side of a kernel holds two or more whole ones."
        )
    else:
        return
    raise ValueError(
        f"{rule} Received: layer {name!r} with a kernel of shape {shape}. "
        "Choose other layers with `select`, or use a Keras 3 model."
    )


def _mask_now(wrapper: Any, *, is_nm: bool) -> None:
    before = wrapper.pruning_step.numpy()
    # tfmot makes 'N:M' at step 1 and never again.
    wrapper.pruning_step.assign(int(is_nm))
    wrapper.pruning_obj.conditional_mask_update()
    wrapper.pruning_obj.weight_mask_op()
    # -1 makes tfmot complain of a training loop without its callback.
    wrapper.pruning_step.assign(before)
