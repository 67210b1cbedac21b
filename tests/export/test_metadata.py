"""What a user may say of a model, and the flatbuffer it becomes."""

import struct
import types

import pytest

from kdtf.export import ImageMetadata
from kdtf.export import Metadata
from kdtf.export import TextMetadata
from kdtf.export.metadata.tables import read_tables
from kdtf.export.metadata.tables import write_tables

TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "##s"]


# A ModelMetadata table with the name "ab", laid out by the flatbuffer format:
# the root's place, the mark, a vtable (its size, the table's, where the first
# field lies), padding, the table (back to its vtable, on to the text), and
# the text with its length.
BY_HAND = struct.pack(
    "<I4s HHH2x iI I4s",
    *(16, b"M001"),
    *(6, 8, 4),
    *(8, 4),
    *(2, b"ab\0\0"),
)

EVERYTHING = {
    "name": "é",
    "description": "d",
    "version": "2",
    "author": "a",
    "license": "l",
    "min_parser_version": "1.1.0",
    "files": [{"name": "readme.txt", "type": 1}],
    "subgraphs": [
        {
            "inputs": [
                {
                    "name": "image",
                    "description": "a picture",
                    "content": {
                        "properties": (
                            "ImageProperties",
                            {
                                "color_space": 1,
                                "size": {"width": 300, "height": 70_000},
                            },
                        )
                    },
                    "units": [
                        {
                            "options": (
                                "NormalizationOptions",
                                {"mean": [0.0, 127.5], "std": [0.25, 2.0]},
                            )
                        }
                    ],
                },
                {"name": "mask"},
            ],
            "outputs": [
                {
                    "content": {"properties": ("FeatureProperties", {})},
                    "files": [
                        {"name": "l.txt", "description": "x", "type": 2},
                        {"name": "m.txt"},
                    ],
                }
            ],
            "input_units": [
                {
                    "options": (
                        "BertTokenizerOptions",
                        {"vocabulary": [{"name": "v.txt", "type": 5}]},
                    )
                }
            ],
        }
    ],
}


def test_a_buffer_made_by_hand_is_read():
    assert read_tables(BY_HAND) == {"name": "ab"}


def test_what_is_written_follows_the_format():
    written = write_tables({"name": "ab"})
    (root,) = struct.unpack_from("<I", written)
    assert written[4:8] == b"M001"
    (back,) = struct.unpack_from("<i", written, root)
    size, table, place = struct.unpack_from("<HHH", written, root - back)
    assert (size, table) == (6, 8)
    (offset,) = struct.unpack_from("<I", written, root + place)
    text = root + place + offset
    assert written[text : text + 7] == b"\x02\0\0\0ab\0"


def test_every_kind_of_field_comes_back():
    assert read_tables(write_tables(EVERYTHING)) == EVERYTHING


def test_what_is_empty_takes_no_space():
    assert read_tables(write_tables({"name": "", "files": []})) == {}


def test_an_unknown_field_is_refused():
    with pytest.raises(ValueError, match=r"ImageSize has.*'depth'"):
        write_tables(
            {
                "subgraphs": [
                    {
                        "inputs": [
                            {
                                "content": {
                                    "properties": (
                                        "ImageProperties",
                                        {"size": {"depth": 3}},
                                    )
                                }
                            }
                        ]
                    }
                ]
            }
        )


def test_other_buffers_are_no_metadata():
    with pytest.raises(ValueError, match="'M001'.*b'TFL3'"):
        read_tables(BY_HAND.replace(b"M001", b"TFL3"))


def test_a_cut_or_spoiled_buffer_is_an_error_or_reads():
    whole = write_tables(EVERYTHING)
    num_refused = 0
    spoiled = [whole[:cut] for cut in range(8, len(whole), 3)]
    for place in range(8, len(whole), 3):
        bad = bytearray(whole)
        bad[place] ^= 0xFF
        spoiled.append(bytes(bad))
    for buffer in spoiled:
        try:
            read_tables(buffer)
        except ValueError as error:
            assert "must be whole" in str(error)
            num_refused += 1
    assert num_refused > len(spoiled) // 4


