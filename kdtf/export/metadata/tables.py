"""Reads and writes the flatbuffer of TFLite metadata.

Only the tables that kdtf uses, each as a dict of its fields; fields it does
not know are passed over, as flatbuffers allow.

Reference: mediapipe/tasks/metadata/metadata_schema.fbs, schema version 1.5.0.
"""

import struct
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

__all__ = ["IDENTIFIER", "read_tables", "write_tables"]

IDENTIFIER = b"M001"

_NUMBERS = {"int8": "Int8", "uint8": "Uint8", "uint32": "Uint32"}
# The members by number. In a buffer a union takes two places: which member it
# is, and where that lies.
_UNIONS = {
    "ContentProperties": {1: "FeatureProperties", 2: "ImageProperties"},
    "ProcessUnitOptions": {
        1: "NormalizationOptions",
        4: "BertTokenizerOptions",
    },
}

# Fields by the place they have in the schema, and their kinds: "string", a
# number, a table, a union, or a list of one of them in brackets.
# None is one that kdtf passes over, or the first place of a union.
_TABLES: dict[str, list[tuple[str, str] | None]] = {
    "ModelMetadata": [
        ("name", "string"),
        ("description", "string"),
        ("version", "string"),
        ("subgraphs", "[SubGraphMetadata]"),
        ("author", "string"),
        ("license", "string"),
        ("files", "[AssociatedFile]"),
        ("min_parser_version", "string"),
    ],
    "SubGraphMetadata": [
        None,
        None,
        ("inputs", "[TensorMetadata]"),
        ("outputs", "[TensorMetadata]"),
        ("files", "[AssociatedFile]"),
        ("input_units", "[ProcessUnit]"),
    ],
    "TensorMetadata": [
        ("name", "string"),
        ("description", "string"),
        None,
        ("content", "Content"),
        ("units", "[ProcessUnit]"),
        None,
        ("files", "[AssociatedFile]"),
    ],
    "Content": [None, ("properties", "ContentProperties")],
    "FeatureProperties": [],
    "ImageProperties": [("color_space", "int8"), ("size", "ImageSize")],
    "ImageSize": [("width", "uint32"), ("height", "uint32")],
    "ProcessUnit": [None, ("options", "ProcessUnitOptions")],
    "NormalizationOptions": [("mean", "[float32]"), ("std", "[float32]")],
    "BertTokenizerOptions": [("vocabulary", "[AssociatedFile]")],
    "AssociatedFile": [
        ("name", "string"),
        ("description", "string"),
        ("type", "int8"),
    ],
}


def write_tables(fields: Mapping[str, Any]) -> bytes:
    """Returns the buffer of a `ModelMetadata` table.

    Args:
        fields: Its fields by name; tables as dicts, a union as a pair of its
            member's name and that one's dict. What is missing, empty or 0
            takes no space.
    """
    import flatbuffers  # type: ignore[import-untyped]

    builder = flatbuffers.Builder(1024)
    root = _write_table(builder, "ModelMetadata", fields)
    builder.Finish(root, IDENTIFIER)
    return bytes(builder.Output())


def read_tables(buffer: bytes) -> dict[str, Any]:
    """Returns the fields of a `ModelMetadata` table, as `write_tables` takes.

    Raises:
        ValueError: The buffer is no TFLite metadata, or damaged.
    """
    if buffer[4:8] != IDENTIFIER:
        raise ValueError(
            "TFLite metadata carries the mark 'M001' in bytes 4 to 8. "
            f"Received: {bytes(buffer[4:8])!r} there."
        )
    import flatbuffers

    (start,) = struct.unpack_from("<I", buffer)
    table = flatbuffers.table.Table(bytearray(buffer), start)
    try:
        return _read_table(table, "ModelMetadata")
    except (IndexError, TypeError, ValueError, struct.error) as error:
        raise ValueError(
            "TFLite metadata must be whole. Received: a buffer of "
            f"{len(buffer)} bytes with an offset outside it ({error})."
        ) from error


def _write_table(builder: Any, table: str, fields: Mapping[str, Any]) -> int:
    layout = _TABLES[table]
    unknown = set(fields) - {field[0] for field in layout if field}
    if unknown:
        raise ValueError(
            f"A {table} has the fields {[f[0] for f in layout if f]}. "
            f"Received: {sorted(unknown)}."
        )
    # A flatbuffer is written from the leaves up: what a table points to must
    # be there before it starts.
    written = {
        slot: (field[1], _write_value(builder, field[1], fields[field[0]]))
        for slot, field in enumerate(layout)
        if field and fields.get(field[0])
    }
    builder.StartObject(len(layout))
    for slot, (kind, value) in written.items():
        if kind in _NUMBERS:
            getattr(builder, f"Prepend{_NUMBERS[kind]}Slot")(slot, value, 0)
            continue
        if kind in _UNIONS:
            member, value = value
            builder.PrependUint8Slot(slot - 1, member, 0)
        builder.PrependUOffsetTRelativeSlot(slot, value, 0)
    return int(builder.EndObject())


def _write_value(builder: Any, kind: str, value: Any) -> Any:
    """Writes what a field points to; gives what the field itself holds."""
    if kind[0] == "[":
        return _write_list(builder, kind[1:-1], value)
    if kind == "string":
        return builder.CreateString(value)
    if kind in _TABLES:
        return _write_table(builder, kind, value)
    if kind in _UNIONS:
        name, fields = value
        numbers = {name: number for number, name in _UNIONS[kind].items()}
        return numbers[name], _write_table(builder, name, fields)
    return value


def _write_list(builder: Any, kind: str, values: Sequence[Any]) -> int:
    items = [_write_value(builder, kind, value) for value in values]
    builder.StartVector(4, len(items), 4)
    for item in reversed(items):
        if kind == "float32":
            builder.PrependFloat32(item)
        else:
            builder.PrependUOffsetTRelative(item)
    return int(builder.EndVector())


def _read_table(table: Any, name: str) -> dict[str, Any]:
    found = {}
    for slot, field in enumerate(_TABLES[name]):
        # The vtable's first two entries are sizes.
        offset = field and table.Offset(4 + 2 * slot)
        if field and offset:
            value = _read_field(table, field[1], table.Pos + offset, slot)
            if value is not None:
                found[field[0]] = value
    return found


def _read_field(table: Any, kind: str, place: int, slot: int) -> Any:
    if kind[0] == "[":
        start = table.Vector(place - table.Pos)
        count = table.VectorLen(place - table.Pos)
        return [
            _read_value(table, kind[1:-1], start + 4 * i) for i in range(count)
        ]
    if kind not in _UNIONS:
        return _read_value(table, kind, place)
    offset = table.Offset(4 + 2 * (slot - 1))
    number = offset and _read_value(table, "uint8", table.Pos + offset)
    member = _UNIONS[kind].get(number)
    return member and (member, _read_value(table, member, place))


def _read_value(table: Any, kind: str, place: int) -> Any:
    from flatbuffers import number_types

    if kind == "string":
        return table.String(place).decode()
    if kind == "float32" or kind in _NUMBERS:
        name = _NUMBERS.get(kind, "Float32")
        return table.Get(getattr(number_types, f"{name}Flags"), place)
    return _read_table(type(table)(table.Bytes, table.Indirect(place)), kind)
