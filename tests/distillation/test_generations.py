"""Chains, generations and mutual learning: who teaches whom, by hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kdtf
from kdtf.distillation import HiddenStates
from kdtf.distillation.generations import assistant_chain
from kdtf.distillation.generations import born_again
from kdtf.distillation.generations import mutual

pytestmark = pytest.mark.slow

SparseCE = keras.losses.SparseCategoricalCrossentropy


def linear(**kwargs):
    logits = keras.layers.Dense(3, bias_initializer="glorot_normal")
    return keras.Sequential([keras.Input((5,)), logits], **kwargs)


def mlp(width):
    hidden = keras.layers.Dense(width, name="hidden")
    layers = [hidden, keras.layers.Dense(3)]
    return keras.Sequential([keras.Input((5,)), *layers])


@pytest.fixture
def data(rng):
    x = rng.normal(size=(8, 5)).astype("float32")
    return x, rng.integers(0, 3, size=8).astype("int32")


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def cross_entropy(model, x, y):
    probs = softmax(np.asarray(model(x), "float64"))
    return -np.log(probs[np.arange(len(y)), y]).mean()


def kl(teachers, student, x, temperature):
    """T^2 * KL from the mean of the teachers' probabilities, in NumPy."""
    logits = [np.asarray(m(x), "float64") for m in (*teachers, student)]
    *taught, q = (softmax(z / temperature) for z in logits)
    p = np.mean(taught, axis=0)
    return temperature**2 * (p * np.log(p / q)).sum(-1).mean()


def sgd(rate):
    def compile_one(model):
        optimizer = keras.optimizers.SGD(rate)
        model.compile(optimizer, loss=SparseCE(from_logits=True))

    return compile_one


def copies(model):
    return [w.copy() for w in model.get_weights()]


def assert_same(weights, others):
    for a, b in zip(weights, others, strict=True):
        np.testing.assert_array_equal(a, b)


class Fit:
    """Takes one step over all data, and keeps the logs and what it saw."""

    def __init__(self, data, rate=0.5):
        self.data, self.rate = data, rate
        self.seen, self.logs = [], []

    def __call__(self, model):
        self.seen.append(model)
        sgd(self.rate)(model)
        history = model.fit(*self.data, batch_size=8, verbose=0)
        self.logs.append({k: v[0] for k, v in history.history.items()})


def never(model):
    raise AssertionError("nothing may be trained")


def test_each_of_a_chain_is_taught_by_the_one_before(data):
    x, y = data
    teacher, assistant, student = models = [mlp(8), mlp(4), mlp(2)]
    kept = copies(teacher)
    expected = []

    class Watched(Fit):
        def __call__(self, distiller):
            # At this moment: the assistant was trained when it teaches.
            before = models[len(self.seen)]
            after = models[len(self.seen) + 1]
            hard = cross_entropy(after, x, y)
            soft = kl([before], after, x, 3.0)
            expected.append((0.25 * hard + 0.75 * soft, soft))
            weights = copies(before), copies(after)
            super().__call__(distiller)
            assert_same(weights[0], before.get_weights())
            assert not np.array_equal(weights[1][0], after.get_weights()[0])

    fit = Watched(data)
    result = assistant_chain(models, fit, alpha=0.25, temperature=3.0)
    assert result is student
    assert [one.student for one in fit.seen] == [assistant, student]
    assert [one.teacher for one in fit.seen] == [teacher, assistant]
    assert_same(kept, teacher.get_weights())
    for logs, (loss, soft) in zip(fit.logs, expected, strict=True):
        assert logs["loss"] == pytest.approx(loss, rel=1e-5)
        assert logs["soft_loss"] == pytest.approx(soft, rel=1e-5)


def test_two_models_are_a_chain_without_assistants(data):
    fit = Fit(data)
    models = [mlp(4), mlp(4)]
    assert assistant_chain(iter(models), fit) is models[1]
    assert len(fit.seen) == 1


def test_chain_refuses_before_any_training():
    small, large = mlp(2), mlp(8)
    with pytest.raises(ValueError, match=r"\[21, 75\] parameters"):
        assistant_chain([small, large], never)
    with pytest.raises(ValueError, match="two models or more.*Received: 1"):
        assistant_chain([large], never)
    with pytest.raises(ValueError, match=r"models\[0\].*models\[2\].*which do"):
        assistant_chain([large, mlp(8), large], never)
    with pytest.raises(TypeError, match=r"`models\[1\]` must be a `keras"):
        assistant_chain([large, "small"], never)
    with pytest.raises(ValueError, match=r"models\[1\] must be built"):
        unbuilt = keras.Sequential([keras.layers.Dense(3)])
        assistant_chain([large, unbuilt], never)
    with pytest.raises(TypeError, match="`fit` must be a function"):
        assistant_chain([large, small], None)
    with pytest.raises(ValueError, match=r"stay in \[0, 1\]"):
        assistant_chain([large, small], never, alpha=2.0)


