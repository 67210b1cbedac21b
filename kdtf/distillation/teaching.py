"""What stands at the teacher's end: models, or what was kept of one."""

import dataclasses
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from kdtf.distillation import checks
from kdtf.distillation import mixtures
from kdtf.distillation.cache.teacher_cache import TeacherCache
from kdtf.distillation.teachers import ModelTeacher

__all__ = ["Teaching"]


@dataclasses.dataclass(frozen=True)
class Teaching:
    """Who teaches: one model, several at once, or a cache.

    Not a Keras object, as `ModelTeacher` is none.

    Attributes:
        given: What the user passed.
        models: The models, by name; none where a cache teaches.
        cache: The cache, or None.
        weights: Of the models in their mixture: numbers, or a function of
            the student's inputs that gives `(batch, models)`.
        mixture: "probabilities" or "logits".
    """

    given: Any
    models: dict[str, ModelTeacher]
    cache: TeacherCache | None = None
    weights: Any = None
    mixture: mixtures.Space = "probabilities"

    @classmethod
    def of(
        cls,
        given: Any,
        *,
        inputs: Callable[[Any], Any] | None,
        weights: Any,
        mixture: Any,
    ) -> "Teaching":
        """Returns what was passed as a teacher, checked.

        Args:
            given: A model, a list or dict of models, or a `TeacherCache`.
            inputs: Maps the student's inputs to the teachers'.
            weights: As the attribute; None for all alike.
            mixture: As the attribute.

        Raises:
            TypeError: A teacher is no Keras model.
            ValueError: A model is not built, or the weights do not fit.
        """
        if isinstance(given, TeacherCache):
            if inputs is not None or weights is not None:
                raise ValueError(
                    "`teacher_inputs` and `teacher_weights` are for models; a "
                    "cache holds one teacher's outputs already. Received: a "
                    f"TeacherCache, teacher_inputs={inputs!r}, "
                    f"teacher_weights={weights!r}."
                )
            return cls(given, {}, cache=given)
        if isinstance(given, Mapping):
            models = {f"teacher {name}": one for name, one in given.items()}
        elif isinstance(given, Sequence) and not isinstance(given, str):
            models = {f"teacher {i}": model for i, model in enumerate(given)}
        else:
            models = {"teacher": given}
        if not models:
            raise ValueError(
                "There must be at least one teacher. Received: "
                f"teacher={given!r}."
            )
        for role, model in models.items():
            checks.check_model(role, model)
        checks.check_choice("mixture", mixture, ("probabilities", "logits"))
        if not callable(weights):
            weights = mixtures.check_mixture(weights, len(models), mixture)
        teachers = {
            role: ModelTeacher(model, inputs=inputs)
            for role, model in models.items()
        }
        return cls(given, teachers, weights=weights, mixture=mixture)

    def mixed(
        self, x: Any, logits: list[Any], *, temperature: Any, head: Any
    ) -> Any:
        """Returns the logits of all teachers together.

        Args:
            x: The student's inputs.
            logits: Of each teacher, `(batch, ..., classes)`.
            temperature: At which probabilities are mixed.
            head: "softmax" or "sigmoid".
        """
        if len(logits) == 1:
            return logits[0]
        weights = self.weights(x) if callable(self.weights) else self.weights
        return mixtures.mix(
            logits,
            weights,
            temperature=temperature,
            space=self.mixture,
            head=head,
        )
