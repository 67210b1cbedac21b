"""A training step of a `Distiller`: who runs, and the losses that follow."""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from kdtf.distillation import workers
from kdtf.distillation.features import FeatureMatcher
from kdtf.distillation.features import padding_mask_of
from kdtf.distillation.heads import Head
from kdtf.distillation.heads import head_of
from kdtf.distillation.objective import Objective
from kdtf.distillation.targets import split
from kdtf.distillation.teachers import accepts_training

__all__ = ["Step"]


@contextlib.contextmanager
def _once_it_is_there(batch: Any) -> Iterator[None]:
    """Lets operations wait for the whole batch.

    Else TensorFlow may count the step, and decay weights, while
    `on_policy_dataset` still writes the batch with those weights.
    """

    def at_once(create: Any, **kwargs: Any) -> Any:
        # A variable that is made here must not wait: it comes before all.
        with tf.control_dependencies(None):
            return create(**kwargs)

    values = tf.nest.flatten(batch, expand_composites=True)
    tensors = [value for value in values if tf.is_tensor(value)]
    with tf.control_dependencies(tensors), tf.variable_creator_scope(at_once):
        yield


class _Reduction(keras.losses.Loss):
    """Reduces ready-made values as Keras reduces a loss of `y_pred`.

    A `Loss`, so that sample weights, the mask on `y_pred`, the choice of mean
    or sum and the scaling over replicas are Keras's own.
    """

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Returns the values, given as `y_true`."""
        del y_pred
        return y_true


class Step(workers.Replicated):
    """What a `Distiller` does with a batch; goes before `keras.Model`."""

    student: Any
    chunk: int | None
    _objective: Objective
    _head: Head | None
    _matcher: FeatureMatcher | None
    _training: set[int]
    _records: dict[int, Any]

    def _prepare(
        self, chunk: int | None, matcher: FeatureMatcher | None
    ) -> None:
        """Makes what steps need: the trackers, the head, the projections."""
        self._head = None if chunk is None else head_of(self.student)
        self._matcher = matcher
        # By thread: replicas take their steps in turn, each in its own.
        # Set past Keras, which would track what is put in.
        object.__setattr__(self, "_training", set())
        object.__setattr__(self, "_records", {})
        self._student_accepts_training = accepts_training(self.student)
        self._hard_tracker = keras.metrics.Mean(name="hard_loss")
        self._soft_tracker = keras.metrics.Mean(name="soft_loss")
        self._feature_trackers = {}
        if matcher is not None:
            # An attribute, so that Keras trains and saves them.
            self.projections = matcher.projections
            self._feature_trackers = {
                name: keras.metrics.Mean(name=name) for name in matcher.terms
            }

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Returns the student's outputs for `inputs`."""
        inputs, _ = split(inputs)
        if not training or self._matcher is None:
            return self._run_student(inputs, training)
        with self._matcher.capture_student() as records:
            outputs = self._run_student(inputs, training)
        # Used up by `compute_loss`, in the same trace.
        self._records[threading.get_ident()] = records
        return outputs

    def _run_student(self, inputs: Any, training: bool | None) -> Any:
        """Returns its outputs, or in a step of chunks its hidden states."""
        if training and self._head is not None:
            return self._head.hidden(inputs, training=True)
        if self._student_accepts_training:
            return self.student(inputs, training=training)
        return self.student(inputs)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """Returns the loss to minimise, or when testing the student's own.

        Args:
            x: The student's inputs.
            y: Labels, or None where only the teacher teaches.
            y_pred: The student's outputs for `x`.
            sample_weight: Weights that broadcast to the loss values.
            training: False leaves the teacher out.

        Returns:
            A float32 scalar.

        Raises:
            ValueError: No teacher is set, labels are missing, or the outputs
                of the two models do not fit.
        """
        if training:

            def run() -> Any:
                return self._training_loss(x, y, y_pred, sample_weight)

            if self._matcher is None:
                loss = run()
            else:
                loss = self._with_features(self._matcher, run, x, sample_weight)
        else:
            loss = self._hard_loss(x, y, y_pred, sample_weight)
        if loss is None:
            raise ValueError(
                "`evaluate` gives the student's own loss, which needs a "
                "`loss` in `compile` and labels. Received: none."
            )
        # Penalties are not the labels' business: alpha must not weaken them.
        penalties = [self._aggregate_additional_loss(p) for p in self.losses]
        return ops.sum([loss, *penalties]) if penalties else loss

    def _training_loss(self, x: Any, y: Any, y_pred: Any, weight: Any) -> Any:
        step = self._step
        if self._head is not None:
            hard, soft = self._losses_in_chunks(x, y, y_pred, weight, step)
        else:
            hard = self._hard_loss(x, y, y_pred, weight)
            soft = self._soft_loss(x, y, y_pred, weight, step)
        return self._objective.combine(hard, soft, step=step)

    @property
    def _step(self) -> Any:
        """The optimizer's step, for schedules."""
        return 0 if self.optimizer is None else self.optimizer.iterations

    def _with_features(
        self, matcher: FeatureMatcher, run: Any, x: Any, weight: Any
    ) -> Any:
        """Returns a loss and those of the features together.

        Args:
            matcher: Records them, and compares.
            run: Gives the loss, running the teacher on the way.
            x: The student's inputs.
            weight: Of the samples.
        """
        with matcher.capture_teacher() as taught:
            loss = run()
        learned = self._records.pop(threading.get_ident())
        values = matcher.values(
            learned, taught, padding_mask=padding_mask_of(split(x)[0])
        )
        weights = matcher.weights(self._step)
        if weight is not None and len(weight.shape) > 1:
            # Of tokens: a sample counts as much as its tokens do.
            axes = tuple(range(1, len(weight.shape)))
            weight = ops.mean(ops.cast(weight, "float32"), axis=axes)
        for name, own in values.items():
            tracker = self._feature_trackers[name]
            loss += weights[name] * self._reduced(own, own, weight, tracker, x)
        return loss

    def _hard_loss(self, x: Any, y: Any, y_pred: Any, weight: Any) -> Any:
        if not self._objective.has_labels(y) or self._compile_loss is None:
            return None
        hard = self._part_of_loss(
            self._compile_loss(y, y_pred, weight),
            y_pred[..., 0],
            y_pred,
            weight,
        )
        self._track(self._hard_tracker, hard, x)
        return hard

    def _soft_loss(
        self, x: Any, y: Any, y_pred: Any, weight: Any, step: Any
    ) -> Any:
        loss = self._compile_loss and self.loss
        values = self._objective.soft_values(
            self.student, x, y_pred, labels=y, loss=loss, step=step
        )
        return self._reduced(values, y_pred, weight, self._soft_tracker, x)

    def _losses_in_chunks(
        self, x: Any, y: Any, hidden: Any, weight: Any, step: Any
    ) -> tuple[Any, Any]:
        hard = None
        if self._objective.has_labels(y) and self._compile_loss is not None:
            hard = keras.losses.get(self.loss)
            hard = getattr(hard, "call", hard)
        values = self._objective.in_chunks(
            x,
            hidden,
            self._head,
            labels=y,
            hard=hard,
            loss=self._compile_loss and self.loss,
            step=step,
            chunk=self.chunk,
        )
        ignored = getattr(self.loss, "ignore_class", None)
        if hard is not None and ignored is not None:
            # Keras leaves them out by a mask on the values.
            counts = ops.reshape(y, ops.shape(values["hard"])) != ignored
            values["hard"]._keras_mask = counts
        trackers = {"hard": self._hard_tracker, "soft": self._soft_tracker}
        found = {
            name: self._reduced(own, hidden, weight, trackers[name], x)
            for name, own in values.items()
        }
        return found.get("hard"), found["soft"]

    def _reduced(
        self, values: Any, y_pred: Any, weight: Any, tracker: Any, x: Any
    ) -> Any:
        """Returns one number of many, as Keras does for the hard loss."""
        reduce = _Reduction(
            name=tracker.name, reduction=self._reduction, dtype="float32"
        )
        loss = reduce(values, y_pred, sample_weight=weight)
        loss = self._part_of_loss(loss, values, y_pred, weight)
        self._track(tracker, loss, x)
        return loss

    @property
    def _reduction(self) -> str:
        reduction = getattr(self.loss, "reduction", None)
        return (
            "sum_over_batch_size" if reduction in (None, "none") else reduction
        )

    def _part_of_loss(
        self, loss: Any, values: Any, y_pred: Any, weight: Any
    ) -> Any:
        return workers.part_of_loss(
            loss,
            values,
            y_pred,
            sample_weight=weight,
            reduction=self._reduction,
        )

    def _track(self, tracker: Any, loss: Any, x: Any) -> None:
        # Weighted by batch size as Keras weights its own loss, and undoing
        # the division by replicas that every reduced loss went through.
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        first = next(v for v in keras.tree.flatten(x) if v is not None)
        tracker.update_state(loss * replicas, sample_weight=ops.shape(first)[0])

    def compute_metrics(
        self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None
    ) -> dict[str, Any]:
        """Returns the logs of a step, without metrics where no logits are."""
        if self._head is None or threading.get_ident() not in self._training:
            return super().compute_metrics(x, y, y_pred, sample_weight)
        return self._results_without_metrics()

    def train_step(self, data: Any) -> Any:
        """Takes a step, and knows meanwhile that it is one of training."""
        self._training.add(threading.get_ident())
        try:
            with _once_it_is_there(data):
                return super().train_step(data)
        finally:
            self._training.discard(threading.get_ident())

    def get_metrics_result(self) -> dict[str, Any]:
        """Returns the logs, without a hard loss if none was compiled."""
        compiled = self._compile_metrics
        if compiled is not None and not compiled.built:
            return self._results_without_metrics()
        return self._without_hard_loss(super().get_metrics_result())

    def _results_without_metrics(self) -> dict[str, Any]:
        others = [m for m in self.metrics if m is not self._compile_metrics]
        return self._without_hard_loss({m.name: m.result() for m in others})

    def _without_hard_loss(self, logs: dict[str, Any]) -> dict[str, Any]:
        if self._compile_loss is None:
            logs.pop("hard_loss", None)
        return logs

    def test_step(self, data: Any) -> Any:
        """Returns the student's own results: there is no soft loss in them."""
        logs = super().test_step(data)
        for name in ("soft_loss", *self._feature_trackers):
            logs.pop(name, None)
        return logs