def test_shared_layers_must_be_frozen(data):
    trunk = keras.layers.Dense(4)

    def headed():
        layers = [keras.Input((5,)), trunk, keras.layers.Dense(3)]
        return keras.Sequential(layers)

    models = [headed(), headed()]
    with pytest.raises(ValueError, match="must not share weights"):
        assistant_chain(models, never)
    trunk.trainable = False
    weights = copies(models[0])
    assert assistant_chain(models, Fit(data)) is models[1]
    assert_same(weights, models[0].get_weights())


def test_every_generation_is_taught_by_its_predecessor(data):
    x, y = data
    fit = Fit(data, rate=0.0)
    models = born_again(linear, fit, generations=2, alpha=0.0, temperature=2.0)
    assert len(models) == 3
    assert fit.seen[0] is models[0]
    assert [one.student for one in fit.seen[1:]] == models[1:]
    assert fit.logs[0]["loss"] == pytest.approx(
        cross_entropy(models[0], x, y), rel=1e-5
    )
    for logs, before, after in zip(
        fit.logs[1:], models, models[1:], strict=False
    ):
        # Nothing was changed, and the initial weights differ.
        soft = kl([before], after, x, 2.0)
        assert soft > 0.1
        assert logs["loss"] == pytest.approx(soft, rel=1e-5)


def test_generations_are_averaged_as_several_teachers(data):
    x, _ = data
    models = born_again(linear, Fit(data), generations=2)
    student = linear()
    soft = kl(models[1:], student, x, 1.0)
    distiller = kdtf.Distiller(models[1:], student, alpha=0, temperature=1.0)
    distiller.compile("sgd")
    history = distiller.fit(x, batch_size=8, verbose=0)
    assert history.history["loss"] == [pytest.approx(soft, rel=1e-5)]


def test_a_trained_teacher_is_the_first_generation_and_stays(data):
    teacher = linear()
    weights = copies(teacher)
    fit = Fit(data)
    models = born_again(linear, fit, generations=1, teacher=teacher)
    assert models[0] is teacher and len(models) == 2
    assert [one.teacher for one in fit.seen] == [teacher]
    assert_same(weights, teacher.get_weights())


def test_generations_repeat_with_the_seed(data):
    def run(seed):
        keras.utils.set_random_seed(seed)
        return born_again(linear, Fit(data), generations=1)[-1].get_weights()

    first = run(1)
    assert_same(first, run(1))
    assert not np.array_equal(first[0], run(2)[0])


def test_born_again_refuses_before_any_training():
    for wrong in (0, True, 1.5, "2"):
        with pytest.raises(ValueError, match="`generations` must be an int"):
            born_again(linear, never, generations=wrong)
    with pytest.raises(TypeError, match="`build` must be a function"):
        born_again(None, never, generations=1)
    with pytest.raises(TypeError, match="`fit` must be a function"):
        born_again(linear, None, generations=1)
    model = linear()
    with pytest.raises(ValueError, match="Build each one anew"):
        born_again(lambda: model, never, generations=1)
    with pytest.raises(ValueError, match="temperature=0"):
        born_again(linear, never, generations=1, temperature=0)


def dataset_of(*arrays, size):
    return tf.data.Dataset.from_tensor_slices(arrays).batch(size)


def descend(weights, x, y, *, rate, in_turn):
    """Updates linear students once, in float64, changing the list.

    Each minimises CE + mean over the others of KL(other || own), in turn or
    all from where they were before.
    """
    before = [(w.copy(), b.copy()) for w, b in weights]
    for index, (w, b) in enumerate(weights):
        peers = weights if in_turn else before
        probs = [softmax(x @ w + b) for w, b in peers]
        own = probs.pop(index)
        gradient = own - np.eye(3)[y]
        gradient += np.mean([own - other for other in probs], axis=0)
        gradient = gradient / len(y)
        weights[index] = (
            w - rate * x.T @ gradient,
            b - rate * gradient.sum(0),
        )


@pytest.mark.parametrize("num_students", [2, 3])
def test_mutual_steps_are_the_papers_in_turn(data, num_students):
    x, y = data
    students = [linear() for _ in range(num_students)]

    def expected(in_turn):
        found = [
            tuple(np.asarray(w, "float64") for w in start) for start in starts
        ]
        for rows in (slice(0, 4), slice(4, 8)):
            descend(found, x[rows], y[rows], rate=0.5, in_turn=in_turn)
        return found

    starts = [copies(one) for one in students]
    # Half of the paper's loss, so twice its rate.
    histories = mutual(students, sgd(1.0), dataset_of(x, y, size=4), verbose=0)
    assert [one.model.student for one in histories] == students
    for one, own, at_once in zip(
        students, expected(True), expected(False), strict=True
    ):
        for weight, value in zip(one.get_weights(), own, strict=True):
            np.testing.assert_allclose(weight, value, atol=1e-5)
        # At once is something else, for all after the first one's first step.
        assert np.abs(one.get_weights()[0] - at_once[0]).max() > 1e-3


