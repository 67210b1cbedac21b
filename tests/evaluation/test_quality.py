import keras
import numpy as np
import pytest

from kdtf.batches import iterate_batches
from kdtf.evaluation.quality import combine_weights
from kdtf.evaluation.quality import measure_quality


def constant(outputs, mask=None):
    """Gives the same outputs for the examples whose numbers are in `x`."""
    outputs = np.asarray(outputs, "float32")

    def predict(x):
        rows = np.asarray(x["row"] if isinstance(x, dict) else x)[:, 0]
        rows = rows.astype(int)
        return outputs[rows], None if mask is None else np.asarray(mask)[rows]

    return predict


def measure(predicts, data, **kwargs):
    batch_size = kwargs.pop("batch_size", 2)
    batches = iterate_batches(data, batch_size=batch_size)
    return measure_quality(predicts, batches, **kwargs)


ROWS = np.arange(3)[:, None]


def test_agreement_is_the_share_of_equal_classes():
    teacher = constant([[1, 0, 0], [0, 1, 0], [0, 0, 1]])
    student = constant([[5, 0, 0], [0, 9, 0], [0, 9, 1]])
    found = measure(
        {"teacher": teacher, "student": student}, (ROWS, np.array([0, 0, 1]))
    )
    assert found["teacher"].agreement == 1.0
    assert found["student"].agreement == pytest.approx(2 / 3)
    assert found["student"].num_examples == 3


def test_agreement_of_sequences_leaves_padding_out():
    # Classes per position; the last position of the second is padding.
    teacher = np.eye(2)[[[0, 1], [1, 0], [1, 1]]]
    student = np.eye(2)[[[0, 0], [1, 1], [1, 1]]]
    labels = np.zeros((3, 2), "int32")
    weights = np.array([[1, 1], [1, 0], [1, 1]])
    predicts = {"teacher": constant(teacher), "student": constant(student)}
    weighted = measure(predicts, (ROWS, labels, weights))
    assert weighted["student"].agreement == pytest.approx(4 / 5)
    plain = measure(predicts, (ROWS, labels))
    assert plain["student"].agreement == pytest.approx(4 / 6)


def test_a_padding_mask_among_the_inputs_counts_for_agreement():
    x = {"row": ROWS, "padding_mask": np.array([[1, 1], [1, 0], [1, 1]])}
    teacher = np.eye(2)[[[0, 1], [1, 0], [1, 1]]]
    student = np.eye(2)[[[0, 0], [1, 1], [1, 1]]]
    predicts = {"teacher": constant(teacher), "student": constant(student)}
    found = measure(predicts, (x, np.zeros((3, 2), "int32")))
    assert found["student"].agreement == pytest.approx(4 / 5)


def test_a_padding_mask_says_nothing_of_one_decision_for_a_text():
    x = {"row": ROWS, "padding_mask": np.array([[1, 1], [1, 0], [1, 1]])}
    predicts = {
        "teacher": constant([[1, 0], [1, 0], [0, 1]]),
        "student": constant([[1, 0], [0, 1], [0, 1]]),
    }
    found = measure(predicts, (x, np.zeros(3, "int32")))
    assert found["student"].agreement == pytest.approx(2 / 3)


def test_the_first_model_s_mask_weighs_every_model_s_metrics():
    mask = [[True, True], [True, False], [True, True]]
    labels = np.array([[0, 0], [0, 1], [0, 0]])
    teacher = constant(np.eye(2)[[[0, 0], [0, 0], [0, 0]]], mask)
    student = constant(np.eye(2)[[[0, 1], [0, 0], [0, 0]]])
    found = measure(
        {"teacher": teacher, "student": student},
        (ROWS, labels),
        metrics=["accuracy"],
    )
    assert found["teacher"].metrics == {"accuracy": 1.0}
    assert found["student"].metrics["accuracy"] == pytest.approx(4 / 5)
    assert found["student"].agreement == pytest.approx(4 / 5)


