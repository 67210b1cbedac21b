import keras
import numpy as np
import pytest
import tensorflow as tf

from kdtf.distillation.features import losses

MASK = np.array([[1, 1, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0]], bool)


def softmax(x):
    with np.errstate(all="ignore"):
        e = np.exp(x - x.max(-1, keepdims=True))
        return e / e.sum(-1, keepdims=True)


def huber(x):
    return np.where(np.abs(x) <= 1, 0.5 * x * x, np.abs(x) - 0.5)


def make(rng, *shape):
    return rng.normal(size=shape), rng.normal(size=shape)


def close(value, expected):
    assert keras.backend.standardize_dtype(value.dtype) == "float32"
    # float32 against float64, over a few hundred additions.
    np.testing.assert_allclose(value, expected, rtol=2e-5, atol=1e-6)


def test_hidden_mse_by_hand():
    teacher = [[[1.0, 2.0], [0.0, 0.0]], [[1.0, 1.0], [5.0, 5.0]]]
    student = [[[3.0, 2.0], [1.0, 1.0]], [[1.0, 1.0], [9.0, 9.0]]]
    close(losses.hidden_mse(teacher, student), [1.5, 8.0])
    mask = [[True, True], [True, False]]
    close(losses.hidden_mse(teacher, student, mask), [1.5, 0.0])


def test_hidden_mse_is_the_formula(rng):
    teacher, student = make(rng, 3, 4, 5)
    error = ((teacher - student) ** 2).mean(-1)
    expected = [error[0, :3].mean(), error[1, :2].mean(), 0.0]
    close(losses.hidden_mse(teacher, student, MASK), expected)


def test_hidden_mse_takes_images_and_vectors(rng):
    teacher, student = make(rng, 2, 3, 4, 5)
    expected = ((teacher - student) ** 2).mean((1, 2, 3))
    close(losses.hidden_mse(teacher, student), expected)
    teacher, student = make(rng, 2, 5)
    expected = ((teacher - student) ** 2).mean(-1)
    close(losses.hidden_mse(teacher, student), expected)
    # A pooled vector has no positions that could be padded.
    close(losses.hidden_mse(teacher, student, MASK[:2]), expected)


def test_float16_does_not_overflow():
    teacher = np.full((1, 1, 2), 300.0, "float16")
    close(losses.hidden_mse(teacher, -teacher), [360000.0])
    maps = np.full((1, 1, 1, 2), 300.0, "float16")
    close(losses.attention_mse(maps, -maps), [360000.0])


def test_a_nan_of_a_real_position_is_not_hidden():
    teacher = np.zeros((1, 2, 2))
    student = np.array([[[np.nan, 0.0], [0.0, 0.0]]])
    value = losses.hidden_mse(teacher, student, [[True, True]])
    assert np.isnan(value[0])
    close(losses.hidden_mse(teacher, student, [[False, True]]), [0.0])


def test_attention_mse_by_hand():
    teacher = [[[[0.5, 0.5], [1.0, 0.0]]]]
    student = [[[[0.0, 1.0], [1.0, 0.0]]]]
    close(losses.attention_mse(teacher, student), [0.125])
    causal = [[[[True, False], [True, True]]]]
    close(losses.attention_mse(teacher, student, causal), [0.25 / 3])


def test_attention_mse_is_the_formula(rng):
    teacher, student = make(rng, 3, 2, 4, 4)
    pairs = MASK[:, :, None] & MASK[:, None, :]
    square = ((teacher - student) ** 2).mean(1)
    expected = [
        s[p].mean() if p.any() else 0
        for s, p in zip(square, pairs, strict=True)
    ]
    close(losses.attention_mse(teacher, student, pairs[:, None]), expected)


