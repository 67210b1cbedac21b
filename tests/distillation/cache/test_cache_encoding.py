"""What is kept of a distribution, against NumPy in float64."""

import numpy as np
import pytest

from kdtf.distillation import targets as targets_module
from kdtf.distillation.cache import CacheError
from kdtf.distillation.cache import CacheSettings
from kdtf.distillation.cache import encoding
from kdtf.distillation.cache.records import RowFormat


def encode(logits, *, ids=None, **settings):
    logits = np.asarray(logits, "float32")
    rows = RowFormat(
        settings=CacheSettings(**{"dtype": "float32", **settings}),
        output_shape=logits.shape[1:],
    )
    ids = np.arange(len(logits)) if ids is None else np.asarray(ids)
    payload = encoding.Encoder(rows)(logits, ids, ids)
    return encoding.targets_of(payload, rows)


def log_softmax(logits):
    logits = np.asarray(logits, "float64")
    logits = logits - logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def test_dense_rows_are_the_logits(rng):
    logits = rng.normal(size=(3, 2, 5)).astype("float32")
    np.testing.assert_array_equal(encode(logits)["logits"], logits)
    half = encode(logits, dtype="float16")["logits"]
    np.testing.assert_array_equal(half, logits.astype("float16"))


def test_top_k_by_hand():
    found = encode(np.log([[0.1, 0.4, 0.2, 0.3]]), top_k=2)
    assert found["ids"].tolist() == [[1, 3]]
    np.testing.assert_allclose(
        found["log_probs"], np.log([[0.4, 0.3]]), rtol=1e-6
    )
    np.testing.assert_allclose(found["log_rest"], np.log([0.3]), rtol=1e-6)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_top_k_equals_numpy(rng, temperature):
    logits = rng.normal(scale=4, size=(6, 3, 9))
    found = encode(logits, top_k=4, temperature=temperature)
    log_p = log_softmax(logits.astype("float32") / temperature)
    order = np.argsort(-log_p, axis=-1)
    np.testing.assert_array_equal(found["ids"], order[..., :4])
    ranked = np.take_along_axis(log_p, order, -1)
    np.testing.assert_allclose(
        found["log_probs"], ranked[..., :4], rtol=1e-5, atol=1e-6
    )
    rest = np.log(np.exp(ranked[..., 4:]).sum(-1))
    np.testing.assert_allclose(found["log_rest"], rest, rtol=1e-5)


def test_a_tiny_tail_keeps_its_digits():
    # 1 - sum(top) would be 0 in float32, or noise of 6e-8.
    found = encode([[40.0, 0.0, 0.0]], top_k=1)
    np.testing.assert_allclose(found["log_rest"], [np.log(2) - 40], rtol=1e-6)


def test_ties_take_the_lower_class():
    assert encode([[1.0, 2.0, 2.0, 2.0]], top_k=2)["ids"].tolist() == [[1, 2]]


def test_all_classes_leave_no_rest():
    found = encode([[0.0, 1.0]], top_k=2, dtype="float16")
    assert found["log_rest"].tolist() == [-np.inf]


def test_a_class_ruled_out_is_kept_as_such():
    assert encode([[0.0, -np.inf]], dtype="float16")["logits"][0, 1] == -np.inf
    found = encode([[0.0, -np.inf]], top_k=2)
    assert found["log_probs"].tolist() == [[0.0, -np.inf]]


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("settings", [{}, {"top_k": 1}, {"samples": 2}])
def test_outputs_that_are_no_numbers_are_refused(value, settings):
    with pytest.raises(CacheError, match="must be numbers"):
        encode([[0.0, value]], **settings)


def test_a_number_beyond_float16_says_use_float32():
    with pytest.raises(CacheError, match="70000.*dtype='float32'"):
        encode([[70000.0, 0.0]], dtype="float16")
    assert encode([[70000.0, 0.0]])["logits"][0, 0] == 70000.0


def test_other_output_shape_is_refused():
    rows = RowFormat(settings=CacheSettings(), output_shape=(3,))
    with pytest.raises(ValueError, match=r"\(1, 2\) after \(None, 3\)"):
        encoding.Encoder(rows)(np.zeros((1, 2), "float32"), [0], [0])


def test_splitmix_gives_the_published_numbers():
    # The first outputs of the reference implementation from seed 0.
    found = encoding._splitmix(np.zeros(1, np.uint64), 3)[0]
    assert [hex(value) for value in found.tolist()] == [
        "0xe220a8397b1dcdaf",
        "0x6e789e6aa1b965f4",
        "0x6c45d188009454f",
    ]


