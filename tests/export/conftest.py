"""Models and data of this room; every export takes about a second."""

import contextlib

import keras
import numpy as np
import pytest

from kdtf.export import ExportError
from kdtf.export import export_tflite
from kdtf.transforms.attach import remember
from kdtf.transforms.deployment import Deployable
from kdtf.transforms.deployment import Deployment
from kdtf.transforms.deployment import KernelGrid


@pytest.fixture
def images(batch):
    return batch[0]


@pytest.fixture
def older(tmp_path):
    """A path at which a good file of an earlier export lies."""
    path = tmp_path / "model.tflite"
    path.write_bytes(b"an older, good file")
    return path


@pytest.fixture
def untouched(older):
    """Tells whether the older file, and nothing else, is there."""

    def check():
        names = [path.name for path in older.parent.iterdir()]
        assert names == ["model.tflite"]
        assert older.read_bytes() == b"an older, good file"

    return check


@pytest.fixture
def refuses(older, untouched):
    """Exports over an older file and asks for a certain refusal."""

    def check(model, message, **arguments):
        with pytest.raises(ExportError, match=message) as caught:
            export_tflite(model, older, **arguments)
        untouched()
        return caught.value

    return check


@pytest.fixture
def two_branches():
    """Inputs whose order is not the alphabet's, outputs of one shape."""
    zeta = keras.Input((3,), name="zeta")
    alpha = keras.Input((3,), name="alpha")
    outputs = {
        "yes": keras.layers.Dense(2)(zeta),
        "no": keras.layers.Dense(2)(keras.layers.add([zeta, alpha])),
    }
    return keras.Model([zeta, alpha], outputs)


@pytest.fixture
def pair(rng):
    """Values for `two_branches`, very different for the two inputs."""
    zeta = rng.normal(size=(12, 3)).astype("float32")
    return zeta, 5 + 0.1 * rng.normal(size=(12, 3)).astype("float32")


@pytest.fixture
def token_ids(rng):
    lengths = rng.integers(3, 9, size=(12, 1))
    return {
        "token_ids": rng.integers(0, 32, size=(12, 8)).astype("int32"),
        "padding_mask": (np.arange(8) < lengths).astype("int32"),
    }


@pytest.fixture
def masked_softmax():
    """Attention weights with the mask that breaks int8: minus 1e9."""
    inputs = keras.Input((4,), name="scores")
    mask = keras.Input((4,), name="mask")
    scores = keras.layers.Dense(4)(inputs)
    weights = keras.layers.Softmax()(scores - 1e9 * mask)
    return keras.Model([inputs, mask], keras.layers.Dense(3)(weights))


class HandMade(Deployable):
    """Quantized by hand: kernels get given values while they are deployed."""

    def __init__(self, deployment, values=()):
        super().__init__(name="hand_made")
        self.deployment = deployment
        self.given = values

    @contextlib.contextmanager
    def deployed(self, model):
        kept = [(kernel, kernel.numpy()) for kernel, _ in self.given]
        for kernel, values in self.given:
            kernel.assign(values)
        try:
            yield self.deployment
        finally:
            for kernel, values in kept:
                kernel.assign(values)


@pytest.fixture
def quantize_by_hand():
    """Hangs a deployment on a model; grids by kernel as `(values, bits)`."""

    def put(model, mode, grids=(), *, block_size=None, **options):
        made = [
            KernelGrid(
                path=kernel.path,
                values=np.asarray(values, "float32"),
                num_bits=bits,
                block_size=block_size,
            )
            for kernel, values, bits in grids
        ]
        deployment = Deployment(quantize=mode, grids=tuple(made), **options)
        values = [(kernel, values) for kernel, values, _ in grids]
        remember(model, HandMade(deployment, values))
        return model

    return put


@pytest.fixture
def on_grid(rng):
    """Gives random values on a grid: one scale for each index of `axes`."""

    def draw(shape, levels, *, axes=(-1,), lowest=None):
        kept = [axis % len(shape) for axis in axes]
        ends = [n if i in kept else 1 for i, n in enumerate(shape)]
        integers = rng.integers(
            -levels if lowest is None else lowest, levels + 1, size=shape
        )
        steps = rng.uniform(0.01, 0.02, size=ends).astype("float32")
        return (integers * steps).astype("float32")

    return draw
