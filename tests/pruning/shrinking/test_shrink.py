"""`shrink`: what goes, what stays, what it says and what it refuses."""

import keras
import numpy as np
import pytest
from keras import layers

import kdtf
from kdtf.pruning import plan_shrink
from kdtf.pruning import shrink


def mlp(units=8):
    model = keras.Sequential(
        [
            keras.Input((3,)),
            layers.Dense(units, activation="relu", name="hidden"),
            layers.Dense(2, name="head"),
        ],
        name="mlp",
    )
    return model


def test_the_units_with_the_smallest_norms_go():
    model = mlp(4)
    kernel = np.array([[1.0, 5, 2, 4]] * 3)
    head = np.array([[1.0, 1], [0, 0], [9, 9], [1, 1]])
    model.set_weights([kernel, np.arange(4.0), head, np.zeros(2)])
    smaller = shrink(model, 0.55, round_to=1)
    # Norms: sqrt(5), sqrt(75), sqrt(174), sqrt(50); 26 parameters, 6 a unit.
    np.testing.assert_array_equal(
        smaller.get_layer("hidden").kernel, kernel[:, [1, 2]]
    )
    np.testing.assert_array_equal(smaller.get_layer("hidden").bias, [1.0, 2.0])
    np.testing.assert_array_equal(
        smaller.get_layer("head").kernel, head[[1, 2]]
    )
    assert (smaller.name, smaller.count_params()) == ("mlp", 14)
    assert model.count_params() == 26
    np.testing.assert_array_equal(model.get_layer("hidden").kernel, kernel)


def test_the_model_is_plain_saved_and_trains(tmp_path):
    smaller = shrink(mlp(16), 0.6)
    smaller.save(tmp_path / "small.keras")
    loaded = keras.saving.load_model(tmp_path / "small.keras")
    x = np.ones((4, 3), "float32")
    np.testing.assert_array_equal(loaded(x), smaller(x))
    distiller = kdtf.Distiller(mlp(16), smaller, alpha=0.0)
    distiller.compile("sgd")
    distiller.fit(x, np.zeros(4, "int32"), verbose=0)


def residual():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, padding="same", name="stem")(inputs)
    y = layers.BatchNormalization(name="norm")(x)
    y = layers.Conv2D(16, 3, padding="same", activation="relu", name="up")(y)
    y = layers.Conv2D(8, 1, name="down")(y)
    x = layers.GlobalAveragePooling2D()(layers.Add()([x, y]))
    return keras.Model(inputs, layers.Dense(2, name="head")(x), name="net")


def test_a_residual_goes_together_and_macs_are_those_by_hand():
    plan = plan_shrink(residual(), 0.5, "macs", round_to=4)
    # 64 positions each, and the head's 16.
    assert plan.macs[0] == 64 * (27 * 8 + 72 * 16 + 16 * 8) + 16
    assert [(w.layers, w.before) for w in plan.widths] == [
        (("stem", "down"), 8),
        (("up",), 16),
    ]
    stem, up = (width.after for width in plan.widths)
    assert plan.macs[1] == 64 * (27 * stem + 9 * stem * up + up * stem) + (
        2 * stem
    )
    assert plan.macs[1] <= plan.macs[0] / 2
    smaller = plan.build()
    assert smaller.get_layer("norm").gamma.shape == (stem,)
    assert smaller.count_params() == plan.parameters[1]


def test_a_plan_says_what_goes_and_what_is_held():
    inputs = keras.Input((6, 3))
    x = layers.Dense(16, name="wide")(inputs)
    x = layers.TimeDistributed(layers.Dense(8), name="unknown")(x)
    x = layers.Dense(16, name="free")(x)
    plan = plan_shrink(keras.Model(inputs, layers.Dense(2)(x)), 0.9)
    assert plan.held == {"unknown": "no rule for TimeDistributed"}
    assert [width.layers for width in plan.widths] == [("free",)]
    text = str(plan)
    assert "held: unknown (no rule for TimeDistributed)" in text
    assert "parameters 378 -> 290 (76.7%)" in text
    assert plan.to_svg().lstrip().startswith("<svg")
    assert text.split()[0] in plan._repr_html_()


def test_heads_of_attention_go():
    inputs = keras.Input((5, 4))
    attention = layers.MultiHeadAttention(4, 2, name="attention")
    x = layers.Dense(2)(layers.Flatten()(attention(inputs, inputs)))
    model = keras.Model(inputs, x)
    smaller = shrink(model, 0.7, what=["heads"])
    left = smaller.get_layer("attention")
    assert left.num_heads == 2
    assert left.query_dense.kernel.shape == (4, 2, 2)
    assert left.output_dense.kernel.shape == (2, 2, 4)


