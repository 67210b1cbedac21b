"""`Distiller`: a Keras model that trains a student from a teacher."""

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from kdtf import flavours
from kdtf.distillation import checks
from kdtf.distillation import workers
from kdtf.distillation.features import FeatureMatcher
from kdtf.distillation.features import padding_mask_of
from kdtf.distillation.heads import head_of
from kdtf.distillation.objective import Objective
from kdtf.distillation.targets import split
from kdtf.distillation.teachers import accepts_training
from kdtf.transforms import attach

__all__ = ["Distiller"]


class _Reduction(keras.losses.Loss):
    """Reduces ready-made values as Keras reduces a loss of `y_pred`.

    A `Loss`, so that sample weights, the mask on `y_pred`, the choice of mean
    or sum and the scaling over replicas are Keras's own.
    """

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Returns the values, given as `y_true`."""
        del y_pred
        return y_true


@keras.saving.register_keras_serializable("kdtf")
class Distiller(workers.Replicated, keras.Model):
    """Trains a student on labels and on a teacher's outputs, by `fit`.

    L = alpha * L_hard + (1 - alpha) * L_soft, where L_hard is the loss given
    to `compile` and L_soft = T^2 * KL(softmax(teacher/T) || softmax(student/T))
    or another divergence. Penalties (regularizers, `add_loss`) are added once,
    as Keras does. The teacher runs in inference mode and is neither trained,
    nor tracked, nor saved; `evaluate` and `predict` are the student's own and
    do not run it, so `val_loss` is the student's task loss.

    The soft loss is weighted, masked and averaged exactly as the hard one:
    with `sample_weight`, `class_weight` and Keras masks, and with the hard
    loss's `reduction`. keras-nlp hands padding over as sample weights, which
    Keras divides by *all* tokens; for the mean over the real ones compile with
    `SparseCategoricalCrossentropy(..., reduction="mean_with_sample_weight")`.

    A `tf_keras` student gets a `tf_keras` twin of this class with the same
    arguments, so that tfmot's wrappers can be distilled into.

    Hidden states, attention and the like are matched with `features`: the
    total is L + sum of weight * feature loss. They are recorded in the same
    forward pass that gives the outputs.

    Args:
        teacher: A built Keras 3 or `tf_keras` model with the student's
            output shape; a list or dict of several, which are mixed; or a
            `TeacherCache`, then train on `cache.attach(dataset)` and no
            teacher is loaded. None after loading, see `set_teacher`.
        student: The built model to train, changed in place.
        alpha: Weight of the hard loss, in [0, 1]; number or schedule of the
            optimizer's step. With 0, `fit` needs no labels. Defaults to 0.1.
        temperature: T > 0; number or schedule. Defaults to 4.0.
        soft_loss: "kl", "reverse_kl", "jensen_shannon", "mse", or a function
            as in `kdtf.distillation.losses`. Defaults to "kl".
        head: "softmax" where classes exclude each other, "sigmoid" where each
            output stands alone (binary, multi-label). "auto", the default,
            goes by the last activation, one single output, or a binary loss.
        outputs: "logits" or "probabilities", or a pair for (teacher, student).
            "auto", the default, finds it from the last activation, so that
            nothing is softmaxed twice.
        features: Terms such as `HiddenStates(layers="uniform")` of
            `kdtf.distillation`. Defaults to none.
        teacher_inputs: Maps the student's inputs to the teacher's, inside the
            training step. Defaults to the same inputs.
        teacher_weights: Of several teachers: positive numbers, or a function
            of the student's inputs that gives weights `(batch, teachers)`,
            one-hot to choose a teacher per example. Defaults to all alike.
        mixture: Where several teachers are averaged: "probabilities", at the
            temperature, or "logits". Defaults to "probabilities".
        chunk: For large vocabularies: how many tokens' logits exist at a
            time in a training step, made again for the gradient. Student and
            teacher must end in their output projection, as keras-nlp's
            language models do. Compiled metrics then show in `evaluate`
            only, which makes all logits. Defaults to all tokens at once.
        **kwargs: `name` and the like, for `keras.Model`.

    Raises:
        TypeError: Teacher or student is no Keras model.
        ValueError: A model is not built, shapes differ, or a setting is out
            of range.

    Example:
        >>> import numpy as np
        >>> x, y = np.eye(4, dtype="float32"), np.arange(4)
        >>> def mlp(width):
        ...     hidden = keras.layers.Dense(width, activation="relu")
        ...     logits = keras.layers.Dense(4)
        ...     return keras.Sequential([keras.Input((4,)), hidden, logits])
        >>> distiller = Distiller(mlp(32), mlp(4), alpha=0.1, temperature=4.0)
        >>> loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        >>> distiller.compile("adam", loss=loss, metrics=["accuracy"])
        >>> history = distiller.fit(x, y, verbose=0)
        >>> sorted(history.history)
        ['accuracy', 'hard_loss', 'loss', 'soft_loss']

    Reference:
        Hinton et al. 2015, https://arxiv.org/abs/1503.02531
    """

    def __new__(
        cls, teacher: Any = None, student: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        """Gives the `tf_keras` twin for a `tf_keras` student."""
        if flavours.is_tf_keras_model(student):
            from kdtf.distillation.tf_keras_distiller import TfKerasDistiller

            return TfKerasDistiller(teacher, student, *args, **kwargs)
        return super().__new__(cls)

    def __init__(
        self,
        teacher: Any,
        student: Any,
        *,
        alpha: Any = 0.1,
        temperature: Any = 4.0,
        soft_loss: Any = "kl",
        head: str = "auto",
        outputs: Any = "auto",
        features: Sequence[Any] = (),
        teacher_inputs: Callable[[Any], Any] | None = None,
        teacher_weights: Any = None,
        mixture: str = "probabilities",
        chunk: int | None = None,
        **kwargs: Any,
    ) -> None:
        widths = kwargs.pop("_feature_widths", None)
        checks.check_model("student", student)
        workers.check_scope(student)
        # Keras decides on loss scaling by the dtype policy of the model that
        # is compiled. Inputs must reach teacher and student as they are.
        kwargs.setdefault("dtype", _training_policy(student))
        super().__init__(autocast=False, **kwargs)
        self.student = student
        self._objective = Objective(
            alpha=alpha,
            temperature=temperature,
            soft_loss=soft_loss,
            head=head,
            outputs=outputs,
        )
        self.chunk = chunk
        self._head = None if chunk is None else head_of(student)
        self._student_accepts_training = accepts_training(student)
        self._stamp: tuple[int, ...] = ()
        self._hard_tracker = keras.metrics.Mean(name="hard_loss")
        self._soft_tracker = keras.metrics.Mean(name="soft_loss")
        self._in_training = False
        self._matcher = _matcher(features, student, teacher, widths)
        self._feature_trackers = {}
        if self._matcher is not None:
            # Named here, so that Keras trains and saves them.
            self.projections = self._matcher.projections
            self._feature_trackers = {
                name: keras.metrics.Mean(name=name)
                for name in self._matcher.terms
            }
        self.built = True
        if teacher is not None:
            self.set_teacher(
                teacher,
                teacher_inputs=teacher_inputs,
                teacher_weights=teacher_weights,
                mixture=mixture,
            )

    @property
    def teacher(self) -> Any:
        """What was given as teacher, or None where none was since loading."""
        teaching = self._objective.teaching
        return None if teaching is None else teaching.given

    def set_teacher(
        self,
        teacher: Any,
        *,
        teacher_inputs: Callable[[Any], Any] | None = None,
        teacher_weights: Any = None,
        mixture: str = "probabilities",
    ) -> None:
        """Gives a loaded Distiller its teacher back, to go on with `fit`.

        Args:
            teacher: As in the constructor.
            teacher_inputs: As in the constructor.
            teacher_weights: As in the constructor.
            mixture: As in the constructor.

        Raises:
            TypeError: `teacher` is no Keras model.
            ValueError: It is not built, or its output shape differs.
        """
        self._objective.set_teacher(
            teacher,
            self.student,
            inputs=teacher_inputs,
            weights=teacher_weights,
            mixture=mixture,
            in_chunks=self.chunk is not None,
        )
        if self._matcher is not None:
            self._matcher.set_teacher(teacher)
        # The compiled step has the former teacher in it.
        self.train_function = None

    def compile(
        self, optimizer: Any = "rmsprop", loss: Any = None, **kwargs: Any
    ) -> None:
        """Takes the hard loss and what else `keras.Model.compile` takes.

        Args:
            optimizer: Name or optimizer, for the student's weights.
            loss: The hard loss; may be left out with `alpha=0`.
            **kwargs: `metrics` and so on.

        Raises:
            ValueError: The loss is missing, or takes logits for
                probabilities.
        """
        self._objective.check_compile(self.student, loss)
        super().compile(optimizer=optimizer, loss=loss, **kwargs)

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compiles a loaded Distiller as the saved one was compiled."""
        settings = keras.saving.deserialize_keras_object(config)
        self.compile(**settings)
        if self.optimizer is not None:
            self.optimizer.build(self.trainable_variables)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Returns the student's outputs for `inputs`."""
        inputs, _ = split(inputs)
        if not training or self._matcher is None:
            return self._run_student(inputs, training)
        with self._matcher.capture_student() as records:
            outputs = self._run_student(inputs, training)
        # Used up by `compute_loss`, in the same trace.
        object.__setattr__(self, "_records", records)
        return outputs

    def _run_student(self, inputs: Any, training: bool | None) -> Any:
        """Returns its outputs, or in a step of chunks its hidden states."""
        if training and self._head is not None:
            return self._head.hidden(inputs, training=True)
        if self._student_accepts_training:
            return self.student(inputs, training=training)
        return self.student(inputs)

    def make_train_function(self, force: bool = False) -> Any:
        """Compiles the training step, anew if the student was changed since.

        A step knows the masks and grids that stood on the student's weights
        when it was compiled.
        """
        stamp = attach.stamp(self.student)
        changed = stamp != self._stamp
        self._stamp = stamp
        return super().make_train_function(force=force or changed)

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
        step = 0 if self.optimizer is None else self.optimizer.iterations
        if self._head is not None:
            hard, soft = self._losses_in_chunks(x, y, y_pred, weight, step)
        else:
            hard = self._hard_loss(x, y, y_pred, weight)
            soft = self._soft_loss(x, y, y_pred, weight, step)
        return self._objective.combine(hard, soft, step=step)

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
        learned = self.__dict__.pop("_records")
        values = matcher.values(
            learned, taught, padding_mask=padding_mask_of(x)
        )
        step = 0 if self.optimizer is None else self.optimizer.iterations
        weights = matcher.weights(step)
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
            hard = keras.losses.get(self.loss).call
        values = self._objective.in_chunks(
            x,
            hidden,
            self._head,
            labels=y,
            hard=hard,
            step=step,
            chunk=self.chunk or 1,
        )
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
        if self._head is None or not self._in_training:
            return super().compute_metrics(x, y, y_pred, sample_weight)
        return self._results_without_metrics()

    def train_step(self, data: Any) -> Any:
        """Takes a step, and knows meanwhile that it is one of training."""
        object.__setattr__(self, "_in_training", True)
        try:
            return super().train_step(data)
        finally:
            object.__setattr__(self, "_in_training", False)

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

    def save_own_variables(self, store: Any) -> None:
        """Saves the student's random state, which Keras leaves out.

        With it a resumed training drops the same units as one that was never
        interrupted.
        """
        for index, seed in enumerate(self._random_states()):
            store[f"random_state_{index}"] = seed

    def load_own_variables(self, store: Any) -> None:
        """Loads what `save_own_variables` saved."""
        for index, seed in enumerate(self._random_states()):
            seed.assign(store[f"random_state_{index}"])

    def _random_states(self) -> list[Any]:
        weights = {id(v) for v in self.student.weights}
        return [v for v in self.student.variables if id(v) not in weights]

    def get_config(self) -> dict[str, Any]:
        """Returns the settings and the student; never the teacher."""
        student = keras.saving.serialize_keras_object(self.student)
        return {
            "name": self.name,
            "student": student,
            "chunk": self.chunk,
            "features": self._matcher and self._matcher.get_config(),
            **self._objective.get_config(),
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: Any = None
    ) -> "Distiller":
        """Returns the Distiller that `get_config` described, teacherless."""
        student = keras.saving.deserialize_keras_object(
            config["student"], custom_objects=custom_objects
        )
        settings = Objective.deserialize(config)
        features = config["features"] or {"terms": [], "widths": None}
        return cls(
            None,
            student,
            name=config["name"],
            chunk=config["chunk"],
            features=[
                keras.saving.deserialize_keras_object(
                    term, custom_objects=custom_objects
                )
                for term in features["terms"]
            ],
            _feature_widths=features["widths"],
            **settings,
        )


def _matcher(
    features: Sequence[Any], student: Any, teacher: Any, widths: Any
) -> FeatureMatcher | None:
    """Returns what computes the features' losses, or None without any."""
    if not features:
        return None
    if teacher is not None and not hasattr(teacher, "layers"):
        raise ValueError(
            "`features` are matched with one live teacher. Received: a "
            f"teacher of type {type(teacher).__name__}. Train with the model "
            "first, and go on from the cache; or leave the features out."
        )
    return FeatureMatcher(
        features, student=student, teacher=teacher, widths=widths
    )


def _training_policy(student: Any) -> Any:
    """Returns float16's policy if any layer trains in it, else the model's."""
    for layer in student._flatten_layers():
        policy = getattr(layer, "dtype_policy", None)
        if getattr(policy, "name", "") == "mixed_float16":
            return policy
    return student.dtype_policy
