"""Both students get the same start, and one of them a teacher."""

import keras
import numpy as np
import rich.console

import kdtf
from kdtf.recipes.trio import Role
from kdtf.recipes.trio import train_trio
from kdtf.recipes.workspace import Workspace


def test_students_start_alike_and_one_is_taught(tmp_path):
    seen = []
    finished = []

    def build(width):
        layers = [keras.layers.Dense(width), keras.layers.Dense(2)]
        return keras.Sequential([keras.Input((3,)), *layers])

    def fit(model):
        student = getattr(model, "student", model)
        seen.append((model, [w.copy() for w in student.get_weights()]))
        student.layers[-1].bias.assign([1.0, 2.0])

    workspace = Workspace(tmp_path, console=rich.console.Console(quiet=True))
    settings = {"seed": 3, "alpha": 0.25, "temperature": 5.0}
    models = train_trio(
        workspace,
        teacher=Role(build=lambda: build(8), fit=fit, title="big"),
        student=Role(build=lambda: build(2), fit=fit, title="small"),
        settings=settings,
        finish=finished.append,
    )
    assert list(models) == ["teacher", "student alone", "student distilled"]
    (first, _), (second, alone), (third, distilled) = seen
    assert first is models["teacher"] and second is models["student alone"]
    assert isinstance(third, kdtf.Distiller)
    assert third.student is models["student distilled"]
    assert third.teacher is models["teacher"]
    config = third.get_config()
    assert config["alpha"]["config"] == {"value": 0.25}
    assert config["temperature"]["config"] == {"value": 5.0}
    for a, b in zip(alone, distilled, strict=True):
        np.testing.assert_array_equal(a, b)
    assert finished == list(models.values())
    loaded = keras.saving.load_model(tmp_path / "student-distilled.keras")
    np.testing.assert_array_equal(loaded.layers[-1].bias, [1.0, 2.0])
    # A second run makes nothing.
    train_trio(
        Workspace(tmp_path, console=rich.console.Console(quiet=True)),
        teacher=Role(build=lambda: build(8), fit=fit, title="big"),
        student=Role(build=lambda: build(2), fit=fit, title="small"),
        settings=settings,
    )
    assert len(seen) == 3
