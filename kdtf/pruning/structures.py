"""The structures by name: single weights, units, blocks, N of every M."""

import dataclasses
import re
from typing import Any
from typing import ClassVar

from keras import ops

from kdtf.pruning.blocks import NM
from kdtf.pruning.blocks import Block
from kdtf.pruning.structure import Structure
from kdtf.transforms.layout import Layout

__all__ = [
    "NM",
    "STRUCTURES",
    "Block",
    "PerOutput",
    "Structure",
    "Units",
    "Unstructured",
    "get",
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unstructured(Structure):
    """Single weights, compared within a kernel.

    Example:
        >>> import numpy as np
        >>> layout = Layout(shape=(2, 2), contraction=(0,), output=(1,))
        >>> scores = np.array([[4.0, 3.0], [1.0, 2.0]], "float32")
        >>> np.asarray(Unstructured().mask(scores, layout, 0.5)).tolist()
        [[True, True], [False, False]]
    """

    def pool(self, scores: Any, layout: Layout) -> Any:
        """Returns the scores in one group."""
        del layout
        return ops.reshape(scores, (1, -1))

    def spread(self, kept: Any, layout: Layout) -> Any:
        """Returns the decisions in the kernel's shape."""
        return ops.reshape(kept, layout.shape)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PerOutput(Structure):
    """Single weights, compared within what one output unit sums over.

    Every output loses the same share of its inputs.

    Example:
        >>> import numpy as np
        >>> layout = Layout(shape=(2, 2), contraction=(0,), output=(1,))
        >>> scores = np.array([[4.0, 1.0], [3.0, 2.0]], "float32")
        >>> np.asarray(PerOutput().mask(scores, layout, 0.5)).tolist()
        [[True, False], [False, True]]

    Reference:
        Sun et al. 2023 (Wanda), https://arxiv.org/abs/2306.11695 (section 3)
    """

    def pool(self, scores: Any, layout: Layout) -> Any:
        """Returns `(outputs, inputs)`."""
        return ops.transpose(layout.to_matrix(scores))

    def spread(self, kept: Any, layout: Layout) -> Any:
        """Returns the decisions in the kernel's shape."""
        return layout.from_matrix(ops.transpose(kept))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Units(Structure):
    """All weights of an output unit (neuron, filter, head entry) at once.

    A unit's score is the mean of its weights' scores; of equal ones the first
    stay, because counts of silent activations are often equal. The weights of
    a unit become 0; its bias stays, and the layer keeps its size.

    Example:
        >>> import numpy as np
        >>> layout = Layout(shape=(2, 2), contraction=(0,), output=(1,))
        >>> scores = np.array([[4.0, 1.0], [3.0, 2.0]], "float32")
        >>> np.asarray(Units().mask(scores, layout, 0.5)).tolist()
        [[True, False], [True, False]]

    Reference:
        Li et al. 2017, https://arxiv.org/abs/1608.08710 (section 3.1)
    """

    is_exact: ClassVar[bool] = True

    def check(self, layout: Layout, path: str) -> None:
        """Refuses a kernel with a single output.

        Raises:
            ValueError: There is nothing to choose from.
        """
        if layout.num_outputs < 2:
            raise ValueError(
                "`structure='units'` needs kernels with two outputs or more. "
                f"Received: {path!r} of shape {layout.shape}. Leave it out "
                "with `select`."
            )

    def pool(self, scores: Any, layout: Layout) -> Any:
        """Returns the mean score of each unit, in one group."""
        return ops.mean(layout.to_matrix(scores), axis=0, keepdims=True)

    def spread(self, kept: Any, layout: Layout) -> Any:
        """Returns each unit's decision for all of its weights."""
        shape = (layout.num_inputs, layout.num_outputs)
        return layout.from_matrix(ops.broadcast_to(kept, shape))


# LiteRT's sparse kernels read blocks along the inputs of FULLY_CONNECTED: 4
# float weights or 16 int8 ones. A block of 16 zeros is four blocks of 4, too.
STRUCTURES: dict[str, Structure] = {
    "unstructured": Unstructured(),
    "per_output": PerOutput(),
    "units": Units(),
    "litert": Block(shape=(4, 1)),
    "litert_int8": Block(shape=(16, 1)),
}


def get(structure: Any) -> Structure:
    """Returns the structure for a name, a block, `"N:M"` or a structure.

    Args:
        structure: A key of `STRUCTURES`, a pair (along inputs, along
            outputs), a text like "2:4", or a `Structure`.

    Raises:
        TypeError: It is nothing of the kind.
        ValueError: The name is unknown, or the numbers are wrong.

    Example:
        >>> get("2:4"), get((4, 1))
        (NM(n=2, m=4), Block(shape=(4, 1)))
    """
    if isinstance(structure, Structure):
        return structure
    if isinstance(structure, tuple | list):
        return Block(shape=tuple(structure))
    if not isinstance(structure, str):
        raise TypeError(
            "`structure` must be a name, 'N:M', a pair or a `Structure`. "
            f"Received: {structure!r} of type {type(structure).__name__}."
        )
    numbers = re.fullmatch(r"(\d+):(\d+)", structure)
    if numbers:
        return NM(n=int(numbers[1]), m=int(numbers[2]))
    if structure not in STRUCTURES:
        raise ValueError(
            f"`structure` must be one of {sorted(STRUCTURES)}, 'N:M' such as "
            "'2:4', or a block such as (4, 1). Received: "
            f"structure={structure!r}."
        )
    return STRUCTURES[structure]
