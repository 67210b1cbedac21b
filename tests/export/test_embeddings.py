"""The rewrite of GATHER, on a language model with a tied table."""

import keras
import numpy as np
import pytest

from kdtf.export import converter
from kdtf.export.embeddings import rewrite_embeddings
from kdtf.export.interface import interface_of
from kdtf.export.quantizer import to_dynamic
from kdtf.litert import Runner
from kdtf.litert import describe


@pytest.fixture(scope="module")
def float_file():
    """Logits from a table of 32 tokens that also reads the ids."""
    import keras_nlp

    ids = keras.Input((8,), dtype="int32", name="ids")
    table = keras_nlp.layers.ReversibleEmbedding(32, 16)
    hidden = keras.layers.Dense(16, activation="relu")(table(ids))
    model = keras.Model(ids, table(hidden, reverse=True))
    interface = interface_of(model, None).fixed(None)
    with converter.traced(model, interface) as traced:
        return converter.to_float32(traced)


def write(path, content):
    path.write_bytes(content)
    return path


def test_rewrite_is_bit_exact_and_makes_the_quantized_file_smaller(
    float_file, rng, tmp_path
):
    rewritten, count = rewrite_embeddings(float_file)
    assert count == 1
    before = write(tmp_path / "before.tflite", float_file)
    after = write(tmp_path / "after.tflite", rewritten)
    assert describe(before).operators["GATHER"] == 1
    assert "GATHER" not in describe(after).operators
    assert describe(after).operators["EMBEDDING_LOOKUP"] == 1
    ids = rng.integers(0, 32, size=(12, 8)).astype("int32")
    inputs = {converter.INPUT.format(0): ids}
    (expected,) = Runner(before)(inputs).values()
    (outputs,) = Runner(after)(inputs).values()
    np.testing.assert_array_equal(outputs, expected)

    plain = write(tmp_path / "plain.tflite", to_dynamic(float_file).content)
    small = write(tmp_path / "small.tflite", to_dynamic(rewritten).content)
    # The tied table of 32 x 16 is no longer there as floats, beside the bytes.
    saved = describe(plain).weight_bytes - describe(small).weight_bytes
    assert saved == 4 * 32 * 16
    # Rewritten twice it stays as it is.
    assert rewrite_embeddings(rewritten) == (rewritten, 0)


@pytest.mark.parametrize(
    "change, reason",
    [
        ("axis", "only rows are embeddings"),
        ("batchDims", "batched gathers pick differently"),
        ("shapeSignature", "free shapes cannot be written down"),
    ],
)
def test_other_gathers_stay(float_file, change, reason):
    from kdtf.flatbuffer import operator_name
    from kdtf.flatbuffer import read_model
    from kdtf.flatbuffer import write_model

    model = read_model(float_file)
    subgraph = model.subgraphs[0]
    (gather,) = (
        operator
        for operator in subgraph.operators
        if operator_name(model, operator) == "GATHER"
    )
    if change == "shapeSignature":
        subgraph.tensors[gather.inputs[1]].shapeSignature = [1, -1]
    else:
        setattr(gather.builtinOptions, change, 1)
    content = write_model(model)
    assert rewrite_embeddings(content) == (content, 0), reason
