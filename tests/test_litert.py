"""Running files: names, splitting, quantized edges, signatures."""

import numpy as np
import pytest

from kdtf.litert import Runner
from kdtf.litert import bind_inputs

KERNEL = np.array([[1.0, 0.0, 2.0], [0.0, -4.0, 8.0]], "float32")


def _convert(functions, *, quantize=False):
    import tensorflow as tf

    module = tf.Module()
    module.functions = functions
    concrete = [f.get_concrete_function() for f in functions]
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        concrete, module
    )
    if quantize:
        rows = np.linspace(-1, 1, 32, dtype="float32").reshape(-1, 1, 2)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([row] for row in rows)
        builtins = tf.lite.OpsSet.TFLITE_BUILTINS_INT8
        converter.target_spec.supported_ops = [builtins]
        converter.inference_input_type = tf.int8
        converter.inference_output_type = tf.int8
    return converter.convert()


def _dense(*, batch=1):
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec((batch, 2), name="x")])
    def serve(x):
        return {"y": x @ KERNEL}

    return serve


def _two_inputs():
    import tensorflow as tf

    specs = [
        tf.TensorSpec((1, 2), name="zeta"),
        tf.TensorSpec((1, 1), tf.int32, name="alpha"),
    ]

    @tf.function(input_signature=specs)
    def serve(zeta, alpha):
        return {
            "sum": zeta + tf.cast(alpha, tf.float32),
            "difference": zeta - tf.cast(alpha, tf.float32),
        }

    return serve


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The files of this module, converted once."""
    import warnings

    folder = tmp_path_factory.mktemp("files")
    with warnings.catch_warnings():
        # TensorFlow's calibration uses its own deprecated interpreter.
        warnings.simplefilter("ignore")
        int8 = _convert([_dense()], quantize=True)
    contents = {
        "dense": _convert([_dense()]),
        "three": _convert([_dense(batch=3)]),
        "free": _convert([_dense(batch=None)]),
        "int8": int8,
        "two": _convert([_two_inputs()]),
    }
    for name, content in contents.items():
        (folder / f"{name}.tflite").write_bytes(content)
    return folder


@pytest.fixture
def rows():
    return np.array([[1, 2], [3, 4], [5, 6], [7, 8], [9, 0]], "float32")


@pytest.mark.parametrize("name", ["dense", "three", "free"])
def test_any_number_of_rows_is_run(folder, rows, name):
    outputs = Runner(folder / f"{name}.tflite")(rows)
    np.testing.assert_allclose(outputs["y"], rows @ KERNEL, rtol=1e-6)
    assert outputs["y"].shape == (5, 3)


def test_fewer_rows_than_the_files_batch_give_as_many_back(folder, rows):
    path = folder / "batch_of_three.tflite"
    path.write_bytes(_convert([_dense(batch=3)]))
    for count in (1, 2, 3, 4):
        outputs = Runner(path)(rows[:count])
        np.testing.assert_allclose(
            *outputs.values(), rows[:count] @ KERNEL, rtol=1e-6
        )


def test_one_row_equals_the_formula(folder):
    outputs = Runner(folder / "dense.tflite")({"x": np.array([[1.0, 2.0]])})
    assert outputs["y"].tolist() == [[1.0, -8.0, 18.0]]


def test_integer_files_take_and_give_reals(folder):
    runner = Runner(folder / "int8.tflite")
    spec = runner.input_specs["x"]
    assert (spec.dtype, spec.shape) == ("int8", (1, 2))
    x = np.array([[0.5, -0.5], [0.25, 1.0]], "float32")
    outputs = runner(x)["y"]
    assert outputs.dtype == "float32"
    # Half a step of each input times the kernel, plus half an output step.
    bound = 0.5 * spec.scale * np.abs(KERNEL).sum(0)
    bound = bound + 1.5 * runner.output_specs["y"].scale
    assert (np.abs(outputs - x @ KERNEL) <= bound).all()


def test_integers_pass_to_integer_inputs_as_they_are(folder):
    runner = Runner(folder / "int8.tflite")
    spec = runner.input_specs["x"]
    zero = np.full((1, 2), spec.zero_point, "int8")
    step = runner.output_specs["y"].scale
    np.testing.assert_allclose(runner(zero)["y"], 0.0, atol=step)


def test_reals_beyond_the_range_saturate(folder):
    runner = Runner(folder / "int8.tflite")
    edge = np.full((1, 2), 127, "int8")
    huge = np.full((1, 2), 1e6)
    np.testing.assert_array_equal(runner(huge)["y"], runner(edge)["y"])


def test_inputs_are_addressed_by_name(folder):
    runner = Runner(folder / "two.tflite")
    inputs = {"alpha": np.array([[10]]), "zeta": np.array([[1.0, 2.0]])}
    outputs = runner(inputs)
    assert outputs["sum"].tolist() == [[11.0, 12.0]]
    assert outputs["difference"].tolist() == [[-9.0, -8.0]]
    assert {k: s.dtype for k, s in runner.input_specs.items()} == {
        "zeta": "float32",
        "alpha": "int32",
    }


def test_fractions_for_plain_integers_are_refused(folder):
    inputs = {"alpha": np.array([[1.5]]), "zeta": np.array([[1.0, 2.0]])}
    with pytest.raises(ValueError, match="'alpha' takes int32.*float64"):
        Runner(folder / "two.tflite")(inputs)


def test_wrong_shapes_name_both(folder):
    with pytest.raises(ValueError, match=r"\(1, 2\).*\(4, 3\)"):
        Runner(folder / "dense.tflite")(np.zeros((4, 3)))


def test_no_rows_are_refused(folder):
    with pytest.raises(ValueError, match="at least one row"):
        Runner(folder / "dense.tflite")(np.zeros((0, 2)))


def test_unknown_signature_lists_the_known(folder):
    with pytest.raises(ValueError, match=r"\['serving_default'\].*'decode'"):
        Runner(folder / "dense.tflite", signature="decode")


def test_zero_threads_are_refused(folder):
    with pytest.raises(ValueError, match="num_threads=0"):
        Runner(folder / "dense.tflite", num_threads=0)


def test_a_file_litert_refuses_is_named(tmp_path):
    path = tmp_path / "bad.tflite"
    path.write_bytes(b"\0\0\0\0TFL3 and nothing else")
    with pytest.raises(ValueError, match="bad.tflite"):
        Runner(path)


def test_invoke_once_repeats_a_call(folder, rows):
    runner = Runner(folder / "dense.tflite")
    with pytest.raises(ValueError, match="never called"):
        runner.invoke_once()
    before = runner(rows[:1])["y"]
    runner.invoke_once()
    np.testing.assert_array_equal(runner(rows[:1])["y"], before)


def test_files_without_signature_run_by_tensor_name(folder, tmp_path, rows):
    from kdtf.flatbuffer import read_model
    from kdtf.flatbuffer import write_model

    model = read_model((folder / "dense.tflite").read_bytes())
    model.signatureDefs = None
    path = tmp_path / "bare.tflite"
    path.write_bytes(write_model(model))
    runner = Runner(path)
    assert runner.signature is None
    (output,) = runner(rows).values()
    np.testing.assert_allclose(output, rows @ KERNEL, rtol=1e-6)
    runner.invoke_once()


@pytest.mark.parametrize(
    "x, names, expected",
    [
        (5, ("a",), {"a": 5}),
        ((5,), ("a",), {"a": 5}),
        ([5, 6], ("b", "a"), {"b": 5, "a": 6}),
        ({"a": 6, "b": 5}, ("b", "a"), {"b": 5, "a": 6}),
    ],
)
def test_inputs_are_bound_as_keras_takes_them(x, names, expected):
    assert bind_inputs(x, names) == expected
    assert list(bind_inputs(x, names)) == list(names)


def test_wrong_names_are_listed():
    message = r"\['b', 'a'\].*missing: \['b'\], unknown: \['c'\]"
    with pytest.raises(ValueError, match=message):
        bind_inputs({"a": 1, "c": 2}, ("b", "a"))


@pytest.mark.parametrize("x", [5, (1, 2, 3)])
def test_wrong_number_of_inputs_is_refused(x):
    with pytest.raises(ValueError, match=r"2 arrays \['b', 'a'\]"):
        bind_inputs(x, ("b", "a"))
