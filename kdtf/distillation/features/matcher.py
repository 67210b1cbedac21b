"""`FeatureMatcher`: brings features together with a student and a teacher."""

import dataclasses
from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from kdtf.distillation.features import mapping
from kdtf.distillation.features.capture import Capture
from kdtf.distillation.features.capture import Record
from kdtf.distillation.features.capture import remat_layer
from kdtf.distillation.features.feature import Feature
from kdtf.distillation.features.tracing import trace

__all__ = ["FeatureMatcher"]

Widths = list[list[Any]]


@dataclasses.dataclass(frozen=True)
class _Pair:
    """What to record for one pair of layers: paths by role, both models."""

    student: dict[str, str]
    teacher: dict[str, str]


class FeatureMatcher:
    """Finds the layers that features mean, and computes their losses.

    Not a Keras object: a model that holds one must track `projections` of its
    own, to train and save them. They exist from the start, and after loading
    before there is a teacher: their widths are part of the config.

    Args:
        terms: The features, such as `HiddenStates()`.
        student: A built Keras 3 model.
        teacher: The same, or None to give it to `set_teacher` later.
        widths: For each term and pair of layers the widths (student, teacher)
            of its projection or None, as in `get_config`. Needed only
            without a teacher.

    Raises:
        TypeError: A term is no feature, or a model is not of Keras 3.
        ValueError: Layers are not there or do not fit, or the student's are
            rematerialized and so give no gradient.

    Example:
        >>> import numpy as np
        >>> from kdtf.distillation.features.terms import HiddenStates
        >>> def mlp(width):
        ...     hidden = keras.layers.Dense(width, name="hidden")
        ...     output = keras.layers.Dense(2)
        ...     return keras.Sequential([keras.Input((3,)), hidden, output])
        >>> teacher, student = mlp(8), mlp(4)
        >>> matcher = FeatureMatcher(
        ...     [HiddenStates(layers={"hidden": "hidden"})],
        ...     student=student,
        ...     teacher=teacher,
        ... )
        >>> x = np.ones((5, 3), "float32")
        >>> with matcher.capture_teacher() as taught:
        ...     _ = teacher(x)
        >>> with matcher.capture_student() as learned:
        ...     _ = student(x)
        >>> values = matcher.values(learned, taught)
        >>> {name: tuple(value.shape) for name, value in values.items()}
        {'hidden_states': (5,)}
        >>> [tuple(layer.kernel.shape) for layer in matcher.projections]
        [(4, 8)]
    """

    def __init__(
        self,
        terms: Iterable[Feature],
        *,
        student: Any,
        teacher: Any = None,
        widths: Widths | None = None,
    ) -> None:
        self.terms = _named(terms)
        self._student = _checked("student", student)
        self._teacher: Any = None
        self._pairs: dict[str, list[_Pair]] = {}
        if widths is None:
            if teacher is None:
                raise ValueError(
                    "Without a teacher the widths of projections must be "
                    "known. Received: teacher=None, widths=None. Pass one of "
                    "them; `get_config` gives the widths."
                )
            self._pairs, widths = self._resolve(teacher)
            self._teacher = teacher
        self._widths = [
            [None if pair is None else (pair[0], pair[1]) for pair in term]
            for term in widths
        ]
        self._project = {
            name: [_projection(name, i, pair) for i, pair in enumerate(term)]
            for name, term in zip(self.terms, self._widths, strict=True)
        }
        if teacher is not None and self._teacher is None:
            self.set_teacher(teacher)

    @property
    def projections(self) -> list[Any]:
        """The built layers to train along, in an order that stays."""
        made = [layer for term in self._project.values() for layer in term]
        return [layer for layer in made if layer is not None]

    def set_teacher(self, teacher: Any) -> None:
        """Takes a teacher, for whose widths the projections were made.

        Args:
            teacher: A built Keras 3 model.

        Raises:
            TypeError: It is not of Keras 3.
            ValueError: Its layers do not fit, or need other projections.
        """
        if teacher is self._teacher:
            # Both models were run for it already.
            return
        pairs, widths = self._resolve(teacher)
        if widths != self._widths:
            raise ValueError(
                "The teacher must have the sizes of the one that the features' "
                "projections were made for. Received: projections (student, "
                f"teacher) {widths}, made for {self._widths}. Make a new "
                "`Distiller` for this teacher."
            )
        self._pairs, self._teacher = pairs, teacher

    def capture_student(self) -> Capture:
        """Returns a context manager that records the student's features."""
        return self._capture(self._student, "student")

    def capture_teacher(self) -> Capture:
        """Returns a context manager that records the teacher's features."""
        return self._capture(self._teacher, "teacher")

    def values(
        self,
        student_records: Mapping[str, Record],
        teacher_records: Mapping[str, Record],
        *,
        padding_mask: Any = None,
    ) -> dict[str, Any]:
        """Returns each feature's loss, without its weight.

        Args:
            student_records: What `capture_student` gave.
            teacher_records: What `capture_teacher` gave; no gradient goes
                there.
            padding_mask: Real positions, bool `(batch, time)`, see
                `padding_mask_of`. Defaults to None: all are, or what a Keras
                mask on the student's hidden states says.

        Returns:
            float32 tensors of shape `(batch,)` by the features' names: the
            means over their pairs of layers.

        Raises:
            ValueError: A layer was not called while it was recorded.
        """
        taught = {
            path: dataclasses.replace(
                record,
                output=keras.tree.map_structure(
                    ops.stop_gradient, record.output
                ),
            )
            for path, record in teacher_records.items()
        }
        if padding_mask is None:
            padding_mask = _keras_mask(student_records)
        return {
            name: sum(
                self.terms[name].value(
                    _by_role(taught, pair.teacher, "teacher"),
                    _by_role(student_records, pair.student, "student"),
                    padding_mask,
                    project,
                )
                for pair, project in zip(
                    pairs, self._project[name], strict=True
                )
            )
            / len(pairs)
            for name, pairs in self._pairs.items()
        }

    def weights(self, step: Any) -> dict[str, Any]:
        """Returns each feature's weight at a step, float32 scalars."""
        return {name: term.schedule(step) for name, term in self.terms.items()}

    def get_config(self) -> dict[str, Any]:
        """Returns the features and the widths of their projections."""
        return {
            "terms": [
                keras.saving.serialize_keras_object(term)
                for term in self.terms.values()
            ],
            "widths": [
                [None if pair is None else list(pair) for pair in term]
                for term in self._widths
            ],
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], *, student: Any, teacher: Any = None
    ) -> "FeatureMatcher":
        """Returns the matcher that `get_config` described."""
        terms = [
            keras.saving.deserialize_keras_object(term)
            for term in config["terms"]
        ]
        return cls(
            terms, student=student, teacher=teacher, widths=config["widths"]
        )

    def _capture(self, model: Any, role: str) -> Capture:
        if self._teacher is None:
            raise ValueError(
                "Features need the teacher's layers. Received: teacher=None. "
                "Call `set_teacher(teacher)` first."
            )
        return Capture(model, _taps(self._pairs, role))

    def _resolve(self, teacher: Any) -> tuple[dict[str, list[_Pair]], Widths]:
        """Finds the layers of both models, and runs these once to see sizes."""
        _checked("teacher", teacher)
        pairs = {
            name: [
                _Pair(
                    student=term.taps(self._student, student),
                    teacher=term.taps(teacher, taught),
                )
                for student, taught in mapping.pair_layers(
                    term.layers, self._student, teacher
                )
            ]
            for name, term in self.terms.items()
        }
        for path in _taps(pairs, "student"):
            _check_gradient(self._student, path)
        records = {
            role: trace(model, _taps(pairs, role))
            for role, model in (
                ("student", self._student),
                ("teacher", teacher),
            )
        }
        widths = [
            [
                self.terms[name].widths(
                    _by_role(records["teacher"], pair.teacher, "teacher"),
                    _by_role(records["student"], pair.student, "student"),
                )
                for pair in term
            ]
            for name, term in pairs.items()
        ]
        return pairs, widths


