"""What the tests of distillation share."""

import pytest

# A process of its own: logical devices are fixed once TensorFlow has started.
HEAD = """
import keras, numpy as np, tempfile, tensorflow as tf
import kdtf

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(
    cpu, [tf.config.LogicalDeviceConfiguration()] * 2
)
"""
TAIL = """
results = []
for count in (1, 2):
    devices = [f"CPU:{i}" for i in range(count)]
    with tf.distribute.MirroredStrategy(devices).scope():
        distiller = make()
    logs = fit(distiller).history
    results.append(([np.array(v) for v in weights(distiller)], logs))
(one, logs_one), (two, logs_two) = results
for a, b in zip(one, two, strict=True):
    np.testing.assert_allclose(a, b, atol=1e-6)
for name in logs_one:
    np.testing.assert_allclose(
        logs_one[name], logs_two[name], rtol=RTOL, atol=1e-6, err_msg=name
    )
print("same")
"""


@pytest.fixture
def check_replicas(printed_by):
    """Checks that two replicas give the weights and logs of one.

    Takes code that defines `make`, which gives a compiled Distiller, `fit`
    and `weights`, which take it, and the relative tolerance of the logs.
    """

    def check(code, *, rtol):
        script = f"{HEAD}{code}{TAIL.replace('RTOL', repr(rtol))}"
        assert printed_by(script).endswith("same")

    return check
