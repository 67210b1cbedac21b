"""A layer's call reads, gets and gives other values, and nothing leaks."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kdtf.transforms.substitution import Substitution
from kdtf.transforms.substitution import real_value
from kdtf.transforms.substitution import restore
from kdtf.transforms.substitution import substitute
from kdtf.transforms.substitution import substitutions

K = keras.layers


class Doubled(Substitution):
    """Reads the kernel as twice what it is."""

    def __init__(self, variable):
        self.variable = variable

    def readings(self):
        return [(self.variable, 2.0 * real_value(self.variable))]


def dense(units=3, **options):
    layer = K.Dense(units, use_bias=False, **options)
    layer.build((None, 4))
    return layer


@pytest.fixture
def x(rng):
    return rng.normal(size=(5, 4)).astype("float32")


@pytest.mark.parametrize("in_graph", [False, True])
def test_a_kernel_reads_as_another_and_stays_what_it_is(in_graph, x):
    layer = dense()
    before, kernel = layer(x), np.array(layer.kernel)
    substitute(layer, Doubled(layer.kernel))
    call = tf.function(layer) if in_graph else layer
    np.testing.assert_array_equal(call(tf.constant(x)), 2 * before)
    np.testing.assert_array_equal(layer.kernel, kernel)
    restore(layer)
    np.testing.assert_array_equal(layer(x), before)
    assert "call" not in vars(layer)


def test_gradients_reach_the_variable(x):
    layer = dense()
    substitute(layer, Doubled(layer.kernel))
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(layer(x))
    got = tape.gradient(total, layer.trainable_variables)[0]
    expected = np.repeat(2 * x.sum(axis=0)[:, None], 3, axis=1)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_inputs_and_outputs_are_changed_around_the_call(x):
    class Around(Substitution):
        def before(self, inputs):
            return inputs + 1.0

        def after(self, outputs):
            return -outputs

    layer = dense()
    expected = -(x + 1.0) @ np.asarray(layer.kernel)
    substitute(layer, Around())
    np.testing.assert_allclose(layer(x), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(layer(inputs=x), expected, rtol=1e-5, atol=1e-6)


def test_a_first_argument_of_any_name_may_be_given_by_name(x):
    class Named(K.Layer):
        def build(self, shape):
            self.kernel = self.add_weight(shape=(4, 4), name="kernel")

        def call(self, query, key=None):
            return keras.ops.matmul(query, self.kernel) + key

    class Negated(Doubled):
        def before(self, inputs):
            return -inputs

    layer = Named()
    expected = 1.0 - 2.0 * (layer(query=x, key=1.0) - 1.0)
    substitute(layer, Negated(layer.kernel))
    for got in (layer(x, key=1.0), layer(key=1.0, query=x)):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_training_and_masks_reach_the_call(x):
    class Told(K.Layer):
        def call(self, inputs, training=None, mask=None):
            self.told = (training, mask is not None)
            return inputs

    layer = Told()
    layer.supports_masking = True
    substitute(layer, Substitution())
    model = keras.Sequential([keras.Input((4,)), K.Masking(), layer])
    model(x, training=True)
    assert layer.told == (True, True)
    model(x, training=False)
    assert layer.told == (False, True)


def test_what_the_call_assigns_is_kept(x):
    """A statistic in the layer, and a seed in a layer inside it."""

    class Counting(K.Layer):
        def __init__(self):
            super().__init__()
            self.dropout = K.Dropout(0.5, seed=1)

        def build(self, shape):
            self.kernel = self.add_weight(shape=(4, 4), name="kernel")
            self.count = self.add_weight(name="count", trainable=False)

        def call(self, inputs):
            self.count.assign_add(1.0)
            return self.dropout(keras.ops.matmul(inputs, self.kernel))

    layer = Counting()
    layer.build((None, 4))
    layer.count.assign(0.0)
    substitute(layer, Doubled(layer.kernel))
    step = tf.function(lambda value: layer(value, training=True))
    first, second = step(tf.constant(x)), step(tf.constant(x))
    assert float(layer.count) == 2.0
    assert not np.array_equal(np.equal(first, 0), np.equal(second, 0))


class Parent(K.Layer):
    """A layer with a kernel of its own and a layer inside."""

    def __init__(self, **options):
        super().__init__(**options)
        self.child = K.Dense(4, use_bias=False, activity_regularizer="l2")

    def build(self, shape):
        self.kernel = self.add_weight(shape=(4, 4), name="kernel")
        if not self.child.built:
            self.child.build(shape)

    def call(self, inputs):
        self.add_loss(keras.ops.sum(inputs))
        return self.child(keras.ops.matmul(inputs, self.kernel))


class Seen(Doubled):
    """Remembers the sum of what went by."""

    def __init__(self, variable):
        super().__init__(variable)
        self.sum = keras.Variable(0.0, trainable=False)

    def variables(self):
        return [self.sum]

    def after(self, outputs):
        self.sum.assign(keras.ops.sum(keras.ops.cast(outputs, "float32")))
        return outputs


@pytest.mark.parametrize("in_graph", [False, True])
def test_substitutions_in_one_another_all_hold(in_graph, x):
    layer = Parent()
    plain = layer(x)
    inner, outer = Seen(layer.child.kernel), Seen(layer.kernel)
    substitute(layer, outer)
    substitute(layer.child, inner)
    call = tf.function(layer) if in_graph else layer
    got = call(tf.constant(x))
    np.testing.assert_allclose(got, 4 * plain, rtol=1e-5)
    # What the inner one remembers gets out of the outer one's scope.
    assert float(inner.sum) == float(outer.sum) != 0.0
    found = [type(layer).__name__ for layer, _ in substitutions(layer)]
    assert found == ["Parent", "Dense"]


def test_losses_of_the_call_are_kept(x):
    layer = Parent()
    layer(x)
    before = [float(loss) for loss in layer.losses]
    assert len(before) == 2
    model = keras.Sequential([keras.Input((4,)), layer])
    substitute(layer, Doubled(layer.kernel))
    model(x)
    after = sorted(float(loss) for loss in model.losses)
    # The regulariser sees outputs twice as large.
    expected = sorted([before[0], before[1]])
    assert len(after) == 2
    total = float(np.sum(x))
    assert any(abs(v - total) < 1e-4 for v in after)
    other = [v for v in after if abs(v - total) >= 1e-4]
    old = [v for v in expected if abs(v - total) >= 1e-4]
    np.testing.assert_allclose(other, 4 * np.array(old), rtol=1e-5)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_readings_are_made_of_the_full_precision_value(policy, x):
    class Exact(Substitution):
        """Reads 1 where the kernel is exactly as it was set."""

        def __init__(self, variable):
            self.variable = variable

        def readings(self):
            value = real_value(self.variable)
            self.dtype = keras.backend.standardize_dtype(value.dtype)
            same = keras.ops.equal(value, np.float32(1 / 3))
            return [(self.variable, keras.ops.cast(same, "float32"))]

    layer = Parent(dtype=policy)
    layer.child = dense(4, dtype=policy)
    layer(x)
    layer.child.kernel.assign(np.full((4, 4), 1 / 3, "float32"))
    inner = Exact(layer.child.kernel)
    substitute(layer.child, inner)
    # In a scope of its parent, too.
    substitute(layer, Doubled(layer.kernel))
    got = layer(np.ones((1, 4), "float32"))
    expected = 2 * np.asarray(layer.kernel).sum()
    assert inner.dtype == "float32"
    np.testing.assert_allclose(
        tf.cast(got, "float32"), np.full((1, 4), expected), rtol=0.02
    )


def test_in_a_stateless_call_its_values_are_read(x):
    layer = dense()
    substitute(layer, Doubled(layer.kernel))
    other = np.ones((4, 3), "float32")
    got, _ = layer.stateless_call([other], [], x)
    np.testing.assert_allclose(got, 2 * x @ other, rtol=1e-5, atol=1e-6)


def test_symbolic_calls_and_nested_models_work(x):
    layer = dense()
    substitute(layer, Doubled(layer.kernel))
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layer(inputs))
    expected = 2 * x @ np.asarray(layer.kernel)
    np.testing.assert_allclose(model(x), expected, rtol=1e-5, atol=1e-6)
    assert [found for found, _ in substitutions(model)] == [layer]


def test_restoring_leaves_somebody_elses_replacement(x):
    layer = dense()

    def theirs(inputs):
        return inputs

    object.__setattr__(layer, "call", theirs)
    substitute(layer, Doubled(layer.kernel))
    restore(layer)
    assert layer.call is theirs
    restore(layer)
    assert layer.call is theirs


def test_an_error_in_the_call_leaves_no_scope_open(x):
    layer = dense()
    substitute(layer, Doubled(layer.kernel))
    with pytest.raises(ValueError, match="incompatible"):
        layer(x[:, :2])
    layer.kernel.assign(np.zeros((4, 3)))
    np.testing.assert_array_equal(layer(x), 0.0)


def test_restoring_a_plain_layer_changes_nothing():
    layer = dense()
    restore(layer)
    assert list(substitutions(layer)) == []


def test_nothing_of_it_is_tracked_or_saved(tmp_path, x):
    model = keras.Sequential([keras.Input((4,)), dense()])
    before = model.to_json()
    substitute(model.layers[0], Doubled(model.layers[0].kernel))
    assert model.to_json() == before and len(model.weights) == 1
    model.save(tmp_path / "model.keras")
    plain = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(model(x), 2 * plain(x), rtol=1e-6)
