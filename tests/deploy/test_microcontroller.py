"""TensorFlow Lite Micro itself runs what we write for it."""

import shutil

import keras
import numpy as np
import pytest

import kdtf
from kdtf.export.micro import microcontroller
from kdtf.export.micro.entry import read_entry
from kdtf.export.micro.verification import integer_inputs
from kdtf.export.micro.worker import run_litert
from kdtf.export.micro.worker import run_micro

pytestmark = pytest.mark.deploy

FILES = (
    "README.txt",
    "example.cc",
    "model.tflite",
    "model_data.cc",
    "model_data.h",
    "model_settings.h",
    "op_resolver.h",
)


def trained(model, x, y):
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy())
    model.fit(x, y, epochs=8, batch_size=16, verbose=0)
    return model


@pytest.fixture(scope="module")
def images():
    """Squares and stripes on noise: 2 classes."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, size=128)
    x = 0.3 * rng.normal(size=(128, 16, 16, 3))
    x[labels == 0, 4:12, 4:12] += 1.0
    x[labels == 1, ::2] += 1.0
    return x.astype("float32"), labels


@pytest.fixture(scope="module")
def cnn(images):
    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((16, 16, 3), name="image"),
            layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(6.0),
            layers.DepthwiseConv2D(3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(12, 1, activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(2, activation="softmax"),
        ]
    )
    return trained(model, *images)


@pytest.fixture(scope="module")
def image_result(cnn, images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("image") / "firmware"
    return kdtf.export_microcontroller(
        cnn, folder, labels=["square", "stripes"], representative_data=images[0]
    )


def test_an_image_model_is_written_and_verified(image_result, cnn, images):
    result = image_result
    assert result.files == FILES
    found = sorted(path.name for path in result.directory.iterdir())
    assert tuple(found) == FILES
    assert result.size_bytes == result.path.stat().st_size
    assert result.verified_on == "100 samples of representative_data"
    assert result.agreement.within_three_steps >= 0.99
    assert result.agreement.argmax_agreement >= 0.99
    assert result.export.path == result.path
    assert result.export.float_operators == {}
    text = str(result)
    assert f"flash {result.size_bytes:,} bytes" in text
    assert f"arena {result.arena_bytes:,} measured" in text


def test_the_chips_answers_are_the_keras_models(image_result, cnn, images):
    x, _ = images
    entry = read_entry(image_result.path)
    (spec,) = entry.inputs
    steps = np.round(x[:32] / spec.scale) + spec.zero_point
    integers = np.clip(steps, -128, 127).astype("int8")
    _, (outputs,) = run_micro(image_result.path, [integers])
    (out,) = entry.outputs
    reals = (outputs.astype("float32") - out.zero_point) * out.scale
    expected = cnn.predict(x[:32], verbose=0)
    # Measured 0.0034, where one integer step is 1 / 256.
    np.testing.assert_allclose(reals, expected, atol=4 / 256)
    assert (reals.argmax(-1) == expected.argmax(-1)).mean() >= 0.95


def test_settings_say_what_was_measured(image_result):
    text = (image_result.directory / "model_settings.h").read_text()
    (spec,) = image_result.inputs
    for line in (
        f"kMeasuredArenaBytes = {image_result.arena_bytes};",
        f"kArenaMarginBytes = {image_result.margin_bytes};",
        'kInput0Name = "image";',
        "kInput0Shape[kInput0NumDims] = {1, 16, 16, 3};",
        f"kInput0ZeroPoint = {spec.zero_point};",
        '"stripes",',
    ):
        assert line in text
    resolver = (image_result.directory / "op_resolver.h").read_text()
    kinds = len(image_result.operators)
    assert f"MicroMutableOpResolver<{kinds}>" in resolver
    assert resolver.count("resolver.Add") == kinds


def test_the_measured_arena_is_the_smallest(image_result, printed_by):
    arena = image_result.arena_bytes
    assert arena % 16 == 0
    # 16 x 16 x 3 in and 8 x 8 x 8 out of the first layer live side by side.
    assert 768 + 512 < arena < 20_000
    code = f"""
