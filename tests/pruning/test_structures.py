import numpy as np
import pytest

from kdtf.pruning import structures
from kdtf.pruning.structure import count_kept
from kdtf.pruning.structure import keep_highest
from kdtf.pruning.structures import NM
from kdtf.pruning.structures import Block
from kdtf.pruning.structures import PerOutput
from kdtf.pruning.structures import Units
from kdtf.pruning.structures import Unstructured
from kdtf.transforms.layout import Layout

DENSE = Layout(shape=(4, 3), contraction=(0,), output=(1,))
SCORES = np.array([[1, 12, 3], [4, 11, 6], [7, 10, 9], [8, 5, 2]], "float32")


def mask_of(structure, scores=SCORES, layout=DENSE, sparsity=0.5):
    return np.asarray(structure.mask(scores, layout, sparsity)).astype(int)


def test_unstructured_keeps_the_highest_of_the_kernel():
    expected = [[0, 1, 0], [0, 1, 0], [1, 1, 1], [1, 0, 0]]
    assert mask_of(Unstructured()).tolist() == expected


def test_per_output_keeps_the_highest_of_each_column():
    expected = [[0, 1, 0], [0, 1, 1], [1, 0, 1], [1, 0, 0]]
    assert mask_of(PerOutput()).tolist() == expected


def test_units_go_by_their_mean():
    # Means 5, 9.5 and 5: the first column ties with the last.
    assert mask_of(Units(), sparsity=0.7).tolist() == [[0, 1, 0]] * 4
    scores = np.array([[1, 1, 9], [1, 3, 9]], "float32")
    layout = Layout(shape=(2, 3), contraction=(0,), output=(1,))
    assert mask_of(Units(), scores, layout, 1 / 3).tolist() == [[0, 1, 1]] * 2


def test_equal_units_keep_the_first_and_the_count():
    layout = Layout(shape=(1, 4), contraction=(0,), output=(1,))
    scores = np.array([[0.5, 0.5, 0.0, 0.5]], "float32")
    assert mask_of(Units(), scores, layout).tolist() == [[1, 1, 0, 0]]


def test_blocks_go_by_the_mean_of_what_they_hold():
    # Blocks of 3 x 2 in 4 x 3: means 45/6, 18/3, 13/2 and 2.
    expected = [[1, 1, 0], [1, 1, 0], [1, 1, 0], [1, 1, 0]]
    assert mask_of(Block(shape=(3, 2))).tolist() == expected


def test_a_block_at_the_edge_is_where_its_weights_are():
    # tfmot pads 8 x 13 on both sides and keeps columns 8 to 11 here.
    scores = np.zeros((8, 13), "float32")
    scores[:, 7] = 1.0
    layout = Layout(shape=(8, 13), contraction=(0,), output=(1,))
    mask = mask_of(Block(shape=(4, 4)), scores, layout, 0.75)
    assert mask.any(axis=0).tolist() == [4 <= c < 8 for c in range(13)]


def test_nm_keeps_n_of_each_m_along_inputs():
    expected = [[0, 1, 0], [0, 1, 1], [1, 0, 1], [1, 0, 0]]
    assert mask_of(NM(n=2, m=4)).tolist() == expected
    assert mask_of(NM(n=1, m=2)).tolist() == [
        [0, 1, 0],
        [1, 0, 1],
        [0, 1, 1],
        [1, 0, 0],
    ]


def test_nm_mask_keeps_lower_index_on_ties():
    scores = np.ones((4, 1), "float32")
    layout = Layout(shape=(4, 1), contraction=(0,), output=(1,))
    assert mask_of(NM(n=2, m=4), scores, layout)[:, 0].tolist() == [1, 1, 0, 0]


def test_nm_of_a_convolution_runs_along_input_channels(rng):
    scores = rng.random((3, 3, 8, 5)).astype("float32")
    layout = Layout(shape=scores.shape, contraction=(0, 1, 2), output=(3,))
    mask = mask_of(NM(n=2, m=4), scores, layout)
    groups = mask.reshape(3, 3, 2, 4, 5).sum(axis=3)
    assert (groups == 2).all()


def test_nm_last_group_may_be_short():
    scores = np.array([[1], [2], [3], [4], [5], [6]], "float32")
    layout = Layout(shape=(6, 1), contraction=(0,), output=(1,))
    mask = mask_of(NM(n=1, m=4), scores, layout, 0.75)
    assert mask[:, 0].tolist() == [0, 0, 0, 1, 0, 1]


def test_nm_keeps_more_while_sparsity_rises():
    kept = [
        mask_of(NM(n=1, m=4), sparsity=s)[:, 0].sum()
        for s in (0.0, 0.25, 0.5, 0.75)
    ]
    assert kept == [4, 3, 2, 1]


