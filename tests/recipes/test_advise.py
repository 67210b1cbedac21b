"""`kdtf.advise`: what was measured, what follows from it, and the order."""

import dataclasses

import keras
import numpy as np
import pytest

from kdtf.recipes.advice import advise
from kdtf.recipes.advice import advising
from kdtf.recipes.advice.roofline import Bound
from kdtf.recipes.advice.roofline import Roofline
from kdtf.recipes.compression.budget import Budget
from kdtf.recipes.compression.candidate import Candidate
from kdtf.recipes.compression.ways import Kind

CNN = Kind(
    target="android",
    is_static=True,
    has_tables=False,
    has_rows=False,
    has_graph=True,
)
BOUND = Bound(compute=3.0, memory=1.0, overhead=0.5, measured=4.0)


def made(name, size=100.0, latency=10.0, loss=0.0):
    return Candidate(
        name=name,
        stage="post-training",
        settings={},
        status="complete",
        size_bytes=size,
        latency_ms=latency,
        quality_loss=loss,
    )


def dearer(kind=CNN, bound=BOUND, int8=None, **limits):
    found = advising._dearer(
        kind,
        Budget(**limits),
        made("original", size=400.0),
        [int8 or made("int8")],
        bound,
        "the stem is worst",
    )
    return {one.technique.split()[0]: one for one in found}


def test_bound_by_the_longest():
    assert BOUND.by == "compute"
    assert dataclasses.replace(BOUND, overhead=5.0).by == "overhead"
    assert "bound by its multiply-accumulates" in str(BOUND)


def test_bound_by_hand(tmp_path):
    from kdtf.export import export_tflite

    dense = keras.layers.Dense(8, use_bias=False)
    model = keras.Sequential([keras.Input((16,)), dense])
    path = tmp_path / "dense.tflite"
    export_tflite(model, path, target="float")
    roofline = Roofline(
        macs_per_ms=64.0,
        bytes_per_ms=float(path.stat().st_size),
        ms_per_operator=0.25,
    )
    found = roofline.bound(path, 3.0)
    # 16 * 8 multiply-accumulates, the whole file once, one operator.
    assert found == Bound(compute=2.0, memory=1.0, overhead=0.25, measured=3.0)


def test_training_pays_where_quality_is_lost():
    lossy = dearer(int8=made("int8", loss=0.05), max_quality_loss=0.01)
    assert lossy["quantization-aware"].fits is None
    assert "the stem is worst" in lossy["quantization-aware"].reason
    assert dearer(max_quality_loss=0.01)["quantization-aware"].fits is False
    # The file would be as large as it is.
    large = dearer(int8=made("int8", loss=0.05), max_size=50)
    assert large["quantization-aware"].fits is False


def test_training_is_for_the_fewest_bits_that_have_a_file():
    transformer = dataclasses.replace(
        CNN, is_static=False, has_tables=True, has_graph=False
    )
    # There is none of int2 before it is trained for.
    assert transformer.trained_schemes[-1] == "int2"
    lossy = made("int4", loss=0.1)
    found = dearer(transformer, int8=lossy, max_quality_loss=0.01)
    assert '"int4"' in found["quantization-aware"].how


def test_zeros_pay_in_dense_layers_on_phones_only():
    dense = dataclasses.replace(CNN, has_rows=True)
    assert dearer(max_size=50)["pruning"].fits is False
    assert dearer(kind=dense, max_size=50)["pruning"].fits is None
    micro = dataclasses.replace(dense, target="iot")
    int8 = made("int8")
    assert dearer(kind=micro, int8=int8, max_size=50)["pruning"].fits is False


def test_what_may_stay_by_hand():
    half = dearer(max_size=50)["shrinking"]
    assert half.fits is None
    assert half.how == 'kdtf.shrink(model, 0.50, "parameters")'
    assert (half.size_bytes, half.latency_ms) == (50.0, 5.0)
    fast = dearer(max_size=50, max_latency_ms=4.0)["shrinking"]
    assert fast.how == 'kdtf.shrink(model, 0.40, "macs")'
    assert dearer(max_size=200)["shrinking"].fits is False
    tiny = dearer(max_size=5)
    assert tiny["shrinking"].fits is False
    assert tiny["a"].fits is None


def test_narrower_layers_do_not_help_against_overhead():
    bound = dataclasses.replace(BOUND, overhead=9.0)
    found = dearer(bound=bound, max_latency_ms=5.0)["shrinking"]
    assert "fewer layers help" in found.reason


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(48, 32)).astype("float32")
    return x, (x[:, 0] > 0).astype("int32")


@pytest.fixture(scope="module")
def model():
    layers = [keras.layers.Dense(64, "relu"), keras.layers.Dense(2)]
    found = keras.Sequential([keras.Input((32,)), *layers])
    found.compile(
        "adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    return found


@pytest.mark.slow
def test_what_fits_comes_first_and_the_cheaper_first(model, data, monkeypatch):
    # The doctest measures it.
    rates = Roofline(macs_per_ms=1e6, bytes_per_ms=1e7, ms_per_operator=1e-4)
    monkeypatch.setattr(Roofline, "measure", lambda: rates)
    before = model.get_weights()
    advice = advise(model, data, max_size="6kB", verbose=0)
    order = [(one.fits, one.effort) for one in advice.suggestions]
    ranks = {True: 0, None: 1, False: 2}
    assert order == sorted(order, key=lambda one: (ranks[one[0]], one[1]))
    assert advice.best.fits is True
    assert advice.best.size_bytes <= 6_000
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    text = str(advice)
    assert "For android, at most 6 kB. As it is:" in text
    assert 'kdtf.export_tflite(model, path, quantize="int8")' in text


def test_bad_arguments_are_refused(model, data):
    with pytest.raises(ValueError, match="A budget needs a limit"):
        advise(model, data)
    with pytest.raises(ValueError, match="`target` must be one of"):
        advise(model, data, target="cloud", max_size=1)
    with pytest.raises(TypeError, match=r"`keras\.Model` of Keras 3"):
        advise("model.keras", data, max_size=1)
