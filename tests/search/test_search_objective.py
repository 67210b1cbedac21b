import gzip
import os

import keras
import numpy as np
import pytest
import tf_keras

import kdtf
from kdtf.litert import Runner
from kdtf.search import objective as objective_module
from kdtf.search.latency_model import LatencyModel
from kdtf.search.objective import DeviceObjective
from kdtf.search.trial import Infeasible
from kdtf.search.trial import RunningTrial
from kdtf.search.trial import StopTrial

layers = keras.layers
MACS = 6 * 6 * 4 * 9 + 144 * 3


def small(**options):
    return keras.Sequential(
        [
            keras.Input((8, 8, 1), name="image"),
            layers.Conv2D(4, 3, activation="relu", name="conv"),
            layers.Flatten(name="flat"),
            layers.Dense(3, name="logits", **options),
        ],
        name="small",
    )


def trial_of(number=0, **limits):
    return RunningTrial(
        number=number,
        choices={},
        seed=1,
        limits=limits,
        report=lambda step, value: step >= 2,
    )


def forget(model):
    """Trains nothing."""


@pytest.fixture
def data(rng):
    images = rng.normal(size=(24, 8, 8, 1)).astype("float32")
    return images, rng.integers(0, 3, size=24).astype("int32")


@pytest.fixture
def train(data):
    """One step that changes every weight."""

    def fit(model):
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(0.01), loss=loss)
        model.fit(*data, batch_size=12, epochs=1, verbose=0)

    return fit


@pytest.fixture
def fixed_times(monkeypatch):
    """Stands in for the clock; notes what it was asked for."""
    asked = []

    def measure(paths, *, num_runs, inputs):
        asked.append((num_runs, inputs))
        return [0.25 for _ in paths]

    monkeypatch.setattr(objective_module, "measure", measure)
    return asked


@pytest.mark.slow
def test_costs_are_those_of_the_trained_model_s_own_export(
    tmp_path, train, data, fixed_times
):
    model = small()
    objective = DeviceObjective(
        train, data, costs=objective_module.COSTS, name="accuracy"
    )
    found = objective(model, trial_of())
    own = tmp_path / "own.tflite"
    kdtf.export_tflite(model, own)
    logits = Runner(own)(data[0])["output_0"]
    assert found == {
        "accuracy": pytest.approx(np.mean(logits.argmax(1) == data[1])),
        "bytes": os.path.getsize(own),
        "gzip_bytes": len(gzip.compress(own.read_bytes(), 6, mtime=0)),
        "macs": MACS,
        "parameters": (9 * 4 + 4) + (144 * 3 + 3),
        "latency_ms": 0.25,
    }
    # The search takes the first for the quality.
    assert list(found) == ["accuracy", *objective_module.COSTS]
    assert fixed_times == [(50, None)]


@pytest.mark.slow
def test_export_options_and_samples_reach_the_file(tmp_path, data, fixed_times):
    model = small()
    objective = DeviceObjective(
        forget,
        lambda model: 0.5,
        export={"quantize": "int8"},
        costs=("bytes", "latency_ms"),
        representative_data=data[0],
        num_runs=7,
        keep=tmp_path / "kept",
    )
    found = objective(model, trial_of(3))
    own = tmp_path / "own.tflite"
    kdtf.export_tflite(model, own, quantize="int8", representative_data=data[0])
    assert found["bytes"] == os.path.getsize(own)
    assert (tmp_path / "kept/trial-3.tflite").read_bytes() == own.read_bytes()
    (num_runs, inputs), *_ = fixed_times
    assert num_runs == 7
    np.testing.assert_array_equal(inputs, data[0][:1])


def test_latency_is_really_measured(data):
    objective = DeviceObjective(
        forget, lambda model: 0.0, costs=("latency_ms",), num_runs=2
    )
    assert 0 < objective(small())["latency_ms"] < 1000


def test_latency_may_be_predicted(fixed_times):
    predictor = LatencyModel(
        intercept_ms=0.5,
        coefficients_ms={"convolution_macs": 1e-3, "dense_macs": 1e-2},
        alpha=1.0,
        error=0.0,
        rank_correlation=1.0,
        num_files=5,
    )
    objective = DeviceObjective(
        forget, lambda model: 0.0, costs=("latency_ms",), latency=predictor
    )
    expected = 0.5 + 1.296 + 4.32
    assert objective(small())["latency_ms"] == pytest.approx(expected)
    assert not fixed_times


