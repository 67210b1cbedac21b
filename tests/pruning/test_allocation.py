import numpy as np
import pytest

from kdtf.pruning import allocation
from kdtf.pruning.allocation import ByRule
from kdtf.pruning.allocation import ErdosRenyi
from kdtf.pruning.allocation import Global
from kdtf.pruning.allocation import Uniform
from kdtf.pruning.structures import NM
from kdtf.pruning.structures import Block
from kdtf.pruning.structures import PerOutput
from kdtf.pruning.structures import Units
from kdtf.pruning.structures import Unstructured
from kdtf.transforms.layout import Layout
from kdtf.transforms.selection import select_kernels


def dense(inputs, outputs):
    return Layout(shape=(inputs, outputs), contraction=(0,), output=(1,))


def conv(*shape):
    return Layout(shape=shape, contraction=(0, 1, 2), output=(3,))


def erdos_renyi(layouts, sparsity, kernel):
    """The definition, kernel by kernel, made dense until all densities fit."""
    sizes = [layout.size for layout in layouts]
    raw = [
        sum(x.shape) / x.size
        if kernel
        else (x.num_inputs + x.num_outputs) / x.size
        for x in layouts
    ]
    full = set()
    while True:
        rest = [i for i in range(len(layouts)) if i not in full]
        left = (1 - sparsity) * sum(sizes) - sum(sizes[i] for i in full)
        scale = left / sum(sizes[i] * raw[i] for i in rest)
        over = [i for i in rest if scale * raw[i] > 1]
        if not over:
            break
        full.add(max(over, key=lambda i: raw[i]))
    return [0.0 if i in full else 1 - scale * raw[i] for i in range(len(sizes))]


def test_erdos_renyi_by_hand():
    # Densities proportional to 16/64 and 10/16: at half of 80 weights the
    # scale is 40 / (16 + 10), so 0.3846 and 0.9615.
    shares = ErdosRenyi().fractions([dense(8, 8), dense(2, 8)], 0.5)
    np.testing.assert_allclose(shares, [1 - 5 / 13, 1 - 25 / 26], rtol=1e-6)


def test_erdos_renyi_leaves_small_kernels_dense():
    # The scale would be 72 / 26 and the second density 1.73: it stays whole,
    # and the first keeps the other 56 of 64.
    shares = ErdosRenyi().fractions([dense(8, 8), dense(2, 8)], 0.1)
    np.testing.assert_allclose(shares, [1 / 8, 0.0], atol=1e-6)


@pytest.mark.parametrize("kernel", [False, True])
@pytest.mark.parametrize("sparsity", [0.05, 0.3, 0.5, 0.8, 0.95, 0.99])
def test_erdos_renyi_equals_the_definition(sparsity, kernel, rng):
    layouts = [dense(*rng.integers(1, 40, 2)) for _ in range(4)]
    layouts += [conv(3, 3, *rng.integers(1, 20, 2)) for _ in range(3)]
    shares = ErdosRenyi(kernel=kernel).fractions(layouts, sparsity)
    expected = erdos_renyi(layouts, sparsity, kernel)
    np.testing.assert_allclose(shares, expected, atol=2e-5)
    kept = sum(
        (1 - s) * x.size
        for s, x in zip(np.asarray(shares), layouts, strict=True)
    )
    total = sum(x.size for x in layouts)
    np.testing.assert_allclose(kept, (1 - sparsity) * total, rtol=1e-4)


def test_without_sparsity_nothing_goes():
    layouts = [dense(8, 8), dense(2, 8)]
    for share in (
        Uniform(),
        ErdosRenyi(),
        ByRule(finals=(0.5, 0.9), final=0.9),
    ):
        assert np.asarray(share.fractions(layouts, 0.0)).tolist() == [0.0, 0.0]


def test_rules_are_reached_where_nothing_else_is():
    share = ByRule(finals=(0.5, 0.0), final=0.0)
    got = share.fractions([dense(2, 2)] * 2, 0.0)
    assert np.asarray(got).tolist() == [0.5, 0.0]


def test_by_rule_moves_all_in_proportion():
    share = ByRule(finals=(0.9, 0.3), final=0.6)
    got = np.asarray(share.fractions([dense(2, 2)] * 2, 0.2))
    np.testing.assert_allclose(got, [0.3, 0.1], rtol=1e-6)


