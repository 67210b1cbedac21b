"""`kdtf.compress`: budgets met and not, kept results, and what goes wrong."""

import dataclasses

import keras
import numpy as np
import pytest

from kdtf.litert import Runner
from kdtf.recipes.compression import compress
from kdtf.recipes.compression import compressing
from kdtf.recipes.compression import making
from kdtf.recipes.compression import stages
from kdtf.recipes.compression import ways
from kdtf.recipes.compression.teaching import Teaching

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@pytest.fixture(scope="module")
def data():
    """Two classes of images that a bright left or right half tells apart."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(192, 8, 8, 1)).astype("float32")
    y = rng.integers(0, 2, 192).astype("int32")
    x[y == 0, :, :4] += 1.0
    x[y == 1, :, 4:] += 1.0
    return (x[:128], y[:128]), (x[128:], y[128:])


@pytest.fixture(scope="module")
def model(data):
    keras.utils.set_random_seed(0)
    layers = keras.layers
    found = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(32, 3, strides=2, activation="relu"),
            layers.Conv2D(32, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(2),
        ]
    )
    found.compile("adam", LOSS)
    found.fit(*data[0], epochs=8, verbose=0)
    return found


@pytest.fixture(scope="module")
def shrunk(model, data, tmp_path_factory):
    """A budget that only a smaller network meets."""
    return compress(
        model,
        *data,
        max_size="5kB",
        max_quality_loss=0.05,
        epochs=1,
        out=tmp_path_factory.mktemp("shrunk"),
        verbose=0,
    )


@pytest.mark.slow
def test_the_cheapest_stage_that_fits_is_the_last(model, data, tmp_path):
    before = model.get_weights()
    found = compress(
        model, *data, max_size="14kB", out=tmp_path / "out", verbose=0
    )
    assert found.is_met
    assert {one.stage for one in found.candidates} == {"post-training"}
    assert found.path.stat().st_size == found.chosen.size_bytes <= 14_000
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert LOSS is model.loss


@pytest.mark.slow
def test_a_tight_budget_is_met_by_a_smaller_network(shrunk, data):
    assert shrunk.is_met
    assert shrunk.chosen.stage == "shrunk"
    assert list(shrunk.chosen.settings) == [
        "shrink",
        "distil",
        "quantize_aware",
        "export",
    ]
    assert shrunk.path.stat().st_size <= 5_000
    stages = [one.stage for one in shrunk.candidates]
    assert stages == sorted(stages, key=list(dict.fromkeys(stages)).index)
    # The quality is that of the file.
    x, y = data[1]
    (outputs,) = Runner(shrunk.path)(x).values()
    accuracy = np.mean(outputs.argmax(-1) == y)
    assert shrunk.chosen.quality == pytest.approx(accuracy)
    original = shrunk.original.quality
    assert shrunk.chosen.quality_loss == pytest.approx(original - accuracy)


@pytest.mark.slow
def test_it_says_why(shrunk):
    text = str(shrunk)
    assert "Chosen: shrunk to" in text
    assert "none within the budget" in text
    (row,) = [line for line in text.splitlines() if line.startswith(" ->")]
    assert "shrunk to" in row and row.endswith("fits")


@pytest.mark.slow
def test_the_shrunk_model_comes_with_its_file(shrunk, model, data):
    smaller = shrunk.load_model()
    assert smaller.count_params() < model.count_params()
    x, y = data[1]
    accuracy = (smaller.predict(x, verbose=0).argmax(-1) == y).mean()
    # int8 changes little of what it learned.
    assert abs(accuracy - shrunk.chosen.quality) < 0.1
    whole = dataclasses.replace(shrunk, chosen=shrunk.candidates[0])
    with pytest.raises(ValueError, match="must be of a smaller network"):
        whole.load_model()


@pytest.mark.slow
def test_the_page_holds_lineage_reasons_and_pictures(
    shrunk, model, data, tmp_path
):
    page = shrunk.to_html(tmp_path / "page.html", data[1], model=model)
    text = page.read_text()
    assert "Chosen: shrunk to" in text
    assert "original -&gt; shrink {" in text
    assert "kdtf.compress(model, train, validation, max_size=5000," in text
    assert "What int4 costs each kernel, alone" in text
    # Quality against size and latency, and the kernels.
    assert text.count("<svg") == 3


@pytest.mark.slow
def test_a_second_run_trains_nothing(shrunk, model, data, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("trained again")

    monkeypatch.setattr(Teaching, "__call__", refuse)
    monkeypatch.setattr(making, "compare", refuse)
    # Not even to see how large an untrained model's file is.
    monkeypatch.setattr(making, "export_tflite", refuse)
    again = compress(
        model,
        *data,
        max_size="5kB",
        max_quality_loss=0.05,
        epochs=1,
        out=shrunk.folder,
        verbose=0,
    )
    assert str(again) == str(shrunk)


@pytest.mark.slow
def test_a_killed_run_goes_on(model, data, tmp_path, monkeypatch):
    made = []
    export = making.export_tflite

    def killed(model, path, **options):
        made.append(path.name)
        if path.name == "int8.tflite":
            raise KeyboardInterrupt
        return export(model, path, **options)

    def run():
        return compress(model, *data, max_size="14kB", out=tmp_path, verbose=0)

    monkeypatch.setattr(making, "export_tflite", killed)
    with pytest.raises(KeyboardInterrupt):
        run()
    monkeypatch.setattr(
        making,
        "export_tflite",
        lambda model, path, **options: (
            made.append(path.name) or export(model, path, **options)
        ),
    )
    assert run().is_met
    # What was there is not made again, what was not is.
    assert made == [
        "original.tflite",
        "float16.tflite",
        "dynamic-int8.tflite",
        "int8.tflite",
        "int8.tflite",
    ]


@pytest.mark.slow
def test_no_budget_is_met_by_what_diverges(model, data, tmp_path):
    found = compress(
        model,
        *data,
        max_size="5kB",
        epochs=1,
        learning_rate=1e30,
        out=tmp_path,
        verbose=0,
    )
    failed = {c.stage: c.reason for c in found.candidates if not c.is_complete}
    assert "Diverged: the loss became nan" in failed["shrunk"]
    assert not found.is_met
    assert "Not reachable: at most 5 kB" in found.why[-1]
    assert found.chosen.stage == "post-training"
    # The next run does not restore what led there.
    folders = [path.name for path in tmp_path.iterdir() if path.is_dir()]
    assert folders == ["claims"]


@pytest.mark.slow
def test_what_does_not_exist_is_said(model, data, tmp_path):
    found = compress(model, *data, max_size=500, out=tmp_path, verbose=0)
    assert not found.is_met
    smallest = min(c.size_bytes for c in found.candidates)
    assert found.chosen.size_bytes == smallest
    assert found.why[-1].startswith("Not reachable: at most 500 B. Closest is")


def test_when_the_time_is_up_nothing_is_begun(model, data, tmp_path):
    found = compress(
        model,
        *data,
        max_size="5kB",
        time_budget=1e-3,
        out=tmp_path,
        verbose=0,
    )
    assert found.candidates == ()
    assert all("the time is up" in sentence for sentence in found.why[:-1])
    with pytest.raises(ValueError, match="There is no file"):
        _ = found.path


@pytest.mark.slow
def test_a_second_run_recalls_what_was_searched(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(32, 4)).astype("float32")
    y = (x[:, 0] > 0).astype("int32")
    layers = [keras.layers.Dense(512, "relu"), keras.layers.Dense(2)]
    model = keras.Sequential([keras.Input((4,)), *layers])
    made = []
    export = making.export_tflite
    monkeypatch.setattr(stages, "_TRIALS", 2)
    monkeypatch.setattr(compressing._Run, "_fits", lambda run: False)
    monkeypatch.setattr(
        making,
        "export_tflite",
        lambda model, path, **options: (
            made.append(path.name) or export(model, path, **options)
        ),
    )

    def run():
        made.clear()
        return compress(
            model,
            (x, y),
            (x, y),
            target="iot",
            loss=LOSS,
            max_size="3kB",
            epochs=1,
            out=tmp_path,
            verbose=0,
        )

    first = run()
    searched = [one for one in first.candidates if one.stage == "searched"]
    # The first one was shrunk before, and is not told twice.
    assert len(searched) == 1 and "untrained.tflite" in made
    settings = [str(one.settings) for one in first.candidates]
    assert len(set(settings)) == len(settings)
    assert str(run()) == str(first)
    assert made == []


@pytest.mark.slow
def test_a_regression_is_trained_by_its_labels(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 4)).astype("float32")
    y = x.sum(1, keepdims=True)
    layers = [keras.layers.Dense(512, "relu"), keras.layers.Dense(1)]
    model = keras.Sequential([keras.Input((4,)), *layers])
    model.compile("adam", "mse")
    found = compress(
        model,
        (x, y),
        (x, y),
        target="iot",
        metric="mean_squared_error",
        max_size="3kB",
        epochs=1,
        out=tmp_path,
        verbose=0,
    )
    sizes = {one.stage: one.size_bytes for one in found.candidates}
    assert sizes["shrunk"] <= 3_000 < sizes["post-training"]
    for one in found.candidates:
        loss = one.quality - found.original.quality
        assert one.quality_loss == pytest.approx(loss)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"max_size": None}, ValueError, "A budget needs a limit"),
        ({"target": "cloud"}, ValueError, "`target` must be one of"),
        ({"metric": "accurate"}, ValueError, "`metrics` must name"),
        ({"epochs": 0}, ValueError, "`epochs` must be a whole number"),
        ({"batch_size": 1.5}, ValueError, "`batch_size` must be a whole"),
        ({"learning_rate": 0}, ValueError, "`learning_rate` must be above"),
        ({"time_budget": -1}, ValueError, "`time_budget` must be a number"),
    ],
)
def test_bad_arguments_are_refused_at_once(
    model, data, tmp_path, changes, error, words
):
    arguments = {"max_size": 1000, "out": tmp_path / "out"} | changes
    with pytest.raises(error, match=words):
        compress(model, *data, **arguments)
    assert not (tmp_path / "out").exists()


def test_bad_models_are_refused_at_once(data, tmp_path):
    plain = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten()])
    with pytest.raises(ValueError, match="`loss` must be the one loss"):
        compress(plain, *data, max_size=1000, out=tmp_path / "out")
    with pytest.raises(TypeError, match=r"`keras\.Model` of Keras 3"):
        compress("model.keras", *data, max_size=1000, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_what_another_process_makes_is_waited_for(
    model, data, tmp_path, monkeypatch
):
    """One that is at "float16" leaves the rest, then brings its file."""
    out = tmp_path / "out"
    settings = {"export": {"quantize": "float16"}}
    made = []
    candidate = making.Maker.candidate
    ledgers = []

    class Seen(compressing.Ledger):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            ledgers.append(self)
            self.other = self.claim(settings)
            self.other.__enter__()

    def make(maker, way, original):
        made.append(way.name)
        found = candidate(maker, way, original)
        if way.name == "int8":
            # The last that is left: the other one ends now.
            other = ways.Way(
                name="float16", stage="post-training", quantize="float16"
            )
            ledgers[0].add(candidate(maker, other, original))
            ledgers[0].other.__exit__(None, None, None)
        return found

    monkeypatch.setattr(compressing, "Ledger", Seen)
    monkeypatch.setattr(making.Maker, "candidate", make)
    monkeypatch.setattr(compressing, "_POLL_SECONDS", 0.01)
    found = compress(model, *data, max_size="14kB", out=out, verbose=0)
    assert made == ["dynamic_int8", "int8"]
    names = [one.name for one in found.candidates]
    assert names == ["dynamic_int8", "int8", "float16"]
