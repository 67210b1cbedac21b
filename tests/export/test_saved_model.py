"""SavedModels: names, free dimensions, weights, and what is refused."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import kdtf
from kdtf.export import ExportError
from kdtf.export import export_saved_model
from kdtf.export import saved_model
from kdtf.flatbuffer import Signature
from kdtf.flatbuffer import TensorSpec

SLOW = pytest.mark.slow


@pytest.fixture
def here(monkeypatch):
    """Runs the worker's part in this process: a fresh one takes seconds."""

    def run(directory, arrays, *, batch_sizes):
        serve = signature_of(directory)
        outputs = serve(**{k: tf.constant(v) for k, v in arrays.items()})
        found = {name: value.numpy() for name, value in outputs.items()}
        inputs = serve.structured_input_signature[1]
        ends = [
            tuple(
                TensorSpec(
                    name=name, dtype=spec.dtype.name, shape=tuple(spec.shape)
                )
                for name, spec in specs.items()
            )
            for specs in (inputs, serve.structured_outputs)
        ]
        signature = Signature(
            key="serving_default", inputs=ends[0], outputs=ends[1]
        )
        return signature, dict.fromkeys(batch_sizes, found)

    monkeypatch.setattr(saved_model, "run_saved_model", run)


def signature_of(directory):
    loaded = tf.saved_model.load(str(directory))
    serve = loaded.signatures["serving_default"]
    # The variables live as long as what was loaded.
    serve.owner = loaded
    return serve


def call(directory, **arrays):
    serve = signature_of(directory)
    outputs = serve(**{k: tf.constant(v) for k, v in arrays.items()})
    return {name: value.numpy() for name, value in outputs.items()}


def shapes_of(result):
    signature = result.signature
    return {s.name: s.shape for s in (*signature.inputs, *signature.outputs)}


@SLOW
def test_a_fresh_process_verifies_it(tmp_path, tiny_cnn, images):
    path = tmp_path / "cnn"
    result = export_saved_model(tiny_cnn, path, verify_data=images)
    assert shapes_of(result) == {
        "image": (None, 8, 8, 1),
        "output_0": (None, 4),
    }
    assert result.batch_sizes == (1, 16)
    assert result.max_error < 1e-6 and result.sqnr_db > 100
    assert result.argmax_agreement == 1.0
    assert result.warnings == ()
    files = [f.stat().st_size for f in path.rglob("*") if f.is_file()]
    assert result.size_bytes == sum(files)
    assert str(result).startswith(f"{path}: {sum(files):,} bytes\n")
    assert "in batches of 1 and 16: max error" in str(result)


@SLOW
def test_it_runs_without_kdtf_and_keras(tmp_path, tiny_cnn, images, printed_by):
    path = tmp_path / "cnn"
    export_saved_model(tiny_cnn, path, verify_data=images)
    np.save(tmp_path / "x.npy", images[:7])
    printed = printed_by(f"""
import sys
for name in ("kdtf", "keras", "tf_keras"):
    sys.modules[name] = None
import numpy as np, tensorflow as tf
serve = tf.saved_model.load({str(path)!r}).signatures["serving_default"]
x = np.load({str(tmp_path / "x.npy")!r})
print(serve(image=tf.constant(x))["output_0"].numpy().tolist())
""")
    found = np.array(eval(printed.splitlines()[-1]))
    np.testing.assert_allclose(found, tiny_cnn(images[:7]), atol=1e-6)