def _checked(role: str, model: Any) -> Any:
    if not isinstance(model, keras.Model):
        raise TypeError(
            f"Features are recorded in Keras 3 models. Received: {role} of "
            f"type {type(model).__module__}.{type(model).__qualname__}. "
            "Distill a `tf_keras` model by its outputs alone."
        )
    return model


def _named(terms: Iterable[Feature]) -> dict[str, Feature]:
    """Returns the terms by names, the second of its kind with a 2."""
    named: dict[str, Feature] = {}
    for term in terms:
        if not isinstance(term, Feature):
            raise TypeError(
                "`features` must be a list of features such as "
                f"`HiddenStates()`. Received: {term!r} of type "
                f"{type(term).__name__}."
            )
        count = sum(type(other) is type(term) for other in named.values())
        named[f"{term.name}_{count + 1}" if count else term.name] = term
    if not named:
        raise ValueError(
            "`features` must hold at least one feature. Received: none. Leave "
            "it out to learn from outputs alone."
        )
    return named


def _projection(name: str, index: int, widths: Any) -> Any:
    if widths is None:
        return None
    student, teacher = widths
    layer = keras.layers.Dense(
        teacher,
        use_bias=False,
        kernel_initializer=keras.initializers.GlorotUniform(seed=index),
        dtype="float32",
        name=f"{name}_projection_{index}",
    )
    layer.build((None, student))
    return layer


def _taps(pairs: Mapping[str, list[_Pair]], role: str) -> list[str]:
    """Returns the paths to record in one model, each once."""
    paths: dict[str, None] = {}
    for term in pairs.values():
        for pair in term:
            paths.update(dict.fromkeys(getattr(pair, role).values()))
    return list(paths)


def _by_role(
    records: Mapping[str, Record], roles: Mapping[str, str], model: str
) -> dict[str, Record]:
    missing = [path for path in roles.values() if path not in records]
    if missing:
        raise ValueError(
            f"The {model} must call the layers it is compared by. Received: no "
            f"call of {missing}. Name layers that its forward pass uses."
        )
    return {role: records[path] for role, path in roles.items()}


def _check_gradient(student: Any, path: str) -> None:
    inside = remat_layer(student, path)
    if inside is not None:
        raise ValueError(
            "Features of a student must have gradients, which those inside a "
            f"rematerialized layer have not. Received: {path!r}, and {inside!r}"
            " was made in a `keras.RematScope`. Make the student outside of "
            "it, or name a layer above."
        )


def _keras_mask(records: Mapping[str, Record]) -> Any:
    masks = [getattr(r.output, "_keras_mask", None) for r in records.values()]
    known = [mask for mask in masks if mask is not None]
    return next((mask for mask in known if len(mask.shape) == 2), None)
