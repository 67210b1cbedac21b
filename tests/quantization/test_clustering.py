"""Clustering: how many values, which stay zero, and what is refused."""

import keras
import numpy as np
import pytest
import tf_keras
from tf_keras import layers

import kdtf
from kdtf.transforms.tfmot_models import strip
from kdtf.transforms.tfmot_models import wrappers

pytestmark = pytest.mark.tfmot


def mlp():
    return tf_keras.Sequential(
        [
            layers.InputLayer((8,)),
            layers.Dense(16, "relu", name="hidden"),
            layers.Dense(4, name="head"),
        ]
    )


def trained(model, rng):
    x = rng.normal(size=(16, 8)).astype("float32")
    model.compile(tf_keras.optimizers.SGD(0.1), "mse")
    model.fit(x, x[:, :4], epochs=2, verbose=0)
    return model


@pytest.mark.parametrize(
    "initialization", ["linear", "random", "density", "kmeans++"]
)
def test_a_trained_kernel_has_no_more_values_than_clusters(initialization, rng):
    model = kdtf.cluster(mlp(), 5, initialization=initialization)
    plain = strip(trained(model, rng))
    for layer in plain.layers:
        assert 2 < np.unique(layer.kernel).size <= 5


def test_linear_centroids_lie_evenly_and_each_weight_goes_to_the_nearest():
    model = mlp()
    kernel, bias = model.layers[0].get_weights()
    centroids = np.linspace(kernel.min(), kernel.max(), 4, dtype="float32")
    nearest = np.abs(kernel[..., None] - centroids).argmin(-1)
    plain = strip(kdtf.cluster(model, 4, initialization="linear"))
    # tf.linspace and np.linspace round differently.
    np.testing.assert_allclose(
        plain.layers[0].kernel, centroids[nearest], rtol=1e-5, atol=1e-7
    )
    np.testing.assert_array_equal(plain.layers[0].bias, bias)


@pytest.mark.parametrize("preserve_sparsity", [True, False])
def test_zeros_stay_zeros_where_asked(preserve_sparsity, rng):
    model = mlp()
    kernel, bias = model.layers[0].get_weights()
    kernel[np.abs(kernel) < np.median(np.abs(kernel))] = 0
    model.layers[0].set_weights([kernel, bias])
    clustered = kdtf.cluster(model, 6, preserve_sparsity=preserve_sparsity)
    after = strip(trained(clustered, rng)).layers[0].get_weights()[0]
    assert np.unique(after).size <= 6
    assert (after[kernel == 0] == 0).all() == preserve_sparsity


def test_only_selected_layers_are_clustered():
    model = kdtf.cluster(mlp(), 4, select="head")
    assert [w.layer.name for w in wrappers(model)[1]] == ["head"]


def test_embeddings_and_convolutions_by_default():
    model = tf_keras.Sequential(
        [
            layers.InputLayer((6,)),
            layers.Embedding(10, 4),
            layers.Reshape((6, 4, 1)),
            layers.DepthwiseConv2D(3),
            layers.Conv2D(4, 2),
        ]
    )
    wrapped = wrappers(kdtf.cluster(model, 4))[1]
    assert [type(w.layer) for w in wrapped] == [layers.Conv2D]


def test_a_keras_3_model_gets_codebooks_in_place(rng):
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(8)])
    kernel = rng.normal(size=(8, 8))
    kernel[:, 0] = 0.0
    model.set_weights([kernel, np.zeros(8)])
    assert kdtf.cluster(model, 4, preserve_sparsity=True) is model
    model.compile("sgd", "mse")
    model.fit(rng.normal(size=(16, 8)), np.zeros((16, 8)), verbose=0)
    values = kdtf.strip(model).get_weights()[0]
    assert np.unique(values).size <= 4 and 0.0 in values


def test_what_is_no_model_or_no_start_of_keras_3_is_refused():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match="initialization='random'"):
        kdtf.cluster(model, initialization="random")
    with pytest.raises(TypeError, match=r"must be a `keras\.Model`"):
        kdtf.cluster("model.keras")


def test_arguments_out_of_range_are_refused():
    with pytest.raises(ValueError, match="num_clusters=1"):
        kdtf.cluster(mlp(), 1)
    with pytest.raises(ValueError, match="at least 3 with.*num_clusters=2"):
        kdtf.cluster(mlp(), 2, preserve_sparsity=True)
    with pytest.raises(TypeError, match=r"num_clusters=4\.0"):
        kdtf.cluster(mlp(), 4.0)
    with pytest.raises(ValueError, match="linear.*initialization='kmeans'"):
        kdtf.cluster(mlp(), initialization="kmeans")


def test_more_clusters_than_weights_are_refused():
    with pytest.raises(ValueError, match="'head' with 64 non-zero weights"):
        kdtf.cluster(mlp(), 64)
    filters = tf_keras.Sequential([layers.Conv2D(2, 2, input_shape=(4, 4, 1))])
    with pytest.raises(ValueError, match="16 for layer 'conv2d.* 8 non-zero"):
        kdtf.cluster(filters, 16)


def test_half_precision_is_refused():
    half = layers.Dense(8, input_shape=(8,), dtype="mixed_float16")
    with pytest.raises(ValueError, match="float32 only.*'mixed_float16'"):
        kdtf.cluster(tf_keras.Sequential([half]), 4)


def test_clustering_twice_is_refused_until_stripped():
    model = kdtf.cluster(mlp(), 8)
    with pytest.raises(ValueError, match=r"already clustered.*kdtf\.strip"):
        kdtf.cluster(model, 4)
    again = strip(kdtf.cluster(strip(model), 4))
    assert np.unique(again.layers[0].kernel).size == 4
