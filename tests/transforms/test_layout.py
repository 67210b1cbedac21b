import keras
import numpy as np
import pytest

from kdtf.transforms.layout import Layout
from kdtf.transforms.layout import layout_of

LAYERS = [
    (keras.layers.Dense(3), (None, 5), (0,), (1,)),
    (keras.layers.Conv2D(4, (2, 3)), (None, 8, 8, 5), (0, 1, 2), (3,)),
    (
        keras.layers.Conv2DTranspose(4, (2, 3)),
        (None, 8, 8, 5),
        (0, 1, 3),
        (2,),
    ),
    (
        keras.layers.DepthwiseConv2D(3, depth_multiplier=2),
        (None, 8, 8, 5),
        (0, 1),
        (2, 3),
    ),
    (
        keras.layers.EinsumDense("abc,cde->abde", (None, 2, 3)),
        (None, 6, 5),
        (0,),
        (1, 2),
    ),
    (
        keras.layers.EinsumDense("abde,dec->abc", (None, 7)),
        (None, 6, 2, 3),
        (0, 1),
        (2,),
    ),
    (
        keras.layers.EinsumDense("...x,yx->...y", (6, 4)),
        (None, 6, 5),
        (1,),
        (0,),
    ),
]


@pytest.mark.parametrize(("layer", "shape", "contraction", "output"), LAYERS)
def test_axes_are_told_from_the_layer(layer, shape, contraction, output):
    layer.build(shape)
    layout = layout_of(layer, layer.kernel)
    assert (layout.contraction, layout.output) == (contraction, output)
    assert layout.shape == tuple(layer.kernel.shape)


def test_of_an_embedding_the_row_is_summed_over():
    layer = keras.layers.Embedding(7, 3)
    layer.build()
    layout = layout_of(layer, layer.embeddings)
    assert (layout.contraction, layout.output) == ((1,), (0,))
    assert (layout.num_inputs, layout.num_outputs) == (3, 7)


def test_the_matrix_multiplies_like_the_layer(rng):
    layer = keras.layers.EinsumDense("abde,dec->abc", (None, 7))
    x = rng.normal(size=(2, 3, 4, 5)).astype("float32")
    expected = np.asarray(layer(x))
    layout = layout_of(layer, layer.kernel)
    matrix = np.asarray(layout.to_matrix(layer.kernel))
    # float32 sums of 20 products in another order.
    np.testing.assert_allclose(
        x.reshape(2, 3, 20) @ matrix, expected, rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(
    ("contraction", "output"),
    [((0,), (1, 2)), ((1, 0), (2,)), ((2,), (1, 0)), ((0, 1, 2), ())],
)
def test_matrix_and_back_is_the_kernel(contraction, output, rng):
    kernel = rng.normal(size=(2, 3, 4))
    layout = Layout(shape=(2, 3, 4), contraction=contraction, output=output)
    matrix = layout.to_matrix(kernel)
    assert tuple(matrix.shape) == (layout.num_inputs, layout.num_outputs)
    np.testing.assert_array_equal(layout.from_matrix(matrix), kernel)


def test_axes_that_are_missing_or_double_are_refused():
    with pytest.raises(ValueError, match=r"each axis.*output=\(1, 0\)"):
        Layout(shape=(2, 2), contraction=(0,), output=(1, 0))
    with pytest.raises(ValueError, match="at least one must be summed"):
        Layout(shape=(2,), contraction=(), output=(0,))