def test_mutual_histories_are_means_over_the_examples(data):
    x, y = data
    students = [linear(name="same"), linear(name="same")]
    held_out = dataset_of(x[:2], y[:2], size=2)
    # Batches of 5 and 3 count by their size; nothing moves at rate 0.
    histories = mutual(
        students,
        sgd(0.0),
        dataset_of(x, y, size=5),
        epochs=2,
        validation_data=held_out,
        verbose=0,
        alpha=0.25,
        temperature=2.0,
    )
    for own, other, history in zip(
        students, students[::-1], histories, strict=True
    ):
        assert isinstance(history, keras.callbacks.History)
        hard, soft = cross_entropy(own, x, y), kl([other], own, x, 2.0)
        expected = {
            "hard_loss": hard,
            "soft_loss": soft,
            "loss": 0.25 * hard + 0.75 * soft,
            "val_loss": cross_entropy(own, x[:2], y[:2]),
        }
        assert history.epoch == [0, 1]
        assert set(expected) <= set(history.history)
        for name, value in expected.items():
            assert history.history[name] == pytest.approx(
                [value, value], rel=1e-5
            )


def test_mutual_takes_sample_weights(data):
    x, y = data
    weight = np.array([1, 0] * 4, "float32")
    students = [linear(), linear()]
    (first, _) = mutual(
        students,
        sgd(0.0),
        dataset_of(x, y, weight, size=8),
        verbose=0,
        alpha=1.0,
    )
    probs = softmax(np.asarray(students[0](x), "float64"))
    hard = -np.log(probs[np.arange(8), y])
    # Keras divides by all examples.
    assert first.history["loss"] == [
        pytest.approx((hard * weight).mean(), rel=1e-5)
    ]


def test_mutual_needs_no_labels_with_alpha_0(data):
    x, _ = data
    students = [linear(), linear()]
    gap = kl(students[:1], students[1], x, 1.0)
    histories = mutual(
        students,
        lambda distiller: distiller.compile(keras.optimizers.SGD(0.5)),
        tf.data.Dataset.from_tensors((x,)),
        verbose=0,
        alpha=0,
        epochs=10,
    )
    assert set(histories[0].history) == {"loss", "soft_loss"}
    # They come to agree.
    assert kl(students[:1], students[1], x, 1.0) < 0.7 * gap


def test_two_students_match_features(data):
    x, y = data
    students = [mlp(4), mlp(4)]
    histories = mutual(
        students,
        sgd(0.0),
        dataset_of(x, y, size=8),
        verbose=0,
        features=[HiddenStates(layers={"hidden": "hidden"}, weight=2.0)],
    )
    for own, other, history in zip(
        students, students[::-1], histories, strict=True
    ):
        logs = {name: values[0] for name, values in history.history.items()}
        (feature,) = set(logs) - {"loss", "hard_loss", "soft_loss"}
        assert logs[feature] > 0.01
        parts = cross_entropy(own, x, y) + kl([other], own, x, 1.0)
        assert logs["loss"] == pytest.approx(
            parts / 2 + 2 * logs[feature], rel=1e-5
        )


def test_bar_shows_every_student(data, capsys):
    def run(verbose):
        mutual(
            [linear(), linear()],
            sgd(0.1),
            dataset_of(*data, size=4),
            epochs=2,
            verbose=verbose,
        )
        return capsys.readouterr().out

    assert run(0) == ""
    shown = run(2)
    assert "Epoch 2/2" in shown and "2/2" in shown
    assert "loss_0" in shown and "loss_1" in shown
    assert "soft" not in shown


def test_mutual_refuses(data):
    dataset = dataset_of(*data, size=4)
    pair = [linear(), linear()]
    with pytest.raises(ValueError, match="two models or more.*Received: 1"):
        mutual(pair[:1], never, dataset)
    with pytest.raises(ValueError, match="must not share weights"):
        mutual([pair[0], pair[0]], never, dataset)
    with pytest.raises(TypeError, match="`compile_one` must be a function"):
        mutual(pair, None, dataset)
    with pytest.raises(TypeError, match="Received: dataset of type tuple"):
        mutual(pair, never, data)
    with pytest.raises(ValueError, match="`epochs` must be an integer"):
        mutual(pair, never, dataset, epochs=0)
    with pytest.raises(ValueError, match="must end"):
        mutual(pair, sgd(0.1), dataset.repeat(), verbose=0)
    with pytest.raises(ValueError, match="at least one example"):
        mutual(pair, sgd(0.1), dataset.take(0), verbose=0)
    shared = keras.optimizers.SGD(0.1)
    loss = SparseCE(from_logits=True)
    for compile_one in (
        lambda one: one.compile(shared, loss=loss),
        lambda one: None,
    ):
        with pytest.raises(ValueError, match="an optimizer of its own"):
            mutual(pair, compile_one, dataset)
