"""Deep Compression's two networks: how they train and what they take."""

import dataclasses
import pathlib
import tempfile

import keras
import numpy as np
from distill_gain import load

import kdtf
from kdtf.quantization import Codebook
from kdtf.quantization.storage import stored_size

NUM_HELD_OUT = 5000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Net:
    """A network and how it is trained.

    Args:
        layers: Makes the layers.
        dense_epochs: Of the dense start, at a rate of 1e-3.
        epochs: Of pruning, and of codebooks after it.
        rates: Of the dense network trained on, of pruning, of codebooks.
        points: What is run: the sparsity and the codebooks' sizes.
        paper_errors: Of Deep Compression's network.
    """

    layers: object
    dense_epochs: int
    epochs: tuple[int, int]
    rates: tuple[float, float, float]
    points: tuple[str, ...]
    paper_errors: int


def lenet_300_100():
    layers = keras.layers
    return [
        layers.Flatten(),
        layers.Dense(300, activation="relu", name="hidden_1"),
        layers.Dense(100, activation="relu", name="hidden_2"),
        layers.Dense(10, name="logits"),
    ]


def lenet_5():
    layers = keras.layers
    return [
        layers.Conv2D(20, 5, activation="relu", name="conv_1"),
        layers.MaxPooling2D(),
        layers.Conv2D(50, 5, activation="relu", name="conv_2"),
        layers.MaxPooling2D(),
        layers.Flatten(),
        layers.Dense(500, activation="relu", name="hidden"),
        layers.Dense(10, name="logits"),
    ]


NETS = {
    "LeNet-300-100": Net(
        layers=lenet_300_100,
        dense_epochs=8,
        epochs=(12, 5),
        rates=(3e-3, 3e-3, 1e-3),
        points=("0.95/8", "0.93/8/teacher", "0.95/8/teacher"),
        paper_errors=158,
    ),
    "LeNet-5": Net(
        layers=lenet_5,
        dense_epochs=4,
        epochs=(5, 3),
        rates=(1e-3, 2e-3, 1e-3),
        points=("0.93/16,8,8,16", "0.97/16,8,8,16"),
        paper_errors=74,
    ),
}


def load_parts(folder, *, held_out):
    """Returns what to train on and what to count errors on."""
    train, test = load(folder).values()
    if held_out:
        test = tuple(array[-NUM_HELD_OUT:] for array in train)
        train = tuple(array[:-NUM_HELD_OUT] for array in train)
    return train, test


def make_model(net):
    return keras.Sequential([keras.Input((28, 28, 1)), *net.layers()])


def kernels_of(model):
    return [w for w in model.weights if w.name == "kernel"]


def fit(model, data, *, epochs, rate, teacher=None):
    """Trains a network, from a teacher if there is one."""
    steps = epochs * int(data.cardinality())
    decay = keras.optimizers.schedules.CosineDecay(rate, steps)
    if teacher is not None:
        model = kdtf.Distiller(teacher, model, alpha=0.1, temperature=4.0)
    model.compile(
        keras.optimizers.Adam(decay),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        steps_per_execution=39,
    )
    model.fit(data, epochs=epochs, shuffle=False, verbose=0)


def count_errors(model, test):
    logits = model.predict(test[0], batch_size=1000, verbose=0)
    return int((logits.argmax(-1) != test[1]).sum())


def smallest(values):
    """Returns a kernel's smallest `StoredSize`.

    Tried are differences of 3 to 8 bits, and weights in Keras's order or with
    the outputs first, as in Caffe, which Deep Compression used.
    """
    codebook = np.unique(values)
    sizes = [
        stored_size(ordered, codebook, difference_bits=bits)
        for ordered in (values, np.moveaxis(values, (-1, -2), (0, 1)))
        for bits in range(3, 9)
    ]
    return min(sizes, key=lambda size: size.size_bytes)


def sizes_of(model):
    """Returns the bytes of all kernels by form, with float32 biases."""
    sizes = [smallest(np.asarray(kernel)) for kernel in kernels_of(model)]
    num_weights = sum(size.num_weights for size in sizes)
    biases = 4 * (model.count_params() - num_weights)
    totals = {
        form: biases + sum(size.sizes[form] for size in sizes)
        for form in ("fixed", "huffman", "sparse", "sparse_huffman")
    }
    return {
        **totals,
        # A byte for each kernel says its form, order and bits of differences.
        "best": biases + sum(size.size_bytes + 1 for size in sizes),
        "entropy": biases + sum(size.entropy_bytes for size in sizes),
        "left": sum(size.num_nonzero for size in sizes) / num_weights,
        "layers": [
            (size.num_nonzero / size.num_weights, size.size_bytes)
            for size in sizes
        ],
    }


def file_sizes(model):
    """Returns the bytes of the `.tflite` file, and of it gzipped."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "model.tflite"
        result = kdtf.export_tflite(model, path)
    return result.size_bytes, result.gzip_size_bytes


def codebooks(model, entries):
    """Returns rules from "8", or one size for each kernel: "16,8,8,16"."""
    names = [layer.name for layer in model.layers if layer.weights]
    sizes = [int(size) for size in entries.split(",")]
    sizes = sizes * len(names) if len(sizes) == 1 else sizes
    return {
        f"{name}/*": Codebook(num_entries=size)
        for name, size in zip(names, sizes, strict=True)
    }
