import numpy as np
import pytest

from kdtf.pruning import scores
from kdtf.transforms.layout import Layout

WEIGHTS = np.array([[1.0, -2.0], [0.0, 4.0]])
GRADIENTS = np.array([[-3.0, 0.5], [2.0, 0.25]])
LAYOUT = Layout(shape=(2, 2), contraction=(0,), output=(1,))


def test_magnitude_by_hand():
    assert np.asarray(scores.magnitude(WEIGHTS)).tolist() == [[1, 2], [0, 4]]


def test_threshold_mask_keeps_what_is_above_tau():
    mask = np.asarray(scores.threshold_mask(WEIGHTS, 1.0))
    assert mask.tolist() == [[False, True], [False, True]]
    assert (WEIGHTS * mask).tolist() == [[0, -2], [0, 4]]
    assert np.asarray(scores.threshold_mask(WEIGHTS, 0.0)).sum() == 3
    with pytest.raises(ValueError, match="`tau`.*tau=-1"):
        scores.threshold_mask(WEIGHTS, -1.0)
    with pytest.raises(ValueError, match="tau=nan"):
        scores.threshold_mask(WEIGHTS, float("nan"))


def test_wanda_by_hand_and_by_numpy(rng):
    got = scores.wanda(WEIGHTS, np.array([[9.0], [0.25]]))
    assert np.asarray(got).tolist() == [[3.0, 6.0], [0.0, 2.0]]
    inputs = rng.normal(size=(20, 5)).astype("float32")
    weights = rng.normal(size=(5, 3)).astype("float32")
    expected = np.abs(weights) * np.linalg.norm(inputs, axis=0)[:, None]
    got = scores.wanda(weights, (inputs**2).sum(0)[:, None])
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_taylor_by_hand():
    got = np.asarray(scores.taylor(WEIGHTS, GRADIENTS))
    assert got.tolist() == [[3.0, 1.0], [0.0, 1.0]]


def test_snip_sums_to_one_over_all_kernels():
    first, second = scores.snip([WEIGHTS, [2.0]], [GRADIENTS, [1.5]])
    assert np.asarray(first).tolist() == [[0.375, 0.125], [0.0, 0.125]]
    assert np.asarray(second).tolist() == [0.375]


def test_snip_of_no_gradient_is_zero():
    (got,) = scores.snip([WEIGHTS], [np.zeros((2, 2))])
    assert np.asarray(got).tolist() == [[0, 0], [0, 0]]


def test_movement_adds_up_what_moves_away_from_zero():
    got = np.asarray(scores.movement(np.zeros((2, 2)), WEIGHTS, GRADIENTS))
    assert got.tolist() == [[3.0, 1.0], [0.0, -1.0]]
    again = np.asarray(scores.movement(got, WEIGHTS, GRADIENTS))
    assert again.tolist() == [[6.0, 2.0], [0.0, -2.0]]


def test_movement_is_positive_where_a_step_of_descent_grows_the_weight(rng):
    weights, gradients = rng.normal(size=(2, 50))
    got = np.asarray(scores.movement(0.0, weights, gradients))
    grows = np.abs(weights - 1e-6 * gradients) > np.abs(weights)
    np.testing.assert_array_equal(got > 0, grows)


def test_units_are_scored_alike_over_all_their_weights():
    got = np.asarray(scores.apoz([1.0, 4.0], 4.0, LAYOUT))
    assert got.tolist() == [[0.75, 0.0], [0.75, 0.0]]
    got = np.asarray(scores.mean_activation([2.0, 6.0], 4.0, LAYOUT))
    assert got.tolist() == [[0.5, 1.5], [0.5, 1.5]]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_scored_in_float32(dtype):
    import keras

    weights = keras.ops.cast([300.0, -0.5], dtype)
    # 300 ** 2 is more than float16 holds.
    got = scores.taylor(weights, weights)
    assert keras.backend.standardize_dtype(got.dtype) == "float32"
    assert np.asarray(got).tolist() == [90000.0, 0.25]
    assert np.asarray(scores.magnitude(weights)).tolist() == [300.0, 0.5]