def test_einsum_kernels_are_blocked_along_what_they_sum_over(rng):
    # "abde,dec->abc": 2 x 4 inputs, 3 outputs.
    scores = rng.random((2, 4, 3)).astype("float32")
    layout = Layout(shape=(2, 4, 3), contraction=(0, 1), output=(2,))
    mask = mask_of(Block(shape=(4, 1)), scores, layout)
    assert (mask == mask[:, :1, :]).all()
    expected = scores.mean(axis=1)
    order = np.sort(expected.ravel())
    np.testing.assert_array_equal(mask[:, 0], expected >= order[3])


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("size", [1, 2, 7, 100])
def test_keep_highest_keeps_the_rounded_count(size, sparsity, rng):
    scores = rng.permutation(3 * size).reshape(3, size).astype("float32")
    kept = np.asarray(keep_highest(scores, sparsity))
    number = max(
        1, int(np.round(np.float32(size) * (1 - np.float32(sparsity))))
    )
    assert kept.sum(axis=1).tolist() == [number] * 3
    for row, mask in zip(scores, kept, strict=True):
        assert row[mask].min() >= row[~mask].max(initial=-1.0)


def test_zeros_are_no_ties():
    scores = np.array([[0.0, 0.0, 0.0, 2.0]], "float32")
    assert np.asarray(keep_highest(scores, 0.5)).tolist() == [
        [True, False, False, True]
    ]


def test_ties_with_the_last_kept_score_stay():
    scores = np.array([[2.0, 1.0, 1.0, 0.0]], "float32")
    assert np.asarray(keep_highest(scores, 0.5)).tolist() == [
        [True, True, True, False]
    ]
    equal = np.ones((1, 5), "float32")
    assert np.asarray(keep_highest(equal, 0.8)).all()


def test_ties_may_be_broken_to_the_exact_count():
    scores = np.ones((4, 3), "float32")
    for structure in (Unstructured(), PerOutput(), Block(shape=(2, 1))):
        tied = structure.mask(scores, DENSE, 0.5)
        exact = structure.mask(scores, DENSE, 0.5, keep_ties=False)
        assert np.asarray(tied).all()
        assert np.asarray(exact).sum() == 6
    first = Unstructured().mask(scores, DENSE, 0.5, keep_ties=False)
    assert np.asarray(first).tolist() == [[True] * 3] * 2 + [[False] * 3] * 2


def test_half_weights_round_to_even_and_one_stays():
    assert [int(count_kept(n, 0.5)) for n in (1, 3, 5, 7)] == [1, 2, 2, 4]
    assert int(count_kept(1000, 0.9999)) == 1
    # 2**24 + 2 is no float32 product of itself and 1 - 0.5.
    assert int(count_kept(2**25 + 2, 0.5)) == 2**24 + 1


def test_negative_scores_are_ranked_too():
    scores = np.array([[-3.0, -1.0, -2.0, 0.5]], "float32")
    assert np.asarray(keep_highest(scores, 0.5)).tolist() == [
        [False, True, False, True]
    ]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("unstructured", Unstructured()),
        ("2:4", NM(n=2, m=4)),
        ([16, 1], Block(shape=(16, 1))),
        ("litert", Block(shape=(4, 1))),
        ("litert_int8", Block(shape=(16, 1))),
        ("units", Units()),
        (PerOutput(), PerOutput()),
    ],
)
def test_structures_are_given_by_name_or_object(given, expected):
    assert structures.get(given) == expected


def test_bad_structures_get_one_clear_error():
    with pytest.raises(ValueError, match="1 <= N < M.*N=4, M=2"):
        structures.get("4:2")
    with pytest.raises(ValueError, match="N=2, M=2"):
        NM(n=2, m=2)
    with pytest.raises(ValueError, match="structure='rows'"):
        structures.get("rows")
    with pytest.raises(ValueError, match=r"pair of whole numbers.*\(4,\)"):
        structures.get((4,))
    with pytest.raises(ValueError, match="at least 1"):
        Block(shape=(0, 1))
    with pytest.raises(TypeError, match="`structure` must be.*3.0 of type"):
        structures.get(3.0)


def test_kernels_too_small_are_refused_by_name():
    with pytest.raises(ValueError, match=r"block \(8, 1\) for 'a/kernel'"):
        Block(shape=(8, 1)).check(DENSE, "a/kernel")
    with pytest.raises(ValueError, match="8 or more weights.*'a/kernel'"):
        NM(n=4, m=8).check(DENSE, "a/kernel")
    single = Layout(shape=(4, 1), contraction=(0,), output=(1,))
    with pytest.raises(ValueError, match="two outputs or more.*'a/kernel'"):
        Units().check(single, "a/kernel")
