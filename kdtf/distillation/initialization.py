"""A student that begins with some of its teacher's layers."""

import collections
from collections.abc import Iterator
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from kdtf.backbones import backbone_of
from kdtf.backbones import resized
from kdtf.backbones import spaced
from kdtf.distillation.initialization_report import InitializationReport
from kdtf.distillation.initialization_report import InitializationRow
from kdtf.layers import own_weights
from kdtf.layers import walk_layers

__all__ = ["initialize_student", "student_of"]


def initialize_student(
    student: Any,
    teacher: Any,
    *,
    layers: Any = "uniform",
    embeddings: bool = True,
) -> InitializationReport:
    """Copies a teacher's layers into a shallower student, in place.

    Of DistilBERT's training this is the cheap half: a student of every second
    block begins near its teacher. Blocks are copied by their number, what
    lies outside of them (embeddings, norms, pooler, head) by its name. A
    layer is copied as a whole or not at all; what has another shape, or is
    not in the teacher, stays as it was and the report says so. Of position
    embeddings a shorter student takes the first.

    Args:
        student: A `keras_nlp` backbone or a task model with one in it.
        teacher: Another, as wide as the student.
        layers: Which of the teacher's blocks each of the student's is copied
            from: a list of numbers, one for each; a dict of some of the
            student's numbers to the teacher's; or "uniform", evenly spaced
            with the first and the last (0, 2, 4, 7, 9, 11 for 6 of 12, as
            DistilBERT). Defaults to "uniform".
        embeddings: Whether embeddings are copied, and with them the head that
            is tied to them. Defaults to True.

    Returns:
        What was copied and what was not; `print` it.

    Raises:
        TypeError: A model has no list of `transformer_layers`.
        ValueError: The widths differ, or `layers` does not fit.

    Example:
        >>> import keras_nlp
        >>> def bert(num_layers):
        ...     return keras_nlp.models.BertBackbone(
        ...         vocabulary_size=10, num_layers=num_layers, num_heads=1,
        ...         hidden_dim=4, intermediate_dim=4, max_sequence_length=6,
        ...     )
        >>> report = initialize_student(bert(2), bert(4))
        >>> [row.source for row in report.rows if "transf" in row.layer]
        ['transformer_layer_0', 'transformer_layer_3']

    Reference:
        Sanh et al. 2019, https://arxiv.org/abs/1910.01108 (section 2)
    """
    backbones = _backbone("student", student), _backbone("teacher", teacher)
    _check_widths(*backbones)
    blocks, sources = (backbone.transformer_layers for backbone in backbones)
    chosen = _mapping(layers, len(blocks), len(sources))
    rows = list(_copy_others(student, teacher, embeddings=embeddings))
    for index, block in enumerate(blocks):
        if index in chosen:
            rows += _copy_block(block, sources[chosen[index]])
        else:
            reason = "(stays: not in `layers`)"
            size = sum(_size(layer) for _, layer in _holders(block))
            rows.append(InitializationRow(block.name, "", size, reason))
    return InitializationReport(tuple(rows))


def student_of(
    teacher: Any, *, num_layers: int, layers: Any = "uniform"
) -> Any:
    """Gives a shallower model of a teacher's class, begun with its layers.

    The student has the teacher's width, head and preprocessor, and is as a
    model of that class is when it is new: compiled as `keras_nlp` does it,
    and not with the teacher's optimizer.

    Args:
        teacher: A `keras_nlp` backbone or a task model with one in it.
        num_layers: Blocks of the student, from 1 to the teacher's number; with
            that it gives the teacher's outputs.
        layers: As in `initialize_student`.

    Raises:
        TypeError: `teacher` has no list of `transformer_layers`, or its
            configuration no number of them.
        ValueError: `num_layers` is out of range, or `layers` does not fit.

    Example:
        >>> import keras_nlp
        >>> teacher = keras_nlp.models.GPT2CausalLM(
        ...     keras_nlp.models.GPT2Backbone(
        ...         vocabulary_size=10, num_layers=4, num_heads=1,
        ...         hidden_dim=4, intermediate_dim=4, max_sequence_length=6,
        ...     )
        ... )
        >>> student = student_of(teacher, num_layers=2)
        >>> type(student).__name__, student.backbone.num_layers
        ('GPT2CausalLM', 2)
    """
    source = _backbone("teacher", teacher)
    limit = len(source.transformer_layers)
    if not 1 <= num_layers <= limit:
        raise ValueError(
            "`num_layers` must be from 1 to the teacher's number of blocks. "
            f"Received: num_layers={num_layers}, teacher with {limit} blocks."
        )
    if "num_layers" not in source.get_config():
        raise TypeError(
            "`teacher` must have its depth in its configuration. Received: "
            f"type={type(source).__name__}, without `num_layers`. Build a "
            "student yourself and use `initialize_student`."
        )
    student = resized(teacher, {"num_layers": num_layers}, suffix="_student")
    initialize_student(student, teacher, layers=layers)
    return student


def _backbone(argument: str, model: Any) -> Any:
    backbone = backbone_of(model)
    if backbone is None:
        raise TypeError(
            f"`{argument}` must be a `keras_nlp` backbone of transformer "
            "blocks, or a task model with one in it. Received: "
            f"type={type(model).__name__}, without `transformer_layers`. Copy "
            "the weights of other models layer by layer."
        )
    return backbone


def _check_widths(student: Any, teacher: Any) -> None:
    widths = [
        getattr(backbone, "hidden_dim", None) for backbone in (student, teacher)
    ]
    if widths[0] != widths[1]:
        raise ValueError(
            "Only a student as wide as its teacher can take over its layers. "
            f"Received: student with hidden_dim={widths[0]}, teacher with "
            f"hidden_dim={widths[1]}. Make a shallower one with "
            "`student_of(teacher, num_layers=...)`, or leave a narrower one "
            "as it is and teach it the teacher's hidden states."
        )