def test_global_masks_by_hand():
    scores = [
        np.array([[9.0, 8.0], [7.0, 1.0]], "float32"),
        np.array([[2.0, 3.0]], "float32"),
    ]
    layouts = [dense(2, 2), dense(1, 2)]
    masks = Global().masks(scores, layouts, Unstructured(), 0.5)
    assert np.asarray(masks[0]).tolist() == [[True, True], [True, False]]
    # The threshold is 7, but the best weight of a kernel stays.
    assert np.asarray(masks[1]).tolist() == [[False, True]]


@pytest.mark.parametrize("sparsity", [0.0, 0.25, 0.5, 0.9])
def test_global_masks_equal_one_sort(sparsity, rng):
    layouts = [dense(9, 7), dense(5, 11), conv(2, 2, 3, 4)]
    scores = [rng.random(x.shape).astype("float32") for x in layouts]
    masks = Global().masks(scores, layouts, Unstructured(), sparsity)
    flat = np.sort(np.concatenate([s.ravel() for s in scores]))[::-1]
    number = int(np.round(len(flat) * (1 - np.float32(sparsity))))
    for score, mask in zip(scores, masks, strict=True):
        np.testing.assert_array_equal(mask, score >= flat[number - 1])


def test_global_ties_may_be_broken_to_the_exact_count():
    scores = [np.full((2, 4), 0.5), np.full((4, 2), 0.5)]
    scores = [score.astype("float32") for score in scores]
    layouts = [dense(2, 4), dense(4, 2)]
    tied = Global().masks(scores, layouts, Unstructured(), 0.75)
    assert all(np.asarray(mask).all() for mask in tied)
    scores[1][3, 1] = 1.0
    exact = Global().masks(
        scores, layouts, Unstructured(), 0.75, keep_ties=False
    )
    # A quarter of 16: the one that scores, and the first three of the others.
    assert np.asarray(exact[0]).ravel().tolist() == [True] * 3 + [False] * 5
    assert np.argwhere(exact[1]).tolist() == [[3, 1]]


def test_global_units_weigh_what_they_hold():
    # One unit of 6 weights and two of 1: half of 8 is 4, so the best unit,
    # which holds 6, is enough.
    scores = [
        np.full((6, 1), 5.0, "float32"),
        np.array([[1.0, 4.0]], "float32"),
    ]
    masks = Global().masks(scores, [dense(6, 1), dense(1, 2)], Units(), 0.5)
    assert np.asarray(masks[0]).all()
    assert np.asarray(masks[1]).tolist() == [[False, True]]


def test_allocation_masks_follow_its_fractions(rng):
    layouts = [dense(8, 8), dense(2, 8)]
    scores = [rng.random(x.shape).astype("float32") for x in layouts]
    masks = ErdosRenyi().masks(scores, layouts, Unstructured(), 0.5)
    # round(64 * 5/13) and round(16 * 25/26).
    assert [int(np.asarray(mask).sum()) for mask in masks] == [25, 15]


@pytest.fixture
def kernels(tiny_cnn):
    return select_kernels(tiny_cnn).taken


def test_rules_give_each_kernel_its_final(kernels):
    share = allocation.get({"conv": 0.3}, kernels, final=0.8)
    assert share == ByRule(finals=(0.3, 0.8), final=0.8)


def test_bad_allocations_get_one_clear_error(kernels):
    with pytest.raises(ValueError, match="allocation='even'"):
        allocation.get("even", kernels, final=0.8)
    with pytest.raises(ValueError, match=r"\[0, 1\).*1.0 for 'conv/kernel'"):
        allocation.get({"conv": 1.0}, kernels, final=0.8)
    with pytest.raises(ValueError, match="None for 'conv/kernel'|matches none"):
        allocation.get({"no_such": 0.5}, kernels, final=0.8)
    with pytest.raises(ValueError, match="'high' for 'conv/kernel'"):
        allocation.get([("conv", "high")], kernels, final=0.8)


def test_structures_that_fix_the_share_are_refused():
    for share in (Global(), ErdosRenyi(), ByRule(finals=(0.5,), final=0.5)):
        with pytest.raises(ValueError, match="N:M|within a kernel"):
            share.check(NM(n=2, m=4))
    with pytest.raises(ValueError, match="compares within a kernel"):
        Global().check(PerOutput())
    Uniform().check(NM(n=2, m=4))
    ErdosRenyi().check(PerOutput())
    Global().check(Block(shape=(4, 1)))
