"""Logits or probabilities: told from the graph, from the ops, by hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kdtf.distillation import outputs
from kdtf.distillation.outputs import OutputKind

SOFTMAX = OutputKind(values="probabilities", head="softmax")
SIGMOID = OutputKind(values="probabilities", head="sigmoid")
LOGITS = OutputKind(values="logits", head="softmax")


def sequential(*layers):
    return keras.Sequential([keras.Input((4,)), *layers])


def functional(function):
    inputs = keras.Input((4,))
    return keras.Model(inputs, function(keras.layers.Dense(3)(inputs)))


dense = keras.layers.Dense
GRAPHS = {
    "dense": (lambda: sequential(dense(3)), "linear"),
    "dense softmax": (lambda: sequential(dense(3, "softmax")), "softmax"),
    "dense sigmoid": (lambda: sequential(dense(3, "sigmoid")), "sigmoid"),
    "dense relu": (lambda: sequential(dense(3, "relu")), "linear"),
    "activation": (
        lambda: sequential(dense(3), keras.layers.Activation("softmax")),
        "softmax",
    ),
    "cast to float32 at the end": (
        lambda: sequential(
            dense(3, "softmax"),
            keras.layers.Activation("linear", dtype="float32"),
        ),
        "softmax",
    ),
    "softmax layer": (
        lambda: sequential(dense(3), keras.layers.Softmax()),
        "softmax",
    ),
    "softmax then reshape": (
        lambda: sequential(dense(4, "softmax"), keras.layers.Reshape((2, 2))),
        "softmax",
    ),
    "operation": (lambda: functional(keras.ops.softmax), "softmax"),
    "operation sigmoid": (lambda: functional(keras.ops.sigmoid), "sigmoid"),
    "nested": (
        lambda: sequential(sequential(dense(3, "softmax"))),
        "softmax",
    ),
    # The graph alone does not tell; the ops do, below.
    "a function of the user's": (
        lambda: sequential(dense(3, activation=lambda z: tf.nn.softmax(z))),
        None,
    ),
    "lambda": (
        lambda: sequential(dense(3), keras.layers.Lambda(tf.nn.softmax)),
        None,
    ),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_last_activation_by_the_graph(name):
    build, expected = GRAPHS[name]
    assert outputs.last_activation(build()) == expected


class Subclassed(keras.Model):
    def __init__(self, function):
        super().__init__()
        self.hidden = keras.layers.Dense(3)
        self.function = function

    def call(self, x):
        return self.function(self.hidden(x))


FUNCTIONS = {
    "linear": (lambda z: z, "linear"),
    "softmax": (tf.nn.softmax, "softmax"),
    "sigmoid and cast": (
        lambda z: tf.cast(tf.sigmoid(z), "float16"),
        "sigmoid",
    ),
    "keras softmax": (keras.ops.softmax, "softmax"),
    "relu": (tf.nn.relu, "linear"),
    "compiled": (tf.function(tf.nn.softmax), None),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("eager", [True, False])
def test_last_activation_by_the_ops(name, eager):
    function, expected = FUNCTIONS[name]
    model = Subclassed(function)
    x = tf.ones((2, 4))
    assert outputs.last_activation(model) is None
    model(x)
    found = []

    def run():
        found.append(outputs.find_activation(model, x, model(x)))

    run() if eager else tf.function(run).get_concrete_function()
    assert found == [expected]


def test_tf_keras_graphs_are_read_too():
    import tf_keras

    layers = tf_keras.layers
    model = tf_keras.Sequential([layers.Dense(3, input_shape=(4,))])
    assert outputs.last_activation(model) == "linear"
    model.add(layers.Softmax())
    assert outputs.last_activation(model) == "softmax"
    inputs = tf_keras.Input((4,))
    out = layers.Reshape((3, 1))(layers.Dense(3, "sigmoid")(inputs))
    nested = tf_keras.Model(inputs, tf_keras.Model(inputs, out)(inputs))
    assert outputs.last_activation(nested) == "sigmoid"


def test_logits_pass_untouched():
    x = tf.constant([[1.0, 2.0]])
    assert outputs.to_logits(x, LOGITS) is x


def test_probabilities_become_logits_up_to_a_constant():
    logits = outputs.to_logits(tf.constant([[0.25, 0.75]]), SOFTMAX)
    np.testing.assert_allclose(logits[0, 1] - logits[0, 0], np.log(3.0))


def test_sigmoid_probabilities_become_log_odds():
    logits = outputs.to_logits(tf.constant([[0.25, 0.5, 0.75]]), SIGMOID)
    expected = [[-np.log(3.0), 0.0, np.log(3.0)]]
    np.testing.assert_allclose(logits, expected, atol=1e-6)


def test_certain_probabilities_stay_finite():
    for kind in (SOFTMAX, SIGMOID):
        logits = outputs.to_logits(tf.constant([[0.0, 1.0]]), kind)
        assert np.isfinite(logits).all()
        assert float(logits[0, 1] - logits[0, 0]) > 30


@pytest.mark.parametrize(
    "activation,kind", [("softmax", SOFTMAX), ("sigmoid", SIGMOID)]
)
def test_the_exact_logits_behind_a_keras_activation_are_used(activation, kind):
    # In probabilities these three are 1, 1e-35 and 0: all digits are lost.
    z = tf.constant([[0.0, -80.0, -200.0]])
    probabilities = keras.layers.Activation(activation)(z)
    np.testing.assert_array_equal(outputs.to_logits(probabilities, kind), z)


def test_several_outputs_are_refused_with_the_way_out():
    inputs = keras.Input((4,))
    two = [keras.layers.Dense(2)(inputs), keras.layers.Dense(3)(inputs)]
    model = keras.Model(inputs, two, name="twins")
    with pytest.raises(ValueError, match=r"'twins'.*\(None, 2\).*\.outputs"):
        outputs.output_shape(model)
