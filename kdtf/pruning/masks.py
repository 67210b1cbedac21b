"""Masks on the weights of a model, kept and updated inside its training step.

Keras calls a variable's constraint after each optimizer update. The first
constraint of a round counts the step and, when one is due, computes the masks
of all kernels of its group; each then sets its own masked weights to 0.
"""

import dataclasses
import threading
import weakref
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from kdtf.pruning.allocation import Allocation
from kdtf.pruning.calibration import Calibration
from kdtf.pruning.criterion import Criterion
from kdtf.pruning.structure import Structure
from kdtf.pruning.updates import Updates
from kdtf.schedules import Schedule
from kdtf.transforms.attach import Attachment
from kdtf.transforms.attach import State
from kdtf.transforms.attach import scope_of
from kdtf.transforms.layout import layout_of
from kdtf.transforms.selection import Candidate

__all__ = ["Mask", "MaskGroup", "Plan", "PruningState"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What is pruned how: one choice for each of the four questions.

    Args:
        criterion: Which weights matter.
        structure: Which go together.
        allocation: How much each kernel loses.
        schedule: How much is lost in all, by step.
        updates: At which steps masks are computed.
        calibration: The model and data a measuring criterion needs.
    """

    criterion: Criterion
    structure: Structure
    allocation: Allocation
    schedule: Schedule
    updates: Updates
    calibration: Calibration | None = None


class MaskGroup:
    """The masks of kernels that are pruned together.

    Args:
        kernels: What is pruned.
        plan: How.

    Raises:
        ValueError: The weights or their scores hold nan.
    """

    def __init__(self, kernels: Sequence[Candidate], plan: Plan) -> None:
        self.kernels = tuple(kernels)
        self.plan = plan
        self._layouts = [layout_of(k.layer, k.variable) for k in kernels]
        with scope_of(kernels[0].variable):
            self.step = _variable(np.int64(0))
            self.masks = [_variable(np.ones(k.shape, bool)) for k in kernels]
            self._scores = [
                _variable(np.zeros(kernel.shape, "float32"))
                for kernel in kernels
                if plan.criterion.accumulates
            ]
        # Each replica of a distributed step is traced in a thread of its own.
        self._local = threading.local()
        self._start()

    def _start(self) -> None:
        """Computes and applies the masks that are due before training."""
        for kernel in self.kernels:
            if not np.isfinite(np.asarray(kernel.variable, "float32")).all():
                raise ValueError(
                    "Only finite weights can be ranked. Received: nan or "
                    f"infinity in {kernel.path!r}. Restore weights from before "
                    "the training diverged."
                )
        self._update(self.step.value)
        self._apply()

    def _apply(self) -> None:
        for index, kernel in enumerate(self.kernels):
            kernel.variable.assign(self.masked(index, kernel.variable))

    def _check_finite(self, scores: list[Any]) -> None:
        for kernel, score in zip(self.kernels, scores, strict=True):
            if not np.isfinite(np.asarray(score)).all():
                raise ValueError(
                    "Only finite scores can be ranked. Received: nan or "
                    f"infinity for {kernel.path!r}. Check what the "
                    "`criterion` gives, and `data`."
                )

    def attach(self) -> None:
        """Puts a mask on each kernel, over the user's own constraint."""
        for index, kernel in enumerate(self.kernels):
            inner = kernel.variable.constraint
            kernel.variable.constraint = Mask(self, index, inner)

    def masked(self, index: int, weights: Any) -> Any:
        """Returns a kernel's weights with 0 where its mask is False."""
        weights = ops.convert_to_tensor(weights)
        # Not a product: 0 * nan is nan, and -0.0 is stored as other bits.
        return ops.where(self.masks[index], weights, ops.zeros_like(weights))

    def before_mask(self, index: int) -> None:
        """Counts a step and updates all masks, if it is a round's first mask.

        A round is over when one of its kernels comes again, or another
        function is traced. Told while tracing, so that a compiled step holds
        one update, not one each.
        """
        # Another function's trace is another round: it may be of a second
        # optimizer, with kernels that the first did not train.
        graph = tf.compat.v1.get_default_graph()
        last = getattr(self._local, "graph", lambda: None)
        if last() is graph and index not in self._local.seen:
            self._local.seen.add(index)
            return
        self._local.graph, self._local.seen = weakref.ref(graph), {index}
        if self.plan.criterion.needs_data:
            # The optimizer has just moved the pruned weights, too; what is
            # measured is the network as it is used.
            self._apply()
        step = self.step + 1
        self.step.assign(step)
        self._update(step)

    def _update(self, step: Any) -> None:
        variables = self.masks + self._scores
        before = [ops.convert_to_tensor(v) for v in self._scores]
        plan = self.plan

        def renew() -> list[Any]:
            criterion = plan.criterion
            scores = criterion(self.kernels, plan.calibration, before)
            if tf.executing_eagerly():
                self._check_finite(scores)
            kept = scores if self._scores else []
            if criterion.needs_data and not criterion.accumulates:
                # What is pruned stays so: a unit without weights may still
                # be active by its bias, and no live weight scores below 0.
                scores = [
                    ops.where(mask, score, -1.0)
                    for mask, score in zip(self.masks, scores, strict=True)
                ]
            masks = plan.allocation.masks(
                scores,
                self._layouts,
                plan.structure,
                plan.schedule(step),
                keep_ties=criterion.keeps_ties,
            )
            return masks + kept

        def keep() -> list[Any]:
            return [ops.convert_to_tensor(v) for v in variables]

        # Assigned outside, because a branch must not wait for other replicas.
        values = tf.cond(plan.updates.is_due(step), renew, keep)
        # A frozen kernel's weights would not follow its mask until `strip`.
        frozen = [not kernel.variable.trainable for kernel in self.kernels]
        skip = frozen + [False] * len(self._scores)
        for variable, value, is_frozen in zip(
            variables, values, skip, strict=True
        ):
            if not is_frozen:
                variable.assign(value)

    def save(self, store: Any, prefix: str) -> None:
        """Writes the step, the masks as bits, and scores that accumulate."""
        store[f"{prefix}step"] = np.asarray(self.step)
        for index, mask in enumerate(self.masks):
            store[f"{prefix}mask_{index}"] = np.packbits(np.asarray(mask))
        for index, scores in enumerate(self._scores):
            store[f"{prefix}scores_{index}"] = np.asarray(scores)

    def load(self, store: Any, prefix: str) -> None:
        """Reads what `save` wrote.

        Raises:
            ValueError: It was written by a model that was pruned otherwise.
        """
        masks = [
            (mask, np.asarray(store[name]))
            for index, mask in enumerate(self.masks)
            if (name := f"{prefix}mask_{index}") in store.keys()
        ]
        sizes = [-(-kernel.size // 8) for kernel in self.kernels]
        if [bits.size for _, bits in masks] != sizes:
            raise ValueError(
                "The saved masks must be of the same kernels. Received: masks "
                f"of {[8 * bits.size for _, bits in masks]} weights (rounded "
                f"up to 8) for {[kernel.path for kernel in self.kernels]}. "
                "Call `kdtf.prune` with the arguments of the saved model."
            )
        self.step.assign(np.asarray(store[f"{prefix}step"]))
        for mask, bits in masks:
            shape = tuple(mask.shape)
            flat = np.unpackbits(bits, count=int(np.prod(shape)))
            mask.assign(flat.reshape(shape).astype(bool))
        for index, scores in enumerate(self._scores):
            scores.assign(np.asarray(store[f"{prefix}scores_{index}"]))


class Mask(Attachment):
    """The constraint that keeps a kernel's pruned weights at 0.

    Args:
        group: The group it belongs to.
        index: Its kernel's place in the group.
        inner: The user's own constraint, applied before; or None.
    """

    def __init__(self, group: MaskGroup, index: int, inner: Any) -> None:
        super().__init__(inner)
        self.group = group
        self._index = index

    def __call__(self, w: Any) -> Any:
        """Returns the weights after an optimizer's update, masked."""
        self.group.before_mask(self._index)
        if self.inner is not None:
            w = self.inner(w)
        return self.group.masked(self._index, w)

    def bake(self, variable: Any) -> None:
        """Sets the masked weights to 0 once more."""
        variable.assign(self.group.masked(self._index, variable))


class PruningState(State):
    """All mask groups of a model, saved and loaded with its weights.

    Attributes:
        groups: The kernels of each call of `prune`, with their masks.
        skipped: The weights that are not pruned, each with the reason.
    """

    def __init__(self) -> None:
        super().__init__(name="kdtf_pruning")
        self.groups: list[MaskGroup] = []
        self.skipped: tuple[tuple[Candidate, str], ...] = ()

    def save_own_variables(self, store: Any) -> None:
        """Writes all groups."""
        for index, group in enumerate(self.groups):
            group.save(store, f"group_{index}_")

    def load_own_variables(self, store: Any) -> None:
        """Reads all groups; weights of a dense model leave them as they are."""
        if not store.keys():
            return
        for index, group in enumerate(self.groups):
            group.load(store, f"group_{index}_")


def _variable(value: Any) -> keras.Variable:
    value = np.asarray(value)
    return keras.Variable(
        value,
        trainable=False,
        dtype=value.dtype.name,
        # All replicas compute the same; one of them speaks for all.
        aggregation="only_first_replica",
    )
