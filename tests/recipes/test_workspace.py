"""Stages are made once, and again only when they must be."""

import io
import json

import keras
import numpy as np
import pytest
import rich.console

from kdtf.recipes.workspace import Workspace


def model_of(value):
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.set_weights([np.array([[value]]), np.zeros(1)])
    return model


class Visit:
    """One run of a recipe with one stage; says what it made and printed."""

    def __init__(self, folder, settings, value=1.0):
        self.made = 0
        self.value = value
        text = io.StringIO()
        console = rich.console.Console(file=text, width=200)
        workspace = Workspace(folder, console=console)
        self.model = workspace.model(
            "net", settings=settings, make=self.make, title="The net"
        )
        self.printed = text.getvalue()
        self.weight = float(self.model.get_weights()[0][0, 0])

    def make(self):
        self.made += 1
        return model_of(self.value)


def test_second_run_reuses_and_says_so(tmp_path):
    settings = {"epochs": 3, "sizes": (1, 2)}
    first = Visit(tmp_path, settings, 2.5)
    second = Visit(tmp_path, settings, 9.0)
    assert (first.made, second.made) == (1, 0)
    assert second.weight == 2.5
    assert f"The net: reusing {tmp_path / 'net.keras'}" in second.printed


def test_a_trained_model_is_kept_without_its_optimizer(tmp_path):
    def make():
        model = model_of(1.0)
        model.compile("adam", "mse")
        model.fit(np.ones((4, 1)), np.ones((4, 1)), verbose=0)
        return model

    workspace = Workspace(tmp_path, console=rich.console.Console(quiet=True))
    workspace.model("net", settings={}, make=make, title="The net")
    # With Keras's own defaults, as a user loads it.
    loaded = keras.saving.load_model(tmp_path / "net.keras")
    assert not loaded.compiled and len(loaded.variables) == 2


def test_other_settings_make_it_again(tmp_path):
    Visit(tmp_path, {"epochs": 3})
    again = Visit(tmp_path, {"epochs": 4}, 7.0)
    assert (again.made, again.weight) == (1, 7.0)
    assert "other settings" in again.printed


def test_an_altered_file_is_named_and_never_used(tmp_path):
    Visit(tmp_path, {})
    model_of(666.0).save(tmp_path / "net.keras")
    again = Visit(tmp_path, {}, 7.0)
    assert (again.made, again.weight) == (1, 7.0)
    assert "net.keras is not as it was written" in again.printed


def test_a_missing_file_is_made_again(tmp_path):
    Visit(tmp_path, {})
    (tmp_path / "net.keras").unlink()
    assert Visit(tmp_path, {}).made == 1


def test_a_failed_stage_leaves_nothing_to_reuse(tmp_path):
    workspace = Workspace(tmp_path, console=rich.console.Console(quiet=True))

    def fail():
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        workspace.model("net", settings={}, make=fail, title="The net")
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_manifest_is_named_with_the_way_out(tmp_path):
    Visit(tmp_path, {})
    (tmp_path / "stages.json").write_text('{"net.ker')
    with pytest.raises(ValueError, match=r"stages\.json is damaged.*Delete"):
        Workspace(tmp_path)


def test_manifest_holds_settings_and_checksum(tmp_path):
    Visit(tmp_path, {"epochs": 3})
    entry = json.loads((tmp_path / "stages.json").read_text())["net.keras"]
    assert entry["settings"] == {"epochs": 3}
    assert len(entry["sha256"]) == 64


def test_a_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(ValueError, match="must be a folder.*out"):
        Workspace(tmp_path / "out")
