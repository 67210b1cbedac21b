"""What a page asks for: a picture, a text or numbers."""

from collections.abc import Sequence
from typing import Any

from kdtf.export.metadata import Metadata
from kdtf.export.metadata import TextMetadata
from kdtf.flatbuffer import TensorSpec

__all__ = ["facts", "input_spec", "text_spec"]

_SMALLEST_PICTURE = 8
# Of a BERT model's inputs, by what their names hold (`token_type_ids`); the
# rest are ids.
_PARTS = {"mask": "mask", "segment": "segments", "type": "segments"}


def facts(spec: TensorSpec) -> dict[str, Any]:
    """Returns a tensor's name, type and shape, for JSON."""
    return {"name": spec.name, "dtype": spec.dtype, "shape": list(spec.shape)}


def input_spec(spec: TensorSpec) -> dict[str, Any]:
    """Returns the same of an input, and the kind of its field.

    Example:
        >>> spec = TensorSpec(name="x", dtype="float32", shape=(1, 28, 28, 1))
        >>> input_spec(spec)["kind"]
        'picture'
    """
    shape = spec.shape
    is_picture = (
        len(shape) == 4
        and spec.dtype != "int32"
        and shape[3] in (1, 3)
        and min(shape[1] or 0, shape[2] or 0) >= _SMALLEST_PICTURE
    )
    return {**facts(spec), "kind": "picture" if is_picture else "numbers"}


def text_spec(
    metadata: Metadata | None, inputs: Sequence[TensorSpec]
) -> dict[str, Any] | None:
    """Returns how a text becomes the inputs; None if nobody can know.

    Args:
        metadata: What the file says of itself.
        inputs: Its inputs.

    Example:
        >>> said = TextMetadata(tokenizer=["[UNK]", "[CLS]", "[SEP]", "good"])
        >>> names = ("token_ids", "segment_ids", "padding_mask")
        >>> specs = [TensorSpec(name=n, dtype="int32", shape=(1, 8))
        ...          for n in names]
        >>> text_spec(said, specs)["inputs"]["segments"]
        'segment_ids'
    """
    if not isinstance(metadata, TextMetadata) or metadata.tokenizer is None:
        return None
    named = {_part(spec.name): spec.name for spec in inputs}
    shapes = {(spec.dtype, len(spec.shape), spec.shape[-1]) for spec in inputs}
    is_bert = len(inputs) == len(named) == 3 and len(shapes) == 1
    dtype, rank, length = shapes.pop()
    if not is_bert or dtype != "int32" or rank != 2 or (length or 0) < 2:
        return None
    return {
        "vocabulary": list(metadata.tokenizer),
        "inputs": named,
        "length": length,
    }


def _part(name: str) -> str:
    return next((part for key, part in _PARTS.items() if key in name), "ids")
