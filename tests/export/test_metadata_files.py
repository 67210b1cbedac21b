"""Files that say of themselves what they are."""

import io
import types
import zipfile

import keras
import numpy as np
import pytest

from kdtf.evaluation import inspect_model
from kdtf.export import ImageMetadata
from kdtf.export import Metadata
from kdtf.export import TextMetadata
from kdtf.export import export_tflite
from kdtf.export import read_metadata
from kdtf.export import tflite
from kdtf.export.metadata import attach
from kdtf.export.metadata import describe_model
from kdtf.export.metadata.tables import read_tables
from kdtf.flatbuffer import TensorSpec
from kdtf.flatbuffer import read_model
from kdtf.litert import Runner

TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "##s")
PICTURE = TensorSpec(name="image", dtype="float32", shape=(1, 8, 6, 3))
TEXT = tuple(
    TensorSpec(name=name, dtype="int32", shape=(1, 5))
    for name in ("padding_mask", "segment_ids", "token_ids")
)
SCORES = {"output_0": np.zeros((2, 4), "float32")}


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(0)
    return rng.uniform(-1, 1, size=(12, 8, 6, 3)).astype("float32")


@pytest.fixture(scope="module")
def classifier():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((8, 6, 3), name="image"),
            keras.layers.Conv2D(32, 3, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(4, activation="softmax"),
        ]
    )


@pytest.fixture(scope="module")
def said():
    return ImageMetadata(
        name="shapes",
        author="me",
        labels=["rund", "éckig", "oval", "oval"],
        mean=110.25,
        std=[64.5],
    )


@pytest.fixture(scope="module")
def plain(classifier, pictures, tmp_path_factory):
    """The classifier in int8, without metadata."""
    path = tmp_path_factory.mktemp("plain") / "plain.tflite"
    export_tflite(
        classifier, path, quantize="int8", representative_data=pictures
    )
    return path


def tables_in(content):
    model = read_model(content)
    names = [entry.name for entry in model.metadata]
    entry = model.metadata[names.index(b"TFLITE_METADATA")]
    return read_tables(bytes(model.buffers[entry.buffer].data))


def test_a_file_with_metadata_computes_the_same(
    classifier, pictures, said, plain, tmp_path
):
    path = tmp_path / "a.tflite"
    result = export_tflite(
        classifier,
        path,
        quantize="int8",
        representative_data=pictures,
        metadata=said,
    )
    assert read_metadata(path) == said == result.metadata
    assert "ImageMetadata: name 'shapes', author 'me'" in str(result)
    assert result.size_bytes == path.stat().st_size
    first, second = Runner(path), Runner(plain)
    np.testing.assert_array_equal(
        first(pictures)["output_0"], second(pictures)["output_0"]
    )
    # The tables and the archive, and no zero points that were one before
    # (8 bytes for each of 32 channels, twice).
    assert path.stat().st_size - plain.stat().st_size < 1024


def test_files_are_an_uncompressed_archive_at_the_end(plain, said):
    content = plain.read_bytes()
    described = describe_model(said, None, inputs=[PICTURE], outputs=SCORES)
    packed = attach(content, described)
    assert attach(content, described) == packed
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        (entry,) = archive.infolist()
        assert entry.filename == "labels.txt"
        assert entry.compress_type == zipfile.ZIP_STORED
        wanted = "rund\néckig\noval\noval\n".encode()
        assert archive.read(entry) == wanted
    # As it is: readers take it from where it lies.
    assert packed.index(wanted) > packed.index(b"M001")
    assert packed.endswith(b"\0\0")


def test_pictures_are_described_as_mediapipe_reads_them(plain, said):
    described = describe_model(said, None, inputs=[PICTURE], outputs=SCORES)
    content = attach(plain.read_bytes(), described)
    tables = tables_in(content)
    (subgraph,) = tables["subgraphs"]
    assert tables["min_parser_version"] == "1.0.0"
    assert subgraph["inputs"] == [
        {
            "name": "image",
            "content": {
                "properties": (
                    "ImageProperties",
                    {"color_space": 1, "size": {"width": 6, "height": 8}},
                )
            },
            "units": [
                {
                    "options": (
                        "NormalizationOptions",
                        {"mean": [110.25], "std": [64.5]},
                    )
                }
            ],
        }
    ]
    (output,) = subgraph["outputs"]
    assert output["content"] == {"properties": ("FeatureProperties", {})}
    assert [(f["name"], f["type"]) for f in output["files"]] == [
        ("labels.txt", 2)
    ]


