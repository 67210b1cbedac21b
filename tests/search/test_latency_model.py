import dataclasses
import json

import keras
import numpy as np
import pytest

from kdtf.evaluation.macs import macs_of_file
from kdtf.export import converter
from kdtf.export import export_tflite
from kdtf.export.interface import interface_of
from kdtf.flatbuffer import describe
from kdtf.flatbuffer import read_model
from kdtf.search import latency_model
from kdtf.search.latency_model import LatencyModel
from kdtf.search.latency_model import features_of_file
from kdtf.search.latency_model import measure

# Some twenty models are converted for them.
pytestmark = pytest.mark.slow

layers = keras.layers
# Width, depth and image size of each convolutional network.
SHAPES = [
    (4, 1, 8),
    (16, 1, 8),
    (8, 2, 8),
    (4, 3, 12),
    (12, 3, 8),
    (6, 4, 12),
    (20, 4, 8),
    (5, 5, 8),
    (12, 2, 12),
]


def converted(model):
    """Returns the float file; what it computes does not matter here."""
    interface = interface_of(model, None).fixed(None)
    with converter.traced(model, interface) as traced:
        return converter.to_float32(traced)


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """Files of different width, depth and image size; two to predict."""
    folder = tmp_path_factory.mktemp("files")
    made = []
    for number, (width, depth, size) in enumerate(SHAPES):
        parts = [keras.Input((size, size, 3))]
        for _ in range(depth):
            parts.append(layers.Conv2D(width, 3, padding="same"))
            parts.append(layers.Activation("tanh"))
        path = folder / f"{number}.tflite"
        path.write_bytes(converted(keras.Sequential(parts)))
        made.append(path)
    return made


@pytest.fixture(scope="module")
def features(paths):
    return [features_of_file(path) for path in paths]


@pytest.fixture
def read_once(monkeypatch, paths, features):
    """Reads no file twice: fits in tests are of the same files."""
    known = {str(p): f for p, f in zip(paths, features, strict=True)}
    monkeypatch.setattr(
        latency_model, "features_of_file", lambda path: known[str(path)]
    )


def linear(features):
    """A device: 0.02 ms, 1 ms per 10 million MACs, 4 us per operator."""
    return [
        0.02 + 1e-7 * one["convolution_macs"] + 0.004 * one["num_operators"]
        for one in features
    ]


def noisy(features):
    factors = np.random.default_rng(5).uniform(0.8, 1.2, len(features))
    return (np.array(linear(features)) * factors).tolist()


def test_features_equal_what_is_counted_otherwise(paths, features):
    for path, found in zip(paths, features, strict=True):
        assert found["convolution_macs"] == macs_of_file(path)
        assert found["float_macs"] == macs_of_file(path)
        assert found["num_operators"] == sum(describe(path).operators.values())
        assert found["size_bytes"] == path.stat().st_size
    # Three convolutions and three tanh on 12 x 12 x 4 floats.
    one = features[SHAPES.index((4, 3, 12))]
    assert one["activation_bytes"] == 6 * 12 * 12 * 4 * 4
    assert one["transcendental_elements"] == 3 * 12 * 12 * 4


def test_features_tell_families_and_number_formats_apart(tmp_path, rng):
    inputs = keras.Input((8, 8, 4))
    x = layers.DepthwiseConv2D(3)(inputs)
    x = layers.Dense(5)(layers.Flatten()(x))
    path = tmp_path / "int8.tflite"
    data = rng.normal(size=(8, 8, 8, 4)).astype("float32")
    export_tflite(
        keras.Model(inputs, x), path, quantize="int8", representative_data=data
    )
    found = features_of_file(path)
    assert found["depthwise_macs"] == 6 * 6 * 4 * 9
    assert found["dense_macs"] == 144 * 5
    assert found["float_macs"] == found["convolution_macs"] == 0


def test_features_count_loops_as_often_as_they_run(tmp_path):
    path = tmp_path / "lstm.tflite"
    model = keras.Sequential([keras.Input((5, 3)), layers.LSTM(4)])
    export_tflite(model, path)
    main, _, body = read_model(path.read_bytes()).subgraphs
    found = features_of_file(path)
    rounds = 5 * len(body.operators)
    assert found["num_operators"] == len(main.operators) + rounds
    assert found["dense_macs"] == 560
    # 5 nonlinearities of 4 units, 5 times.
    assert found["transcendental_elements"] == 5 * 5 * 4


