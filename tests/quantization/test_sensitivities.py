import keras
import numpy as np
import pytest

import kdtf
from kdtf.quantization.sensitivities import KernelSensitivity
from kdtf.quantization.sensitivities import Sensitivity


@pytest.fixture
def classifier(rng):
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(5, activation="relu", name="first"),
            layers.Dense(3, name="second"),
        ]
    )
    model.set_weights([rng.normal(size=w.shape) for w in model.weights])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss)
    return model


def test_increase_is_the_loss_with_one_kernel_quantized(classifier, rng):
    x, y = rng.normal(size=(50, 6)), rng.integers(0, 3, 50)
    before = classifier.evaluate(x, y, verbose=0)
    found = kdtf.sensitivity(classifier, (x, y), ["int2"], verbose=0)
    assert found.measure == "loss"
    assert found.baseline == pytest.approx(before, rel=1e-5)
    weights = classifier.get_weights()
    for row, index in zip(found.rows, (0, 2), strict=True):
        changed = [w.copy() for w in weights]
        step = np.abs(changed[index]).max(axis=0)
        changed[index] = np.floor(changed[index] / step + 0.5) * step
        classifier.set_weights(changed)
        expected = classifier.evaluate(x, y, verbose=0) - before
        assert row.increase == pytest.approx(expected, rel=1e-3, abs=1e-6)
        assert row.float_size_bytes == 4 * weights[index].size
    classifier.set_weights(weights)


def test_without_labels_outputs_are_compared(classifier, rng):
    x = rng.normal(size=(40, 6)).astype("float32")
    found = kdtf.sensitivity(classifier, x, ["int2"], verbose=0)
    assert (found.measure, found.baseline) == ("relative error", 0.0)
    before = classifier.predict(x, verbose=0)
    kernel = np.asarray(classifier.layers[1].kernel)
    step = np.abs(kernel).max(axis=0)
    classifier.layers[1].kernel.assign(np.floor(kernel / step + 0.5) * step)
    noise = np.square(classifier.predict(x, verbose=0) - before).sum()
    expected = noise / np.square(before).sum()
    assert found.rows[1].increase == pytest.approx(expected, rel=1e-4)


def test_the_model_is_as_before(classifier, rng):
    weights = classifier.get_weights()
    kdtf.sensitivity(classifier, rng.normal(size=(8, 6)), verbose=0)
    for before, after in zip(weights, classifier.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


def rows_of(increases):
    sizes = {"dynamic_int8": 100, "int4": 50}
    return tuple(
        KernelSensitivity(
            path=path,
            scheme=scheme,
            increase=increase,
            size_bytes=sizes[scheme],
            float_size_bytes=400,
        )
        for path, own in increases.items()
        for scheme, increase in own.items()
    )


def test_few_bits_go_where_they_are_free():
    found = Sensitivity(
        name="m",
        measure="loss",
        baseline=1.0,
        rows=rows_of(
            {
                "a": {"dynamic_int8": 0.0, "int4": 0.01},
                "b": {"dynamic_int8": 0.001, "int4": 0.5},
            }
        ),
    )
    assert found.mixed(max_bytes=800) == {"a": None, "b": None}
    assert found.mixed(max_bytes=500) == {"a": "dynamic_int8", "b": None}
    both = {"a": "dynamic_int8", "b": "dynamic_int8"}
    assert found.mixed(max_bytes=499) == found.mixed(max_bytes=200) == both
    assert found.mixed(max_bytes=150) == {"a": "int4", "b": "dynamic_int8"}
    assert found.mixed(max_bytes=100) == {"a": "int4", "b": "int4"}
    with pytest.raises(ValueError, match="max_bytes=99, and they take 100"):
        found.mixed(max_bytes=99)
    with pytest.raises(ValueError, match="One of `max_increase` and"):
        found.mixed(0.1, max_bytes=100)
    with pytest.raises(ValueError, match="One of `max_increase` and"):
        found.mixed()
    assert found.mixed(0.0) == {"a": "dynamic_int8", "b": None}
    assert found.mixed(0.02) == {"a": "int4", "b": "dynamic_int8"}
    assert found.mixed(1.0) == {"a": "int4", "b": "int4"}
    with pytest.raises(ValueError, match="max_increase"):
        found.mixed(-0.1)


def test_mixed_is_a_scheme(classifier, rng):
    x = rng.normal(size=(40, 6)).astype("float32")
    found = kdtf.sensitivity(classifier, x, verbose=0)
    mixed = found.mixed(0.02)
    kdtf.quantize(classifier, mixed)
    report = kdtf.quantization_report(classifier)
    names = {"dynamic_int8": "8 bits", "int4": "4 bits", "int2": "2 bits"}
    for kernel in report.kernels:
        scheme = mixed[kernel.path]
        if scheme is not None:
            assert kernel.note.startswith(names[scheme])


def test_table_and_picture_name_kernels_and_schemes(classifier, rng):
    found = kdtf.sensitivity(
        classifier, rng.normal(size=(8, 6)), ["int4", "int2"], verbose=0
    )
    text, picture = str(found), found.to_svg()
    for word in ("first/kernel", "second/kernel", "int4", "int2"):
        assert word in text and word in picture
    assert found._repr_html_().endswith("</svg>\n")


@pytest.mark.parametrize("names", ["int4", [], ["int4", "int4"]])
def test_schemes_are_a_list_of_different_names(classifier, names):
    with pytest.raises(ValueError, match="`schemes` must be a list"):
        kdtf.sensitivity(classifier, np.zeros((4, 6)), names)


def test_unknown_schemes_are_refused(classifier):
    with pytest.raises(ValueError, match="int3"):
        kdtf.sensitivity(classifier, np.zeros((4, 6)), ["int3"])
