"""Smaller models that a trained one holds, as a space."""

import keras
import keras_nlp
import numpy as np
import pytest

import kdtf
from kdtf.search import shrinkings


def residual():
    x = keras.Input((8,), name="x")
    layers = keras.layers
    stem = layers.Dense(16, name="stem")(x)
    inner = layers.Dense(32, "relu", name="inner")(stem)
    outer = layers.Dense(16, name="outer")(inner)
    y = layers.Dense(3, name="classes")(layers.add([stem, outer]))
    return keras.Model(x, y)


def test_each_width_that_shrinks_alone_is_a_choice():
    model = residual()
    preset = shrinkings(model, shares=[0.5, 1.0])
    assert list(preset.space.choices) == ["stem", "inner"]
    smaller = preset.build({"stem": 0.5, "inner": 1.0})
    units = [
        layer.units
        for layer in smaller.layers
        if isinstance(layer, keras.layers.Dense)
    ]
    assert units == [8, 32, 8, 3]


def test_a_build_has_the_weights_that_matter_most():
    model = residual()
    smaller = shrinkings(model).build({"stem": 1.0, "inner": 0.25})
    old, new = (
        np.concatenate(
            [m.get_layer("inner").kernel, m.get_layer("outer").kernel.numpy().T]
        )
        for m in (model, smaller)
    )
    norms = np.linalg.norm(old, axis=0)
    kept = np.sort(np.argsort(-norms)[:8])
    np.testing.assert_array_equal(new, old[:, kept])
    again = shrinkings(model).build({"stem": 1.0, "inner": 1.0})
    x = np.ones((2, 8), "float32")
    np.testing.assert_array_equal(again(x), model(x))


def test_a_transformer_has_kinds_as_choices():
    backbone = keras_nlp.models.GPT2Backbone(
        vocabulary_size=20,
        num_layers=2,
        num_heads=2,
        hidden_dim=8,
        intermediate_dim=16,
        max_sequence_length=6,
    )
    preset = shrinkings(backbone, shares=[0.5, 1.0], round_to=4)
    assert set(preset.space.choices) == {"width", "hidden", "depth"}
    chosen = {"width": 0.5, "hidden": 0.5, "depth": 0.5}
    smaller = preset.build(chosen)
    assert (smaller.num_layers, smaller.hidden_dim) == (1, 4)
    assert (smaller.num_heads, smaller.intermediate_dim) == (1, 8)


def test_a_search_finds_the_smallest_that_is_good_enough():
    model = residual()

    def objective(smaller):
        return {
            "gap": abs(smaller.count_params() - 600.0),
            "bytes": 4.0 * smaller.count_params(),
        }

    preset = shrinkings(model, shares=[0.25, 0.5, 0.75, 1.0])
    found = kdtf.search(
        preset.build,
        preset.space,
        objective,
        strategy="random",
        trials=12,
        direction="min",
        first=[preset.default],
        verbose=0,
    )
    sizes = {
        (stem, inner): 8 * stem
        + stem
        + 2 * stem * inner
        + inner
        + stem
        + 3 * stem
        + 3
        for stem in (8, 16)
        for inner in (8, 16, 24, 32)
    }
    assert found.best.values["gap"] == min(abs(s - 600) for s in sizes.values())


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"shares": [0.0]}, ValueError, "parts that stay"),
        ({"shares": 0.5}, ValueError, "must be a list of options"),
        ({"criterion": "magnitudes"}, ValueError, "magnitudes"),
    ],
)
def test_bad_arguments_are_refused(arguments, error, match):
    with pytest.raises(error, match=match):
        shrinkings(residual(), **arguments)


def test_what_is_no_model_is_refused():
    with pytest.raises(TypeError, match="must be a `keras.Model`"):
        shrinkings("model.keras")
