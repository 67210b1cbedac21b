"""Rows times the kernel's matrix are a layer's outputs."""

import keras
import numpy as np
import pytest

from kdtf.quantization.compensation.kernel_inputs import LAST_AXIS
from kdtf.quantization.compensation.kernel_inputs import form_of
from kdtf.quantization.compensation.kernel_inputs import input_rows
from kdtf.quantization.compensation.kernel_inputs import why_no_rows
from kdtf.transforms.layout import layout_of
from kdtf.transforms.selection import candidates

layers = keras.layers
LAYERS = {
    "dense": (layers.Dense(5), (3, 7)),
    "dense of a sequence": (layers.Dense(5), (3, 4, 7)),
    "query": (layers.EinsumDense("bqm,muh->bquh", (None, 2, 3)), (3, 4, 7)),
    "output": (layers.EinsumDense("bquh,uhm->bqm", (None, 5)), (3, 4, 2, 3)),
    "swapped": (layers.EinsumDense("bquh,hum->bqm", (None, 5)), (3, 4, 2, 3)),
    "first axis": (layers.EinsumDense("btc,td->bcd", (None, 5)), (3, 4, 7)),
    "ellipsis": (layers.EinsumDense("...x,xy->...y", 5), (3, 4, 7)),
    "ellipsis behind": (
        layers.EinsumDense("bx...,xy->by...", (5, 7)),
        (3, 4, 7),
    ),
    "summed": (layers.EinsumDense("btc,cd->bd", 5), (3, 4, 7)),
    "conv1d": (layers.Conv1D(5, 3), (3, 8, 2)),
    "conv1d causal": (
        layers.Conv1D(5, 3, padding="causal", dilation_rate=2),
        (3, 8, 2),
    ),
    "conv2d": (layers.Conv2D(5, 3), (3, 8, 7, 2)),
    "conv2d strided": (
        layers.Conv2D(5, (3, 2), strides=2, padding="same"),
        (3, 8, 7, 2),
    ),
    "conv2d dilated": (
        layers.Conv2D(5, 3, dilation_rate=2, padding="same"),
        (3, 8, 7, 2),
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_rows_times_matrix_are_the_outputs(rng, name):
    layer, shape = LAYERS[name]
    inputs = rng.normal(size=shape).astype("float32")
    outputs = np.asarray(layer(inputs))
    layout = layout_of(layer, layer.kernel)
    matrix = np.asarray(layout.to_matrix(layer.kernel))
    rows = np.concatenate([np.asarray(r) for r in input_rows(layer, inputs)])
    assert rows.shape[1] == layout.num_inputs
    if name == "ellipsis behind":
        outputs = np.moveaxis(outputs, 1, -1)
    # Other orders of summation.
    np.testing.assert_allclose(
        rows @ matrix,
        outputs.reshape(-1, layout.num_outputs),
        rtol=1e-4,
        atol=1e-5,
    )
    assert why_no_rows(kernel_of(layer)) is None


def kernel_of(layer):
    (found,) = [
        candidate
        for candidate in candidates(keras.Sequential([layer]))
        if candidate.is_matrix
    ]
    return found


def test_large_images_come_in_parts(monkeypatch, rng):
    monkeypatch.setattr(
        "kdtf.quantization.compensation.kernel_inputs._MOST_VALUES",
        2 * 8 * 8 * 9,
    )
    layer = layers.Conv2D(5, 3)
    inputs = rng.normal(size=(5, 8, 8, 1)).astype("float32")
    layer(inputs)
    parts = [part.shape[0] for part in input_rows(layer, inputs)]
    assert parts == [72, 72, 36]


def test_layers_of_one_form_have_the_same_rows():
    einsum = layers.EinsumDense("abc,cd->abd", (None, 5))
    assert form_of(einsum) == form_of(layers.Dense(3)) == LAST_AXIS
    other = layers.EinsumDense("abc,bd->acd", (None, 5))
    assert form_of(other) != LAST_AXIS
    assert form_of(layers.Conv2D(4, 3)) == form_of(layers.Conv2D(8, 3))
    assert form_of(layers.Conv2D(4, 3)) != form_of(layers.Conv2D(4, 5))


@pytest.mark.parametrize(
    ("layer", "shape", "match"),
    [
        (layers.Embedding(4, 3), (2, 3), "Embedding's embeddings multiplies"),
        (layers.DepthwiseConv2D(3), (2, 8, 8, 3), "DepthwiseConv2D's kernel"),
        (layers.Conv2D(4, 3, groups=2), (2, 8, 8, 4), "grouped convolution"),
        (layers.Conv2DTranspose(4, 3), (2, 8, 8, 4), "Conv2DTranspose's"),
        (
            layers.EinsumDense("bnd,ndk->bnk", (3, 5)),
            (2, 3, 4),
            "outputs see different inputs",
        ),
        (
            layers.EinsumDense("abc,bc->abc", (3, 4)),
            (2, 3, 4),
            "scales its inputs one by one",
        ),
    ],
)
def test_says_why_there_are_no_rows(layer, shape, match):
    layer(np.zeros(shape, "int32" if "Embed" in match else "float32"))
    assert match in why_no_rows(kernel_of(layer))


def test_a_kernel_with_lora_is_a_sum():
    layer = layers.Dense(4)
    model = keras.Sequential([keras.Input((6,)), layer])
    layer.enable_lora(2)
    found = {c.variable.name: c for c in candidates(model)}
    assert "is not known" in why_no_rows(found["kernel"])
