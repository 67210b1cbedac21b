"""`Distiller`: a Keras model that trains a student from a teacher."""

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import keras

from kdtf import flavours
from kdtf.distillation import checks
from kdtf.distillation import workers
from kdtf.distillation.features import FeatureMatcher
from kdtf.distillation.heads import head_of
from kdtf.distillation.objective import Objective
from kdtf.distillation.step import Step
from kdtf.transforms import attach

__all__ = ["Distiller"]


@keras.saving.register_keras_serializable("kdtf")
class Distiller(Step, keras.Model):
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
        checks.check_model("student", student)
        checks.check_chunk(chunk)
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
        self._stamp: tuple[int, ...] = ()
        self._prepare(chunk, _matcher(features, student, teacher))
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
        former = self._objective.teaching
        self._objective.set_teacher(
            teacher,
            self.student,
            inputs=teacher_inputs,
            weights=teacher_weights,
            mixture=mixture,
            in_chunks=self.chunk is not None,
        )
        if self._matcher is not None:
            try:
                self._matcher.set_teacher(teacher)
            except (TypeError, ValueError):
                self._objective.teaching = former
                raise
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

    def make_train_function(self, force: bool = False) -> Any:
        """Compiles the training step, anew if the student was changed since.

        A step knows the masks and grids that stood on the student's weights
        when it was compiled.
        """
        stamp = attach.stamp(self.student)
        changed = stamp != self._stamp
        self._stamp = stamp
        if changed and self.chunk is not None:
            self._head = head_of(self.student)
        return super().make_train_function(force=force or changed)

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
        # Files of earlier versions have neither features nor a chunk.
        features: Any = config.get("features") or ()
        if features:
            with keras.saving.custom_object_scope(custom_objects or {}):
                features = FeatureMatcher.from_config(features, student=student)
        return cls(
            None,
            student,
            name=config["name"],
            chunk=config.get("chunk"),
            features=features,
            **settings,
        )


def _matcher(
    features: Any, student: Any, teacher: Any
) -> FeatureMatcher | None:
    """Returns what computes the features' losses, or None without any."""
    if isinstance(features, FeatureMatcher):
        # Of a loaded Distiller: it knows the projections' widths.
        return features
    if not features:
        return None
    if teacher is not None and not hasattr(teacher, "layers"):
        raise ValueError(
            "`features` are matched with one live teacher. Received: a "
            f"teacher of type {type(teacher).__name__}. Train with the model "
            "first, and go on from the cache; or leave the features out."
        )
    return FeatureMatcher(features, student=student, teacher=teacher)


def _training_policy(student: Any) -> Any:
    """Returns float16's policy if any layer trains in it, else the model's."""
    for layer in student._flatten_layers():
        policy = getattr(layer, "dtype_policy", None)
        if getattr(policy, "name", "") == "mixed_float16":
            return policy
    return student.dtype_policy
