"""Two replicas in one process take the same steps as one."""

import pytest

# A process of its own: logical devices are fixed once TensorFlow has started.
CODE = """
import keras, numpy as np, tensorflow as tf
import kdtf
from kdtf.quantization import Codebook, Linear
from kdtf.transforms import attach

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(
    cpu, [tf.config.LogicalDeviceConfiguration()] * 2
)
rng = np.random.default_rng(0)
half = rng.normal(size=(8, 4, 6)).astype("float32")
# Both halves of a batch are the same, so their extremes are those of it all.
x = np.concatenate([half, half], axis=1).reshape(64, 6)
y = (x @ rng.normal(size=(6, 2))).astype("float32")
for scheme in SCHEMES:
    for inside in (True, False):
        results = []
        for count in (1, 2):
            devices = [f"CPU:{i}" for i in range(count)]
            strategy = tf.distribute.MirroredStrategy(devices)
            with strategy.scope():
                keras.utils.set_random_seed(0)
                model = keras.Sequential([
                    keras.Input((6,)),
                    keras.layers.Dense(12, "gelu"),
                    keras.layers.Dense(2),
                ])
                if inside:
                    kdtf.quantize_aware(model, scheme)
            if not inside:
                kdtf.quantize_aware(model, scheme)
            with strategy.scope():
                optimizer = keras.optimizers.SGD(0.05, momentum=0.9)
                model.compile(optimizer, "mse", jit_compile=False)
            model.fit(x, y, batch_size=8, shuffle=False, verbose=0)
            state = attach.recall(model, "kdtf_quantization")
            kept = [np.asarray(v) for v in state._variables().values()]
            results.append(model.get_weights() + kept)
        for a, b in zip(*results, strict=True):
            # A sum in another order moves single activations by a level, and
            # from there on the gradients differ.
            atol = 3e-3 if scheme == "int8" else 1e-5
            np.testing.assert_allclose(a, b, atol=atol, err_msg=str(scheme))
        if scheme == "int8":
            assert [float(v) for v in kept[2::3]] == [1.0] * 4, kept
print("same")
"""


# Gradients of one size in all: TensorFlow 2.21 mixes up those of different
# strategies in one process otherwise.
GROUPS = {
    "plain": '["int8", "int4", Codebook(num_entries=4)]',
    "learned": "[Linear(num_bits=4, learn_step=True)]",
}


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS)
def test_two_replicas_reach_the_state_of_one(group, printed_by):
    code = CODE.replace("SCHEMES", GROUPS[group])
    assert printed_by(code).endswith("same")