def test_hard_limit_saves_the_training(fixed_times):
    called = []
    objective = DeviceObjective(
        called.append,
        lambda model: 0.0,
        costs=("bytes", "gzip_bytes", "macs", "latency_ms"),
        hard=True,
    )
    model = small()
    before = model.get_weights()
    with pytest.raises(Infeasible) as caught:
        objective(model, trial_of(macs=MACS - 1, bytes=10**6))
    assert not called
    # Compressed sizes are known after training only.
    assert list(caught.value.costs) == ["bytes", "macs", "latency_ms"]
    assert caught.value.costs["macs"] == MACS
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.slow
def test_model_at_its_limit_is_trained_as_if_there_were_none(train, data):
    def run(**options):
        keras.utils.set_random_seed(4)
        model = small()
        objective = DeviceObjective(
            train, data, costs=("bytes", "macs"), **options
        )
        return model, objective(model, trial_of(macs=MACS, bytes=10**6))

    model, found = run(hard=True)
    other, expected = run()
    assert found == expected
    for left, right in zip(
        model.get_weights(), other.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(left, right)


@pytest.mark.slow
def test_untrained_model_is_as_large_as_the_trained_one(train, data):
    """Biases of zeros are left out of files; those to come must count."""
    objective = DeviceObjective(train, data, hard=True)
    parts = [keras.Input((8, 8, 1)), layers.Conv2D(4, 3)]
    parts += [layers.BatchNormalization(), layers.ReLU(), layers.Flatten()]
    model = keras.Sequential([*parts, layers.Dense(3)])
    with pytest.raises(Infeasible) as caught:
        objective(model, trial_of(bytes=1))
    assert caught.value.costs == {"bytes": objective(model)["bytes"]}


def test_hard_needs_a_model_that_can_be_exported_untrained(data):
    """Ranges of activations are seen in training, or in calibration."""
    model = kdtf.quantize_aware(small(), "int8")
    objective = DeviceObjective(forget, lambda model: 0.0, hard=True)
    with pytest.raises(ValueError, match=r"`hard=True`.*Received: .*ranges"):
        objective(model, trial_of(bytes=10**6))


@pytest.mark.slow
def test_takes_models_of_the_other_flavour(tmp_path, data):
    parts = [tf_keras.Input((8, 8, 1)), tf_keras.layers.Flatten()]
    model = tf_keras.Sequential([*parts, tf_keras.layers.Dense(3)])
    objective = DeviceObjective(
        forget, data, costs=("macs", "parameters"), keep=tmp_path, hard=True
    )
    found = objective(model, trial_of(macs=192))
    assert (found["macs"], found["parameters"]) == (192, 195)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["trial-0.keras", "trial-0.tflite"]


@pytest.mark.slow
def test_limits_are_not_looked_at_unless_hard_or_by_hand():
    called = []
    for hard, trial in ((False, trial_of(bytes=1)), (True, None)):
        objective = DeviceObjective(called.append, lambda model: 0.0, hard=hard)
        assert objective(small(), trial)["bytes"] > 1
    assert len(called) == 2


def test_limits_of_other_costs_do_not_cause_an_export(monkeypatch):
    objective = DeviceObjective(forget, lambda model: 0.0, hard=True)
    monkeypatch.setattr(objective_module, "export_tflite", None)
    objective._check_limits(small(), {"watts": 1.0, "gzip_bytes": 1.0})


@pytest.mark.slow
def test_keeps_both_files_of_a_trial(tmp_path, train, data):
    model = small()
    objective = DeviceObjective(train, data, keep=tmp_path / "kept")
    found = objective(model, trial_of(12))
    kept = sorted(path.name for path in (tmp_path / "kept").iterdir())
    assert kept == ["trial-12.keras", "trial-12.tflite"]
    file = tmp_path / "kept/trial-12.tflite"
    assert found["bytes"] == os.path.getsize(file)
    loaded = keras.saving.load_model(tmp_path / "kept/trial-12.keras")
    for left, right in zip(
        loaded.get_weights(), model.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(left, right)
    # Its optimizer is not in the file, but still in the model.
    assert not loaded.compiled
    assert model.compiled and model.optimizer.iterations == 2


def test_what_was_trained_is_kept_if_the_export_fails(tmp_path, monkeypatch):
    def fail(*args, **options):
        raise kdtf.ExportError("no such operator")

    monkeypatch.setattr(objective_module, "export_tflite", fail)
    objective = DeviceObjective(forget, lambda model: 0.0, keep=tmp_path)
    with pytest.raises(kdtf.ExportError, match="no such operator"):
        objective(small(), trial_of(1))
    assert [path.name for path in tmp_path.iterdir()] == ["trial-1.keras"]


def given_trial(model, trial):
    raise StopTrial(f"asked of {trial.number}")


def given_optional_trial(model, trial=None):
    raise StopTrial(f"asked of {trial.number}")


@pytest.mark.parametrize("fit", [given_trial, given_optional_trial])
def test_training_gets_the_trial_and_may_stop_it(fit):
    objective = DeviceObjective(fit, lambda model: 0.0)
    with pytest.raises(StopTrial, match="asked of 5"):
        objective(small(), trial_of(5))


def test_other_optional_arguments_are_left_alone():
    seen = []

    def fit(model, epochs=3, *rest):
        seen.append((epochs, rest))

    DeviceObjective(fit, lambda model: 0.0, costs=())(small(), trial_of())
    assert seen == [(3, ())]


class TestAccuracy:
    """Quality given as data, on outputs that are known."""

    @staticmethod
    def of(model, *data):
        return objective_module._accuracy(model, data)

    def test_is_the_share_of_largest_logits(self):
        model = keras.Sequential([keras.Input((3,)), layers.Identity()])
        logits = np.array([[1, 2, 0], [-1, -2, -3], [0, 5, 9], [4, 3, 1.0]])
        assert self.of(model, logits, np.array([1, 0, 1, 0])) == 0.75
        one_hot = np.eye(3)[[1, 0, 1, 0]]
        assert self.of(model, logits, one_hot) == 0.75
        column = np.array([[1], [0], [1], [0]])
        assert self.of(model, logits, column) == 0.75

    def test_counts_each_position_of_a_sequence_but_weight_0(self):
        model = keras.Sequential([keras.Input((2, 3)), layers.Identity()])
        logits = np.array([[[1, 2, 0], [3, 2, 1]], [[0, 0, 1], [0, 1, 0.0]]])
        labels = np.array([[1, 0], [2, 2]])
        assert self.of(model, logits, labels) == 0.75
        weights = np.array([[1, 1], [1, 0]])
        assert self.of(model, logits, labels, weights) == 1.0

    def test_takes_the_first_of_several_outputs(self):
        inputs = keras.Input((2,))
        outputs = [layers.Identity()(inputs), layers.Rescaling(-1.0)(inputs)]
        model = keras.Model(inputs, outputs)
        x = np.array([[0.0, 1.0], [1.0, 0.0]])
        assert self.of(model, x, np.array([1, 0])) == 1.0

    def test_refuses_a_single_column(self):
        model = keras.Sequential([keras.Input((1,)), layers.Identity()])
        with pytest.raises(ValueError, match=r"Received: outputs of shape"):
            self.of(model, np.zeros((2, 1)), np.zeros(2))


def test_quality_must_be_a_number():
    objective = DeviceObjective(forget, lambda model: "good", costs=())
    with pytest.raises(TypeError, match="one number. Received: 'good'"):
        objective(small())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"fit": 3}, TypeError, "`fit` must .*Received: fit=3"),
        ({"quality": 3}, TypeError, "`quality` must .*Received: .*int"),
        ({"costs": "bytes"}, TypeError, "`costs` must .*Received: costs='by"),
        ({"costs": ("flops",)}, ValueError, r"Received: costs=\['flops'\]"),
        ({"costs": ("macs", "macs")}, ValueError, "each once. Received"),
        ({"name": "bytes"}, ValueError, "`name` must .*Received: name='byt"),
        ({"name": ""}, ValueError, "`name` must .*Received: name=''"),
        ({"num_runs": -1}, ValueError, "Received: num_runs=-1"),
        ({"num_runs": True}, ValueError, "Received: num_runs=True"),
        ({"export": {"path": "a"}}, ValueError, "`export` must .*Received: "),
        ({"export": {"target": "mars"}}, ValueError, "Received: target='mars"),
        ({"export": {"quantize": "int3"}}, ValueError, "Received: quantize="),
        (
            {"export": {"sparse": True}, "hard": True},
            ValueError,
            "not sparse. Received: hard=True",
        ),
        ({"latency": 3.0}, TypeError, "`latency` must .*Received: latency=3"),
        (
            {
                "latency": LatencyModel(
                    intercept_ms=0.0,
                    coefficients_ms={},
                    alpha=1.0,
                    error=0.0,
                    rank_correlation=0.0,
                    num_files=5,
                )
            },
            ValueError,
            r"Received: costs=\['bytes'\]",
        ),
        ({"keep": 3}, TypeError, "`keep` must .*Received: keep=3"),
    ],
)
def test_wrong_arguments_are_refused_at_once(options, error, message):
    arguments = {"fit": forget, "quality": lambda model: 0.0} | options
    with pytest.raises(error, match=message):
        DeviceObjective(**arguments)
