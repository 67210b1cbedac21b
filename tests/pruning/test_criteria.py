import keras
import numpy as np
import pytest

from kdtf.pruning import criteria
from kdtf.pruning.calibration import Calibration
from kdtf.transforms.selection import select_kernels

X = np.array([[1.0, 2.0], [3.0, -1.0], [0.0, 1.0]], "float32")
Y = np.array([[1.0], [0.0], [2.0]], "float32")


@pytest.fixture
def linear():
    """Output x @ w: mean squared error and its gradient by hand."""
    model = keras.Sequential(
        [keras.Input((2,)), keras.layers.Dense(1, use_bias=False, name="w")]
    )
    model.set_weights([np.array([[2.0], [-1.0]])])
    model.compile("sgd", "mse")
    return model


def score(model, criterion, data=None, before=None):
    kernels = select_kernels(model).taken
    criterion = criteria.get(criterion)
    criterion.prepare(model)
    calibration = None
    if criterion.needs_data:
        calibration = Calibration(
            model, data, needs_labels=criterion.needs_labels
        )
    if before is None:
        before = [np.zeros(kernel.shape, "float32") for kernel in kernels]
    found = criterion(kernels, calibration, before)
    return [np.asarray(scores) for scores in found]


def gradient(x, y):
    return 2 * x.T @ (x @ np.array([[2.0], [-1.0]]) - y) / len(x)


def test_magnitude_and_a_function_of_ones_own(linear):
    assert score(linear, "magnitude")[0].tolist() == [[2.0], [1.0]]
    found = score(linear, lambda weights: weights**2)
    assert found[0].tolist() == [[4.0], [1.0]]
    with pytest.raises(ValueError, match=r"shape \(\) for 'w/kernel'"):
        score(linear, lambda weights: keras.ops.sum(weights))


def test_wanda_uses_the_norms_of_the_data(linear):
    found = score(linear, "wanda", X)
    expected = np.abs([[2.0], [-1.0]]) * np.sqrt([[10.0], [6.0]])
    np.testing.assert_allclose(found[0], expected, rtol=1e-6)


def test_wanda_of_a_deeper_layer_sees_what_reaches_it(rng):
    layers = keras.layers
    model = keras.Sequential(
        [keras.Input((3,)), layers.Dense(4, "relu"), layers.Dense(2)]
    )
    x = rng.normal(size=(50, 3)).astype("float32")
    w1, b1, w2, _ = model.get_weights()
    hidden = np.maximum(x @ w1 + b1, 0)
    found = score(model, "wanda", x)
    expected = np.abs(w2) * np.linalg.norm(hidden, axis=0)[:, None]
    np.testing.assert_allclose(found[1], expected, rtol=1e-5)


def test_taylor_averages_over_batches(linear):
    data = [(X[:2], Y[:2]), (X[2:], Y[2:])]
    import tensorflow as tf

    batches = tf.data.Dataset.from_generator(
        lambda: iter(data),
        output_signature=(
            tf.TensorSpec((None, 2)),
            tf.TensorSpec((None, 1)),
        ),
    )
    batches = batches.apply(tf.data.experimental.assert_cardinality(2))
    found = score(linear, "taylor", batches)
    weights = np.array([[2.0], [-1.0]])
    expected = np.mean(
        [np.abs(weights * gradient(x, y)) for x, y in data], axis=0
    )
    np.testing.assert_allclose(found[0], expected, rtol=1e-5)


def test_snip_takes_the_gradient_of_all_data(linear):
    found = score(linear, "snip", (X, Y))
    part = np.abs(np.array([[2.0], [-1.0]]) * gradient(X, Y))
    np.testing.assert_allclose(found[0], part / part.sum(), rtol=1e-5)


def test_movement_goes_on_from_its_last_scores(linear):
    found = score(linear, "movement", (X, Y))
    expected = -np.array([[2.0], [-1.0]]) * gradient(X, Y)
    np.testing.assert_allclose(found[0], expected, rtol=1e-5)
    again = score(linear, "movement", (X, Y), before=found)
    np.testing.assert_allclose(again[0], 2 * expected, rtol=1e-5)


def test_a_given_loss_comes_before_the_models_own(linear):
    loss = keras.losses.MeanAbsoluteError()
    found = score(linear, criteria.Taylor(loss), (X, Y))
    signs = np.sign(X @ [[2.0], [-1.0]] - Y)
    expected = np.abs([[2.0], [-1.0]] * (X.T @ signs) / 3)
    np.testing.assert_allclose(found[0], expected, rtol=1e-5)
    by_name = score(linear, criteria.Taylor("mean_absolute_error"), (X, Y))
    np.testing.assert_allclose(by_name[0], expected, rtol=1e-5)