def test_attention_kl_by_hand():
    ln = np.log
    teacher = ln([[[[0.5, 0.5], [0.9, 0.1]]]])
    student = ln([[[[0.25, 0.75], [0.9, 0.1]]]])
    row = 0.5 * ln(0.5 / 0.25) + 0.5 * ln(0.5 / 0.75)
    close(losses.attention_kl(teacher, student), [row / 2])
    # With one key left, both look at it alone.
    one_key = [[[[True, False], [True, False]]]]
    close(losses.attention_kl(teacher, student, one_key), [0.0])


def test_attention_kl_is_the_formula_over_what_the_mask_leaves(rng):
    teacher, student = make(rng, 3, 2, 4, 4)
    causal = np.tril(np.ones((4, 4), bool))
    pairs = MASK[:, :, None] & MASK[:, None, :] & causal
    expected = []
    for t, s, mask in zip(teacher, student, pairs, strict=True):
        rows = [
            (p * np.log(p / q)).sum()
            for head in range(2)
            for row in range(4)
            if mask[row].any()
            for p in [softmax(t[head, row][mask[row]])]
            for q in [softmax(s[head, row][mask[row]])]
        ]
        expected.append(np.mean(rows) if rows else 0.0)
    value = losses.attention_kl(teacher, student, pairs[:, None])
    close(value, expected)


def test_attention_kl_takes_scores_of_minus_infinity(rng):
    teacher, student = make(rng, 1, 1, 2, 3)
    mask = np.array([[[[1, 1, 0], [1, 1, 0]]]], bool)
    masked = losses.attention_kl(teacher, student, mask)
    teacher[..., 2] = student[..., 2] = -np.inf
    close(losses.attention_kl(teacher, student), masked)
    close(losses.attention_kl(teacher, student, mask), masked)


def test_relation_kl_by_hand():
    # Dot products [[1, 0], [0, 1]] / sqrt(2) against [[1, 1], [1, 1]].
    teacher, student = [[[1.0, 0.0], [0.0, 1.0]]], [[[1.0], [1.0]]]
    p = 1 / (1 + np.exp(-1 / np.sqrt(2)))
    expected = p * np.log(2 * p) + (1 - p) * np.log(2 * (1 - p))
    close(losses.relation_kl(teacher, student, relation_heads=1), [expected])


def test_relation_kl_is_the_formula_of_the_paper(rng):
    teacher, student = rng.normal(size=(3, 4, 12)), rng.normal(size=(3, 4, 6))
    expected = []
    for t, s, mask in zip(teacher, student, MASK, strict=True):
        rows = []
        for r in range(3):
            a = t[mask][:, 4 * r : 4 * r + 4]
            b = s[mask][:, 2 * r : 2 * r + 2]
            p = softmax(a @ a.T / 2.0) if len(a) else np.ones((0, 1))
            q = softmax(b @ b.T / np.sqrt(2.0)) if len(a) else p
            rows.extend((p * np.log(p / q)).sum(-1))
        expected.append(np.mean(rows) if rows else 0.0)
    value = losses.relation_kl(teacher, student, MASK, relation_heads=3)
    close(value, expected)


def test_relation_kl_joins_heads_before_it_cuts(rng):
    teacher, student = make(rng, 2, 4, 12)
    flat = losses.relation_kl(teacher, student, relation_heads=4)
    headed = losses.relation_kl(
        teacher.reshape(2, 4, 3, 4),
        student.reshape(2, 4, 2, 6),
        relation_heads=4,
    )
    np.testing.assert_array_equal(flat, headed)


def test_relation_kl_does_not_see_the_order_of_parts_or_a_rotation(rng):
    teacher, student = make(rng, 2, 4, 6)
    shuffled = [
        x.reshape(2, 4, 3, 2)[:, :, [2, 0, 1]] for x in (teacher, student)
    ]
    turn, _ = np.linalg.qr(rng.normal(size=(2, 2)))
    turned = student.reshape(2, 4, 3, 2) @ turn
    expected = losses.relation_kl(teacher, student, relation_heads=3)
    close(losses.relation_kl(*shuffled, relation_heads=3), expected)
    close(losses.relation_kl(teacher, turned, relation_heads=3), expected)
    alone = losses.relation_kl(teacher, shuffled[1], relation_heads=3)
    assert np.abs(alone - expected).max() > 1e-3


