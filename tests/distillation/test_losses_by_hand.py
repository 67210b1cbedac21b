"""The newer soft losses with numbers worked out by hand, and their traits."""

import numpy as np
import pytest

from kdtf.distillation import absolute
from kdtf.distillation import bounded
from kdtf.distillation import decoupled
from kdtf.distillation import losses
from kdtf.distillation import relational

THREE_QUARTERS, HALF = np.log([[0.75, 0.25]]), np.log([[0.5, 0.5]])


def test_skewed_kl_by_hand():
    # M = 0.1 (3/4, 1/4) + 0.9 (1/2, 1/2) = (0.525, 0.475):
    # 3/4 log(0.75/0.525) + 1/4 log(0.25/0.475) = 0.267506 - 0.160463
    value = bounded.skewed_kl_divergence(THREE_QUARTERS, HALF)
    np.testing.assert_allclose(value, [0.107043], atol=1e-6)


def test_skewed_reverse_kl_by_hand():
    # M = 0.9 (3/4, 1/4) + 0.1 (1/2, 1/2) = (0.725, 0.275):
    # 1/2 log(0.5/0.725) + 1/2 log(0.5/0.275) = -0.185782 + 0.298919
    value = bounded.skewed_reverse_kl_divergence(THREE_QUARTERS, HALF)
    np.testing.assert_allclose(value, [0.113137], atol=1e-6)


def test_skewed_divergences_tend_to_the_plain_ones(rng):
    teacher, student = rng.normal(size=(2, 4, 6))
    for skewed, plain in (
        (bounded.skewed_kl_divergence, losses.kl_divergence),
        (bounded.skewed_reverse_kl_divergence, losses.reverse_kl_divergence),
    ):
        np.testing.assert_allclose(
            skewed(teacher, student, skew=1e-5),
            plain(teacher, student),
            rtol=1e-3,
        )


@pytest.mark.parametrize(
    "loss",
    [bounded.skewed_kl_divergence, bounded.skewed_reverse_kl_divergence],
)
def test_skewed_divergences_stay_bounded_where_the_other_is_masked(loss):
    first, second = [[0.0, -np.inf]], [[-np.inf, 0.0]]
    np.testing.assert_allclose(
        loss(first, second, temperature=2.0, skew=0.25),
        [4 * np.log(4.0)],
        rtol=1e-6,
    )


def test_decoupled_by_hand():
    # Teacher (1/2, 1/4, 1/4), student (1/4, 1/2, 1/4), label 0.
    # TCKD = KL((1/2, 1/2) || (1/4, 3/4)) = 0.346574 - 0.202733 = 0.143841
    # NCKD = KL((1/2, 1/2) || (2/3, 1/3)) = -0.143841 + 0.202733 = 0.058892
    pair = np.log([[[0.5, 0.25, 0.25]], [[0.25, 0.5, 0.25]]])
    for alpha, beta, expected in (
        (1.0, 0.0, 0.143841),
        (0.0, 1.0, 0.058892),
        (1.0, 8.0, 0.614973),
    ):
        value = decoupled.decoupled_kl_divergence(
            *pair, labels=[0], alpha=alpha, beta=beta
        )
        np.testing.assert_allclose(value, [expected], atol=2e-6)


def test_decoupled_parts_make_up_the_kl(rng):
    # Equation 6: KL = TCKD + (1 - p) NCKD, p the teacher's of the label.
    teacher, student = rng.normal(scale=2, size=(2, 1, 6))
    p = np.exp(teacher[0, 3]) / np.exp(teacher[0]).sum()
    value = decoupled.decoupled_kl_divergence(
        teacher, student, labels=[3], beta=float(1 - p)
    )
    np.testing.assert_allclose(
        value, losses.kl_divergence(teacher, student), rtol=1e-5
    )


def test_decoupled_is_exact_where_the_teacher_is_sure():
    # 1 - p is 0 in float32 for 200 against 0; the other classes still teach.
    teacher = [[200.0, np.log(0.75), np.log(0.25)]]
    student = [[200.0, np.log(0.5), np.log(0.5)]]
    value = decoupled.decoupled_kl_divergence(
        teacher, student, labels=[0], beta=1.0
    )
    np.testing.assert_allclose(value, [0.130812], atol=1e-6)


def test_decoupled_without_a_class_weighs_the_whole_kl(rng):
    teacher, student = rng.normal(size=(2, 2, 5))
    value = decoupled.decoupled_kl_divergence(
        teacher, student, labels=[-1, 5], beta=2.0
    )
    np.testing.assert_allclose(
        value, 2 * losses.kl_divergence(teacher, student), rtol=1e-5
    )


def test_relational_by_hand():
    # Rows: (1/2, 3/10, 1/5) against its reverse, r = -13/14. Columns of two
    # samples: r = -1 where they cross, and 0 apart where neither varies.
    rows = np.log([[0.5, 0.3, 0.2], [0.2, 0.3, 0.5]])
    only = {"inter": (1.0, 0.0, 27 / 14), "intra": (0.0, 1.0, 4 / 3)}
    for inter, intra, expected in only.values():
        value = relational.relational_distance(
            rows, rows[::-1], inter=inter, intra=intra
        )
        np.testing.assert_allclose(value, [expected] * 2, rtol=1e-5)


