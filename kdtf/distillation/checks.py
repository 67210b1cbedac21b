"""What a Distiller refuses, each with the rule and the way out."""

from typing import Any

from kdtf import flavours
from kdtf.distillation.outputs import output_shape

__all__ = [
    "check_attached",
    "check_cached",
    "check_cached_head",
    "check_choice",
    "check_chunk",
    "check_chunked",
    "check_class_counts",
    "check_hard_loss",
    "check_keras_3_only",
    "check_model",
    "check_same_classes",
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


def check_keras_3_only(settings: dict[str, Any], student: Any) -> None:
    """Takes what a `tf_keras` student cannot have out of the settings.

    Args:
        settings: Keyword arguments of a Distiller; changed.
        student: The student.

    Raises:
        ValueError: One of them was set.
    """
    features, chunk = settings.pop("features", ()), settings.pop("chunk", None)
    if features or chunk is not None:
        raise ValueError(
            "`features` and `chunk` are for Keras 3 students. Received: "
            f"features={features!r}, chunk={chunk!r}, the tf_keras model "
            f"{student.name!r}. Leave them out."
        )


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


def check_same_classes(shapes: Any) -> None:
    """Raises unless teachers that are mixed have the same classes.

    Args:
        shapes: Of their outputs, None where unknown.

    Raises:
        ValueError: They differ.
    """
    counts = {shape[-1] for shape in shapes if shape is not None} - {None}
    if len(counts) > 1:
        raise ValueError(
            "Several teachers must have the same classes, to be mixed. "
            f"Received: outputs {shapes}. Distil from one after the other."
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


def check_cached(
    cache: Any, *, loss: Any, name: Any, temperature: Any, divergence: bool
) -> None:
    """Raises unless a Distiller's settings are those of its cache.

    Args:
        cache: A `TeacherCache`.
        loss: The soft loss's function.
        name: What the user passed for it.
        temperature: The Distiller's, a schedule.
        divergence: Whether the loss is one of two distributions, whatever
            their classes are.

    Raises:
        ValueError: They are not.
    """
    if cache.kind == "dense":
        return
    low, high = temperature.bounds()
    if not low == high == cache.temperature:
        raise ValueError(
            "`temperature` must be the cache's: of a few probabilities those "
            "at another one cannot be told. Received: temperature="
            f"{temperature}, a cache at {cache.temperature:g}. Pass "
            f"`temperature={cache.temperature:g}`, or cache again with "
            "`temperature=`."
        )
    if cache.kind == "samples" and getattr(loss, "__name__", "") != (
        "kl_divergence"
    ):
        raise ValueError(
            "A cache of samples is for the forward KL, of which they give an "
            f"unbiased estimate. Received: soft_loss={name!r}. Use 'kl', or "
            "cache with `top_k`."
        )
    if not divergence:
        raise ValueError(
            "This `soft_loss` needs all logits of the teacher. Received: "
            f"soft_loss={name!r}, a cache of {cache.kind!r}. Use a divergence "
            "such as 'kl', or cache without `top_k`."
        )


def check_attached(targets: Any) -> None:
    """Raises unless a batch came with what its teacher said.

    Raises:
        ValueError: It came without.
    """
    if targets is None:
        raise ValueError(
            "A Distiller that learns from a cache needs a dataset with the "
            "cached outputs in it. Received: inputs alone. Train with "
            "`distiller.fit(cache.attach(dataset))`."
        )


def check_chunk(chunk: Any) -> None:
    """Raises unless `chunk` is None or a number of tokens."""
    if chunk is None or (type(chunk) is int and chunk >= 1):
        return
    raise ValueError(
        "`chunk` must be a whole number of tokens, at least 1. Received: "
        f"chunk={chunk!r}. Leave it out for all tokens at once."
    )


def check_chunked(num_teachers: int, *, name: Any, needs_all: bool) -> None:
    """Raises unless the soft loss can be made a few tokens at a time.

    Args:
        num_teachers: Models that teach; 0 with a cache.
        name: What the user passed as soft loss.
        needs_all: Whether it looks at labels or the whole batch.

    Raises:
        ValueError: It cannot.
    """
    if num_teachers > 1:
        raise ValueError(
            "`chunk` is for one teacher or a cache. Received: "
            f"{num_teachers} teachers. Leave `chunk` out, or cache one."
        )
    if needs_all:
        raise ValueError(
            "`chunk` is for soft losses of single tokens' logits. Received: "
            f"soft_loss={name!r}, which looks at labels or at the whole "
            "batch. Leave `chunk` out, or use 'kl'."
        )


def check_cached_head(cache: Any, head: str) -> None:
    """Raises unless a cache's outputs are of the student's kind of head.

    Raises:
        ValueError: They are not.
    """
    if cache.head != head:
        raise ValueError(
            "`head` must be the cache's. Received: a student with head="
            f"{head!r}, a cache of {cache.head!r}. If the teacher was taken "
            f"for another kind, cache again with `head={head!r}`."
        )


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