def test_relation_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="relation_heads=4, width 6"):
        losses.relation_kl(
            np.ones((1, 2, 8)), np.ones((1, 2, 6)), relation_heads=4
        )


def test_pairwise_distance_by_hand():
    # Distances 1, 2, 3 over their mean 2; 5, 0, 5 over 10/3.
    teacher, student = [[0.0], [1.0], [3.0]], [[0.0], [5.0], [5.0]]
    ab, ac, bc = huber(1.5 - 0.5), huber(1.5 - 1.5), huber(0.0 - 1.0)
    expected = [(ab + ac) / 2, (ab + bc) / 2, (ac + bc) / 2]
    close(losses.pairwise_distance(teacher, student), expected)


def numpy_distances(x):
    d = np.linalg.norm(x[:, None] - x[None], axis=-1)
    return d / (d.sum() / (len(x) * (len(x) - 1)))


def numpy_cosine(a, b, c):
    first, second = a - b, c - b
    return first @ second / np.linalg.norm(first) / np.linalg.norm(second)


def test_pairwise_distance_is_the_formula(rng):
    # One sample far out, so that the linear part of the Huber loss is met.
    teacher, student = rng.normal(size=(5, 4)), rng.normal(size=(5, 3))
    teacher[0] *= 30
    error = huber(numpy_distances(teacher) - numpy_distances(student))
    expected = error.sum(1) / 4
    close(losses.pairwise_distance(teacher, student), expected)
    assert np.abs(numpy_distances(teacher) - numpy_distances(student)).max() > 1


def test_pairwise_angle_by_hand():
    # At the first sample cosines 0 and 1, then 1/sqrt(2) and -1, then 1.
    teacher, student = [[0, 0], [1, 0], [0, 1]], [[0], [1], [2]]
    root = 1 / np.sqrt(2)
    expected = [huber(1.0), huber(root + 1), huber(root - 1)]
    close(losses.pairwise_angle(teacher, student), expected)


def test_pairwise_angle_is_the_formula(rng):
    teacher, student = rng.normal(size=(5, 4)), rng.normal(size=(5, 3))
    expected = [
        np.mean(
            [
                huber(
                    numpy_cosine(teacher[i], teacher[j], teacher[k])
                    - numpy_cosine(student[i], student[j], student[k])
                )
                for i in range(5)
                for k in range(5)
                if len({i, j, k}) == 3
            ]
        )
        for j in range(5)
    ]
    close(losses.pairwise_angle(teacher, student), expected)


@pytest.mark.parametrize(
    ("loss", "fewest"),
    [(losses.pairwise_distance, 2), (losses.pairwise_angle, 3)],
)
def test_too_small_a_batch_gives_nothing_to_learn(loss, fewest, rng):
    teacher, student = make(rng, fewest - 1, 3)
    close(loss(teacher, student), np.zeros(fewest - 1))
    teacher, student = make(rng, 0, 3)
    assert loss(teacher, student).shape == (0,)


@pytest.mark.parametrize(
    "loss", [losses.pairwise_distance, losses.pairwise_angle]
)
def test_pairs_do_not_see_scale_shift_or_rotation(loss, rng):
    teacher, student = make(rng, 5, 3)
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    moved = 7.0 * student @ turn + 2.0
    expected = loss(teacher, student)
    np.testing.assert_allclose(
        loss(teacher, moved), expected, rtol=1e-4, atol=1e-6
    )
    close(loss(teacher, teacher @ turn), np.zeros(5))


