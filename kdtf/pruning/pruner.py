"""`prune`: weights that matter little become 0 and stay 0."""

import numbers
from collections.abc import Sequence
from typing import Any

from kdtf import schedules
from kdtf.flavours import flavour_of
from kdtf.pruning import allocation as allocations
from kdtf.pruning import criteria
from kdtf.pruning import structures
from kdtf.pruning.calibration import Calibration
from kdtf.pruning.calibration import is_output
from kdtf.pruning.masks import MaskGroup
from kdtf.pruning.masks import Plan
from kdtf.pruning.masks import PruningState
from kdtf.pruning.updates import updates_of
from kdtf.transforms import attach
from kdtf.transforms.layout import layout_of
from kdtf.transforms.selection import Candidate
from kdtf.transforms.selection import check_any
from kdtf.transforms.selection import check_built
from kdtf.transforms.selection import select_kernels

__all__ = ["prune"]


def prune(
    model: Any,
    sparsity: float | None = None,
    *,
    schedule: Any = None,
    criterion: Any = "magnitude",
    structure: Any = None,
    allocation: Any = "uniform",
    select: Any = None,
    data: Any = None,
    frequency: int = 100,
) -> Any:
    """Sets the least important weights to 0, now or during training.

    With `sparsity` the weights go at once and stay 0 in the training that
    follows. With `schedule` they go little by little: call this, then `fit`.
    Masks live on the weights themselves and are updated inside the
    optimizer's step, so the model keeps its class, its layers and its names,
    and any way of training it works, under a `kdtf.Distiller` too.

    Zeros of single weights shrink only the *compressed* file, and make
    nothing faster; see `structure` and `kdtf.sparsity_report`. At the end
    call `kdtf.strip(model)`.

    The masks and the step are saved with the model's weights, in `.keras` and
    `.weights.h5` files. To go on from a checkpoint build the model, call this
    with the same arguments, then `load_weights` (or let `BackupAndRestore` do
    so). A model that contains this one and was fitted before has compiled its
    step without the masks: compile it again.

    Args:
        model: A built model of Keras 3, changed in place; or of `tf_keras`,
            where tfmot's wrappers do the work on a new model.
        sparsity: Fraction of zeros, in [0, 1), from now on. A short form of
            `schedule=OneShotSchedule(final=sparsity)`.
        schedule: The sparsity at each step: one of `kdtf.schedules`, or
            tfmot's `ConstantSparsity` or `PolynomialDecay`. A step is one
            batch that the optimizer is given (also while it accumulates
            gradients); 0 is before the first. Nothing goes before
            `begin_step`.
        criterion: Which weights matter: "magnitude" (|w|), "wanda" (|w| times
            the norm of its inputs), "apoz" or "mean_activation" (of units),
            "taylor", "snip" or "movement" (by the loss's gradient), a
            function of weights, or a `kdtf.pruning.Criterion`.
        structure: What goes together: "unstructured", "per_output" (single
            weights, the same share of each output's), "N:M" such as "2:4" (N
            of M stay), a block (along inputs, along outputs), "litert" and
            "litert_int8" (blocks LiteRT has sparse kernels for), or "units".
            Defaults to what the criterion is meant for.
        allocation: How much each kernel loses: "uniform", "global" (all
            compete), "erdos_renyi", "erdos_renyi_kernel" (large ones lose
            more: better from about 90% on, where "uniform" starves a small
            last layer), or rules such as `{"*/query/kernel": 0.5}` for the
            final sparsity of some.
        select: Which kernels: layers, classes of layers, path patterns or
            predicates of a `Candidate`, or pairs of one of these and True or
            False, of which the first that matches decides. Defaults to all
            matrices and filters, but no embeddings and no depthwise filters,
            and where units go not those that are the model's outputs.
        data: What "wanda", "apoz" and the like measure on, and with labels
            "taylor", "snip" and "movement": a few hundred examples, as for
            `fit`. It is measured at each update; the others ignore it.
        frequency: Steps between two updates of the masks. A schedule of
            tfmot has its own. Defaults to 100.

    Returns:
        The model.

    Raises:
        TypeError: `model` is no Keras model, or an argument of another kind.
        ValueError: A value is out of range or unknown, nothing is left to
            prune, a kernel is pruned already, or `data` is missing or does
            not fit.

    Example:
        >>> import keras, numpy as np
        >>> layers = [keras.Input((4,)), keras.layers.Dense(4, name="head")]
        >>> model = prune(keras.Sequential(layers), 0.75)
        >>> model.compile("adam", "mse")
        >>> history = model.fit(np.ones((8, 4)), np.ones((8, 4)), verbose=0)
        >>> float(np.mean(model.get_weights()[0] == 0))
        0.75

    Reference:
        Han et al. 2015, https://arxiv.org/abs/1506.02626; Zhu & Gupta 2017,
        https://arxiv.org/abs/1710.01878
    """
    schedule = _get_schedule(sparsity, schedule, structure)
    if flavour_of(model) == "tf_keras":
        from kdtf.pruning import tfmot_models

        tfmot_models.check_supported(
            criterion=criterion, allocation=allocation, data=data
        )
        return tfmot_models.prune(
            model,
            schedule=schedule,
            frequency=frequency,
            structure=structure,
            select=select,
        )
    check_built(model, "prune")
    chosen = criteria.get(criterion)
    shape = structures.get(chosen.structure if structure is None else structure)
    values = schedules.get(schedule, argument="schedule")
    final = _check_values(values, shape)
    kernels, skipped = _choose(model, chosen, shape, select)
    share = allocations.get(allocation, kernels, final=final)
    share.check(shape)
    updates = updates_of(schedule, frequency)
    chosen.prepare(model)
    calibration = None
    if chosen.needs_data:
        calibration = Calibration(model, data, needs_labels=chosen.needs_labels)
    plan = Plan(
        criterion=chosen,
        structure=shape,
        allocation=share,
        schedule=values,
        updates=updates,
        calibration=calibration,
    )
    _attach(model, MaskGroup(kernels, plan), skipped)
    return model


