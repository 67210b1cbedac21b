"""Objects that hold a loss's settings, and what a loss says it needs."""

import dataclasses
import functools

import keras
import numpy as np
import pytest

from kdtf.distillation import absolute
from kdtf.distillation import bounded
from kdtf.distillation import decoupled
from kdtf.distillation import losses
from kdtf.distillation import relational

OBJECTS = [
    (bounded.JensenShannonDivergence, {"beta": 0.3}),
    (bounded.SkewedKLDivergence, {"skew": 0.3}),
    (bounded.SkewedReverseKLDivergence, {"skew": 0.3}),
    (decoupled.DecoupledDistillation, {"alpha": 0.5, "beta": 2.0}),
    (relational.RelationalDistillation, {"inter": 2.0, "intra": 0.5}),
]
EVERY_OBJECT = pytest.mark.parametrize(("made", "settings"), OBJECTS)


@EVERY_OBJECT
def test_config_holds_every_setting_and_gives_the_same_loss(made, settings):
    loss = made(**settings)
    config = keras.saving.serialize_keras_object(loss)
    assert config["registered_name"] == f"kdtf>{made.__name__}"
    assert config["config"] == settings == dataclasses.asdict(loss)
    assert keras.saving.deserialize_keras_object(config) == loss != made()


@EVERY_OBJECT
def test_object_is_the_function_with_its_settings(made, settings, rng):
    teacher, student = rng.normal(size=(2, 4, 6))
    loss = made(**settings)
    given = {"temperature": 2.0}
    if losses.has_trait(loss, "needs_labels"):
        given["labels"] = [0, 1, 2, 3]
    found = loss(teacher, student, **given)
    expected = made.function(teacher, student, **given, **settings)
    np.testing.assert_array_equal(found, expected)
    # The settings count, and the defaults are the function's.
    plain = np.asarray(made.function(teacher, student, **given))
    np.testing.assert_array_equal(made()(teacher, student, **given), plain)
    assert float(np.min(np.abs(found - plain))) > 1e-4


@EVERY_OBJECT
def test_object_has_the_traits_of_its_function(made, settings):
    for trait in ("needs_labels", "across_batch", "softmax_only"):
        assert losses.has_trait(made(), trait) == losses.has_trait(
            made.function, trait
        )


@pytest.mark.parametrize("skew", [0.0, 1.0, -0.1, float("nan")])
def test_skew_outside_the_open_interval_is_refused(skew):
    for refused in (
        functools.partial(bounded.SkewedKLDivergence, skew=skew),
        functools.partial(bounded.SkewedReverseKLDivergence, skew=skew),
        functools.partial(
            bounded.skewed_kl_divergence, [[0.0]], [[0.0]], skew=skew
        ),
        functools.partial(
            bounded.skewed_reverse_kl_divergence, [[0.0]], [[0.0]], skew=skew
        ),
    ):
        with pytest.raises(ValueError, match=rf"`skew`.*skew={skew}.*'kl'"):
            refused()


@pytest.mark.parametrize(
    ("made", "function", "names"),
    [
        (
            decoupled.DecoupledDistillation,
            functools.partial(decoupled.decoupled_kl_divergence, labels=[0]),
            ("alpha", "beta"),
        ),
        (
            relational.RelationalDistillation,
            relational.relational_distance,
            ("inter", "intra"),
        ),
    ],
)
def test_weights_that_leave_no_loss_are_refused(made, function, names):
    for refused in (made, lambda **w: function([[0.0]], [[0.0]], **w)):
        for name in names:
            with pytest.raises(ValueError, match=rf"`{name}`.*{name}=-1"):
                refused(**{name: -1.0})
            with pytest.raises(ValueError, match=rf"`{name}`.*{name}=inf"):
                refused(**{name: float("inf")})
        with pytest.raises(ValueError, match=rf"`{names[0]}` and `{names[1]}`"):
            refused(**dict.fromkeys(names, 0.0))


def test_traits_of_the_table():
    traits = ("needs_labels", "any_vocabulary", "across_batch", "softmax_only")
    table = {
        name: [t for t in traits if losses.has_trait(loss, t)]
        for name, loss in losses.LOSSES.items()
    }
    assert {name: found for name, found in table.items() if found} == {
        "dkd": ["needs_labels"],
        "dist": ["across_batch", "softmax_only"],
        "uld": ["any_vocabulary", "softmax_only"],
    }