@SLOW
def test_what_breaks_at_another_batch_size_is_refused(tmp_path):
    inputs = keras.Input((4,), name="x")
    # Right for the Keras model, which is called on 16 samples at a time.
    rows = keras.ops.reshape(inputs, (-1, 16, 4))
    rows -= keras.ops.mean(rows, axis=1, keepdims=True)
    model = keras.Model(inputs, keras.ops.reshape(rows, (-1, 4)))
    with pytest.raises(ExportError, match="TensorFlow must load and run.*code"):
        export_saved_model(model, tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


def test_names_and_free_dimensions_are_the_models(here, tmp_path):
    length = keras.Input((None, 3), name="series")
    other = keras.Input((2,), name="other")
    hidden = keras.layers.LSTM(4)(length)
    outputs = {"b": keras.layers.Dense(2)(hidden), "a": other * 2.0}
    model = keras.Model({"series": length, "other": other}, outputs)
    data = {"series": np.ones((3, 5, 3)), "other": np.ones((3, 2))}
    result = export_saved_model(model, tmp_path / "m", verify_data=data)
    assert shapes_of(result) == {
        "series": (None, None, 3),
        "other": (None, 2),
        "a": (None, 2),
        "b": (None, 2),
    }
    # Another batch and another length than it was verified on.
    x = np.random.default_rng(1).normal(size=(2, 9, 3)).astype("float32")
    found = call(tmp_path / "m", series=x, other=np.ones((2, 2), "float32"))
    expected = model({"series": x, "other": np.ones((2, 2), "float32")})
    np.testing.assert_allclose(found["b"], expected["b"], atol=1e-6)
    assert found["a"].tolist() == [[2.0, 2.0]] * 2


def test_names_that_tensorflow_lacks_are_changed_and_told(here, tmp_path):
    names = ("in 0", "in.0", "self")
    inputs = [keras.Input((2,), name=name) for name in names]
    model = keras.Model(inputs, keras.layers.add(inputs))
    result = export_saved_model(model, tmp_path / "m")
    found = {spec.name for spec in result.signature.inputs}
    assert found == {"in_0", "input_1", "input_self"}
    assert len(result.warnings) == 3
    assert "'in 0' is called 'in_0' here" in result.warnings[0]


def test_what_kdtf_did_is_baked_in(here, tmp_path, rng):
    x = rng.normal(size=(16, 8)).astype("float32")
    layers = [keras.Input((8,), name="x"), keras.layers.Dense(4)]
    model = kdtf.quantize(keras.Sequential(layers), "int4")
    trained = model.layers[0].kernel.numpy()
    path = tmp_path / "m"
    result = export_saved_model(model, path, verify_data=x)
    assert len(result.warnings) == 1
    assert "quantized for 'int4'" in result.warnings[0]
    zero = call(path, x=np.zeros((1, 8), "float32"))["output_0"]
    kernel = call(path, x=np.eye(8, dtype="float32"))["output_0"] - zero
    # At most 15 levels for each output.
    assert max(len(np.unique(column.round(6))) for column in kernel.T) <= 8
    for column in kernel.T:
        step = np.abs(column).max() / 7
        np.testing.assert_allclose(
            column / step, np.rint(column / step), atol=1e-3
        )
    # The trained weights are back.
    np.testing.assert_array_equal(model.layers[0].kernel.numpy(), trained)


@pytest.mark.tfmot
def test_tf_keras_models_and_zeros(here, tmp_path, rng):
    layers = tf_keras.layers
    model = tf_keras.Sequential(
        [tf_keras.Input((8,), name="x"), layers.Dense(4, use_bias=False)]
    )
    model = kdtf.prune(model, 0.5)
    export_saved_model(kdtf.strip(model), tmp_path / "m")
    kernel = call(tmp_path / "m", x=np.eye(8, dtype="float32"))["output_0"]
    assert (kernel == 0).mean() == 0.5


def test_half_precision_gives_float32(here, tmp_path):
    layers = [
        keras.Input((4,), name="x"),
        keras.layers.Dense(3, dtype="mixed_bfloat16"),
    ]
    result = export_saved_model(keras.Sequential(layers), tmp_path / "m")
    assert result.signature.outputs[0].dtype == "float32"


def test_subclassed_models_are_shown_by_a_sample(here, tmp_path):
    class Double(keras.Model):
        def call(self, inputs):
            return inputs["x"] * 2.0

    model = Double()
    model({"x": np.ones((1, 3), "float32")})
    with pytest.raises(ExportError, match="must be shown by a sample"):
        export_saved_model(model, tmp_path / "m")
    data = {"x": np.ones((1, 3))}
    result = export_saved_model(model, tmp_path / "m", verify_data=data)
    assert shapes_of(result) == {"x": (None, 3), "output_0": (None, 3)}
    # One sample: two of it make a batch.
    assert result.batch_sizes == (1, 2)


def test_free_dimensions_need_a_sample(tmp_path):
    inputs = keras.Input((None, 3), name="series")
    model = keras.Model(inputs, keras.layers.LSTM(2)(inputs))
    with pytest.raises(ValueError, match="verify_data=None and {'series'"):
        export_saved_model(model, tmp_path / "m")


@pytest.mark.parametrize(
    "model, error, message",
    [
        ("model.keras", TypeError, "must be a `keras.Model`"),
        (keras.Sequential([keras.layers.Dense(1)]), ValueError, "be built"),
    ],
)
def test_other_things_are_refused(tmp_path, model, error, message):
    with pytest.raises(error, match=message):
        export_saved_model(model, tmp_path / "m")


def test_an_older_folder_is_replaced_or_left_alone(
    here, tmp_path, tiny_cnn, images, monkeypatch
):
    path = tmp_path / "m"
    export_saved_model(tiny_cnn, path, verify_data=images)
    before = call(path, image=images)["output_0"]
    tiny_cnn.layers[-1].bias.assign([1.0, 2.0, 3.0, 4.0])
    export_saved_model(tiny_cnn, path, verify_data=images)
    after = call(path, image=images)["output_0"]
    np.testing.assert_allclose(after - before, [[1, 2, 3, 4]] * 16, atol=1e-5)

    def wrong(directory, arrays, *, batch_sizes):
        signature = Signature(
            key="serving_default",
            inputs=(
                TensorSpec(
                    name="image", dtype="float32", shape=(None, 8, 8, 1)
                ),
            ),
            outputs=(
                TensorSpec(name="output_0", dtype="float32", shape=(None, 4)),
            ),
        )
        good = {"output_0": after}
        return signature, {1: good, 16: {"output_0": after + 0.1}}

    monkeypatch.setattr(saved_model, "run_saved_model", wrong)
    with pytest.raises(ExportError, match="ratios of {'output_0': .* dB"):
        export_saved_model(tiny_cnn, path, verify_data=images)
    assert [entry.name for entry in tmp_path.iterdir()] == ["m"]
    left = call(path, image=images)["output_0"]
    np.testing.assert_array_equal(left, after)


def test_a_folder_with_other_files_is_refused(tmp_path, tiny_cnn):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="notes.txt"):
        export_saved_model(tiny_cnn, tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"
