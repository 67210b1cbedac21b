"""Two replicas in one process take the same step as one."""

import pytest

# A process of its own: logical devices are fixed once TensorFlow has started.
CODE = """
import keras, numpy as np, tensorflow as tf
import kdtf

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(
    cpu, [tf.config.LogicalDeviceConfiguration()] * 2
)

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
results = []
for count in (1, 2):
    devices = [f"CPU:{i}" for i in range(count)]
    with tf.distribute.MirroredStrategy(devices).scope():
        keras.utils.set_random_seed(0)
        distiller = kdtf.Distiller(tagger(8), tagger(4), alpha=0.3)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        distiller.compile(keras.optimizers.SGD(0.5), loss)
    logs = distiller.fit(
        x, y, sample_weight=w, batch_size=4, shuffle=False, verbose=0
    ).history
    results.append((distiller.student.get_weights(), logs))
(one, logs_one), (two, logs_two) = results
for a, b in zip(one, two):
    np.testing.assert_allclose(a, b, atol=1e-6)
for name in logs_one:
    # A KL of 4e-4 is a difference of log-probabilities near 1, in float32.
    np.testing.assert_allclose(
        logs_one[name], logs_two[name], rtol=1e-5, atol=1e-6, err_msg=name
    )
print("same")
"""


@pytest.mark.slow
def test_two_replicas_give_the_weights_and_logs_of_one(printed_by):
    assert printed_by(CODE).endswith("same")