from tflite_micro import runtime
content = open({str(image_result.path)!r}, "rb").read()
runtime.Interpreter.from_bytes(content, arena_size={arena}).invoke()
try:
    runtime.Interpreter.from_bytes(content, arena_size={arena - 16})
except RuntimeError as error:
    print(error)
"""
    assert printed_by(code) == "TFLM failed to allocate tensors"


@pytest.fixture(scope="module")
def clips():
    """Rising and falling tones as 20 frames of 10 bands: 2 classes."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, size=128)
    time, band = np.mgrid[0:20, 0:10]
    rising = np.exp(-((band - time / 2) ** 2))
    falling = np.exp(-((band - 9.5 + time / 2) ** 2))
    x = np.where(labels[:, None, None] == 0, rising, falling)
    x = x + 0.1 * rng.normal(size=x.shape)
    return (10 * x - 20).astype("float32"), labels


@pytest.mark.slow
def test_a_strided_audio_model_runs(clips, tmp_path):
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((20, 10), name="mfcc"),
            layers.Conv1D(16, 5, strides=2, padding="causal", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.DepthwiseConv1D(3, padding="same", activation="relu"),
            layers.Conv1D(16, 1, activation="relu"),
            layers.GlobalAveragePooling1D(),
            layers.Dense(2, activation="softmax"),
        ]
    )
    x, y = clips
    result = kdtf.export_microcontroller(
        trained(model, x, y), tmp_path / "out", representative_data=x
    )
    assert result.inputs[0].shape == (1, 20, 10)
    assert result.agreement.within_three_steps >= 0.99
    assert result.agreement.argmax_agreement >= 0.99
    assert 0 < result.arena_bytes < 20_000


@pytest.fixture(scope="module")
def streaming(clips):
    """One frame and the last four in; scores and the new last four out."""
    frame = keras.Input((1, 10), name="frame")
    state = keras.Input((4, 10), name="state")
    window = keras.layers.concatenate([state, frame], axis=1)
    features = keras.layers.Conv1D(12, 5, activation="relu")(window)
    features = keras.layers.Flatten()(features)
    scores = keras.layers.Dense(3)(features)
    newest = keras.layers.Cropping1D((1, 0))(window)
    return keras.Model([frame, state], {"scores": scores, "new_state": newest})


@pytest.mark.slow
def test_a_streaming_model_carries_its_state(streaming, clips, tmp_path):
    x, _ = clips
    windows = np.concatenate([x[:40, t : t + 5] for t in (0, 5, 10)])
    # A tuple goes by the model's order, whatever the file's is.
    data = (windows[:, 4:], windows[:, :4])
    result = kdtf.export_microcontroller(
        streaming, tmp_path / "out", name="wake", representative_data=data
    )
    assert {spec.name for spec in result.inputs} == {"frame", "state"}
    assert {spec.name for spec in result.outputs} == {"scores", "new_state"}
    assert result.agreement.within_three_steps >= 0.99
    # The chip's own loop: the state goes back in, on the input's grid.
    entry = read_entry(result.path)
    places = {spec.name: i for i, spec in enumerate(entry.inputs)}
    results = {spec.name: i for i, spec in enumerate(entry.outputs)}
    newest = entry.outputs[results["new_state"]]
    state = np.zeros((1, 4, 10), "float32")
    for t in range(5):
        frame = x[:1, t : t + 1]
        given = {"frame": frame, "state": state}
        inputs = [to_integers(given[s.name], s) for s in entry.inputs]
        assert [i.shape for i in inputs] == [s.shape for s in entry.inputs]
        _, outputs = run_micro(result.path, inputs)
        there = outputs[results["new_state"]].astype("float32")
        state = (there - newest.zero_point) * newest.scale
    # Each frame was rounded when it came in and a few times after.
    steps = max(newest.scale, entry.inputs[places["state"]].scale)
    np.testing.assert_allclose(state, x[:1, 1:5], atol=4 * steps)


