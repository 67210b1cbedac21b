"""What was begun or seen before is used, where its settings are the same."""

import dataclasses

import keras
import numpy as np
import pytest
import rich.console

from kdtf.recipes.compression import making
from kdtf.recipes.compression.making import Maker
from kdtf.recipes.compression.teaching import Teaching
from kdtf.recipes.compression.ways import Way
from kdtf.recipes.workspace import Workspace

WAY = Way(name="trained", stage="quantization-aware", scheme="dynamic_int8")


@pytest.fixture
def maker(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 4)).astype("float32")
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    teaching = Teaching(
        train=(x, x[:, :3]),
        loss="mean_squared_error",
        rate=0.01,
        epochs=2,
        batch_size=32,
        verbose=0,
    )
    console = rich.console.Console(quiet=True)
    return Maker(
        model=model,
        teaching=teaching,
        validation=teaching.train,
        metric="mean_squared_error",
        target="android",
        workspace=Workspace(tmp_path, console=console),
        setting={"epochs": 2, "learning_rate": 0.01},
    )


@pytest.fixture
def steps(monkeypatch):
    """Counts training steps; `steps.end` breaks off a training there."""

    class Steps(list):
        end = 0

    seen = Steps()
    fit = keras.Model.fit

    class Count(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(batch)
            if len(seen) == seen.end:
                raise KeyboardInterrupt

    def counted(model, *, callbacks, **options):
        return fit(model, callbacks=[*callbacks, Count()], **options)

    monkeypatch.setattr(keras.Model, "fit", counted)
    return seen


def with_other(maker, **changes):
    """A maker of the same folder, told otherwise, as `compress` makes it."""
    names = {"learning_rate": "rate"}
    told = {names.get(name, name): value for name, value in changes.items()}
    return dataclasses.replace(
        maker,
        teaching=dataclasses.replace(maker.teaching, **told),
        setting=maker.setting | changes,
    )


@pytest.mark.parametrize(
    ("changes", "epochs_left"), [({}, 1), ({"learning_rate": 0.1}, 2)]
)
def test_a_broken_off_training_goes_on_only_with_its_settings(
    maker, steps, changes, epochs_left
):
    # In the second epoch of two, of two batches each.
    steps.end = 3
    with pytest.raises(KeyboardInterrupt):
        maker.student(WAY)
    steps.clear()
    steps.end = 0
    with_other(maker, **changes).student(WAY)
    assert len(steps) == 2 * epochs_left


def test_the_size_of_an_untrained_file_is_seen_once(maker, monkeypatch):
    exported = []

    def export(model, path, **options):
        exported.append(options["quantize"])
        path.write_bytes(b"file")

    monkeypatch.setattr(making, "export_tflite", export)
    hidden = keras.layers.Dense(16)
    layers = [keras.Input((4,)), hidden, keras.layers.Dense(3)]
    maker = dataclasses.replace(maker, model=keras.Sequential(layers))
    way = Way(name="half", stage="shrunk", keep=0.6, scheme="int8")
    assert maker.size_before_training(way) == 4
    # Another process, and how it will be taught does not matter.
    again = with_other(maker)
    taught = dataclasses.replace(way, alpha=0.5)
    assert again.size_before_training(taught) == 4
    assert exported == ["int8"]
    other = dataclasses.replace(way, scheme="dynamic_int8")
    assert again.size_before_training(other) == 4
    assert exported == ["int8", "dynamic_int8"]


def test_what_cannot_be_so_small_has_no_size(maker):
    way = Way(name="none", stage="shrunk", keep=0.01, scheme="int8")
    assert maker.size_before_training(way) is None
