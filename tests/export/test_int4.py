"""Files of 4-bit weights, to the byte."""

import keras
import numpy as np
import pytest

from kdtf.export import export_tflite
from kdtf.flatbuffer import describe

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "quantize, num_bytes", [("int4", 1024), ("int4_block32", 1024)]
)
def test_int4_takes_half_a_byte_for_each_weight(
    rng, tmp_path, quantize, num_bytes
):
    model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(32)])
    data = rng.normal(size=(20, 64)).astype("float32")
    path = tmp_path / "m.tflite"
    result = export_tflite(model, path, quantize=quantize, verify_data=data)
    assert result.sqnr_db > 15
    assert result.warnings == ()
    file = describe(path)
    (kernel,) = (t for t in file.tensors if t.shape == (32, 64))
    assert (kernel.dtype, kernel.num_bytes) == ("INT4", num_bytes)
    # Two scales for each of 32 outputs, of two bytes each, and no bias.
    scales = 2 * 2 * 32 if quantize == "int4_block32" else 0
    assert file.weight_bytes == num_bytes + scales


def test_int4_causal_lm_holds_its_table_once(
    tiny_transformer, token_ids, tmp_path
):
    path = tmp_path / "gpt.tflite"
    result = export_tflite(
        tiny_transformer, path, quantize="int4", verify_data=token_ids
    )
    assert result.sqnr_db > 6
    tables = [
        (tensor.dtype, tensor.num_bytes)
        for tensor in describe(path).tensors
        if tensor.is_constant and tensor.shape == (32, 8)
    ]
    assert tables == [("INT4", 128)]


@pytest.mark.parametrize("mode", ["int4", "int4_block32"])
def test_a_table_with_odd_rows_takes_eight_bits(tmp_path, mode):
    """LiteRT looks for each row at the start of a byte."""
    ids = keras.Input((1,), dtype="int32")
    model = keras.Model(ids, keras.layers.Embedding(10, 33)(ids))
    result = export_tflite(
        model,
        tmp_path / "odd.tflite",
        quantize=mode,
        verify_data=np.arange(10)[:, None],
    )
    assert result.sqnr_db > 40
    assert result.warnings == (
        "330 weights of EMBEDDING_LOOKUP are stored in 8 bits, not 4: LiteRT "
        "has no such form of it",
    )