def test_recovers_a_linear_device_on_files_it_never_saw(paths, features):
    latencies = linear(features)
    model = LatencyModel.fit(paths[:7], latencies[:7])
    for path, latency in zip(paths[7:], latencies[7:], strict=True):
        # What is asked of it; the files leave other sums open.
        assert model.predict(path) == pytest.approx(latency, rel=0.02)
    assert model.error < 0.02
    assert model.rank_correlation == pytest.approx(1.0, abs=1e-12)
    assert model.num_files == 7


def test_leave_one_out_equals_fitting_without_each(read_once, paths, features):
    latencies = noisy(features)
    model = LatencyModel.fit(paths, latencies)
    predictions = []
    for place, path in enumerate(paths):
        others = LatencyModel.fit(
            paths[:place] + paths[place + 1 :],
            latencies[:place] + latencies[place + 1 :],
            alpha=model.alpha,
        )
        predictions.append(others.predict(path))
    relative = np.array(predictions) / latencies - 1
    assert model.error == pytest.approx(np.abs(relative).mean(), rel=1e-9)
    places = np.argsort(np.argsort([predictions, latencies], axis=1), axis=1)
    expected = np.corrcoef(places)[0, 1]
    assert model.rank_correlation == pytest.approx(expected, rel=1e-9)
    # No strength would have had less error.
    errors = [
        LatencyModel.fit(paths, latencies, alpha=alpha).error
        for alpha in latency_model.ALPHAS
    ]
    assert model.error == min(errors)


def test_solution_minimizes_the_penalized_relative_error(
    read_once, paths, features
):
    """At the minimum each slope is flat, or 0 with the error rising."""
    latencies = np.array(noisy(features))
    alpha = 0.01
    model = LatencyModel.fit(paths, latencies, alpha=alpha)
    table = np.array([list(one.values()) for one in features])
    slopes = np.array(list(model.coefficients_ms.values()))
    spread, typical = table.std(axis=0), np.exp(np.log(latencies).mean())

    def loss(intercept, slopes):
        relative = (intercept + table @ slopes) / latencies - 1
        return np.sum(relative**2) + alpha * np.sum(
            (slopes * spread / typical) ** 2
        )

    least = loss(model.intercept_ms, slopes)
    step = 1e-3 * typical
    for place in np.flatnonzero(spread):
        for sign in (1, -1):
            other = slopes.copy()
            other[place] += sign * step / spread[place]
            if other[place] >= 0:
                assert loss(model.intercept_ms, other) > least
    for sign in (1, -1):
        intercept = model.intercept_ms + sign * step
        if intercept >= 0:
            assert loss(intercept, slopes) > least


def test_nothing_is_negative_even_if_work_seems_to_save_time(
    read_once, paths, features
):
    latencies = [1 / one["convolution_macs"] for one in features]
    model = LatencyModel.fit(paths, latencies)
    assert min(model.coefficients_ms.values()) >= 0
    assert model.intercept_ms >= 0
    assert all(model.predict(path) >= 0 for path in paths)


def test_equal_latencies_have_no_order(read_once, paths):
    model = LatencyModel.fit(paths, [0.5] * len(paths))
    assert model.rank_correlation == 0.0
    assert model.predict(paths[0]) == pytest.approx(0.5, rel=1e-6)


def test_ranks_of_ties_are_shared():
    found = latency_model._rank_correlation(
        np.array([3.0, 1.0, 3.0, 2.0]), np.array([1.0, 2.0, 3.0, 4.0])
    )
    # Ranks 3.5, 1, 3.5, 2 and 1, 2, 3, 4, less their means of 2.5.
    assert found == pytest.approx(-1.0 / np.sqrt(4.5 * 5.0))


def test_says_how_well_it_predicts():
    model = LatencyModel(
        intercept_ms=0.0,
        coefficients_ms={},
        alpha=1.0,
        error=0.042,
        rank_correlation=0.981,
        num_files=24,
    )
    assert str(model) == (
        "Latency from 24 files: off by 4.2% on a file left out (mean), rank "
        "correlation 0.98"
    )


