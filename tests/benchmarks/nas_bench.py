"""The networks of NAS-Bench-201, as Keras models, and what they cost.

A cell is six operations, each of none, skip, 1x1 and 3x3 convolution and
average pooling, on the edges 0-1, 0-2, 1-2, 0-3, 1-3 and 2-3 of four nodes:
the order of the table's `arch`. 150 of the table's 15,625 rows have one
convolution more or less than their cell.

Dong and Yang 2020, https://arxiv.org/abs/2001.00326
"""

import dataclasses

import keras
import numpy as np

NONE, SKIP, CONV1, CONV3, POOL = range(5)
EDGES = (0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3)
PATHS = (3,), (0, 4), (1, 5), (0, 2, 5)
CHANNELS = 16, 32, 64
SIDE = 32
NUM_CLASSES = 10


@dataclasses.dataclass(frozen=True)
class Builder:
    """Builds a cell's network; `normalize=False` is without batch norm."""

    cells: int
    normalize: bool = True

    def __call__(self, cell):
        """Returns a model of the logits and of what each ReLU gave."""
        relus: list = []
        image = keras.Input((SIDE, SIDE, 3))
        x = self._convolved(image, CHANNELS[0], 3)
        for stage, channels in enumerate(CHANNELS):
            if stage:
                x = self._reduced(x, channels, relus)
            for _ in range(self.cells):
                x = self._cell(x, cell, relus)
        x = _relu(self._normalized(x), relus)
        x = keras.layers.GlobalAveragePooling2D()(x)
        logits = keras.layers.Dense(NUM_CLASSES, name="logits")(x)
        return keras.Model(image, [logits, *relus])

    def _normalized(self, x):
        return keras.layers.BatchNormalization()(x) if self.normalize else x

    def _convolved(self, x, channels, side, strides=1):
        x = keras.layers.Conv2D(
            channels, side, strides, padding="same", use_bias=False
        )(x)
        return self._normalized(x)

    def _reduced(self, x, channels, relus):
        main = self._convolved(_relu(x, relus), channels, 3, strides=2)
        main = self._convolved(_relu(main, relus), channels, 3)
        short = keras.layers.AveragePooling2D(2)(x)
        short = keras.layers.Conv2D(channels, 1, use_bias=False)(short)
        return main + short

    def _cell(self, x, cell, relus):
        nodes = [x]
        for node in range(1, 4):
            incoming = [
                self._edge(nodes[start], operation, relus)
                for (start, end), operation in zip(EDGES, cell, strict=True)
                if end == node
            ]
            nodes.append(sum(incoming[1:], start=incoming[0]))
        return nodes[-1]

    def _edge(self, x, operation, relus):
        if operation == NONE:
            return keras.ops.zeros_like(x)
        if operation == SKIP:
            return x
        if operation == POOL:
            return keras.layers.AveragePooling2D(3, 1, padding="same")(x)
        side = 1 if operation == CONV1 else 3
        return self._convolved(_relu(x, relus), x.shape[-1], side)


def _relu(x, relus):
    x = keras.layers.ReLU()(x)
    relus.append(x)
    return x


def live_edges(cells):
    """Returns whether each edge is on a path, shape `(cells, 6)`."""
    connected = cells != NONE
    live = np.zeros(cells.shape, bool)
    for path in PATHS:
        whole = connected[:, path].all(1)
        live[:, path] |= whole[:, None]
    return live


def count_parameters(cells, num_cells):
    """Returns the weights that are trained, for 10 classes."""
    total = np.full(len(cells), 0)
    for channels in CHANNELS:
        for operation, side in (CONV1, 1), (CONV3, 3):
            each = side**2 * channels**2 + 2 * channels
            total += num_cells * each * (cells == operation).sum(1)
    first, last = CHANNELS[0], CHANNELS[-1]
    total += 27 * first + 2 * first + 2 * last + (last + 1) * NUM_CLASSES
    for before, after in zip(CHANNELS, CHANNELS[1:], strict=False):
        total += 10 * before * after + 9 * after**2 + 4 * after
    return total


def count_macs(operations, num_cells):
    """Returns the cells' multiply-accumulates; the rest is a constant."""
    return sum(
        num_cells
        * (SIDE >> stage) ** 2
        * channels**2
        * (9 * (operations == CONV3).sum(1) + (operations == CONV1).sum(1))
        for stage, channels in enumerate(CHANNELS)
    )