def to_integers(values, spec):
    steps = np.round(values / spec.scale) + spec.zero_point
    return np.clip(steps, -128, 127).astype("int8")


@pytest.mark.slow
def test_a_quantization_aware_model_needs_no_data(images, tmp_path):
    x, y = images
    model = keras.Sequential(
        [
            keras.Input((16, 16, 3), name="image"),
            keras.layers.Conv2D(4, 3, strides=2, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(2),
        ]
    )
    kdtf.quantize_aware(model, "int8_iot", data=x)
    model.compile("adam", keras.losses.MeanSquaredError())
    model.fit(x, np.eye(2)[y], epochs=1, verbose=0)
    result = kdtf.export_microcontroller(model, tmp_path / "out")
    assert result.verified_on == "16 random samples (seed 0)"
    assert result.export.within_one_step >= 0.95
    assert result.agreement.within_three_steps >= 0.99


@pytest.mark.slow
def test_a_legacy_keras_model_is_exported_too(images, tmp_path):
    import tf_keras

    model = tf_keras.Sequential(
        [
            tf_keras.Input((16, 16, 3), name="image"),
            tf_keras.layers.Conv2D(4, 3, strides=2, activation="relu"),
            tf_keras.layers.GlobalAveragePooling2D(),
            tf_keras.layers.Dense(2),
        ]
    )
    result = kdtf.export_microcontroller(
        model, tmp_path / "out", representative_data=images[0]
    )
    assert result.operators["CONV_2D"] == 1
    assert result.agreement.within_three_steps >= 0.99


def test_a_tflite_file_gives_the_same_folder(image_result, images, tmp_path):
    result = kdtf.export_microcontroller(
        str(image_result.path),
        tmp_path / "out",
        labels=["square", "stripes"],
        verify_data=images[0],
    )
    assert result.export is None
    assert result.verified_on == "100 samples of verify_data"
    assert result.arena_bytes == image_result.arena_bytes
    for name in FILES:
        again = (result.directory / name).read_bytes()
        assert again == (image_result.directory / name).read_bytes()


def test_over_budget_is_an_error_and_the_older_folder_stays(
    image_result, tmp_path
):
    folder = tmp_path / "out"
    shutil.copytree(image_result.directory, folder)
    (folder / "README.txt").write_text("of the earlier export")
    reserved = image_result.reserved_bytes
    limits = {
        "flash_bytes": image_result.size_bytes,
        "ram_bytes": reserved,
    }
    path = tmp_path / "model.tflite"
    shutil.copy(image_result.path, path)
    for argument, limit in limits.items():
        with pytest.raises(kdtf.ExportError, match=f"{limit:,} bytes"):
            kdtf.export_microcontroller(
                path, folder, **{**limits, argument: limit - 1}
            )
        text = (folder / "README.txt").read_text()
        assert text == "of the earlier export"
        assert len(list(tmp_path.iterdir())) == 2
    result = kdtf.export_microcontroller(path, folder, **limits)
    assert result.reserved_bytes == reserved
    assert (folder / "README.txt").read_text() != "of the earlier export"


def refused(path, folder, message):
    with pytest.raises(ValueError, match=message):
        kdtf.export_microcontroller(path, folder)
    assert not folder.exists()


def test_a_cut_file_is_refused(image_result, tmp_path):
    content = image_result.path.read_bytes()
    for length in (0, 100, len(content) // 2):
        path = tmp_path / "cut.tflite"
        path.write_bytes(content[:length])
        refused(path, tmp_path / "out", "(?s)cut.tflite|load and run")


def test_damaged_files_end_in_an_error_or_a_right_folder(
    image_result, tmp_path
):
    """Bytes of the tables are overwritten; the process must live on."""
    content = image_result.path.read_bytes()
    rng = np.random.default_rng(1)
    outcomes = []
    for seed in range(6):
        damaged = bytearray(content)
        for place in rng.integers(8, len(content), size=40):
            damaged[place] = rng.integers(0, 256)
        path = tmp_path / f"damaged{seed}.tflite"
        path.write_bytes(damaged)
        try:
            kdtf.export_microcontroller(path, tmp_path / f"out{seed}")
            outcomes.append("written")
        except ValueError as error:
            outcomes.append(str(error))
            assert not (tmp_path / f"out{seed}").exists()
    assert len(outcomes) == 6


def test_a_float_file_is_refused(cnn, tmp_path):
    path = tmp_path / "float.tflite"
    kdtf.export_tflite(cnn, path, target="float")
    refused(path, tmp_path / "out", "(?s)integers only.*compute in float")


def test_a_gone_file_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.tflite"):
        kdtf.export_microcontroller(tmp_path / "gone.tflite", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_interpreters_own_words_are_passed_on(cnn, images, tmp_path):
    path = tmp_path / "hybrid.tflite"
    kdtf.export_tflite(cnn, path, quantize="dynamic_int8")
    message = "TensorFlow Lite Micro must load.*Hybrid models are not supported"
    with pytest.raises(kdtf.ExportError, match=message):
        run_micro(path, [images[0][:1]])


def test_another_answer_than_litert_s_is_an_error(
    image_result, tmp_path, monkeypatch
):
    def wrong(path, inputs):
        arena, outputs = run_micro(path, inputs)
        return arena, [np.roll(outputs[0], 1, axis=-1)]

    monkeypatch.setattr(microcontroller, "run_micro", wrong)
    message = "(?s)must compute what LiteRT.*output numbers.*steps off"
    refused(image_result.path, tmp_path / "out", message)


def test_labels_must_fit_the_output(image_result, tmp_path):
    with pytest.raises(ValueError, match=r"3 labels .* \(1, 2\)"):
        kdtf.export_microcontroller(
            image_result.path, tmp_path / "out", labels=list("abc")
        )


def test_runtimes_agree_on_random_integers(image_result):
    entry = read_entry(image_result.path)
    samples = integer_inputs(entry.inputs, None)
    inputs = list(samples.arrays.values())
    default, reference = run_litert(image_result.path, inputs)
    arena, outputs = run_micro(image_result.path, inputs)
    assert arena == image_result.arena_bytes
    assert outputs[0].shape == default[0].shape == (16, 2)
    # The reference kernels do the same integer arithmetic.
    assert np.abs(outputs[0].astype(int) - reference[0]).max() <= 3


def test_a_run_out_of_time_is_an_error(image_result):
    inputs = [np.zeros((1, 16, 16, 3), "int8")]
    with pytest.raises(kdtf.ExportError, match="within 0.01 s"):
        run_micro(image_result.path, inputs, time_limit_seconds=0.01)


def test_nothing_of_it_asks_for_tfmot(printed_by, image_result):
    code = f"""
import sys, tempfile, kdtf
with tempfile.TemporaryDirectory() as folder:
    kdtf.export_microcontroller({str(image_result.path)!r}, folder + "/out")
names = ("tf_keras", "tensorflow_model_optimization")
print([name for name in names if name in sys.modules])
"""
    assert printed_by(code) == "[]"


@pytest.mark.slow
def test_the_command_writes_the_folder(cnn, images, tmp_path, capsys):
    from kdtf.cli import main

    cnn.save(tmp_path / "cnn.keras")
    np.savez(tmp_path / "data.npz", x=images[0])
    argv = ["microcontroller", str(tmp_path / "cnn.keras")]
    argv += ["--output", str(tmp_path / "out"), "--name", "eye"]
    argv += ["--data", str(tmp_path / "data.npz")]
    assert main([*argv, "--ram-bytes", "100"]) == 2
    assert "ram_bytes=100" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main([*argv, "--ram-bytes", "64000"]) == 0
    assert "eye.tflite" in capsys.readouterr().out
    assert (tmp_path / "out" / "eye_data.cc").exists()
    # And from the file that it wrote.
    argv[1] = str(tmp_path / "out" / "eye.tflite")
    argv[3] = str(tmp_path / "again")
    assert main(argv) == 0
    assert (tmp_path / "again" / "eye.tflite").exists()
