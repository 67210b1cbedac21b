"""The `tf_keras` twin of `Distiller`, for students that tfmot has wrapped.

Imported only where a `tf_keras` student is at hand, never by default.
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf
import tf_keras

from kdtf.distillation import checks
from kdtf.distillation.objective import Objective
from kdtf.distillation.targets import split
from kdtf.distillation.teachers import accepts_training
from kdtf.transforms.tfmot_models import fit_with_callbacks

__all__ = ["TfKerasDistiller"]


class _Reduction(tf_keras.losses.Loss):
    """Reduces ready-made values as tf_keras reduces a loss of `y_pred`."""

    # Set as tf_keras sets it on the losses it is compiled with: the mean over
    # one replica's batch is divided by the number of replicas below.
    _allow_sum_over_batch_size = True

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Returns the values, given as `y_true`."""
        del y_pred
        return y_true


@tf_keras.saving.register_keras_serializable("kdtf")
class TfKerasDistiller(tf_keras.Model):
    """Trains a `tf_keras` student on labels and on a teacher's outputs.

    `kdtf.Distiller` returns one when it is handed a `tf_keras` student; the
    arguments, the loss, the history and the errors are the same.

    Args:
        teacher: As in `kdtf.Distiller`; may be a Keras 3 model.
        student: A built `tf_keras` model, possibly wrapped by tfmot.
        alpha: As in `kdtf.Distiller`.
        temperature: As in `kdtf.Distiller`.
        soft_loss: As in `kdtf.Distiller`.
        head: As in `kdtf.Distiller`.
        outputs: As in `kdtf.Distiller`.
        teacher_inputs: As in `kdtf.Distiller`.
        teacher_weights: As in `kdtf.Distiller`.
        mixture: As in `kdtf.Distiller`.
        **kwargs: `name`, for `tf_keras.Model`. `features` and `chunk` are of
            Keras 3 only.

    Raises:
        TypeError: Teacher or student is no Keras model.
        ValueError: A model is not built, shapes differ, or a setting is out
            of range.

    Example:
        >>> import numpy as np
        >>> def mlp(width):
        ...     hidden = tf_keras.layers.Dense(width, "relu", input_shape=(4,))
        ...     return tf_keras.Sequential([hidden, tf_keras.layers.Dense(4)])
        >>> distiller = TfKerasDistiller(mlp(32), mlp(4), alpha=0.0)
        >>> distiller.compile("adam")
        >>> history = distiller.fit(np.eye(4, dtype="float32"), verbose=0)
        >>> sorted(history.history)
        ['loss', 'soft_loss']
    """

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
        teacher_inputs: Callable[[Any], Any] | None = None,
        teacher_weights: Any = None,
        mixture: str = "probabilities",
        **kwargs: Any,
    ) -> None:
        checks.check_keras_3_only(kwargs, student)
        checks.check_model("student", student)
        super().__init__(**kwargs)
        self.student = student
        self._objective = Objective(
            alpha=alpha,
            temperature=temperature,
            soft_loss=soft_loss,
            head=head,
            outputs=outputs,
        )
        self._student_accepts_training = accepts_training(student)
        # Stands after tf_keras's own "loss", which knows the hard part only,
        # and so takes its place in the logs.
        self._total_tracker = tf_keras.metrics.Mean(name="loss")
        self._hard_tracker = tf_keras.metrics.Mean(name="hard_loss")
        self._soft_tracker = tf_keras.metrics.Mean(name="soft_loss")
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
        """Gives a loaded Distiller its teacher back; see `kdtf.Distiller`."""
        self._objective.set_teacher(
            teacher,
            self.student,
            inputs=teacher_inputs,
            weights=teacher_weights,
            mixture=mixture,
        )
        self.train_function = None

    def compile(
        self, optimizer: Any = "rmsprop", loss: Any = None, **kwargs: Any
    ) -> None:
        """Takes the hard loss and what else `tf_keras` takes."""
        self._objective.check_compile(self.student, loss)
        super().compile(optimizer=optimizer, loss=loss, **kwargs)

    def fit(self, *args: Any, **kwargs: Any) -> Any:
        """Trains as in `tf_keras`, and prunes a student that tfmot wraps."""
        return fit_with_callbacks(super().fit, self.student, *args, **kwargs)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Returns the student's outputs for `inputs`."""
        inputs, _ = split(inputs)
        if self._student_accepts_training:
            return self.student(inputs, training=training)
        return self.student(inputs)

    def train_step(self, data: Any) -> Any:
        """Takes one step on the hard and the soft loss; returns the logs."""
        x, y, weight = tf_keras.utils.unpack_x_y_sample_weight(data)
        step = self.optimizer.iterations
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            hard = self._hard_loss(x, y, y_pred, weight)
            soft = self._soft_loss(x, y, y_pred, weight, step)
            loss = self._objective.combine(hard, soft, step=step)
            loss = self._with_penalties(loss, x)
        self.optimizer.minimize(loss, self.trainable_variables, tape=tape)
        return self.compute_metrics(x, y, y_pred, weight)

    def test_step(self, data: Any) -> Any:
        """Returns the student's own results; the teacher does not run."""
        x, y, weight = tf_keras.utils.unpack_x_y_sample_weight(data)
        y_pred = self(x, training=False)
        self._with_penalties(self._hard_loss(x, y, y_pred, weight), x)
        logs = self.compute_metrics(x, y, y_pred, weight)
        logs.pop("soft_loss", None)
        return logs

    def get_metrics_result(self) -> dict[str, Any]:
        """Returns the logs, without a hard loss if none was compiled."""
        logs = super().get_metrics_result()
        if not self.loss:
            logs.pop("hard_loss", None)
        return logs

    def _hard_loss(self, x: Any, y: Any, y_pred: Any, weight: Any) -> Any:
        if not self._objective.has_labels(y) or not self.loss:
            return None
        hard = self.compiled_loss(y, y_pred, weight)
        self._track(self._hard_tracker, hard, x)
        return hard

    def _soft_loss(
        self, x: Any, y: Any, y_pred: Any, weight: Any, step: Any
    ) -> Any:
        values = self._objective.soft_values(
            self.student,
            x,
            y_pred,
            labels=y,
            loss=self.loss or None,
            step=step,
        )
        reduction = getattr(self.loss, "reduction", "auto")
        if reduction in ("auto", "none"):
            reduction = "sum_over_batch_size"
        reduce = _Reduction(name="soft_loss", reduction=reduction)
        soft = reduce(values, y_pred, weight)
        soft /= tf.distribute.get_strategy().num_replicas_in_sync
        self._track(self._soft_tracker, soft, x)
        return soft

    def _with_penalties(self, loss: Any, x: Any) -> Any:
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        total = loss + sum(self.losses) / replicas
        self._track(self._total_tracker, total, x)
        return total

    def _track(self, tracker: Any, loss: Any, x: Any) -> None:
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        first = tf.nest.flatten(x)[0]
        tracker.update_state(loss * replicas, sample_weight=tf.shape(first)[0])

    def get_config(self) -> dict[str, Any]:
        """Returns the settings and the student; never the teacher."""
        student = tf_keras.saving.serialize_keras_object(self.student)
        return {
            "name": self.name,
            "student": student,
            **self._objective.get_config(),
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: Any = None
    ) -> "TfKerasDistiller":
        """Returns the Distiller that `get_config` described, teacherless."""
        student = tf_keras.saving.deserialize_keras_object(
            config["student"], custom_objects=custom_objects
        )
        settings = Objective.deserialize(config)
        return cls(None, student, name=config["name"], **settings)