def test_relational_forgives_a_student_that_is_less_sure():
    # Probabilities half as far from 1/3: KL sees a difference, r does not.
    p = np.array([[0.6, 0.3, 0.1], [0.2, 0.1, 0.7], [0.3, 0.4, 0.3]])
    teacher, student = np.log(p), np.log(0.5 * p + 0.5 / 3)
    value = relational.relational_distance(teacher, student)
    np.testing.assert_allclose(value, [0.0] * 3, atol=1e-6)
    assert float(losses.kl_divergence(teacher, student)[0]) > 0.05


def test_relational_takes_all_leading_dimensions_for_the_batch(rng):
    pair = rng.normal(size=(2, 6, 5))
    np.testing.assert_allclose(
        np.reshape(
            relational.relational_distance(*pair.reshape(2, 2, 3, 5)), 6
        ),
        relational.relational_distance(*pair),
        rtol=1e-6,
    )


def test_relational_sees_the_relations_of_rare_classes():
    # Squares of 1e-22 are 0 in float32: unscaled, nothing would be compared.
    teacher = np.array([[0.0, -50.0], [0.0, -51.0], [0.0, -53.0]])
    value = relational.relational_distance(
        teacher, teacher[[2, 1, 0]], inter=0.0
    )
    p = np.exp(teacher[:, 1])
    # Class 0 is 1 for all, which is no relation.
    expected = (1 - np.corrcoef(p, p[::-1])[0, 1]) / 2
    np.testing.assert_allclose(value, [expected] * 3, rtol=1e-4)


def test_relational_distance_to_what_is_constant_is_a_half():
    value = relational.relational_distance(
        [[0.0, 0.0, 0.0]], [[3.0, 1.0, 0.0]], intra=0.0
    )
    np.testing.assert_allclose(value, [0.5], rtol=1e-6)


def test_total_variation_by_hand():
    value = absolute.total_variation_distance(
        2 * THREE_QUARTERS, HALF, temperature=2.0
    )
    np.testing.assert_allclose(value, [0.5], atol=1e-6)


def test_gradient_of_absolute_differences_keeps_its_size_as_t_grows(rng):
    import tensorflow as tf

    teacher = rng.normal(size=(2, 5)).astype("float32")
    student = tf.Variable(rng.normal(size=(2, 5)).astype("float32"))
    for loss in (
        absolute.total_variation_distance,
        absolute.universal_logit_distance,
    ):
        sizes = []
        for temperature in (50.0, 100.0):
            with tf.GradientTape() as tape:
                value = loss(teacher, student, temperature=temperature)
            sizes.append(np.linalg.norm(tape.gradient(value, student)))
        np.testing.assert_allclose(sizes[0], sizes[1], rtol=0.05)


def test_universal_distance_compares_ranks_and_not_names(rng):
    teacher = rng.normal(size=(4, 6))
    shuffled = teacher[:, rng.permutation(6)]
    value = absolute.universal_logit_distance(teacher, shuffled)
    np.testing.assert_allclose(value, [0.0] * 4, atol=1e-6)


@pytest.mark.parametrize("swapped", [False, True])
def test_universal_distance_of_two_vocabularies_by_hand(swapped):
    # (0.5, 0.3, 0.2, 0) against (0.6, 0.4, 0, 0): 0.1 + 0.1 + 0.2
    pair = [np.log([[0.2, 0.5, 0.3]]), np.log([[0.4, 0.6]])]
    value = absolute.universal_logit_distance(*pair[:: -1 if swapped else 1])
    np.testing.assert_allclose(value, [0.4], atol=1e-6)


def test_universal_distance_of_two_lengths_costs_only_where_both_are(rng):
    teacher, student = rng.normal(size=(2, 2, 4, 5))
    whole = absolute.universal_logit_distance(teacher, student)
    longer = absolute.universal_logit_distance(teacher, student[:, :3])
    np.testing.assert_allclose(longer, whole[:, :3], rtol=1e-6)
    shorter = absolute.universal_logit_distance(teacher[:, :3], student)
    np.testing.assert_allclose(shorter[:, :3], whole[:, :3], rtol=1e-6)
    np.testing.assert_array_equal(shorter[:, 3], 0.0)


def test_universal_distance_of_two_free_lengths_inside_a_graph(rng):
    import tensorflow as tf

    @tf.function(
        input_signature=[
            tf.TensorSpec((None, None, 7)),
            tf.TensorSpec((None, None, 5)),
        ]
    )
    def run(teacher, student):
        return absolute.universal_logit_distance(teacher, student)

    teacher = rng.normal(size=(2, 4, 7)).astype("float32")
    student = rng.normal(size=(2, 4, 5)).astype("float32")
    whole = run(teacher, student)
    assert whole.shape == (2, 4) and float(np.min(whole)) > 0.0
    np.testing.assert_allclose(run(teacher[:, :1], student)[:, 1:], 0.0)
    np.testing.assert_allclose(
        run(teacher, student[:, :2]), whole[:, :2], rtol=1e-6
    )


def test_relational_takes_rounding_for_no_relation(rng):
    # The mean of seven equal numbers differs from them by the last bit, in
    # one direction for all: unchecked, that would correlate perfectly.
    teacher, student = np.repeat(rng.normal(size=(2, 1, 40)), 7, axis=1)
    value = relational.relational_distance(teacher, student, inter=0.0)
    np.testing.assert_array_equal(value, np.zeros(7))