@pytest.fixture
def stored(read_once, tmp_path, paths, features):
    model = LatencyModel.fit(paths, noisy(features))
    path = tmp_path / "phone.json"
    model.save(path)
    return model, path


def test_loads_exactly_what_was_saved(stored, paths):
    model, path = stored
    loaded = LatencyModel.load(path)
    assert dataclasses.asdict(loaded) == dataclasses.asdict(model)
    assert loaded.predict(paths[0]) == model.predict(paths[0])
    assert [p.name for p in path.parent.iterdir()] == ["phone.json"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:40],
        lambda text: "[1, 2]",
        lambda text: '{"format": "another"}',
        lambda text: text.replace('"version": 1', '"version": 2'),
        lambda text: text.replace("dense_macs", "dense_mac"),
        lambda text: text.replace('"alpha": ', '"alpha": "x", "a": '),
        lambda text: text.replace('"intercept_ms": ', '"intercept_ms": -1'),
        lambda text: text.replace('"error": ', '"error": NaN, "e": '),
        lambda text: "\ud800",
    ],
    ids=lambda value: "",
)
def test_damaged_or_other_files_are_refused(stored, damage):
    _, path = stored
    text = damage(path.read_text())
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(ValueError, match=r"Received: path='.*phone.json'"):
        LatencyModel.load(path)


def test_missing_file_is_called_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        LatencyModel.load(tmp_path / "none.json")


def test_saved_file_is_plain_json(stored):
    model, path = stored
    content = json.loads(path.read_text())
    assert content["format"] == "kdtf latency model"
    assert content["coefficients_ms"] == model.coefficients_ms


@pytest.mark.parametrize(
    ("num_paths", "latencies", "options", "message"),
    [
        (4, [1.0] * 4, {}, "at least 5 measured files. Received: 4"),
        (5, [1.0] * 6, {}, r"one number for each.*Received: 5 paths"),
        (5, [1.0, 2.0, 0.0, 1.0, 1.0], {}, r"above 0. Received: latencies"),
        (5, [1.0, 2.0, np.nan, 1.0, 1.0], {}, r"above 0. Received: latenc"),
        (5, [1.0] * 5, {"alpha": 0.0}, "`alpha` must.*Received: alpha=0.0"),
        (5, [1.0] * 5, {"alpha": np.nan}, "`alpha` must.*Received: alpha=nan"),
    ],
)
def test_what_cannot_be_fitted_is_refused(
    paths, num_paths, latencies, options, message
):
    with pytest.raises(ValueError, match=message):
        LatencyModel.fit(paths[:num_paths], latencies, **options)


def test_one_path_is_no_list(paths):
    with pytest.raises(TypeError, match="Received: paths="):
        LatencyModel.fit(paths[0], [1.0])


def test_other_files_are_not_predicted(tmp_path, stored):
    path = tmp_path / "text.tflite"
    path.write_text("no model at all")
    with pytest.raises(ValueError, match="Received: path="):
        features_of_file(path)


def test_measures_medians_of_calls_in_turn(paths):
    """Two files; the clock gives 1, 5 and 3 ms to one, 2 ms to the other."""
    durations = [1, 2, 5, 2, 3, 2]
    ticks = iter(t for d in durations for t in (0.0, d / 1000))
    found = measure(
        paths[:2], num_runs=3, num_warmup=1, clock=lambda: next(ticks)
    )
    assert found == pytest.approx([3.0, 2.0])
    assert next(ticks, None) is None


def test_measures_with_inputs_and_refuses_what_does_not_fit(paths):
    ticks = iter([0.0, 0.25])
    images = np.zeros((3, 8, 8, 3), "float32")
    found = measure(
        paths[:1], num_runs=1, inputs=images, clock=lambda: next(ticks)
    )
    assert found == [250.0]
    with pytest.raises(ValueError, match="Received: shapes="):
        measure(paths[:1], inputs=np.zeros((1, 7), "float32"))
    with pytest.raises(ValueError, match="Received: num_runs=0"):
        measure(paths[:1], num_runs=0)
