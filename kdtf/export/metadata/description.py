"""From metadata and a model's interface to tables and files."""

import dataclasses
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from kdtf.export.metadata.records import ImageMetadata
from kdtf.export.metadata.records import Metadata
from kdtf.export.metadata.records import TextMetadata
from kdtf.flatbuffer import TensorSpec

_LABEL_FILE = "labels.txt"
_VOCABULARY_FILE = "vocab.txt"
# The schema's numbers.
AXIS_LABELS, _VOCABULARY = 2, 5
_RGB, _NUM_CHANNELS = 1, 3
# By these names MediaPipe finds the inputs of a BERT model; beside them those
# of keras-nlp, of Hugging Face and of the TensorFlow models.
_TEXT_INPUTS = {
    "ids": {"ids", "token_ids", "input_ids", "input_word_ids"},
    "segment_ids": {"segment_ids", "token_type_ids", "input_type_ids"},
    "mask": {"mask", "padding_mask", "attention_mask", "input_mask"},
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Described:
    """What goes into a file.

    Args:
        metadata: As the user gave it, with what the model knew.
        tables: The fields of the flatbuffer.
        files: The files beside it, by name.
    """

    metadata: Metadata
    tables: dict[str, Any]
    files: dict[str, bytes]


def describe_model(
    metadata: Metadata,
    model: Any,
    *,
    inputs: Sequence[TensorSpec],
    outputs: Mapping[str, Any],
    integer_only: bool = False,
) -> Described:
    """Returns what `metadata` means for a model.

    Args:
        metadata: What the user says of it.
        model: The Keras model; its preprocessor may have the vocabulary.
        inputs: Its inputs with fixed shapes.
        outputs: Arrays it gave, of shape `(samples, ...)`, by name.
        integer_only: Whether the file's inputs and outputs become int8.

    Raises:
        ValueError: The metadata does not fit the model.
        TypeError: It is no metadata.
    """
    _check_kind(metadata, integer_only)
    subgraph: dict[str, Any] = {
        "inputs": [{"name": spec.name} for spec in inputs],
        "outputs": [{"name": name} for name in outputs],
    }
    files: dict[str, bytes] = {}
    if isinstance(metadata, ImageMetadata):
        _check_image(metadata, inputs)
        subgraph["inputs"][0].update(_image(metadata, inputs[0].shape))
    if isinstance(metadata, TextMetadata):
        metadata = _with_vocabulary(metadata, model)
        names = _text_names(inputs)
        subgraph["inputs"] = [{"name": names[spec.name]} for spec in inputs]
        subgraph["input_units"] = [_bert_tokenizer()]
        files[_VOCABULARY_FILE] = _file(metadata.tokenizer)
    if isinstance(metadata, ImageMetadata | TextMetadata):
        _check_scores(metadata, outputs)
        subgraph["outputs"][0]["content"] = _feature()
        if metadata.labels:
            listed = [_associated(_LABEL_FILE, "Class names", AXIS_LABELS)]
            subgraph["outputs"][0]["files"] = listed
            files[_LABEL_FILE] = _file(metadata.labels)
    tables = _tables(metadata, subgraph)
    return Described(metadata=metadata, tables=tables, files=files)


def _tables(metadata: Metadata, subgraph: dict[str, Any]) -> dict[str, Any]:
    texts = dataclasses.fields(Metadata)
    # The schema's version that has all that is used.
    is_text = isinstance(metadata, TextMetadata)
    return {
        **{field.name: getattr(metadata, field.name) for field in texts},
        "subgraphs": [subgraph],
        "min_parser_version": "1.1.0" if is_text else "1.0.0",
    }


def _check_kind(metadata: Any, integer_only: bool) -> None:
    kind = type(metadata).__qualname__
    if not isinstance(metadata, Metadata):
        raise TypeError(
            "`metadata` must be a Metadata, ImageMetadata or TextMetadata. "
            f"Received: metadata={metadata!r} of type {kind}."
        )
    if integer_only and isinstance(metadata, ImageMetadata | TextMetadata):
        raise ValueError(
            f"`metadata={kind}(...)` is for MediaPipe, which takes no int8 "
            "inputs. Received: a target that is int8 throughout. Use "
            "`Metadata`, or target='android'."
        )


def _check_image(metadata: ImageMetadata, inputs: Sequence[TensorSpec]) -> None:
    shape, dtype = inputs[0].shape, inputs[0].dtype
    is_image = len(shape) == 4 and shape[3] == _NUM_CHANNELS
    if not (len(inputs) == 1 and is_image and dtype in ("float32", "uint8")):
        raise ValueError(
            "`metadata=ImageMetadata(...)` goes with one float32 or uint8 "
            "input of shape (batch, height, width, 3): MediaPipe takes colour "
            f"pictures only. Received: inputs={_listed(inputs)}. Use "
            "`Metadata` for other models, or let a grey one take the mean of "
            "three channels."
        )
    if dtype == "float32" and not metadata.mean:
        raise ValueError(
            "`ImageMetadata` must say how pixels in [0, 255] become the "
            "model's float32 input. Received: mean=(), std=(). Pass "
            "`mean=127.5, std=127.5` for a model trained on [-1, 1], "
            "`mean=0.0, std=255.0` for [0, 1], `mean=0.0, std=1.0` for one "
            "that rescales its input itself."
        )
    numbers = set(zip(metadata.mean, metadata.std, strict=True))
    if len(numbers) > 1:
        raise ValueError(
            "`mean` and `std` must be the same for all channels: MediaPipe "
            f"has no others. Received: mean={metadata.mean}, "
            f"std={metadata.std}. Begin the model with a "
            "`keras.layers.Normalization` and pass `mean=0.0, std=1.0`."
        )


def _listed(inputs: Sequence[TensorSpec]) -> dict[str, str]:
    return {spec.name: f"{spec.dtype}{list(spec.shape)}" for spec in inputs}


def _image(
    metadata: ImageMetadata, shape: tuple[int | None, ...]
) -> dict[str, Any]:
    _, height, width, _ = shape
    properties = {
        "color_space": _RGB,
        "size": {"width": width, "height": height},
    }
    fields: dict[str, Any] = {
        "content": {"properties": ("ImageProperties", properties)}
    }
    if metadata.mean:
        options = {"mean": metadata.mean, "std": metadata.std}
        fields["units"] = [{"options": ("NormalizationOptions", options)}]
    return fields


def _with_vocabulary(metadata: TextMetadata, model: Any) -> TextMetadata:
    preprocessor = getattr(model, "preprocessor", None)
    if metadata.tokenizer is None:
        own = getattr(preprocessor, "tokenizer", None)
        metadata = dataclasses.replace(metadata, tokenizer=own)
    if metadata.tokenizer is None:
        raise ValueError(
            "`TextMetadata` needs a vocabulary. Received: tokenizer=None, and "
            f"the model {model.name!r} has no preprocessor with a tokenizer. "
            "Pass `tokenizer=` (a keras-nlp BERT tokenizer, or the tokens)."
        )
    size = getattr(
        getattr(model, "backbone", None), "vocabulary_size", float("inf")
    )
    if len(metadata.tokenizer) > size:
        raise ValueError(
            "`tokenizer` must not have more tokens than the model's table. "
            f"Received: {len(metadata.tokenizer)} tokens, and "
            f"vocabulary_size={size}. Pass the vocabulary it was trained with."
        )
    return metadata


def _text_names(inputs: Sequence[TensorSpec]) -> dict[str, str]:
    """Gives MediaPipe's name for each input of a BERT model."""
    known = {n: to for to, names in _TEXT_INPUTS.items() for n in names}
    found = {s.name: known[s.name] for s in inputs if s.name in known}
    are_alike = len({(spec.shape, spec.dtype) for spec in inputs}) == 1
    is_int32 = len(inputs[0].shape) == 2 and inputs[0].dtype == "int32"
    is_complete = set(found.values()) == set(_TEXT_INPUTS)
    if not (are_alike and is_int32 and is_complete and len(inputs) == 3):
        names = [sorted(names) for names in _TEXT_INPUTS.values()]
        raise ValueError(
            "`metadata=TextMetadata(...)` goes with three int32 inputs of one "
            f"shape (batch, length), named like {names}. Received: "
            f"inputs={_listed(inputs)}. Wrap the model in one with such inputs."
        )
    return found


def _check_scores(
    metadata: ImageMetadata | TextMetadata, outputs: Mapping[str, Any]
) -> None:
    shapes = {name: value.shape for name, value in outputs.items()}
    scores = next(iter(outputs.values()))
    kind = type(metadata).__name__
    if len(outputs) != 1 or len(scores.shape) != 2:
        raise ValueError(
            f"`metadata={kind}(...)` goes with one output of shape (batch, "
            f"classes). Received: outputs={shapes}. Use `Metadata` for other "
            "models."
        )
    labels = metadata.labels
    if labels is not None and len(labels) != scores.shape[1]:
        raise ValueError(
            "`labels` must name each of the output's numbers once. Received: "
            f"{len(labels)} labels for an output of shape {scores.shape}."
        )


def _feature() -> dict[str, Any]:
    return {"properties": ("FeatureProperties", {})}


def _bert_tokenizer() -> dict[str, Any]:
    listed = [
        _associated(_VOCABULARY_FILE, "A token's line is its id", _VOCABULARY)
    ]
    return {"options": ("BertTokenizerOptions", {"vocabulary": listed})}


def _associated(name: str, description: str, kind: int) -> dict[str, Any]:
    return {"name": name, "description": description, "type": kind}


def _file(lines: Sequence[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()
