"""How a model says in which form it wants to be exported."""

import contextlib

import keras
import numpy as np
import pytest

import kdtf
from kdtf.transforms.attach import remember
from kdtf.transforms.deployment import Deployable
from kdtf.transforms.deployment import Deployment
from kdtf.transforms.deployment import KernelGrid
from kdtf.transforms.deployment import deployed


class Doubled(Deployable):
    """Holds a kernel at twice its value."""

    def __init__(self, quantize="int4", *, note="", per_tensor=False):
        super().__init__(name="doubled")
        self.answer = (quantize, note, per_tensor)

    @contextlib.contextmanager
    def deployed(self, model):
        quantize, note, per_tensor = self.answer
        kernel = model.layers[-1].kernel
        before = np.array(kernel)
        kernel.assign(2 * before)
        grid = KernelGrid(path=model.name, values=2 * before, num_bits=4)
        try:
            yield Deployment(
                quantize=quantize,
                grids=(grid,),
                notes=(note,),
                dense_per_tensor=per_tensor,
            )
        finally:
            kernel.assign(before)


def net(name):
    layers = [keras.Input((4,)), keras.layers.Dense(4)]
    return keras.Sequential(layers, name=name)


def pair(first, second):
    one, two = net("one"), net("two")
    remember(one, first)
    remember(two, second)
    model = keras.Sequential([one, two])
    model.build((None, 4))
    return model


def test_a_plain_model_does_not_care():
    with deployed(net("plain")) as found:
        assert found is None


def test_a_pruned_model_does_not_care():
    with deployed(kdtf.prune(net("pruned"), 0.5)) as found:
        assert found is None


def test_the_form_holds_in_the_block_only():
    model = net("one")
    remember(model, Doubled())
    before = model.get_weights()[0]
    with deployed(model) as found:
        np.testing.assert_array_equal(model.get_weights()[0], 2 * before)
        assert found.quantize == "int4"
        np.testing.assert_array_equal(found.grids[0].values, 2 * before)
    np.testing.assert_array_equal(model.get_weights()[0], before)


def test_it_ends_with_an_error_too():
    model = net("one")
    remember(model, Doubled())
    before = model.get_weights()[0]
    with pytest.raises(KeyError, match="stop"), deployed(model):
        raise KeyError("stop")
    np.testing.assert_array_equal(model.get_weights()[0], before)


def test_parts_for_the_same_mode_are_merged():
    model = pair(Doubled(note="a"), Doubled(note="b"))
    with deployed(model) as found:
        assert [grid.path for grid in found.grids] == ["one", "two"]
        assert found.notes == ("a", "b")
        assert (found.quantize, found.dense_per_tensor) == ("int4", False)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (Doubled(None), "None.*int4"),
        (Doubled("int8"), "int4.*int8"),
        (Doubled("int4", per_tensor=True), "same mode"),
    ],
    ids=["float", "int8", "per_tensor"],
)
def test_parts_for_different_modes_are_refused_and_put_back(other, said):
    model = pair(Doubled(), other)
    before = model.get_weights()
    with pytest.raises(ValueError, match=said), deployed(model):
        pass
    for a, b in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_models_quantized_one_by_one_are_one():
    one, two = net("one"), net("two")
    model = keras.Sequential([one, two])
    model.build((None, 4))
    kdtf.quantize_aware(one, "int4")
    kdtf.quantize_aware(two, "int4")
    x = np.ones((1, 4), "float32")
    before, kernels = model(x), [w.copy() for w in model.get_weights()]
    with deployed(model) as found:
        assert found.quantize == "int4" and len(found.grids) == 2
        for layer, grid in zip((one, two), found.grids, strict=True):
            np.testing.assert_array_equal(layer.get_weights()[0], grid.values)
            assert (grid.num_bits, grid.block_size) == (4, None)
        # Read as they are: on no other grid than their own.
        np.testing.assert_allclose(model(x), before, rtol=1e-6)
    for a, b in zip(model.get_weights(), kernels, strict=True):
        np.testing.assert_array_equal(a, b)


def test_ranges_must_be_known():
    model = kdtf.quantize_aware(net("one"), "int8")
    before = model.get_weights()[0]
    with pytest.raises(ValueError, match="none yet for.*output"):
        with deployed(model):
            pass
    np.testing.assert_array_equal(model.get_weights()[0], before)
    model.compile("sgd", "mse")
    model.fit(np.ones((4, 4)), np.ones((4, 4)), verbose=0)
    with deployed(model) as found:
        assert found.quantize == "int8" and not found.dense_per_tensor


def test_int8_iot_has_one_scale_for_each_dense_kernel():
    model = net("one")
    x = np.ones((4, 4), "float32")
    kdtf.quantize(model, "int8_iot", x)
    with deployed(model) as found:
        assert found.dense_per_tensor
        step = np.abs(found.grids[0].values).max() / 127
        integers = found.grids[0].values / step
        np.testing.assert_allclose(integers, np.round(integers), atol=1e-4)


def test_notes_name_what_no_integers_store():
    model = kdtf.quantize_aware(net("one"), "codebook")
    with deployed(model) as found:
        assert found.quantize is None
        assert "1 kernels hold values" in found.notes[0]