def test_uniforms_depend_on_key_and_seed_only():
    one = encoding.uniforms([5, -6], 0, 4)
    np.testing.assert_array_equal(one[1:], encoding.uniforms([-6], 0, 4))
    other = encoding.uniforms([5, -6], 1, 4)
    assert not np.intersect1d(one, other).size
    many = encoding.uniforms(np.arange(100), 3, 1000)
    # Standard error of the mean of 100,000 uniforms: 0.0009.
    assert abs(many.mean() - 0.5) < 0.004
    assert 0 <= many.min() < 1e-4 and 1 - 1e-4 < many.max() < 1


def test_samples_by_hand():
    # All mass on class 2 of the first position, on class 0 of the second.
    logits = [[[-100.0, -100.0, 0.0], [0.0, -100.0, -100.0]]]
    found = encode(logits, samples=3)
    assert found["ids"].tolist() == [[[2, 0, 0], [0, 0, 0]]]
    assert found["weights"].tolist() == [[[1, 0, 0], [1, 0, 0]]]
    assert found["log_probs"][0, :, 0].tolist() == [0.0, 0.0]


def test_samples_are_unique_sorted_and_weighted_by_their_draws(rng):
    logits = rng.normal(size=(4, 3, 6))
    found = encode(logits, samples=8, temperature=2.0)
    used = found["weights"] > 0
    np.testing.assert_allclose(found["weights"].sum(-1), 1, rtol=1e-6)
    draws = found["weights"] * 8
    np.testing.assert_array_equal(draws, np.round(draws))
    log_p = log_softmax(logits.astype("float32") / 2.0)
    at = np.take_along_axis(log_p, found["ids"], -1)
    np.testing.assert_allclose(
        found["log_probs"][used], at[used], rtol=1e-5, atol=1e-6
    )
    for ids, here in zip(
        found["ids"].reshape(-1, 8), used.reshape(-1, 8), strict=True
    ):
        kept = ids[here]
        assert (np.diff(kept) > 0).all() and not here[len(kept) :].any()


def test_samples_count_the_numpy_inversion(rng):
    logits = rng.normal(size=(5, 7)).astype("float32")
    found = encode(logits, samples=20, ids=np.arange(5) + 40, seed=3)
    below = np.cumsum(np.exp(log_softmax(logits)), -1)
    numbers = encoding.uniforms(np.arange(5) + 40, 3, 20)
    for row in range(5):
        drawn = np.searchsorted(below[row], numbers[row], side="right")
        ids, counts = np.unique(drawn, return_counts=True)
        assert found["ids"][row, : len(ids)].tolist() == ids.tolist()
        assert (found["weights"][row, : len(ids)] * 20).round().tolist() == (
            counts.tolist()
        )


def test_a_row_draws_the_same_in_any_batch(rng):
    logits = rng.normal(size=(6, 2, 9)).astype("float32")
    whole = encode(logits, samples=5)
    part = encode(logits[4:], samples=5, ids=[4, 5])
    for name in whole:
        np.testing.assert_array_equal(whole[name][4:], part[name])


def test_samples_estimate_the_divergence_without_bias(rng):
    repeats = 400
    logits = rng.normal(scale=2, size=12)
    student = rng.normal(size=12)
    found = encode(np.tile(logits, (repeats, 1)), samples=16)
    values = targets_module.per_token_from_samples(
        found, np.tile(student, (repeats, 1)).astype("float32")
    ).numpy()
    log_p, log_q = log_softmax(logits), log_softmax(student)
    exact = (np.exp(log_p) * (log_p - log_q)).sum()
    error = values.std() / np.sqrt(repeats)
    # Four standard errors; the mean is fixed by the seed.
    assert abs(values.mean() - exact) < 4 * error
    assert error < 0.05 * exact


def test_rare_classes_of_a_large_vocabulary_are_drawn():
    # 400,000 classes of 2.5e-8 each share 1% of the mass: too little, one by
    # one, for a float32 sum near 1 to notice.
    classes = 400_000
    p = np.full(classes, 0.01 / (classes - 1))
    p[0] = 0.99
    found = encode(np.log(p)[None], samples=5000)
    rare = found["weights"][0][found["ids"][0] > 0].sum()
    # 50 expected, standard deviation 7.
    assert abs(rare * 5000 - 50) < 4 * 7