def _get_schedule(sparsity: Any, schedule: Any, structure: Any) -> Any:
    """Returns the schedule, of tfmot's as it is, after checking numbers."""
    if sparsity is None and schedule is None and structure is not None:
        implied = structures.get(structure)
        if isinstance(implied, structures.NM):
            return schedules.OneShotSchedule(final=implied.sparsity)
    if (sparsity is None) == (schedule is None):
        raise ValueError(
            "Give either `sparsity` or `schedule`. Received: "
            f"sparsity={sparsity!r}, schedule={schedule!r}. A number prunes "
            "now; a `kdtf.PolynomialSchedule` prunes during `fit`."
        )
    if schedule is not None:
        # Refuses what is no schedule, in either flavour.
        schedules.get(schedule, argument="schedule")
        return schedule
    is_number = isinstance(sparsity, numbers.Real)
    if not is_number or isinstance(sparsity, bool) or not 0 <= sparsity < 1:
        raise ValueError(
            "`sparsity` is the fraction of zeros, in [0, 1). Received: "
            f"sparsity={sparsity!r}. Write 80% as 0.8."
        )
    return schedules.OneShotSchedule(final=float(sparsity))


def _check_values(
    values: schedules.Schedule, structure: structures.Structure
) -> float:
    """Returns the highest sparsity, after checking the range."""
    low, high = values.bounds()
    if not 0.0 <= low <= high < 1.0:
        raise ValueError(
            "`schedule` must stay in [0, 1), as fractions of zeros. Received: "
            f"schedule={values!r}. Write 80% as 0.8."
        )
    if isinstance(structure, structures.NM):
        if abs(high - structure.sparsity) > 1e-6:
            raise ValueError(
                f"'{structure.n}:{structure.m}' makes a fraction of "
                f"{structure.sparsity:g} zeros, no more and no less. Received: "
                f"{high:g}. Leave `sparsity` out, or end the schedule there."
            )
    return high


def _choose(
    model: Any,
    criterion: criteria.Criterion,
    structure: structures.Structure,
    select: Any,
) -> tuple[list[Candidate], list[tuple[Candidate, str]]]:
    """Returns the kernels to prune, and the others with the reason."""
    selection = select_kernels(model, select)
    skipped = list(selection.skipped)
    kernels = []
    for kernel in selection.taken:
        reason = criterion.why_not(kernel)
        is_units = isinstance(structure, structures.Units)
        if is_units and select is None and is_output(model, kernel.layer):
            reason = "its units are the model's outputs; see `select`"
        if reason is None:
            structure.check(
                layout_of(kernel.layer, kernel.variable), kernel.path
            )
            kernels.append(kernel)
        else:
            skipped.append((kernel, reason))
    pruned = {id(variable) for variable, _ in attach.attachments(model)}
    twice = [k.path for k in kernels if id(k.variable) in pruned]
    if twice:
        raise ValueError(
            "A kernel can be pruned once. Received: already pruned: "
            f"{twice[:4]}{' ...' if len(twice) > 4 else ''}. Call "
            "`kdtf.strip(model)` first, or choose others with `select`."
        )
    check_any(model, "prune", kernels, skipped)
    return kernels, skipped


def _attach(
    model: Any, group: MaskGroup, skipped: Sequence[tuple[Candidate, str]]
) -> None:
    state = attach.recall(model, "kdtf_pruning") or PruningState()
    state.groups.append(group)
    taken = {id(k.variable) for g in state.groups for k in g.kernels}
    state.skipped = tuple(
        pair for pair in skipped if id(pair[0].variable) not in taken
    )
    group.attach()
    attach.remember(model, state)