def test_sample_weights_weigh_the_metrics():
    predicts = {"model": constant([[1, 0], [1, 0], [0, 1]])}
    data = (ROWS, np.array([0, 1, 1]), np.array([1.0, 3.0, 4.0]))
    found = measure(predicts, data, metrics=["accuracy"])
    assert found["model"].metrics["accuracy"] == pytest.approx(5 / 8)


def test_each_model_has_its_own_metric_state():
    given = keras.metrics.SparseCategoricalAccuracy(name="accuracy")
    predicts = {"right": constant(np.eye(3)), "wrong": constant(-np.eye(3))}
    found = measure(predicts, (ROWS, np.arange(3)), metrics=[given])
    assert found["right"].metrics == {"accuracy": 1.0}
    assert found["wrong"].metrics == {"accuracy": 0.0}
    assert float(given.result()) == 0.0


def test_logits_and_probabilities_of_one_unit_agree_by_their_own_threshold():
    logits = constant([[-2.0], [3.0], [0.3]])
    probabilities = constant([[0.1], [0.9], [0.4]])
    data = (ROWS, np.array([[0], [1], [1]]))
    found = measure({"a": logits, "b": probabilities}, data, batch_size=3)
    assert found["b"].agreement == pytest.approx(2 / 3)


def test_regressors_have_no_agreement():
    predicts = {"a": constant([[1.0], [2.0], [3.0]])}
    data = (ROWS, np.array([1.5, 2.0, 20.0]))
    found = measure(predicts, data, metrics=["mean_absolute_error"])
    assert found["a"].agreement is None
    assert found["a"].metrics["mean_absolute_error"] == pytest.approx(17.5 / 3)


def test_models_of_other_shapes_do_not_agree_but_say_why():
    predicts = {"a": constant(np.zeros((3, 2, 4))), "b": constant(np.eye(3))}
    found = measure(predicts, (ROWS, None))
    assert found["b"].agreement is None
    assert "do not match the first row's" in found["b"].note


def test_shuffled_data_is_read_once_for_all():
    """Data that changes at every pass must be the same for all models."""
    passes = []

    def batches():
        passes.append(1)
        yield from iterate_batches((ROWS, np.arange(3)), batch_size=2)

    predicts = {name: constant(np.eye(3)) for name in "abc"}
    measure_quality(predicts, batches())
    assert passes == [1]


def test_metrics_without_labels_are_refused():
    with pytest.raises(ValueError, match="data without y"):
        measure({"a": constant(np.eye(3))}, (ROWS,), metrics=["accuracy"])


def test_a_model_that_cannot_run_on_the_data_is_named():
    def refuse(x):
        raise ValueError("rank 4 expected")

    with pytest.raises(ValueError, match="model 'b'.*rank 4 expected"):
        measure({"a": constant(np.eye(3)), "b": refuse}, (ROWS, np.arange(3)))


def test_rows_beyond_the_batch_are_cut_off():
    """A file of a fixed batch may pad the last call."""

    def padding(x):
        return np.eye(3)[[0, 0, 0]], None

    found = measure({"a": padding}, (ROWS[:2], np.array([0, 1])))
    assert found["a"].num_examples == 2


@pytest.mark.parametrize(
    ("weight", "expected"),
    [
        (None, [[1.0, 0.0], [1.0, 1.0]]),
        ([2.0, 3.0], [[2.0, 0.0], [3.0, 3.0]]),
        ([[2.0, 4.0], [0.0, 1.0]], [[2.0, 0.0], [0.0, 1.0]]),
    ],
)
def test_masks_and_weights_multiply(weight, expected):
    mask = np.array([[True, False], [True, True]])
    weight = None if weight is None else np.array(weight)
    assert combine_weights(weight, mask).tolist() == expected


def test_without_a_mask_the_weights_stay():
    weights = np.array([1.0, 2.0])
    assert combine_weights(weights, None) is weights
    assert combine_weights(None, None) is None