def test_texts_are_checked():
    with pytest.raises(TypeError, match="`author` must be a text.*author=3"):
        Metadata(author=3)


def test_metadata_prints_what_is_known():
    said = Metadata(name="n", license="MIT")
    assert str(said) == "Metadata: name 'n', license 'MIT'"
    assert str(Metadata()) == "Metadata: empty"
    said = ImageMetadata(labels=["a", "b"], mean=0, std=255)
    assert str(said) == "ImageMetadata: 2 labels, (pixel - 0.0) / 255.0"
    said = ImageMetadata(mean=[1, 2, 3], std=[4, 5, 6])
    assert "(pixel - (1.0, 2.0, 3.0)) / (4.0, 5.0, 6.0)" in str(said)
    said = TextMetadata(labels=["a"], tokenizer=TOKENS)
    assert str(said) == "TextMetadata: 1 labels, 6 tokens"
    assert "[PAD]" not in repr(said)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"mean": 1.0}, r"as many numbers each.*mean=\(1.0,\), std=\(\)"),
        ({"mean": 0, "std": [1, 2, 3]}, "as many numbers each"),
        ({"mean": 1, "std": 0}, r"`std` positive.*std=\(0.0,\)"),
        ({"mean": 1, "std": -1}, "`std` positive"),
        ({"mean": 1, "std": float("nan")}, "must be finite"),
        ({"mean": float("inf"), "std": 1}, "must be finite"),
        ({"labels": ["a", "b\nc"]}, r"must be one line.*'b\\nc'"),
        ({"labels": ["a", ""]}, r"must be one line.*\[''\]"),
    ],
)
def test_image_values_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        ImageMetadata(**arguments)


@pytest.mark.parametrize("labels", ["cat", [], [1, 2], [b"a"]])
def test_labels_are_a_list_of_texts(labels):
    with pytest.raises(TypeError, match="`labels` must be a list of texts"):
        ImageMetadata(labels=labels)


def test_labels_may_repeat():
    assert ImageMetadata(labels=["crane", "crane"]).labels == ("crane", "crane")


def test_values_become_tuples():
    said = ImageMetadata(labels=["a"], mean=127.5, std=[1])
    assert (said.labels, said.mean, said.std) == (("a",), (127.5,), (1.0,))
    said = TextMetadata(labels=["a"], tokenizer=TOKENS)
    assert said.tokenizer == tuple(TOKENS)


def test_a_tokenizer_gives_its_vocabulary():
    tokenizer = types.SimpleNamespace(
        lowercase=True, get_vocabulary=lambda: TOKENS
    )
    assert TextMetadata(tokenizer=tokenizer).tokenizer == tuple(TOKENS)


def test_a_tokenizer_that_keeps_capitals_is_refused():
    tokenizer = types.SimpleNamespace(
        lowercase=False, get_vocabulary=lambda: TOKENS
    )
    with pytest.raises(ValueError, match="must lowercase.*lowercase=False"):
        TextMetadata(tokenizer=tokenizer)


@pytest.mark.parametrize(
    "tokens, message",
    [
        (TOKENS[:3], r"of 3 without \['\[SEP\]'\]"),
        (["a b", "c"], r"\['\[CLS\]', '\[SEP\]', '\[UNK\]'\]"),
        ([*TOKENS, "x\r"], "must be one line"),
    ],
)
def test_vocabularies_are_checked(tokens, message):
    with pytest.raises(ValueError, match=message):
        TextMetadata(tokenizer=tokens)


def test_other_objects_are_no_tokenizer():
    with pytest.raises(TypeError, match="`tokenizer` must be"):
        TextMetadata(tokenizer=3)