def test_texts_are_described_as_mediapipe_reads_them():
    said = TextMetadata(labels=["a", "b", "c", "d"], tokenizer=TOKENS)
    described = describe_model(said, None, inputs=TEXT, outputs=SCORES)
    (subgraph,) = described.tables["subgraphs"]
    names = [tensor["name"] for tensor in subgraph["inputs"]]
    assert names == ["mask", "segment_ids", "ids"]
    kind, options = subgraph["input_units"][0]["options"]
    assert kind == "BertTokenizerOptions"
    assert options["vocabulary"][0]["name"] == "vocab.txt"
    assert options["vocabulary"][0]["type"] == 5
    assert described.tables["min_parser_version"] == "1.1.0"
    assert described.files == {
        "vocab.txt": b"[PAD]\n[UNK]\n[CLS]\n[SEP]\ngood\n##s\n",
        "labels.txt": b"a\nb\nc\nd\n",
    }


def test_new_metadata_replaces_the_old(plain, tmp_path):
    content = plain.read_bytes()
    path = tmp_path / "a.tflite"
    for said in (
        ImageMetadata(labels=list("abcd"), mean=0, std=1),
        Metadata(license="MIT"),
    ):
        described = describe_model(said, None, inputs=[PICTURE], outputs=SCORES)
        content = attach(content, described)
        path.write_bytes(content)
        assert read_metadata(path) == said
    assert not zipfile.is_zipfile(path)


def test_sparse_weights_stay_sparse(tmp_path):
    layer = keras.layers.Dense(64, name="dense")
    model = keras.Sequential([keras.Input((64,)), layer])
    kernel = np.zeros((64, 64), "float32")
    kernel[:8] = np.linspace(0.5, 1, 512).reshape(8, 64)
    layer.kernel.assign(kernel)
    said = Metadata(name="mostly zeros")
    path = tmp_path / "a.tflite"
    result = export_tflite(model, path, sparse=True, metadata=said)
    assert [tensor.shape for tensor in result.sparse_tensors] == [(64, 64)]
    assert path.stat().st_size < kernel.nbytes // 2
    assert read_metadata(path) == said


@pytest.mark.slow
def test_the_vocabulary_comes_from_the_models_preprocessor(tmp_path):
    import keras_nlp

    tokenizer = keras_nlp.models.BertTokenizer(
        vocabulary=list(TOKENS) + ["[MASK]"], lowercase=True
    )
    backbone = keras_nlp.models.BertBackbone(
        vocabulary_size=7,
        num_layers=1,
        num_heads=2,
        hidden_dim=8,
        intermediate_dim=8,
        max_sequence_length=6,
    )
    model = keras_nlp.models.BertTextClassifier(
        backbone=backbone,
        preprocessor=keras_nlp.models.BertTextClassifierPreprocessor(
            tokenizer, sequence_length=6
        ),
        num_classes=2,
    )
    x = model.preprocessor(["goods good", "good"])
    path = tmp_path / "bert.tflite"
    said = TextMetadata(labels=["no", "yes"])
    result = export_tflite(
        model, path, quantize="dynamic_int8", verify_data=x, metadata=said
    )
    found = read_metadata(path)
    assert found.tokenizer == (*TOKENS, "[MASK]")
    assert found.labels == ("no", "yes")
    assert "TextMetadata: 2 labels, 7 tokens" in str(result)
    order = [spec.name for spec in result.signatures[0].inputs]
    (subgraph,) = tables_in(path.read_bytes())["subgraphs"]
    theirs = {"token_ids": "ids", "padding_mask": "mask"}
    assert [tensor["name"] for tensor in subgraph["inputs"]] == [
        theirs.get(name, name) for name in order
    ]


def test_inspection_shows_it(plain, said, tmp_path):
    content = plain.read_bytes()
    path = tmp_path / "a.tflite"
    described = describe_model(said, None, inputs=[PICTURE], outputs=SCORES)
    path.write_bytes(attach(content, described))
    assert inspect_model(path).metadata == said
    assert "ImageMetadata: name 'shapes'" in str(inspect_model(path))
    assert "Metadata" not in str(inspect_model(plain))


def test_files_without_metadata_have_none(plain):
    assert read_metadata(plain) is None


