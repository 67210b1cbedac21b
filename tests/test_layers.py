import keras

from kdtf.layers import own_weights
from kdtf.layers import walk_layers


def test_a_layer_in_two_places_is_walked_once():
    inner = keras.layers.Dense(2, name="inner")
    model = keras.Sequential([keras.Input((2,)), inner, inner])
    assert [path for path, _ in walk_layers(model)].count("inner") == 1


def test_weights_of_inner_layers_are_not_the_outer_ones():
    inner = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    outer = keras.Sequential([inner, keras.layers.BatchNormalization()])
    outer.build((None, 2))
    assert own_weights(outer) == []
    counts = [len(own_weights(layer)) for _, layer in walk_layers(outer)]
    assert sorted(filter(None, counts)) == [2, 4]