def test_uniform_keeps_the_same_share_everywhere():
    model = keras.Sequential([keras.Input((3,))])
    for units in (10, 20, 40):
        model.add(layers.Dense(units))
    model.add(layers.Dense(1))
    keras.utils.set_random_seed(0)
    model.layers[0].kernel.assign(model.layers[0].kernel * 100.0)
    plan = plan_shrink(
        model, 0.26, allocation="uniform", round_to=1, criterion="magnitude"
    )
    shares = [width.after / width.before for width in plan.widths]
    assert max(shares) - min(shares) <= 0.1


def test_a_function_of_the_model_is_a_cost():
    asked = []

    def cost(model):
        asked.append(model.get_layer("hidden").units)
        return model.get_layer("hidden").units ** 2

    smaller = shrink(mlp(10), 0.25, cost, round_to=1)
    assert smaller.get_layer("hidden").units == 5
    assert asked[0] == 10


def test_activations_decide_where_asked():
    model = mlp(4)
    kernel = np.array([[1.0, -5, 1, -4]] * 3)
    model.set_weights([kernel, np.zeros(4), np.ones((4, 2)), np.zeros(2)])
    x = np.ones((8, 3), "float32")
    smaller = shrink(
        model, 0.55, round_to=1, criterion="mean_activation", data=x
    )
    np.testing.assert_array_equal(
        smaller.get_layer("hidden").kernel, kernel[:, [0, 2]]
    )


def test_a_model_in_a_model_keeps_its_names():
    inner = keras.Sequential(
        [keras.Input((16,)), layers.Dense(16), layers.Dense(16)], name="inner"
    )
    inputs = keras.Input((3,))
    x = inner(layers.Dense(16, name="before")(inputs))
    model = keras.Model(inputs, layers.Dense(2)(x))
    smaller = shrink(model, 0.5)
    assert [layer.name for layer in smaller.layers][2:] == [
        layer.name for layer in model.layers
    ][2:]
    assert smaller.count_params() <= model.count_params() / 2
    assert smaller(np.ones((2, 3))).shape == (2, 2)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(2)

    def call(self, x):
        return self.dense(x)


def subclassed():
    model = Subclassed()
    model(np.ones((1, 3)))
    return model


class Configured(keras.Model):
    """Functional, but its configuration says only how wide it is."""

    def __init__(self, width):
        inputs = keras.Input((3,))
        x = layers.Dense(width)(inputs)
        super().__init__(inputs, layers.Dense(2)(x))


@pytest.mark.parametrize(
    ("make", "kwargs", "error", "match"),
    [
        (mlp, {"keep": 0.0}, ValueError, r"`keep` must be in \(0, 1\]"),
        (mlp, {"keep": 0.1}, ValueError, "cannot be met"),
        (mlp, {"by": "weight"}, ValueError, "`by` must be one of"),
        (mlp, {"what": "width"}, ValueError, "`what` must be some of"),
        (mlp, {"what": ["rows"]}, ValueError, "`what` must be some of"),
        (mlp, {"allocation": "erk"}, ValueError, "`allocation` must be"),
        (mlp, {"round_to": 0}, ValueError, "`round_to` must be at least 1"),
        (mlp, {"criterion": "movement"}, ValueError, "needs no training"),
        (lambda: 3, {}, TypeError, "must be a `keras.Model`"),
        (subclassed, {}, ValueError, "must be Functional or Sequential"),
        (lambda: Configured(8), {}, ValueError, "a configuration of its own"),
        (lambda: kdtf.prune(mlp(), 0.5), {}, ValueError, "must be plain"),
        (
            lambda: keras.Sequential([keras.Input((3,)), layers.Dense(2)]),
            {},
            ValueError,
            "must have channels that can be removed",
        ),
    ],
)
def test_bad_input_is_one_clear_error(make, kwargs, error, match):
    with pytest.raises(error, match=match):
        shrink(make(), **kwargs)


def test_layers_keep_the_shares_that_are_told():
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(16, name="first"),
            keras.layers.Dense(32, name="second"),
            keras.layers.Dense(8, name="third"),
            keras.layers.Dense(2, name="last"),
        ]
    )
    # The first name that fits decides; 12 of 16 are nearest to 80%.
    shares = {"second": 0.25, "*d": 1.0, "width": 0.8}
    plan = kdtf.plan_shrink(model, shares, round_to=4)
    assert [width.after for width in plan.widths] == [12, 8, 8]
    norms = np.linalg.norm(model.get_layer("second").kernel, axis=0)
    norms = np.hypot(
        norms, np.linalg.norm(model.get_layer("third").kernel, axis=1)
    )
    kept = np.sort(np.argsort(-norms)[:8])
    np.testing.assert_array_equal(
        plan.build().get_layer("third").kernel,
        model.get_layer("third").kernel.numpy()[kept],
    )
    with pytest.raises(ValueError, match="'fourth'.*fit none of.*first"):
        kdtf.shrink(model, {"fourth": 0.5})