@pytest.mark.parametrize(
    "loss", [losses.pairwise_distance, losses.pairwise_angle]
)
@pytest.mark.parametrize("equal", [2, 5])
def test_equal_samples_have_a_finite_gradient(loss, equal, rng):
    teacher, student = make(rng, 5, 3)
    student[:equal] = student[0]
    student = tf.Variable(student.astype("float32"))
    with tf.GradientTape() as tape:
        value = tf.reduce_sum(loss(teacher, student))
    gradient = tape.gradient(value, student)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
    assert (np.abs(gradient).max() > 0) == (equal < 5)


def test_near_neighbours_keep_their_distance():
    # From dot products in float32, 1e-3 at 1000 would come out as 0.
    teacher = np.array([[1000.0], [1000.001], [1000.002]], "float64")
    student = np.array([[0.0], [1.0], [2.0]])
    value = losses.pairwise_distance(teacher.astype("float32"), student)
    assert float(np.max(value)) < 1e-2


CASES = {
    "hidden_mse": (losses.hidden_mse, (2, 3, 4)),
    "attention_mse": (losses.attention_mse, (2, 2, 3, 3)),
    "attention_kl": (losses.attention_kl, (2, 2, 3, 3)),
    "relation_kl": (
        lambda t, s: losses.relation_kl(t, s, relation_heads=2),
        (2, 3, 4),
    ),
    "pairwise_distance": (losses.pairwise_distance, (4, 3)),
    "pairwise_angle": (losses.pairwise_angle, (4, 3)),
}


@pytest.mark.parametrize("name", CASES)
def test_gradient_is_the_slope(name, rng):
    loss, shape = CASES[name]
    teacher, student = make(rng, *shape)
    direction = rng.normal(size=shape)
    variable = tf.Variable(student.astype("float32"))
    with tf.GradientTape() as tape:
        value = tf.reduce_sum(loss(teacher, variable))
    gradient = tape.gradient(value, variable)
    step = 1e-2
    ahead, behind = (
        float(np.sum(loss(teacher, student + sign * step * direction)))
        for sign in (1, -1)
    )
    slope = (ahead - behind) / (2 * step)
    # Central differences of float32 values.
    np.testing.assert_allclose(
        np.sum(gradient * direction), slope, rtol=2e-2, atol=2e-3
    )


@pytest.mark.parametrize("name", CASES)
def test_equal_features_cost_nothing(name, rng):
    loss, shape = CASES[name]
    teacher, _ = make(rng, *shape)
    close(loss(teacher, teacher), np.zeros(shape[0]))


@pytest.mark.parametrize("name", CASES)
def test_losses_compile_for_any_batch(name, rng):
    loss, shape = CASES[name]
    teacher, student = (x.astype("float32") for x in make(rng, *shape))
    spec = tf.TensorSpec((None, *shape[1:]), tf.float32)
    compiled = tf.function(loss, input_signature=(spec, spec))
    close(compiled(teacher, student), loss(teacher, student))


def test_padding_has_no_gradient(rng):
    teacher, student = make(rng, 3, 4, 4)
    variable = tf.Variable(student.astype("float32"))
    with tf.GradientTape() as tape:
        value = tf.reduce_sum(
            losses.hidden_mse(teacher, variable, MASK)
            + losses.relation_kl(teacher, variable, MASK, relation_heads=2)
        )
    gradient = tape.gradient(value, variable).numpy()
    assert (gradient[~MASK] == 0).all()
    assert (np.abs(gradient[MASK]).max(-1) > 0).all()


def test_pool_is_the_mean_over_real_positions(rng):
    features = rng.normal(size=(3, 4, 2))
    expected = [features[0, :3].mean(0), features[1, :2].mean(0), [0, 0]]
    close(losses.pool(features, MASK), expected)
    close(losses.pool(features), features.mean(1))
    close(losses.pool(features[:, 0], MASK), features[:, 0])
    images = rng.normal(size=(3, 4, 4, 2))
    close(losses.pool(images), images.mean((1, 2)))
