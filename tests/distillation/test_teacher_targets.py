"""What a cache kept, against a student's logits: buckets and samples."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from kdtf.distillation import losses
from kdtf.distillation import targets


def log_softmax(z):
    z = np.asarray(z, "float64")
    z = z - z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def top_k(teacher, k, dtype="float32"):
    """Targets of the kind "top_k", made in float64."""
    log_p = log_softmax(teacher)
    ids = np.argsort(-log_p, axis=-1, kind="stable")[..., :k]
    top = np.take_along_axis(log_p, ids, -1)
    with np.errstate(divide="ignore"):
        rest = np.log(np.maximum(1.0 - np.exp(top).sum(-1), 0.0))
    if k == log_p.shape[-1]:
        rest = np.full_like(rest, -np.inf)
    return {
        "ids": ids.astype("int32"),
        "log_probs": top.astype(dtype),
        "log_rest": rest.astype(dtype),
    }


def bucket_loss(kept, logits, temperature=1.0, loss=losses.kl_divergence):
    pair = targets.buckets(kept, logits, temperature=temperature)
    return loss(*pair, temperature=1.0)


def gradient(function, logits):
    logits = tf.convert_to_tensor(logits, "float32")
    with tf.GradientTape() as tape:
        tape.watch(logits)
        value = tf.reduce_sum(function(logits))
    return np.asarray(tape.gradient(value, logits), "float64")


def test_join_is_undone_by_split_and_plain_inputs_pass():
    x = {"a": 1, "b": [2]}
    joined = targets.join(x, {"logits": 3})
    assert targets.is_joined(joined)
    assert targets.split(joined) == (x, {"logits": 3})
    for plain in (x, [1], 7, {"kdtf_inputs": 1}):
        assert not targets.is_joined(plain)
        assert targets.split(plain) == (plain, None)


def test_buckets_by_hand():
    kept = {
        "ids": [[2, 0]],
        "log_probs": np.log([[0.5, 0.25]]),
        "log_rest": np.log([0.25]),
    }
    student = np.log([[0.2, 0.3, 0.4, 0.1]])
    pair = targets.buckets(kept, student)
    for log_probs, expected in zip(
        pair, ([0.5, 0.25, 0.25], [0.4, 0.2, 0.4]), strict=True
    ):
        assert log_probs.dtype == tf.float32
        np.testing.assert_allclose(np.exp(log_probs)[0], expected, rtol=1e-5)


def test_temperature_softens_the_student_by_hand():
    kept = {
        "ids": [[0]],
        "log_probs": np.log([[0.5]]),
        "log_rest": np.log([0.5]),
    }
    # sqrt of (4, 1, 1): halves of 4 and quarters.
    _, student = targets.buckets(kept, np.log([[4.0, 1.0, 1.0]]), temperature=2)
    np.testing.assert_allclose(np.exp(student)[0], [0.5, 0.5], rtol=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("shape", [(4,), (2, 3)])
def test_loss_is_the_kl_of_merged_distributions(shape, temperature, rng):
    teacher, student = 2 * rng.normal(size=(2, *shape, 9))
    kept = top_k(teacher / temperature, 3)
    value = bucket_loss(kept, student, temperature)
    log_q = log_softmax(student / temperature)
    q = np.exp(np.take_along_axis(log_q, kept["ids"], -1))
    q = np.concatenate([q, 1 - q.sum(-1, keepdims=True)], -1)
    p = np.exp(kept["log_probs"].astype("float64"))
    p = np.concatenate([p, 1 - p.sum(-1, keepdims=True)], -1)
    assert value.shape == shape
    np.testing.assert_allclose(
        value, (p * np.log(p / q)).sum(-1), rtol=1e-4, atol=1e-6
    )


def test_gradient_is_the_one_of_merged_distributions(rng):
    teacher, student = 2 * rng.normal(size=(2, 5, 9))
    kept = top_k(teacher, 3)
    found = gradient(lambda z: bucket_loss(kept, z), student)
    p, q = np.exp(log_softmax(teacher)), np.exp(log_softmax(student))
    expected = np.zeros_like(q)
    for row, ids in enumerate(kept["ids"]):
        others = np.setdiff1d(np.arange(9), ids)
        expected[row, ids] = q[row, ids] - p[row, ids]
        # Of the rest the sum is taught, shared out as the student does.
        share = q[row, others] / q[row, others].sum()
        expected[row, others] = q[row, others] - share * p[row, others].sum()
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 8.0])
def test_all_classes_kept_is_the_whole_divergence(scale, rng):
    teacher, student = scale * rng.normal(size=(2, 64, 7))
    kept = top_k(teacher, 7)
    assert np.isneginf(kept["log_rest"]).all()

    def whole(logits):
        return losses.kl_divergence(teacher, logits, temperature=1.0)

    np.testing.assert_allclose(
        bucket_loss(kept, student), whole(student), rtol=1e-5, atol=1e-6
    )
    found = gradient(lambda z: bucket_loss(kept, z), student)
    expected = np.exp(log_softmax(student)) - np.exp(log_softmax(teacher))
    np.testing.assert_allclose(found, expected, atol=2e-6)


@pytest.mark.parametrize(
    "name",
    [
        "jensen_shannon",
        "skew_kl",
        "skew_reverse_kl",
        "tvd",
        "reverse_kl",
    ],
)
def test_other_divergences_of_all_classes_kept(name, rng):
    teacher, student = rng.normal(size=(2, 6, 5))
    loss, kept = losses.get(name), top_k(teacher, 5)

    def whole(logits):
        return loss(teacher, logits, temperature=1.0)

    def merged(logits):
        return bucket_loss(kept, logits, loss=loss)

    # The student's empty bucket holds 1e-7.
    np.testing.assert_allclose(merged(student), whole(student), atol=1e-5)
    np.testing.assert_allclose(
        gradient(merged, student), gradient(whole, student), atol=1e-5
    )


def test_a_class_drawn_twice_has_twice_the_gradient():
    logits = tf.Variable([[0.0, 0.0, np.log(2.0)]])
    kept = {
        "ids": [[1, 1]],
        "log_probs": [[0.0, 0.0]],
        "weights": [[0.5, 0.5]],
    }
    with tf.GradientTape() as tape:
        value = targets.per_token_from_samples(kept, logits, temperature=1.0)
    # softmax = [1/4, 1/4, 1/2]; -log q at class 1, by the logits: q - 1.
    np.testing.assert_allclose(value, [np.log(4.0)], rtol=1e-6)
    np.testing.assert_allclose(
        tape.gradient(value, logits), [[0.25, -0.75, 0.5]], rtol=1e-6
    )


def test_classes_ruled_out_give_numbers(rng):
    teacher, student = rng.normal(size=(2, 4, 6))
    teacher[:, 1] = student[:, 1] = -np.inf
    kept = top_k(teacher, 6)
    assert np.isneginf(kept["log_probs"][:, -1]).all()
    p, q = np.exp(log_softmax(teacher)), np.exp(log_softmax(student))
    found = bucket_loss(kept, student)
    real = np.delete(np.arange(6), 1)
    expected = (p * np.log(np.where(p > 0, p, 1)))[:, real] - p[
        :, real
    ] * np.log(q[:, real])
    np.testing.assert_allclose(found, expected.sum(-1), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
        gradient(lambda z: bucket_loss(kept, z), student), q - p, atol=2e-6
    )


def test_float16_targets_are_nearly_the_same(rng):
    teacher, student = rng.normal(size=(2, 8, 12))
    half, full = top_k(teacher, 5, "float16"), top_k(teacher, 5)
    a, b = (targets.buckets(kept, student)[0] for kept in (half, full))
    assert a.dtype == tf.float32
    # Half a step of float16 at 4 is 2e-3.
    np.testing.assert_allclose(a, b, atol=2e-3)
    np.testing.assert_allclose(
        gradient(lambda z: bucket_loss(half, z), student),
        gradient(lambda z: bucket_loss(full, z), student),
        atol=2e-3,
    )


@pytest.mark.parametrize("gap", [8.0, 11.0])
def test_a_small_rest_keeps_its_gradient(gap):
    """A student that is sure of the k, and a teacher that is not."""
    student = np.array([[gap, gap, 0.0, 0.0]])
    kept = top_k(np.zeros((1, 4)), 2)
    found = gradient(lambda z: bucket_loss(kept, z), student)
    expected = np.exp(log_softmax(student)) - 0.25
    # 1 - known is right to half a step of float32 at 1, 6e-8 of 3e-5.
    np.testing.assert_allclose(found, expected, atol=5e-3)


def samples_of(draws, log_p, dtype="float32"):
    """Targets of the kind "samples": equal draws are one slot."""
    ids, counts = np.unique(draws, return_counts=True)
    unused = len(draws) - len(ids)
    log_probs = [*log_p[ids], *[0.0] * unused]
    return {
        "ids": np.array([[*ids, *[0] * unused]], "int32"),
        "log_probs": np.array([log_probs], dtype),
        "weights": np.array([[*counts, *[0] * unused]], "float32") / len(draws),
    }


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_samples_are_unbiased_over_all_draws(temperature):
    teacher = np.array([1.0, -0.5, 2.0])
    student = np.array([[0.3, 0.1, -1.0]])
    log_p = log_softmax(teacher / temperature)
    value, slope = 0.0, np.zeros((1, 3))
    for draws in itertools.product(range(3), repeat=3):
        chance = np.exp(log_p[list(draws)].sum())
        kept = samples_of(draws, log_p)

        def loss(logits, kept=kept):
            return targets.per_token_from_samples(
                kept, logits, temperature=temperature
            )

        value += chance * float(loss(student)[0])
        slope += chance * gradient(loss, student)
    p = np.exp(log_p)
    log_q = log_softmax(student / temperature)[0]
    expected = temperature**2 * (p * (log_p - log_q)).sum()
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(
        slope[0], temperature * (np.exp(log_q) - p), atol=1e-6
    )


def test_samples_by_hand():
    kept = {
        "ids": [[1, 0]],
        "log_probs": np.log([[0.8, 0.5]]),
        "weights": [[0.75, 0.25]],
    }
    value = targets.per_token_from_samples(kept, np.log([[0.5, 0.5]]))
    # 3/4 of log(0.8 / 0.5), and nothing for 0.5 against 0.5.
    np.testing.assert_allclose(value, [0.352503], rtol=1e-5)


def test_samples_may_be_negative():
    kept = {"ids": [[0]], "log_probs": np.log([[0.5]]), "weights": [[1.0]]}
    value = targets.per_token_from_samples(kept, np.log([[0.9, 0.1]]))
    np.testing.assert_allclose(value, [np.log(0.5 / 0.9)], rtol=1e-5)


@pytest.mark.parametrize("garbage", [0.0, np.nan, -np.inf, np.inf])
def test_unused_slots_have_no_part(garbage):
    kept = {
        "ids": [[1, 0]],
        "log_probs": [[np.log(0.5), garbage]],
        "weights": [[1.0, 0.0]],
    }
    # The unused slot's class is one that the student rules out.
    student = np.array([[-np.inf, 0.0, 0.0]])
    np.testing.assert_allclose(
        targets.per_token_from_samples(kept, student), [0.0], atol=1e-7
    )
    slope = gradient(lambda z: targets.per_token_from_samples(kept, z), student)
    np.testing.assert_allclose(slope, [[0.0, -0.5, 0.5]], atol=1e-6)


def test_samples_in_half_precision_and_of_tokens(rng):
    log_p = log_softmax(rng.normal(size=5))
    one = samples_of([0, 3, 3], log_p, "float16")
    kept = {k: np.stack([v, v], axis=1) for k, v in one.items()}
    student = rng.normal(size=(1, 2, 5)).astype("float16")
    value = targets.per_token_from_samples(kept, student)
    assert value.shape == (1, 2) and value.dtype == tf.float32
    log_q = log_softmax(student)[0]
    expected = (log_p[0] - log_q[:, 0] + 2 * (log_p[3] - log_q[:, 3])) / 3
    np.testing.assert_allclose(value[0], expected, atol=2e-3)
