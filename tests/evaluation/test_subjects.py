import keras
import numpy as np
import pytest
import tf_keras

from kdtf.evaluation.subjects import batch_size_of
from kdtf.evaluation.subjects import keras_predict
from kdtf.evaluation.subjects import make_subject
from kdtf.evaluation.subjects import random_inputs
from kdtf.evaluation.subjects import runner_predict
from kdtf.evaluation.subjects import timed_call
from kdtf.litert import Runner


def subject_of(model, **kwargs):
    settings = {"examples": None, "num_threads": 1, "timed_path": None}
    return make_subject("row", model, **{**settings, **kwargs})


def test_a_model_its_file_and_its_export_are_three_subjects(
    small_model_path, tiny_tflite, small_data
):
    images = small_data[0][:5]
    subjects = [
        subject_of(keras.saving.load_model(small_model_path)),
        subject_of(small_model_path),
        subject_of(str(tiny_tflite)),
    ]
    assert [s.kind for s in subjects] == ["keras", "keras", "tflite"]
    assert [s.runner is None for s in subjects] == [True, True, False]
    outputs = [s.predict(images)[0] for s in subjects]
    np.testing.assert_array_equal(outputs[0], outputs[1])
    # Another runtime adds in another order.
    np.testing.assert_allclose(outputs[0], outputs[2], atol=1e-5)


def test_a_keras_model_is_exported_to_be_timed(
    small_model_path, small_data, tmp_path
):
    path = tmp_path / "timed.tflite"
    subject = subject_of(
        small_model_path, examples=small_data[0][:2], timed_path=path
    )
    assert subject.note == ""
    assert path.exists()
    timed_call(subject.runner, small_data[0])()


def test_a_model_that_cannot_be_exported_says_why(tmp_path):
    model = keras.Sequential([keras.Input((None, 3)), keras.layers.Dense(2)])
    subject = subject_of(model, timed_path=tmp_path / "timed.tflite")
    assert subject.runner is None
    assert subject.note.startswith("not timed: ExportError: ")
    assert subject.size.num_parameters == 8


def test_dropout_is_off(small_data):
    model = keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Dropout(0.9)]
    )
    outputs, mask = keras_predict(model)(small_data[0][:2])
    np.testing.assert_array_equal(outputs, small_data[0][:2])
    assert mask is None


@pytest.mark.parametrize("library", [keras, tf_keras])
def test_the_mask_of_a_keras_model_comes_along(library):
    model = library.Sequential(
        [
            library.Input((3,), dtype="int32"),
            library.layers.Embedding(5, 2, mask_zero=True),
        ]
    )
    _, mask = keras_predict(model)(np.array([[1, 2, 0]], "int32"))
    assert mask.tolist() == [[True, True, False]]


def test_eager_models_stay_eager():
    seen = []

    class Spy(keras.layers.Layer):
        def call(self, x):
            seen.append(float(np.asarray(x).sum()))
            return x

    model = keras.Sequential([Spy()])
    model.compile(run_eagerly=True)
    keras_predict(model)(np.ones((2, 3), "float32"))
    assert seen[-1] == 6.0


def test_a_file_takes_what_it_knows_of_a_dict(tiny_tflite, small_data):
    runner = Runner(tiny_tflite)
    x = {"image": small_data[0], "of_no_use": np.zeros(70)}
    outputs, mask = runner_predict(runner)(x)
    assert outputs.shape == (70, 4)
    assert mask is None


def test_a_file_is_timed_on_one_example(tiny_tflite, small_data):
    runner = Runner(tiny_tflite)
    assert batch_size_of(runner) == 1
    timed_call(runner, small_data[0])()
    timed_call(runner, None)()


def test_random_inputs_fit_the_file(tiny_tflite):
    inputs = random_inputs(Runner(tiny_tflite))
    assert {name: array.shape for name, array in inputs.items()} == {
        "image": (1, 8, 8, 1)
    }
    again = random_inputs(Runner(tiny_tflite))
    np.testing.assert_array_equal(inputs["image"], again["image"])


def test_several_outputs_are_refused_with_the_way_out():
    inputs = keras.Input((3,))
    model = keras.Model(inputs, {"a": inputs + 1, "b": inputs * 2})
    with pytest.raises(ValueError, match="2 outputs. Wrap it"):
        keras_predict(model)(np.ones((1, 3), "float32"))


def test_what_is_no_model_is_refused():
    with pytest.raises(TypeError, match=r"models\['row'\]"):
        subject_of(3)
