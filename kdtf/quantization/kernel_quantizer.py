"""What gives a kernel's values on its scheme's grid, in training and after it.

Each quantizer belongs to one kernel. It is called with the real weights and
returns those the layer shall compute with; gradients pass straight through.
Where it remembers something (learned steps, a codebook) it does so in
variables that are saved with the model's state.
"""

from typing import Any

import keras
import numpy as np

from kdtf.transforms.deployment import KernelGrid
from kdtf.transforms.layout import layout_of
from kdtf.transforms.selection import Candidate

__all__ = ["KernelQuantizer"]


class KernelQuantizer(keras.layers.Layer):
    """Moves a kernel's weights to allowed values; subclasses say which.

    A layer for its `training` argument, which Keras hands from call to call;
    it is no part of the model.

    Args:
        kernel: The kernel.
        scheme: What values it may take.
        steps: Those of a grid that somebody else has chosen.
    """

    def __init__(
        self, kernel: Candidate, scheme: Any, *, steps: Any = None
    ) -> None:
        super().__init__(dtype="float32", autocast=False)
        self.kernel_path = kernel.path
        self.scheme = scheme
        self.layout = layout_of(kernel.layer, kernel.variable)
        self._given_steps = steps
        self.start(np.asarray(kernel.variable, "float32"))
        self.built = True

    def start(self, weights: np.ndarray) -> None:
        """Fits what is remembered to the weights; by default nothing is."""

    def call(self, weights: Any, training: Any = None) -> Any:
        """Returns the weights as the layer shall read them.

        Args:
            weights: float32, of the kernel's shape.
            training: Whether what is remembered may change.
        """
        raise NotImplementedError

    def grid(self, weights: Any) -> KernelGrid:
        """Returns the kernel's values and how a file can store them."""
        return KernelGrid(
            path=self.kernel_path,
            values=np.asarray(self(weights, training=False), "float32"),
            num_bits=self.stored_bits,
            block_size=self.block_size,
        )

    @property
    def block_size(self) -> int | None:
        """Inputs that share a stored scale; None for all of an output's."""
        return None

    @property
    def stored_bits(self) -> int | None:
        """Bits of the integers a file stores; None if there are no such."""
        return None

    @property
    def learned(self) -> Any:
        """The variable that the optimizer shall train, or None."""
        return None

    def _remember(self, name: str, value: Any, *, trainable: bool) -> Any:
        value = np.asarray(value, "float32")
        return self.add_weight(
            name=name,
            shape=value.shape,
            dtype="float32",
            initializer=keras.initializers.Constant(value),
            trainable=trainable,
            autocast=False,
            # All replicas compute the same; one of them speaks for all.
            aggregation="none" if trainable else "only_first_replica",
        )
