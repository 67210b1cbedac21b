"""The same masks and schedules as tfmot, where tfmot is right.

Its mask functions are private, and made for `tf.Variable`s; here they are the
oracle. Where they are wrong (blocks that do not divide the kernel),
tests/pruning/test_structures.py has the case by hand.
"""

import numpy as np
import pytest
import tensorflow as tf

from kdtf import schedules
from kdtf.pruning import structures
from kdtf.pruning.scores import magnitude
from kdtf.pruning.updates import updates_of
from kdtf.transforms.layout import Layout
from kdtf.transforms.tfmot_models import load_tfmot

pytestmark = pytest.mark.tfmot

SPARSITIES = (0.0, 0.1, 0.33, 0.5, 0.8, 0.95)


def layout_for(shape):
    last = len(shape) - 1
    return Layout(shape=shape, contraction=tuple(range(last)), output=(last,))


def make_weights(shape, ties, seed):
    values = np.random.default_rng(seed).normal(size=shape)
    # A coarse grid, on which many weights are equal. It leaves out 0: of a
    # kernel with more zeros than asked for, tfmot keeps them all.
    grid = np.floor(2 * values) / 2 + 0.25
    return (grid if ties else values).astype("float32")


def tfmot_mask(weights, sparsity, block=(1, 1), m_by_n=None):
    tfmot = load_tfmot()
    from tensorflow_model_optimization.python.core.sparsity.keras import (
        pruning_impl,
    )

    variable = tf.Variable(weights)
    mask, threshold = tf.Variable(np.ones_like(weights)), tf.Variable(0.0)
    pruning = pruning_impl.Pruning(
        training_step_fn=lambda: tf.constant(1),
        pruning_vars=[(variable, mask, threshold)],
        pruning_schedule=tfmot.sparsity.keras.ConstantSparsity(sparsity, 0),
        block_size=block,
        block_pooling_type="AVG",
        sparsity_m_by_n=m_by_n,
    )
    return pruning._maybe_update_block_mask(variable)[1].numpy() == 1


@pytest.mark.parametrize("ties", [False, True], ids=["distinct", "ties"])
@pytest.mark.parametrize("sparsity", SPARSITIES)
@pytest.mark.parametrize(
    "shape", [(7,), (8, 16), (5, 3), (3, 3, 4, 6), (2, 4, 5)], ids=str
)
def test_unstructured_masks_are_equal(shape, sparsity, ties):
    weights = make_weights(shape, ties, seed=len(shape))
    expected = tfmot_mask(weights, sparsity)
    layout = Layout(
        shape=shape, contraction=(0,), output=tuple(range(1, len(shape)))
    )
    structure = structures.get("unstructured")
    got = structure.mask(magnitude(weights), layout, sparsity)
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("ties", [False, True], ids=["distinct", "ties"])
@pytest.mark.parametrize(("zeros", "of"), [(2, 4), (1, 2), (3, 4), (6, 8)])
@pytest.mark.parametrize(
    "shape", [(8, 6), (16, 3), (10, 4), (3, 3, 8, 4), (1, 1, 12, 5)], ids=str
)
def test_nm_masks_are_equal(shape, zeros, of, ties):
    weights = make_weights(shape, ties, seed=of)
    expected = tfmot_mask(weights, 0.5, m_by_n=(zeros, of))
    structure = structures.NM(n=of - zeros, m=of)
    got = structure.mask(
        magnitude(weights), layout_for(shape), structure.sparsity
    )
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("sparsity", SPARSITIES)
@pytest.mark.parametrize(
    ("shape", "block"),
    [
        ((8, 12), (4, 1)),
        ((8, 12), (1, 4)),
        ((8, 12), (2, 3)),
        ((16, 16), (4, 4)),
        ((32, 4), (16, 1)),
    ],
    ids=str,
)
def test_block_masks_are_equal_where_blocks_fit(shape, block, sparsity):
    weights = make_weights(shape, ties=False, seed=block[0])
    expected = tfmot_mask(weights, sparsity, block=block)
    structure = structures.get(block)
    got = structure.mask(magnitude(weights), layout_for(shape), sparsity)
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(
    "arguments",
    [
        {"initial_sparsity": 0.2, "final_sparsity": 0.8, "begin_step": 5},
        {"initial_sparsity": 0.0, "final_sparsity": 0.5, "begin_step": 0},
        {
            "initial_sparsity": 0.3,
            "final_sparsity": 0.9,
            "begin_step": 7,
            "power": 1,
            "frequency": 4,
        },
    ],
)
def test_decay_is_equal_and_due_at_every_step(arguments):
    sparsity = load_tfmot().sparsity.keras
    theirs = sparsity.PolynomialDecay(end_step=25, **arguments)
    ours, updates = schedules.get(theirs), updates_of(theirs, frequency=999)
    for step in range(40):
        due, value = theirs(step)
        np.testing.assert_allclose(ours(step), value, atol=1e-6)
        assert bool(updates.is_due(step)) == bool(due), step


@pytest.mark.parametrize("end", [-1, 12])
def test_constant_is_due_at_the_same_steps(end):
    sparsity = load_tfmot().sparsity.keras
    theirs = sparsity.ConstantSparsity(0.6, 3, end, frequency=4)
    ours, updates = schedules.get(theirs), updates_of(theirs, frequency=999)
    for step in range(30):
        due, value = theirs(step)
        assert float(ours(step)) == pytest.approx(float(value))
        assert bool(updates.is_due(step)) == bool(due), step


def test_both_kerases_reach_the_same_masks(rng):
    """tfmot masks in the forward pass: its step t sees t - 1 updates."""
    import keras
    import tf_keras

    import kdtf

    sparsity = load_tfmot().sparsity.keras
    x = rng.normal(size=(64, 12)).astype("float32")
    y = x @ rng.normal(size=(12, 3)).astype("float32")

    def make(flavour):
        layers = flavour.layers
        return flavour.Sequential(
            [
                flavour.Input((12,)),
                layers.Dense(16, activation="relu"),
                layers.Dense(3),
            ]
        )

    def train(flavour, model, **options):
        model.compile(flavour.optimizers.SGD(0.05), "mse")
        model.fit(
            x, y, batch_size=8, epochs=3, shuffle=False, verbose=0, **options
        )

    old, new = make(tf_keras), make(keras)
    old.set_weights(new.get_weights())
    schedule = schedules.PolynomialSchedule(
        initial=0.1, final=0.8, begin_step=2, end_step=22
    )
    train(keras, kdtf.prune(new, schedule=schedule, frequency=5))
    decay = sparsity.PolynomialDecay(0.1, 0.8, 3, 23, frequency=5)
    wrapped = sparsity.prune_low_magnitude(old, pruning_schedule=decay)
    train(tf_keras, wrapped, callbacks=[sparsity.UpdatePruningStep()])
    theirs = sparsity.strip_pruning(wrapped).get_weights()
    for a, b in zip(new.get_weights(), theirs, strict=True):
        np.testing.assert_array_equal(a == 0, b == 0)
        np.testing.assert_allclose(a, b, atol=1e-5)
    assert np.mean(new.get_weights()[0] == 0) == pytest.approx(0.8, abs=0.01)
