import keras
import numpy as np
import pytest

from kdtf.evaluation.metrics import check_metrics
from kdtf.evaluation.metrics import metric_direction
from kdtf.evaluation.metrics import metric_name
from kdtf.evaluation.metrics import resolve_metric
from kdtf.evaluation.metrics import value_of


@pytest.mark.parametrize(
    ("labels", "outputs", "expected"),
    [
        (np.array([0, 2]), np.zeros((2, 3)), "SparseCategoricalAccuracy"),
        (np.array([[0], [2]]), np.zeros((2, 3)), "SparseCategoricalAccuracy"),
        (np.eye(3)[:2], np.zeros((2, 3)), "CategoricalAccuracy"),
        (np.zeros((2, 4)), np.zeros((2, 4, 3)), "SparseCategoricalAccuracy"),
        (np.array([[0], [1]]), np.zeros((2, 1)), "BinaryAccuracy"),
        (np.array([0, 1]), np.zeros(2), "BinaryAccuracy"),
    ],
)
@pytest.mark.parametrize("name", ["accuracy", "acc"])
def test_accuracy_fits_itself_to_the_labels(name, labels, outputs, expected):
    metric = resolve_metric(name, labels, outputs)
    assert type(metric).__name__ == expected
    assert metric.name == name


def test_a_metric_is_copied_with_its_settings_and_without_its_state():
    given = keras.metrics.TopKCategoricalAccuracy(k=2, name="top2")
    given.update_state([[1.0, 0.0, 0.0]], [[0.3, 0.4, 0.2]])
    copy = resolve_metric(given, None, None)
    assert copy is not given
    assert (copy.name, copy.get_config()["k"]) == ("top2", 2)
    assert float(copy.result()) == 0.0


def test_other_names_and_functions_become_means():
    labels, outputs = np.array([1.0, 2.0]), np.array([2.0, 4.0])

    def off_by(y_true, y_pred):
        return y_pred - y_true

    for identifier, expected in [("mean_squared_error", 2.5), (off_by, 1.5)]:
        metric = resolve_metric(identifier, labels, outputs)
        metric.update_state(labels[:, None], outputs[:, None])
        assert value_of(metric) == expected
        assert metric.name == metric_name(identifier)


@pytest.mark.parametrize(
    ("metric", "direction"),
    [
        ("accuracy", "higher"),
        ("auc", "higher"),
        ("mean_squared_error", "lower"),
        ("sparse_categorical_crossentropy", "lower"),
        (keras.metrics.MeanAbsoluteError(name="mine"), "lower"),
        (keras.metrics.F1Score(name="loss_of_faith"), "higher"),
        (keras.metrics.FalsePositives(), "lower"),
        (keras.metrics.CosineSimilarity(), "higher"),
    ],
)
def test_each_metric_has_a_better_direction(metric, direction):
    assert metric_direction(metric) == direction


def test_perplexity_is_better_when_lower():
    keras_nlp = pytest.importorskip("keras_nlp")
    perplexity = keras_nlp.metrics.Perplexity(name="ppl")
    assert metric_direction(perplexity) == "lower"


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="metric='acuracy'"):
        check_metrics(["acuracy"])


def test_two_metrics_of_one_name_are_refused():
    accuracy = keras.metrics.BinaryAccuracy(name="accuracy")
    with pytest.raises(ValueError, match=r"names=\['accuracy', 'accuracy'\]"):
        check_metrics(["accuracy", accuracy])


def test_a_legacy_metric_is_refused():
    import tf_keras

    with pytest.raises(TypeError, match="Keras 3 metrics serve `tf_keras`"):
        check_metrics([tf_keras.metrics.BinaryAccuracy()])


def test_what_is_no_metric_is_refused():
    with pytest.raises(TypeError, match="metric=3"):
        check_metrics([3])


def test_a_metric_with_several_results_is_refused():
    metric = keras.metrics.F1Score(name="f1")
    metric.update_state([[1.0, 0.0], [0.0, 1.0]], [[0.9, 0.1], [0.2, 0.8]])
    with pytest.raises(ValueError, match="metric='f1'.*average='macro'"):
        value_of(metric)
