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
from kdtf.distillation import targets as targets_module
from kdtf.distillation.heads import token_losses
from kdtf.distillation.kinds import Made
from kdtf.distillation.kinds import find_kinds
from kdtf.distillation.kinds import likely_head
from kdtf.distillation.outputs import OutputKind
from kdtf.distillation.teaching import Teaching

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
        self.teaching: Teaching | None = None
        self._kinds: tuple[list[OutputKind], OutputKind] | None = None

    def set_teacher(
        self,
        teacher: Any,
        student: Any,
        *,
        inputs: Callable[[Any], Any] | None = None,
        weights: Any = None,
        mixture: str = "probabilities",
        in_chunks: bool = False,
    ) -> None:
        """Takes the teacher, or teachers, of `student`, after checking it."""
        teaching = Teaching.of(
            teacher, inputs=inputs, weights=weights, mixture=mixture
        )
        if in_chunks:
            checks.check_chunked(
                len(teaching.models),
                name=self.soft_loss,
                needs_all=self._has_trait("needs_labels", "across_batch"),
            )
            for one in teaching.models.values():
                one.find_head()
        shapes = [
            outputs_module.output_shape(one.model)
            for one in teaching.models.values()
        ]
        if teaching.cache is not None:
            shapes = [teaching.cache.output_shape]
            checks.check_cached(
                teaching.cache,
                loss=self._loss_function,
                name=self.soft_loss,
                temperature=self.temperature,
                divergence=self._loss_function is not losses.mean_squared_logits
                and not self._has_trait(
                    "needs_labels", "across_batch", "softmax_only"
                ),
            )
        checks.check_same_classes(shapes)
        for shape in shapes:
            self._check_class_counts(
                shape, outputs_module.output_shape(student)
            )
        self.teaching = teaching
        self._kinds = None

    def _check_class_counts(self, teacher: Any, student: Any) -> None:
        if not self._has_trait("any_vocabulary"):
            checks.check_class_counts(teacher, student)

    def _has_trait(self, *traits: str) -> bool:
        return any(losses.has_trait(self._loss_function, t) for t in traits)

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
        self,
        student: Any,
        x: Any,
        y_pred: Any,
        *,
        labels: Any = None,
        loss: Any,
        step: Any,
    ) -> Any:
        """Runs the teacher and returns each sample's soft loss.

        Args:
            student: The model that gave `y_pred`.
            x: The student's inputs, with a cache's targets in them if there
                is one.
            y_pred: The student's outputs, `(batch, ..., classes)`.
            labels: Of the batch, for the soft losses that ask for them.
            loss: The hard loss, a hint to the kind of head.
            step: The optimizer's step, for schedules.

        Returns:
            A float32 tensor of shape `(batch, ...)`.

        Raises:
            ValueError: There is no teacher, or the outputs do not fit.
        """
        x, kept = targets_module.split(x)
        teaching = self._require_teaching()
        taught = [one(x) for one in teaching.models.values()]
        if teaching.cache is not None:
            checks.check_attached(kept)
        if self._kinds is None:
            self._kinds = self._find_kinds(student, x, taught, y_pred, loss)
        kinds, kind = self._kinds
        made = outputs_module.to_logits(y_pred, kind)
        temperature = self.temperature(step)
        if kept is not None and teaching.cache is not None:
            return self.values_of_targets(
                kept, made, labels=labels, temperature=temperature
            )
        logits = [
            outputs_module.to_logits(outputs, own)
            for outputs, own in zip(taught, kinds, strict=True)
        ]
        return losses.per_sample(
            self._loss_function,
            teaching.mixed(x, logits, temperature=temperature, head=kind.head),
            made,
            temperature=temperature,
            head=kind.head,
            labels=labels,
        )

    def in_chunks(
        self,
        x: Any,
        hidden: Any,
        head: Any,
        *,
        labels: Any,
        hard: Any,
        loss: Any,
        step: Any,
        chunk: Any,
    ) -> dict[str, Any]:
        """Returns each token's losses, a few tokens' logits at a time.

        Args:
            x: The student's inputs, as for `soft_values`.
            hidden: The student's hidden states, `(batch, ..., width)`.
            head: What makes its logits of them.
            labels: Of the batch, or None.
            hard: The hard loss of labels and logits, or None.
            loss: What was compiled, a hint to the kind of head.
            step: The optimizer's step, for schedules.
            chunk: How many tokens.

        Returns:
            "soft" and, if asked for, "hard": float32 `(batch, ...)`.
        """
        x, kept = targets_module.split(x)
        teaching = self._require_teaching()
        temperature = self.temperature(step)
        kind: Any = self.head
        if kind == "auto":
            kind = likely_head(head.num_outputs, loss)
        taught: Any = kept
        if teaching.cache is not None:
            checks.check_attached(kept)
        else:
            (teacher,) = teaching.models.values()
            taught = teacher.hidden(x), teacher.head

        def soft(taught: Any, logits: Any) -> Any:
            if teaching.cache is not None:
                return self.values_of_targets(
                    taught, logits, temperature=temperature
                )
            return losses.per_sample(
                self._loss_function,
                taught,
                logits,
                temperature=temperature,
                head=kind,
            )

        return token_losses(
            hidden,
            head,
            labels=labels,
            teacher=taught,
            hard=hard,
            soft=soft,
            chunk=chunk,
        )

    def values_of_targets(
        self, kept: Any, logits: Any, *, temperature: Any, labels: Any = None
    ) -> Any:
        """Returns each sample's soft loss, from what a cache kept.

        Args:
            kept: Its targets; see `kdtf.distillation.targets`.
            logits: The student's.
            labels: Of the batch, or None.
            temperature: The cache's own unless it holds all logits.
        """
        cache: Any = self._require_teaching().cache
        if "logits" in kept:
            return losses.per_sample(
                self._loss_function,
                kept["logits"],
                logits,
                temperature=temperature,
                head=cache.head,
                labels=labels,
            )
        if "weights" in kept:
            return targets_module.per_token_from_samples(
                kept, logits, temperature=temperature
            )
        # They are softened already, and the loss will soften them.
        pair = targets_module.buckets(kept, logits, temperature=temperature)
        hot = [temperature * one for one in pair]
        return self._loss_function(*hot, temperature=temperature)

    def _require_teaching(self) -> Teaching:
        if self.teaching is None:
            raise ValueError(
                "This Distiller has no teacher: it is not saved with one. "
                "Received: teacher=None. Call `distiller.set_teacher(teacher)` "
                "before `fit`."
            )
        return self.teaching

    def combine(self, hard: Any, soft: Any, *, step: Any) -> Any:
        """Returns alpha * hard + (1 - alpha) * soft; without labels, soft."""
        if hard is None:
            return soft
        alpha = self.alpha(step)
        return alpha * ops.cast(hard, "float32") + (1.0 - alpha) * soft

    def _find_kinds(
        self, student: Any, x: Any, taught: list[Any], y_pred: Any, loss: Any
    ) -> tuple[list[OutputKind], OutputKind]:
        """Finds out, once, what the models' outputs mean."""
        teaching = self._require_teaching()
        for outputs in taught:
            self._check_class_counts(outputs.shape, y_pred.shape)
        made = [
            Made(role, one.model, one, outputs)
            for (role, one), outputs in zip(
                teaching.models.items(), taught, strict=True
            )
        ]
        made.append(Made("student", student, student, y_pred))
        *kinds, kind = find_kinds(
            made, x, declared=self.outputs, head=self.head, loss=loss
        )
        if teaching.cache is not None:
            checks.check_cached_head(teaching.cache, kind.head)
        return kinds, kind

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