def test_a_file_that_lost_its_labels_is_damaged(plain, said, tmp_path):
    content = plain.read_bytes()
    described = describe_model(said, None, inputs=[PICTURE], outputs=SCORES)
    packed = attach(content, described)
    path = tmp_path / "a.tflite"
    path.write_bytes(packed[: packed.rindex(b"PK\1\2")])
    with pytest.raises(ValueError, match="metadata must be whole.*a.tflite"):
        read_metadata(path)


def test_other_objects_are_no_metadata(classifier, older, untouched):
    with pytest.raises(TypeError, match="`metadata` must be a Metadata.*dict"):
        export_tflite(classifier, older, metadata={"name": "x"})
    untouched()


@pytest.mark.parametrize(
    "said, target, message",
    [
        (
            ImageMetadata(labels=["a", "b"], mean=0, std=1),
            "android",
            r"2 labels for an output of shape \(12, 4\)",
        ),
        (ImageMetadata(), "android", r"must say how pixels.*mean=\(\)"),
        (
            ImageMetadata(mean=[0, 1, 2], std=[1, 1, 1]),
            "android",
            "same for all channels.*Normalization",
        ),
        (ImageMetadata(mean=0, std=1), "iot", "int8 throughout.*'android'"),
        (TextMetadata(), "android", "needs a vocabulary.*'sequential"),
        (TextMetadata(tokenizer=TOKENS), "android", "three int32 inputs"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_conversion(
    classifier, pictures, older, untouched, monkeypatch, said, target, message
):
    monkeypatch.delattr(tflite, "build_file")
    with pytest.raises(ValueError, match=message):
        export_tflite(
            classifier,
            older,
            target=target,
            representative_data=pictures,
            metadata=said,
        )
    untouched()


def spec(shape, dtype="float32", name="x"):
    return TensorSpec(name=name, dtype=dtype, shape=shape)


@pytest.mark.parametrize(
    "inputs",
    [
        [spec((1, 8, 8, 1))],
        [spec((1, 8, 8))],
        [spec((1, 8, 8, 3), "int32")],
        [PICTURE, spec((1, 2))],
    ],
)
def test_image_metadata_wants_one_colour_picture(inputs):
    said = ImageMetadata(mean=0, std=1)
    with pytest.raises(ValueError, match="one float32 or uint8 input of shape"):
        describe_model(said, None, inputs=inputs, outputs=SCORES)


def test_pixels_as_they_are_need_no_normalisation():
    raw = spec((1, 8, 8, 3), "uint8")
    described = describe_model(
        ImageMetadata(), None, inputs=[raw], outputs=SCORES
    )
    (subgraph,) = described.tables["subgraphs"]
    assert "units" not in subgraph["inputs"][0]
    assert described.files == {}


@pytest.mark.parametrize(
    "inputs",
    [
        TEXT[1:],
        (*TEXT[:2], spec((1, 5), "int32", "tokens")),
        (*TEXT[:2], spec((1, 5), "int64", "token_ids")),
        (*TEXT[:2], spec((1, 6), "int32", "token_ids")),
        (*TEXT[:2], spec((1, 5), "int32", "attention_mask")),
        tuple(spec((1, 5, 1), "int32", s.name) for s in TEXT),
        tuple(spec((1, 5), "float32", s.name) for s in TEXT),
    ],
)
def test_text_metadata_wants_three_alike_inputs(inputs):
    said = TextMetadata(tokenizer=TOKENS)
    with pytest.raises(ValueError, match="three int32 inputs of one shape"):
        describe_model(said, None, inputs=inputs, outputs=SCORES)


@pytest.mark.parametrize(
    "outputs",
    [
        {"output_0": np.zeros((2, 3, 4))},
        {"output_0": np.zeros(2)},
        {"a": np.zeros((2, 4)), "b": np.zeros((2, 4))},
    ],
)
def test_classifiers_have_one_row_of_scores(outputs):
    said = ImageMetadata(mean=0, std=1)
    with pytest.raises(ValueError, match="one output of shape"):
        describe_model(said, None, inputs=[PICTURE], outputs=outputs)


def test_a_vocabulary_longer_than_the_table_is_refused():
    backbone = types.SimpleNamespace(vocabulary_size=5)
    model = types.SimpleNamespace(name="m", backbone=backbone)
    said = TextMetadata(tokenizer=TOKENS)
    with pytest.raises(ValueError, match="6 tokens, and vocabulary_size=5"):
        describe_model(said, model, inputs=TEXT, outputs=SCORES)
