"""Pruning inside what people train: Distiller, language models, replicas."""

import keras
import keras_nlp
import numpy as np
import pytest

import kdtf
from kdtf.transforms.selection import select_kernels

SCHEDULE = kdtf.PolynomialSchedule(final=0.8, end_step=12)


def backbone(kind, hidden):
    return kind(
        vocabulary_size=40,
        num_layers=2,
        num_heads=2,
        hidden_dim=hidden,
        intermediate_dim=2 * hidden,
        max_sequence_length=10,
    )


def classifier(hidden):
    models = keras_nlp.models
    return models.BertTextClassifier(
        backbone(models.BertBackbone, hidden), num_classes=3, preprocessor=None
    )


def language_model(hidden):
    models = keras_nlp.models
    return models.GPT2CausalLM(
        backbone(models.GPT2Backbone, hidden), preprocessor=None
    )


def make_data(make, rng):
    ids = rng.integers(1, 40, (48, 10)).astype("int32")
    x = {"token_ids": ids, "padding_mask": np.ones_like(ids)}
    if make is classifier:
        x["segment_ids"] = np.zeros_like(ids)
        return x, rng.integers(0, 3, 48)
    return x, ids


@pytest.mark.slow
@pytest.mark.parametrize("make", [classifier, language_model])
def test_keras_nlp_students_reach_the_sparsity_in_a_distiller(make, rng):
    x, y = make_data(make, rng)
    student = kdtf.prune(make(16), schedule=SCHEDULE, frequency=4)
    kernels = select_kernels(student).taken
    distiller = kdtf.Distiller(make(32), student, alpha=0.5)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9, weight_decay=0.01)
    distiller.compile(optimizer, loss=loss)
    distiller.fit(x, y, batch_size=8, epochs=3, verbose=0)
    masks = [np.asarray(k.variable) != 0 for k in kernels]
    for kernel, mask in zip(kernels, masks, strict=True):
        expected = max(1, round(kernel.size * (1 - np.float32(0.8))))
        assert mask.sum() == expected, kernel.path
    assert len(kernels) == (14 if make is classifier else 12)
    # The masks stay as they are through 6 more steps.
    distiller.fit(x, y, batch_size=8, verbose=0)
    for kernel, mask in zip(kernels, masks, strict=True):
        np.testing.assert_array_equal(np.asarray(kernel.variable) != 0, mask)


@pytest.mark.slow
def test_a_distiller_compiled_before_pruning_sees_the_masks(rng):
    x, y = make_data(classifier, rng)
    student = classifier(16)
    distiller = kdtf.Distiller(classifier(16), student)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile("adam", loss=loss)
    distiller.fit(x, y, batch_size=16, verbose=0)
    kdtf.prune(student, 0.5)
    distiller.fit(x, y, batch_size=16, verbose=0)
    kernel = select_kernels(student).taken[0].variable
    assert np.mean(np.asarray(kernel) == 0) == 0.5
    kdtf.strip(student)
    distiller.fit(x, y, batch_size=16, verbose=0)
    assert np.mean(np.asarray(kernel) == 0) < 0.1


def test_an_attention_model_is_pruned_by_what_it_sees(rng):
    x, _ = make_data(classifier, rng)
    student = classifier(16)
    kdtf.prune(student, 0.5, criterion="wanda", data=x)
    for kernel in select_kernels(student).taken:
        matrix = np.asarray(kernel.variable)
        if kernel.path.endswith("query/kernel"):
            assert ((matrix == 0).sum(axis=0) == 8).all()
    outputs = student.predict(x, verbose=0)
    assert np.isfinite(outputs).all()


CODE = """
import keras, numpy as np, tensorflow as tf
import kdtf

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(
    cpu, [tf.config.LogicalDeviceConfiguration()] * 2
)

rng = np.random.default_rng(0)
x = rng.normal(size=(64, 6)).astype("float32")
y = (x @ rng.normal(size=(6, 2))).astype("float32")
for criterion in ("magnitude", "wanda", "movement"):
    results = []
    for count in (1, 2):
        devices = [f"CPU:{i}" for i in range(count)]
        with tf.distribute.MirroredStrategy(devices).scope():
            keras.utils.set_random_seed(0)
            model = keras.Sequential([
                keras.Input((6,)),
                keras.layers.Dense(12, "relu"),
                keras.layers.Dense(2),
            ])
            model.compile(keras.optimizers.SGD(0.05, momentum=0.9), "mse")
            kdtf.prune(
                model,
                schedule=kdtf.PolynomialSchedule(final=0.75, end_step=7),
                frequency=2,
                criterion=criterion,
                data=None if criterion == "magnitude" else (x, y),
                structure="unstructured",
            )
        model.fit(x, y, batch_size=8, shuffle=False, verbose=0)
        results.append(model.get_weights())
    for a, b in zip(*results):
        np.testing.assert_allclose(a, b, atol=1e-5)
        np.testing.assert_array_equal(a == 0, b == 0)
    assert np.mean(results[1][0] == 0) == 0.75, criterion
print("same")
"""


@pytest.mark.slow
def test_two_replicas_reach_the_weights_and_masks_of_one(printed_by):
    # A process of its own: logical devices are fixed once TensorFlow started.
    assert printed_by(CODE).endswith("same")
