"""Distils on whatever `TF_CONFIG` says, alone without one.

`python worker_script.py CASE OUT.npz`, once for each worker.
"""

import argparse
import contextlib
import os

import keras
import numpy as np
import tensorflow as tf

import kdtf

# Of 17 samples in batches of 4, the last has one: a worker gets none of it.
CASES = {
    "padded": {"samples": 17, "reduction": "mean_with_sample_weight"},
    "padded, per sample": {"samples": 18, "reduction": "sum_over_batch_size"},
    "sum": {"samples": 17, "reduction": "sum"},
    "dataset": {"samples": 17, "policy": "DATA"},
    "same data for all": {"samples": 16, "policy": "OFF"},
    "teacher alone": {"samples": 17, "alpha": 0.0},
}


def tagger(width):
    inputs = keras.Input((6,), dtype="int32")
    hidden = keras.layers.Embedding(10, width, mask_zero=True)(inputs)
    penalty = keras.regularizers.L2(0.01)
    outputs = keras.layers.Dense(4, kernel_regularizer=penalty)(hidden)
    return keras.Model(inputs, outputs)


def data(samples):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 10, size=(samples, 6)).astype("int32")
    # More padding on one side than on the other.
    x[::4, 3:] = 0
    y = rng.integers(0, 4, size=(samples, 6)).astype("int32")
    return x, y, rng.uniform(size=(samples, 6)).astype("float32")


def batches(x, y, weight, policy):
    dataset = tf.data.Dataset.from_tensor_slices((x, y, weight))
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = getattr(
        tf.data.experimental.AutoShardPolicy, policy
    )
    # On replicas Keras looks at a first batch, which counts as an iteration.
    dataset = dataset.shuffle(len(x), seed=1, reshuffle_each_iteration=False)
    return dataset.batch(4).with_options(options)


def distil(case, strategy=None):
    """Returns the Distiller and its logs, evaluation and predictions."""
    settings = CASES[case]
    x, y, weight = data(settings["samples"])
    keras.utils.set_random_seed(0)
    teacher = tagger(8)
    alpha = settings.get("alpha", 0.3)
    with strategy.scope() if strategy else contextlib.nullcontext():
        distiller = kdtf.Distiller(teacher, tagger(4), alpha=alpha)
        loss = alpha and keras.losses.SparseCategoricalCrossentropy(
            from_logits=True,
            reduction=settings.get("reduction", "sum_over_batch_size"),
        )
        distiller.compile(
            # Adam would make much of the last bits of small gradients.
            keras.optimizers.SGD(0.5, momentum=0.9),
            loss or None,
            metrics=["accuracy"] if alpha else None,
        )
    if "policy" in settings:
        training = {"x": batches(x, y, weight, settings["policy"])}
    elif alpha:
        training = {"x": x, "y": y, "sample_weight": weight, "batch_size": 4}
    else:
        training = {"x": x, "batch_size": 4}
    history = distiller.fit(**training, epochs=2, verbose=0).history
    results = {f"log_{name}": values for name, values in history.items()}
    if alpha:
        tested = distiller.evaluate(**training, verbose=0, return_dict=True)
        results |= {f"test_{name}": value for name, value in tested.items()}
    outputs = distiller.predict(x, batch_size=4, verbose=0)
    results["step"] = distiller.optimizer.iterations.numpy()
    return distiller, results | {"outputs": outputs}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("case", choices=CASES)
    parser.add_argument("out")
    arguments = parser.parse_args()
    strategy = None
    if "TF_CONFIG" in os.environ:
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    distiller, results = distil(arguments.case, strategy)
    weights = distiller.student.get_weights()
    np.savez(arguments.out, *weights, **results)
    if strategy and strategy.cluster_resolver.task_id == 0:
        distiller.save(f"{arguments.out}.keras")


if __name__ == "__main__":
    main()