def _mapping(layers: Any, num_blocks: int, num_sources: int) -> dict[int, int]:
    """Gives the number of the teacher's block for those of the student."""
    if isinstance(layers, str) and layers == "uniform":
        if num_blocks > num_sources:
            raise ValueError(
                "A student must not be deeper than its teacher. Received: "
                f"{num_blocks} blocks, teacher with {num_sources}. Choose with "
                "`layers=[...]`, where a block may be copied twice."
            )
        return dict(enumerate(spaced(num_sources, num_blocks)))
    chosen: dict[Any, Any] = {}
    if isinstance(layers, Mapping):
        chosen = dict(layers)
    elif not isinstance(layers, str) and len(layers) == num_blocks:
        chosen = dict(enumerate(layers))
    is_within = all(
        key in range(num_blocks) and value in range(num_sources)
        for key, value in chosen.items()
    )
    if not chosen or not is_within:
        raise ValueError(
            "`layers` must be 'uniform', a list of the teacher's block for "
            "each of the student's, or a dict of some of the student's to the "
            f"teacher's. Received: layers={layers!r}, student with "
            f"{num_blocks} blocks, teacher with {num_sources}."
        )
    return {int(key): int(value) for key, value in chosen.items()}


def _holders(model: Any) -> Iterator[tuple[str, Any]]:
    """Gives the layers that hold weights themselves, with their paths."""
    if own_weights(model):
        yield "", model
    for path, layer in walk_layers(model):
        if own_weights(layer):
            yield path, layer


def _size(layer: Any) -> int:
    return sum(int(np.prod(w.shape)) for w in own_weights(layer))


def _copy_block(block: Any, source: Any) -> list[InitializationRow]:
    """Copies a block; one row if all of it was, else one for each layer."""
    given = dict(_holders(source))
    rows = []
    for path, layer in _holders(block):
        reason = _copy(layer, given.get(path))
        name = f"{block.name}/{path}".rstrip("/")
        origin = "" if reason else source.name
        rows.append(InitializationRow(name, origin, _size(layer), reason))
    if any(row.reason for row in rows):
        return rows
    size = sum(row.num_parameters for row in rows)
    return [InitializationRow(block.name, source.name, size)]


def _copy_others(
    student: Any, teacher: Any, *, embeddings: bool
) -> Iterator[InitializationRow]:
    """Copies what lies outside the blocks, by the layers' own names."""
    given = _others(teacher)
    for name, (path, layer) in _others(student).items():
        source_path, source = given.get(name, ("", None))
        if _is_embedding(layer) and not embeddings:
            reason = "(stays: `embeddings=False`)"
        else:
            reason = _other_activation(layer, source) or _copy(layer, source)
        yield InitializationRow(
            path, "" if reason else source_path, _size(layer), reason
        )


def _others(model: Any) -> dict[str, tuple[str, Any]]:
    """Gives the layers outside of blocks by name, with paths."""
    backbone = getattr(model, "backbone", None) or model
    inner = {
        id(layer)
        for block in backbone.transformer_layers
        for _, layer in _holders(block)
    }
    found = [
        (path.removeprefix(f"{backbone.name}/"), layer)
        for path, layer in _holders(model)
        if id(layer) not in inner
    ]
    # Some models put their embeddings into a layer, others do not (DistilBERT,
    # BERT): where it is unambiguous the last part of a path is enough.
    ends = collections.Counter(path.rsplit("/", 1)[-1] for path, _ in found)
    named = {}
    for path, layer in found:
        end = path.rsplit("/", 1)[-1]
        named[end if ends[end] == 1 else path] = path, layer
    return named


def _is_embedding(layer: Any) -> bool:
    # keras_nlp's position embedding is no `keras.layers.Embedding`.
    return (
        isinstance(layer, keras.layers.Embedding)
        or "Embedding" in type(layer).__name__
    )


def _copy(layer: Any, source: Any) -> str:
    """Copies all weights of a layer, or none and says why."""
    if source is None:
        return "(stays: the teacher has no such layer)"
    weights, values = own_weights(layer), own_weights(source)
    shapes, others = ([tuple(w.shape) for w in ws] for ws in (weights, values))
    if shapes != others and _is_shorter_position(layer, shapes, others):
        weights[0].assign(values[0][: shapes[0][0]])
        return ""
    if shapes != others:
        return _differing(shapes, others)
    for weight, value in zip(weights, values, strict=True):
        weight.assign(value)
    return ""


def _differing(shapes: Any, others: Any) -> str:
    if len(shapes) != len(others):
        return f"(stays: {len(shapes)} weights, teacher's {len(others)})"
    pairs = zip(shapes, others, strict=True)
    own, other = next(pair for pair in pairs if pair[0] != pair[1])
    return f"(stays: shape {own}, teacher's {other})"


def _other_activation(layer: Any, source: Any) -> str:
    # BERT's pooler ends in tanh, a layer of that name in DistilBERT in ReLU.
    functions = [getattr(x, "activation", None) for x in (layer, source)]
    if source is None or functions[0] is functions[1]:
        return ""
    names = [getattr(function, "__name__", "none") for function in functions]
    return f"(stays: activation {names[0]}, teacher's {names[1]})"


def _is_shorter_position(layer: Any, shapes: Any, others: Any) -> bool:
    return (
        type(layer).__name__ == "PositionEmbedding"
        and len(shapes) == len(others) == 1
        and shapes[0][0] < others[0][0]
        and shapes[0][1:] == others[0][1:]
    )
