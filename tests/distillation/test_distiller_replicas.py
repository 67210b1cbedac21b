"""Two replicas in one process take the same step as one."""

import pytest

CODE = """
def tagger(width):
    inputs = keras.Input((6,), dtype="int32")
    hidden = keras.layers.Embedding(10, width, mask_zero=True)(inputs)
    penalty = keras.regularizers.L2(0.01)
    out = keras.layers.Dense(4, kernel_regularizer=penalty)(hidden)
    return keras.Model(inputs, out)

rng = np.random.default_rng(0)
x = rng.integers(1, 10, size=(8, 6)).astype("int32")
y = rng.integers(0, 4, size=(8, 6)).astype("int32")
w = rng.uniform(size=(8,  6)).astype("float32")

def make():
    keras.utils.set_random_seed(0)
    distiller = kdtf.Distiller(tagger(8), tagger(4), alpha=0.3)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile(keras.optimizers.SGD(0.5), loss)
    return distiller

def fit(distiller):
    # A KL of 4e-4 is a difference of log-probabilities near 1, in float32.
    return distiller.fit(
        x, y, sample_weight=w, batch_size=4, shuffle=False, verbose=0
    )

def weights(distiller):
    return distiller.student.weights
"""


@pytest.mark.slow
def test_two_replicas_give_the_weights_and_logs_of_one(check_replicas):
    check_replicas(CODE, rtol=1e-5)