def test_sample_weights_weigh_the_loss(linear):
    weight = np.array([1.0, 0.0, 0.0], "float32")
    found = score(linear, "snip", (X, Y, weight))
    one = score(linear, "snip", (X[:1], Y[:1]))
    np.testing.assert_allclose(found[0], one[0], rtol=1e-5)


@pytest.mark.parametrize("criterion", ["apoz", "mean_activation"])
def test_units_are_judged_behind_norm_and_activation(criterion, rng):
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            layers.Conv2D(3, 2),
            layers.BatchNormalization(),
            layers.ReLU(),
        ]
    )
    x = rng.normal(size=(40, 6, 6, 2)).astype("float32")
    activations = np.asarray(model(x))
    found = score(model, criterion, x)
    if criterion == "apoz":
        expected = (activations != 0).mean((0, 1, 2))
    else:
        expected = np.abs(activations).mean((0, 1, 2))
    assert found[0].shape == (2, 2, 2, 3)
    np.testing.assert_allclose(found[0][1, 1, 0], expected, rtol=1e-5)
    assert (found[0] == found[0][:1, :1, :1]).all()


def test_attention_kernels_of_a_language_model_are_scored(
    tiny_transformer, rng
):
    ids = rng.integers(0, 32, (8, 12)).astype("int32")
    x = {"token_ids": ids, "padding_mask": np.ones_like(ids)}
    kernels = select_kernels(tiny_transformer).taken
    found = score(tiny_transformer, "wanda", x)
    for kernel, scores in zip(kernels, found, strict=True):
        ratio = scores / np.abs(np.asarray(kernel.variable))
        # Norms depend on the input side only.
        assert scores.shape == kernel.shape
        assert np.ptp(ratio, axis=-1).max() < 1e-3 * ratio.max()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    found = score(tiny_transformer, criteria.Taylor(loss), (x, ids))
    assert all(scores.max() > 0 for scores in found)


def test_a_layer_that_is_called_twice_has_seen_both(rng):
    shared = keras.layers.Dense(2, use_bias=False)
    inputs = keras.Input((2,))
    model = keras.Model(inputs, shared(shared(inputs)))
    x = rng.normal(size=(10, 2)).astype("float32")
    (kernel,) = model.get_weights()
    found = score(model, "wanda", x)
    squares = (x**2).sum(0) + ((x @ kernel) ** 2).sum(0)
    expected = np.abs(kernel) * np.sqrt(squares)[:, None]
    np.testing.assert_allclose(found[0], expected, rtol=1e-5)


def test_a_layer_that_does_not_run_is_named():
    class Lazy(keras.Model):
        def __init__(self):
            super().__init__()
            self.used = keras.layers.Dense(2, name="used")
            self.idle = keras.layers.Dense(2, name="idle")
            self.idle.build((None, 2))

        def call(self, inputs):
            return self.used(inputs)

    model = Lazy()
    model(X)
    with pytest.raises(ValueError, match=r"\['idle/kernel'\] did not"):
        score(model, "wanda", X)


def test_recurrent_kernels_cannot_be_watched():
    model = keras.Sequential([keras.Input((4, 2)), keras.layers.LSTM(3)])
    kernel = select_kernels(model).taken[0]
    assert "LSTMCell's kernel" in criteria.Wanda().why_not(kernel)
    assert criteria.Taylor().why_not(kernel) is None


def test_bad_criteria_get_one_clear_error(linear):
    with pytest.raises(ValueError, match="criterion='size'"):
        criteria.get("size")
    with pytest.raises(TypeError, match="`criterion`.*3 of type int"):
        criteria.get(3)
    plain = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    with pytest.raises(ValueError, match="needs the loss.*loss=None"):
        criteria.get("taylor").prepare(plain)
    plain.compile("sgd", {"dense": "mse"})
    with pytest.raises(ValueError, match="needs the loss"):
        criteria.get("snip").prepare(plain)


def test_one_object_serves_models_of_different_losses(linear):
    shared = criteria.Taylor()
    score(linear, shared, (X, Y))
    linear.compile("sgd", "mean_absolute_error")
    other = score(linear, shared, (X, Y))
    signs = np.sign(X @ [[2.0], [-1.0]] - Y)
    expected = np.abs([[2.0], [-1.0]] * (X.T @ signs) / 3)
    np.testing.assert_allclose(other[0], expected, rtol=1e-5)
