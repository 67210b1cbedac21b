"""What a Distiller refuses, each with the rule and the way out."""

from typing import Any

from kdtf import flavours
from kdtf.distillation.outputs import output_shape

__all__ = [
    "check_choice",
    "check_class_counts",
    "check_hard_loss",
    "check_model",
    "is_binary_loss",
]

_CROSSENTROPIES = (
    "binary_crossentropy",
    "binary_focal_crossentropy",
    "categorical_crossentropy",
    "categorical_focal_crossentropy",
    "sparse_categorical_crossentropy",
)


def check_model(role: str, model: Any) -> None:
    """Raises unless `model` is a built Keras model with one output.

    Args:
        role: "teacher" or "student", for the message.
        model: What the user passed, of either flavour of Keras.

    Raises:
        TypeError: It is no Keras model.
        ValueError: It has no weights yet, or several outputs.
    """
    flavours.flavour_of(model, argument=role)
    if not model.built:
        raise ValueError(
            f"The {role} must be built, so that it has its weights. Received: "
            f"{role}={model.name!r}, which was never called. Call it on a "
            f"batch first, or `{role}.build(input_shape)`."
        )
    output_shape(model)


def check_class_counts(teacher: Any, student: Any) -> None:
    """Raises unless two output shapes can be compared position by position.

    Args:
        teacher: Shape of the teacher's outputs, or None if unknown.
        student: Shape of the student's outputs, or None if unknown.

    Raises:
        ValueError: Ranks or known dimensions differ.
    """
    if teacher is None or student is None:
        return
    teacher, student = tuple(teacher), tuple(student)
    if len(teacher) == len(student):
        pairs = zip(teacher, student, strict=True)
        if all(t is None or s is None or t == s for t, s in pairs):
            return
    if len(teacher) == len(student) == 3 and teacher[-1] != student[-1]:
        rule = (
            "Teacher and student must share one vocabulary: token i has to be "
            "the same word for both"
        )
        way_out = "Build the student on the teacher's tokenizer."
    else:
        rule = "Teacher and student must give outputs of the same shape"
        way_out = "Give the student the teacher's classes, in the same order."
    raise ValueError(
        f"{rule}. Received: teacher outputs {teacher}, student outputs "
        f"{student}. {way_out}"
    )


def check_hard_loss(loss: Any, values: str | None) -> None:
    """Raises if the hard loss would take logits for probabilities.

    Keras clips logits into (0, 1) without a word; the student then learns
    next to nothing from the labels.

    Args:
        loss: What the user gave `compile`: a name, function or `Loss`.
        values: What the student returns: "logits", "probabilities" or None.

    Raises:
        ValueError: They do not fit.
    """
    if values != "logits" or loss is None:
        return
    from_logits = True
    if _name(loss) in _CROSSENTROPIES:
        from_logits = False
        if hasattr(loss, "get_config"):
            from_logits = loss.get_config().get("from_logits", True)
    if not from_logits:
        raise ValueError(
            "The student returns logits, so its loss must be told so. "
            f"Received: loss={loss!r}, which expects probabilities. Use the "
            "loss object with `from_logits=True`, or pass "
            "`outputs='probabilities'` if these are probabilities after all."
        )


def is_binary_loss(loss: Any) -> bool:
    """Returns whether a hard loss treats every output as its own yes or no.

    Example:
        >>> is_binary_loss("binary_crossentropy"), is_binary_loss("mse")
        (True, False)
    """
    return loss is not None and _name(loss).startswith("binary_")


def check_choice(argument: str, value: Any, known: tuple[str, ...]) -> None:
    """Raises unless `value` is one of the `known` words."""
    if value not in known:
        raise ValueError(
            f"`{argument}` must be one of {list(known)}. Received: "
            f"{argument}={value!r}."
        )


def _name(loss: Any) -> str:
    """Returns a loss's name in snake case, given as name, function or class."""
    if isinstance(loss, str):
        text = loss
    else:
        text = getattr(loss, "__name__", type(loss).__name__)
    text = "".join(f"_{c.lower()}" if c.isupper() else c for c in text)
    return text.lstrip("_")
