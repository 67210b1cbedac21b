"""Two processes that train in step do what one does on the whole batch."""

import contextlib
import json
import os
import pathlib
import runpy
import socket
import subprocess
import sys
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

import kdtf
from kdtf.distillation import workers

# Logical devices are fixed once TensorFlow has started.
TWO_REPLICAS = """
import runpy, numpy as np, tensorflow as tf
from kdtf.distillation import workers

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(
    cpu, [tf.config.LogicalDeviceConfiguration()] * 2
)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
"""
PART_OF_LOSS = """
with strategy.scope():
    factor = tf.Variable(2.0)
given = [[1.0, 2.0, 3.0], [9.0]]
values = strategy.experimental_distribute_values_from_function(
    lambda context: tf.constant(given[context.replica_id_in_sync_group])
)

def step(values):
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(values * factor) / 2
        loss = workers.part_of_loss(loss, values, values)
    return loss, tape.gradient(loss, factor), tf.size(values)

loss, gradient, size = strategy.run(tf.function(step), args=(values,))
local = strategy.experimental_local_results
# The mean of all four is 3.75; of the two means it would be 5.5.
print(sum(float(g) for g in local(gradient)))
logs = [2 * float(l) * int(n) for l, n in zip(local(loss), local(size))]
print(sum(logs) / 4)
"""
SAME = """
distil = runpy.run_path("{script}")["distil"]
for case in ("padded, per sample", "sum"):
    one, two = distil(case), distil(case, strategy)
    for a, b in zip(one[0].student.get_weights(), two[0].student.get_weights()):
        np.testing.assert_allclose(a, b, atol=1e-6)
    for name in one[1]:
        np.testing.assert_allclose(
            one[1][name], two[1][name], rtol=1e-4, atol=1e-6, err_msg=name
        )
    print(case)
"""
SCRIPT = pathlib.Path(__file__).with_name("worker_script.py")
SECONDS = 300


def free_ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def run_workers(case, folder, count=2):
    """Runs one process for each worker and gives what each one saved."""
    addresses = [f"127.0.0.1:{port}" for port in free_ports(count)]
    started, paths = [], [folder / f"worker_{i}.npz" for i in range(count)]
    try:
        for index, path in enumerate(paths):
            config = {
                "cluster": {"worker": addresses},
                "task": {"type": "worker", "index": index},
            }
            started.append(
                subprocess.Popen(
                    [sys.executable, "-W", "ignore", SCRIPT, case, path],
                    env=os.environ | {"TF_CONFIG": json.dumps(config)},
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
        for process in started:
            _, errors = process.communicate(timeout=SECONDS)
            assert process.returncode == 0, errors[-3000:]
    finally:
        # A worker whose peer is gone waits for it.
        for process in started:
            process.kill()
            process.communicate()
    return [dict(np.load(path)) for path in paths]


def run_alone(case):
    distiller, results = runpy.run_path(str(SCRIPT))["distil"](case)
    weights = distiller.student.get_weights()
    return {f"arr_{i}": w for i, w in enumerate(weights)} | results


def assert_same(one, other):
    assert set(one) == set(other)
    for name in one:
        # The soft loss is 16 times a small difference of log-probabilities
        # near 1, in float32; weights are only added up in another order.
        rtol = 1e-4 if "loss" in name else 0
        np.testing.assert_allclose(
            one[name], other[name], rtol=rtol, atol=1e-6, err_msg=name
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [
        "padded",
        pytest.param("dataset", marks=pytest.mark.slow),
        pytest.param("teacher alone", marks=pytest.mark.slow),
    ],
)
def test_two_processes_give_the_weights_and_logs_of_one(case, tmp_path):
    alone = run_alone(case)
    chief, other = run_workers(case, tmp_path)
    assert_same(alone, chief)
    for name in chief:
        np.testing.assert_array_equal(chief[name], other[name], err_msg=name)
    # Two epochs of five batches.
    assert chief["step"] == 10
    loaded = keras.saving.load_model(tmp_path / "worker_0.npz.keras")
    for index, weight in enumerate(loaded.student.get_weights()):
        np.testing.assert_array_equal(weight, chief[f"arr_{index}"])
    assert loaded.optimizer.iterations == 10


@pytest.mark.slow
def test_without_sharding_all_train_on_the_same_samples(tmp_path):
    case = "same data for all"
    chief, _ = run_workers(case, tmp_path)
    differs = np.abs(run_alone(case)["arr_0"] - chief["arr_0"]).max()
    assert differs > 1e-3


@pytest.mark.slow
def test_a_part_of_a_loss_counts_by_what_a_replica_has(printed_by):
    gradient, logged = printed_by(TWO_REPLICAS + PART_OF_LOSS).split()
    assert float(gradient) == 3.75
    assert float(logged) == 7.5


@pytest.mark.slow
def test_padding_and_uneven_batches_count_as_in_one_replica(printed_by):
    printed = printed_by(TWO_REPLICAS + SAME.format(script=SCRIPT))
    assert printed.splitlines() == ["padded, per sample", "sum"]


def mlp(width):
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(width)])


def test_a_student_from_outside_of_the_scope_is_refused():
    teacher, student = mlp(2), mlp(2)
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    with strategy.scope():
        with pytest.raises(ValueError, match="made outside of Mirrored"):
            kdtf.Distiller(teacher, student)
        made_inside = mlp(2)
        assert kdtf.Distiller(teacher, made_inside).student is made_inside
    with pytest.raises(ValueError, match="`student` must be built in"):
        kdtf.Distiller(teacher, made_inside)


def test_several_steps_per_execution_are_refused_on_replicas():
    class Two(workers.Replicated):
        distribute_strategy = types.SimpleNamespace(num_replicas_in_sync=2)

    with pytest.raises(ValueError, match="`steps_per_execution` must be 1"):
        Two().compile(steps_per_execution=3)


def test_one_process_does_not_span_several():
    assert not workers.spans_processes(tf.distribute.get_strategy())
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    assert not workers.spans_processes(strategy)
