"""What holds for every structure, criterion and allocation, new ones too."""

import keras
import numpy as np
import pytest

import kdtf
from kdtf.pruning import allocation
from kdtf.pruning import criteria
from kdtf.pruning import structures
from kdtf.transforms.layout import Layout

LAYOUTS = [
    Layout(shape=(32, 6), contraction=(0,), output=(1,)),
    Layout(shape=(2, 2, 16, 5), contraction=(0, 1, 2), output=(3,)),
    Layout(shape=(4, 16, 3), contraction=(0, 1), output=(2,)),
    Layout(shape=(7, 16), contraction=(1,), output=(0,)),
]
EVERY_LAYOUT = pytest.mark.parametrize("layout", LAYOUTS, ids=str)
EVERY_STRUCTURE = pytest.mark.parametrize(
    "structure", [*sorted(structures.STRUCTURES), "2:4", "1:3", (3, 2)], ids=str
)
EVERY_CRITERION = pytest.mark.parametrize("name", sorted(criteria.CRITERIA))


def scores_for(layout, rng):
    """All different, so that no tie blurs a count."""
    return rng.permutation(layout.size).reshape(layout.shape).astype("float32")


def mask_of(structure, scores, layout, sparsity=0.5):
    return np.asarray(structures.get(structure).mask(scores, layout, sparsity))


@EVERY_STRUCTURE
@EVERY_LAYOUT
def test_a_mask_has_the_kernels_shape_and_keeps_something(
    structure, layout, rng
):
    structures.get(structure).check(layout, "kernel")
    mask = mask_of(structure, scores_for(layout, rng), layout, 0.999)
    assert mask.shape == layout.shape and mask.dtype == bool
    assert mask.any()


@EVERY_STRUCTURE
@EVERY_LAYOUT
def test_without_sparsity_everything_stays(structure, layout, rng):
    assert mask_of(structure, scores_for(layout, rng), layout, 0.0).all()


@EVERY_STRUCTURE
@EVERY_LAYOUT
def test_half_goes_as_closely_as_blocks_allow(structure, layout, rng):
    mask = mask_of(structure, scores_for(layout, rng), layout, 0.5)
    # Seven units, or groups of three, cannot be halved better than this.
    assert 0.3 <= mask.mean() <= 0.7


@EVERY_STRUCTURE
@EVERY_LAYOUT
def test_masking_what_is_masked_changes_nothing(structure, layout, rng):
    scores = scores_for(layout, rng) + 1
    mask = mask_of(structure, scores, layout)
    again = mask_of(structure, scores * mask, layout)
    np.testing.assert_array_equal(again, mask)


@EVERY_STRUCTURE
@EVERY_LAYOUT
def test_only_the_order_of_scores_matters_for_scaled_ones(
    structure, layout, rng
):
    scores = scores_for(layout, rng)
    mask = mask_of(structure, scores, layout)
    np.testing.assert_array_equal(mask_of(structure, 4 * scores, layout), mask)


@EVERY_STRUCTURE
@EVERY_LAYOUT
def test_more_sparsity_never_brings_a_weight_back(structure, layout, rng):
    scores = scores_for(layout, rng)
    before = np.ones(layout.shape, bool)
    for sparsity in (0.2, 0.5, 0.8):
        mask = mask_of(structure, scores, layout, sparsity)
        assert not (mask & ~before).any()
        before = mask


@pytest.mark.parametrize("name", sorted(allocation.ALLOCATIONS))
@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.7, 0.9])
def test_every_allocation_drops_what_was_asked_for(name, sparsity, rng):
    scores = [scores_for(layout, rng) for layout in LAYOUTS]
    structure = structures.get("unstructured")
    masks = allocation.ALLOCATIONS[name].masks(
        scores, LAYOUTS, structure, sparsity
    )
    kept = sum(int(np.asarray(mask).sum()) for mask in masks)
    total = sum(layout.size for layout in LAYOUTS)
    # Each kernel rounds by itself.
    assert abs(kept - (1 - sparsity) * total) <= len(LAYOUTS)


@pytest.fixture
def model():
    layers = [
        keras.Input((8,)),
        keras.layers.Dense(12, "relu", name="hidden"),
        keras.layers.Dense(4, name="head"),
    ]
    model = keras.Sequential(layers)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss)
    return model


@EVERY_CRITERION
def test_every_criterion_prunes_in_fit_and_keeps_its_zeros(name, model, rng):
    x = rng.normal(size=(64, 8)).astype("float32")
    y = rng.integers(0, 4, 64)
    kdtf.prune(
        model,
        schedule=kdtf.PolynomialSchedule(final=0.5, end_step=4),
        criterion=name,
        select="hidden",
        data=(x, y),
        frequency=2,
    )
    model.fit(x, y, batch_size=16, verbose=0)
    mask = model.get_weights()[0] != 0
    assert mask.mean() == 0.5
    before = model.get_weights()[0]
    model.fit(x, y, batch_size=16, verbose=0)
    after = model.get_weights()[0]
    np.testing.assert_array_equal(after != 0, mask)
    # What stays goes on learning (a silent unit's weights have no gradient).
    assert (after != before).sum() > 0.5 * mask.sum()


@EVERY_CRITERION
def test_every_criterion_gives_finite_scores_of_the_kernels_shape(
    name, model, rng
):
    from kdtf.pruning.calibration import Calibration
    from kdtf.transforms.selection import select_kernels

    criterion = criteria.get(name)
    data = rng.normal(size=(16, 8)).astype("float32"), rng.integers(0, 4, 16)
    calibration = Calibration(model, data, needs_labels=True)
    criterion.prepare(model)
    kernels = select_kernels(model).taken
    zeros = [np.zeros(kernel.shape, "float32") for kernel in kernels]
    found = criterion(kernels, calibration, zeros)
    for kernel, score in zip(kernels, found, strict=True):
        assert tuple(score.shape) == kernel.shape
        assert np.isfinite(np.asarray(score)).all()
        assert keras.backend.standardize_dtype(score.dtype) == "float32"
