"""What a Distiller minimises, for either flavour of Keras.

L = alpha * L_hard + (1 - alpha) * L_soft. The hard loss is Keras's business;
here is the soft one, and how the two are joined at a training step.
"""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from kdtf import schedules
from kdtf.distillation import checks
from kdtf.distillation import losses
from kdtf.distillation import outputs as outputs_module
from kdtf.distillation.outputs import OutputKind
from kdtf.distillation.teachers import ModelTeacher

__all__ = ["Objective"]

_SETTINGS = ("alpha", "temperature", "soft_loss")


class Objective:
    """Holds a distillation's settings and its teacher, and computes the loss.

    Not a Keras object, so that the Distiller that holds one neither tracks
    nor saves nor trains the teacher.

    Args:
        alpha: Weight of the hard loss, in [0, 1]; number or schedule.
        temperature: T > 0; number or schedule.
        soft_loss: A key of `losses.LOSSES`, or a function.
        head: "auto", "softmax" or "sigmoid".
        outputs: What the models return: "auto", "logits", "probabilities", or
            a pair of these for (teacher, student).

    Raises:
        TypeError: A number is neither a number nor a schedule.
        ValueError: A value out of range, or an unknown name.
    """

    def __init__(
        self,
        *,
        alpha: Any,
        temperature: Any,
        soft_loss: Any,
        head: str,
        outputs: Any,
    ) -> None:
        self.alpha = schedules.get(alpha, argument="alpha")
        self.temperature = schedules.get(temperature, argument="temperature")
        low, high = self.alpha.bounds()
        if not 0.0 <= low <= high <= 1.0:
            raise ValueError(
                "`alpha` is the weight of the hard loss and must stay in "
                f"[0, 1]. Received: alpha={alpha!r}. Use 0 for the teacher "
                "alone and 1 for the labels alone."
            )
        if not self.temperature.bounds()[0] > 0.0:
            raise ValueError(
                "`temperature` must be positive. Received: "
                f"temperature={temperature!r}. 1 leaves the outputs as they "
                "are; 2 to 20 is usual."
            )
        checks.check_choice("head", head, ("auto", "softmax", "sigmoid"))
        self.head = head
        self.soft_loss = soft_loss
        self._loss_function = losses.get(soft_loss)
        self.outputs = _pair_of_outputs(outputs)
        self.teacher: ModelTeacher | None = None
        self._kinds: tuple[OutputKind, OutputKind] | None = None

    def set_teacher(
        self, model: Any, student: Any, inputs: Callable[[Any], Any] | None
    ) -> None:
        """Takes `model` as the teacher of `student`, after checking it."""
        checks.check_model("teacher", model)
        checks.check_class_counts(
            outputs_module.output_shape(model),
            outputs_module.output_shape(student),
        )
        self.teacher = ModelTeacher(model, inputs=inputs)
        self._kinds = None

    def check_compile(self, student: Any, loss: Any) -> None:
        """Raises if `loss` cannot be the student's hard loss."""
        if isinstance(loss, (dict, list, tuple)):
            raise ValueError(
                "`loss` must be the one hard loss of the student's one output. "
                f"Received: loss={loss!r}."
            )
        if loss is None and self._needs_labels:
            raise ValueError(
                "`alpha` gives the hard loss a weight, so `compile` needs a "
                f"`loss`. Received: loss=None, alpha={self.alpha}. Use "
                "`alpha=0` to learn from the teacher alone."
            )
        # Another activation, or one not known yet, is checked when it runs.
        activation = outputs_module.last_activation(student)
        if activation == "linear" and self.outputs[1] == "auto":
            checks.check_hard_loss(loss, "logits")
        self._kinds = None

    def has_labels(self, labels: Any) -> bool:
        """Returns whether there are labels; raises if they are needed."""
        if labels is None and self._needs_labels:
            raise ValueError(
                "`alpha` gives the hard loss a weight, so `fit` needs labels. "
                "Received: y=None. Use `alpha=0` to learn from the teacher "
                "alone."
            )
        return labels is not None

    @property
    def _needs_labels(self) -> bool:
        return self.alpha.bounds()[1] > 0.0

    def soft_values(
        self, student: Any, x: Any, y_pred: Any, *, loss: Any, step: Any
    ) -> Any:
        """Runs the teacher and returns each sample's soft loss.

        Args:
            student: The model that gave `y_pred`.
            x: The student's inputs.
            y_pred: The student's outputs, `(batch, ..., classes)`.
            loss: The hard loss, a hint to the kind of head.
            step: The optimizer's step, for schedules.

        Returns:
            A float32 tensor of shape `(batch, ...)`.

        Raises:
            ValueError: There is no teacher, or the outputs do not fit.
        """
        if self.teacher is None:
            raise ValueError(
                "This Distiller has no teacher: it is not saved with one. "
                "Received: teacher=None. Call `distiller.set_teacher(teacher)` "
                "before `fit`."
            )
        taught = self.teacher(x)
        if self._kinds is None:
            self._kinds = self._find_kinds(student, x, taught, y_pred, loss)
        teacher_kind, student_kind = self._kinds
        return losses.per_sample(
            self._loss_function,
            outputs_module.to_logits(taught, teacher_kind),
            outputs_module.to_logits(y_pred, student_kind),
            temperature=self.temperature(step),
            head=student_kind.head,
        )

    def combine(self, hard: Any, soft: Any, *, step: Any) -> Any:
        """Returns alpha * hard + (1 - alpha) * soft; without labels, soft."""
        if hard is None:
            return soft
        alpha = self.alpha(step)
        return alpha * ops.cast(hard, "float32") + (1.0 - alpha) * soft

    def _find_kinds(
        self, student: Any, x: Any, taught: Any, y_pred: Any, loss: Any
    ) -> tuple[OutputKind, OutputKind]:
        """Finds out, once, what the two models' outputs mean."""
        checks.check_class_counts(taught.shape, y_pred.shape)
        made = (
            (self.teacher.model, self.teacher, taught),  # type: ignore[union-attr]
            (student, student, y_pred),
        )
        activations = [
            outputs_module.last_activation(model)
            or outputs_module.find_activation(run, x, outputs)
            for model, run, outputs in made
        ]
        roles = ("teacher", "student")
        values: list[Any] = [
            declared if declared != "auto" else _values(role, activation)
            for role, declared, activation in zip(
                roles, self.outputs, activations, strict=True
            )
        ]
        checks.check_hard_loss(loss, values[1])
        single = y_pred.shape[-1] == 1 or checks.is_binary_loss(loss)
        head = self._head(activations, "sigmoid" if single else "softmax")
        teacher, student = (OutputKind(values=v, head=head) for v in values)
        return teacher, student

    def _head(self, activations: list[str | None], otherwise: str) -> Any:
        if self.head != "auto":
            return self.head
        heads = {a for a in activations if a in ("softmax", "sigmoid")}
        if len(heads) > 1:
            raise ValueError(
                "Teacher and student must end in the same kind of head. "
                f"Received: the teacher ends in {activations[0]}, the student "
                f"in {activations[1]}. If one of them is right for both, say "
                "`head='softmax'` or `head='sigmoid'`."
            )
        return heads.pop() if heads else otherwise

    def get_config(self) -> dict[str, Any]:
        """Returns the settings as plain data; the teacher is not in them."""
        settings = {
            name: keras.saving.serialize_keras_object(getattr(self, name))
            for name in _SETTINGS
        }
        return {**settings, "head": self.head, "outputs": list(self.outputs)}

    @staticmethod
    def deserialize(config: dict[str, Any]) -> dict[str, Any]:
        """Returns the arguments that `get_config` described."""
        settings = {
            name: keras.saving.deserialize_keras_object(config[name])
            for name in _SETTINGS
        }
        return {
            **settings,
            "head": config["head"],
            "outputs": config["outputs"],
        }


def _pair_of_outputs(outputs: Any) -> tuple[str, str]:
    pair = (outputs, outputs) if isinstance(outputs, str) else tuple(outputs)
    if len(pair) != 2:
        raise ValueError(
            "`outputs` must be one word or a pair (teacher, student). "
            f"Received: outputs={outputs!r}."
        )
    for value in pair:
        checks.check_choice(
            "outputs", value, ("auto", "logits", "probabilities")
        )
    return pair


def _values(role: str, activation: str | None) -> Any:
    if activation is None:
        raise ValueError(
            f"Whether the {role} returns logits or probabilities cannot be "
            "told: its output comes out of a compiled function. Received: "
            "outputs='auto'. Say `outputs='logits'`, `outputs="
            "'probabilities'`, or a pair of these, the teacher's first."
        )
    return "logits" if activation == "linear" else "probabilities"