def test_trait_is_seen_through_a_partial():
    loss = functools.partial(decoupled.decoupled_kl_divergence, beta=2.0)
    assert losses.has_trait(loss, "needs_labels")


IDS = np.array([2, 0, 1])
AS_IDS = {
    "ids": IDS,
    "floats": IDS.astype("float32"),
    "column": IDS[:, None],
    "one-hot": np.eye(4)[IDS],
    "smoothed": 0.9 * np.eye(4)[IDS] + 0.025,
}


@pytest.mark.parametrize("form", sorted(AS_IDS))
def test_labels_reach_the_loss_as_class_ids_however_they_come(form, rng):
    teacher, student = rng.normal(size=(2, 3, 4))
    value = losses.per_sample(
        decoupled.DecoupledDistillation(beta=2.0),
        teacher,
        student,
        temperature=2.0,
        head="softmax",
        labels=AS_IDS[form],
    )
    expected = decoupled.decoupled_kl_divergence(
        teacher, student, labels=IDS, temperature=2.0, beta=2.0
    )
    np.testing.assert_array_equal(value, expected)


def test_labels_of_tokens_reach_the_loss(rng):
    teacher, student = rng.normal(size=(2, 2, 3, 4))
    ids = rng.integers(0, 4, size=(2, 3))
    for labels in (ids, np.eye(4)[ids]):
        value = losses.per_sample(
            losses.get("dkd"),
            teacher,
            student,
            temperature=1.0,
            head="softmax",
            labels=labels,
        )
        np.testing.assert_array_equal(
            value,
            decoupled.decoupled_kl_divergence(teacher, student, labels=ids),
        )


@pytest.mark.parametrize("shape", [(4, 3), (4, 1), (4,)])
def test_labels_of_a_sigmoid_say_which_of_the_two_it_is(shape, rng):
    # With two classes only TCKD is left, the KL of two Bernoullis, and which
    # one is the label's does not matter: so a loss of one's own looks.
    seen = []

    def loss(teacher, student, *, temperature, labels):
        seen.append(np.asarray(labels))
        return decoupled.decoupled_kl_divergence(
            teacher, student, temperature=temperature, labels=labels
        )

    loss.needs_labels = True
    width = shape[-1] if len(shape) == 2 else 1
    teacher, student = rng.normal(size=(2, 4, width))
    labels = rng.integers(0, 2, size=shape).astype("float32")
    value = losses.per_sample(
        loss, teacher, student, temperature=2.0, head="sigmoid", labels=labels
    )
    np.testing.assert_array_equal(seen[0], 1 - labels.reshape(4, width))
    expected = losses.per_sample(
        losses.kl_divergence, teacher, student, temperature=2.0, head="sigmoid"
    )
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)


def test_missing_and_misshapen_labels_are_refused():
    run = functools.partial(
        losses.per_sample,
        losses.get("dkd"),
        np.zeros((3, 4)),
        np.zeros((3, 4)),
        temperature=1.0,
        head="softmax",
    )
    with pytest.raises(
        ValueError, match=r"needs the labels.*labels=None.*'kl'"
    ):
        run()
    with pytest.raises(ValueError, match=r"`labels`.*\(3, 4, 1, 1\).*\(3, 4\)"):
        run(labels=np.zeros((3, 4, 1, 1)))


def test_labels_are_not_given_to_a_loss_that_does_not_need_them():
    value = losses.per_sample(
        losses.kl_divergence,
        [[0.0, 0.0]],
        [[0.0, 0.0]],
        temperature=1.0,
        head="softmax",
        labels="anything",
    )
    assert float(value[0]) == 0.0


@pytest.mark.parametrize(
    "loss",
    [absolute.universal_logit_distance, relational.RelationalDistillation()],
)
def test_loss_of_exclusive_classes_is_refused_for_single_labels(loss):
    with pytest.raises(
        ValueError, match=r"exclude each other.*'sigmoid'.*'kl'"
    ):
        losses.per_sample(
            loss, [[1.0]], [[0.0]], temperature=1.0, head="sigmoid"
        )
