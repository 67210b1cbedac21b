"""One file, in which kernels are stored in different ways."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from kdtf.export.errors import ExportError
from kdtf.export.quantizer import Dynamic
from kdtf.export.quantizer import Storage
from kdtf.export.quantizer import plain_storage
from kdtf.export.quantizer import quantized
from kdtf.export.quantizer import width_notes
from kdtf.export.recovery import notes_on_missing
from kdtf.export.recovery import placed_grids
from kdtf.export.targets import MODES
from kdtf.export.weights import INTEGER_BITS
from kdtf.export.weights import Weight
from kdtf.export.weights import block_scales
from kdtf.export.weights import tensor_at
from kdtf.export.weights import weights_of
from kdtf.flatbuffer import dtype_name
from kdtf.flatbuffer import read_model
from kdtf.flavours import flavour_of
from kdtf.transforms.deployment import KernelGrid
from kdtf.transforms.selection import Rules
from kdtf.transforms.selection import candidates

__all__ = ["MIXED_MODES", "coarsest_mode", "mixed_kernels", "to_mixed"]

# Weights alone, so that any may stand beside any other; None is float32.
MIXED_MODES = (None, *(m for m in MODES if m and MODES[m].num_bits))


def coarsest_mode(
    quantize: str | Mapping[Any, str | None] | None,
) -> str | None:
    """Returns the mode whose limits a file with several has to keep.

    Args:
        quantize: Modes by matcher, as a user writes them; or the one mode.

    Raises:
        ValueError: There is none, or one keeps no float activations.

    Example:
        >>> coarsest_mode({"head/*": "int4_block32", "*": "dynamic_int8"})
        'int4_block32'
    """
    if not isinstance(quantize, Mapping):
        return quantize
    wrong = [mode for mode in quantize.values() if mode not in MIXED_MODES]
    modes = [mode for mode in quantize.values() if mode]
    if wrong or not modes:
        raise ValueError(
            "The values of `quantize={...}` must be of "
            f"{list(MIXED_MODES)}, and not all None. Received: "
            f"quantize={dict(quantize)}. Other modes are for whole files."
        )
    return min(modes, key=lambda mode: MODES[mode].min_sqnr_db)


def mixed_kernels(model: Any, quantize: Any) -> tuple[KernelGrid, ...] | None:
    """Returns each kernel of a model with what the first rule makes of it.

    Args:
        model: A model of Keras 3.
        quantize: As for `coarsest_mode`.

    Returns:
        What no rule matches, or None, with `num_bits` None; None if there is
        one mode for all.

    Raises:
        ValueError: A rule matches nothing, or the model is of `tf_keras`.
        TypeError: A matcher is of another kind.
    """
    if not isinstance(quantize, Mapping):
        return None
    if flavour_of(model) == "tf_keras":
        raise ValueError(
            "`quantize={...}` is for models of Keras 3. Received: "
            f"model={model.name!r} of tf_keras. Name one mode."
        )
    chosen = Rules(quantize, argument="quantize")
    found = [kernel for kernel in candidates(model) if kernel.is_matrix]
    chosen.check_used(found)
    kernels = []
    for kernel in found:
        mode = chosen(kernel)
        # The plain float mode has neither bits nor blocks.
        limits = MODES[mode]
        kernels.append(
            KernelGrid(
                path=kernel.path,
                values=np.asarray(kernel.variable, "float32"),
                num_bits=limits.num_bits,
                block_size=limits.block_size,
            )
        )
    return tuple(kernels)


def to_mixed(content: bytes, kernels: tuple[KernelGrid, ...]) -> Dynamic:
    """Returns the file with each kernel stored as asked for.

    Args:
        content: A float32 `.tflite` file with rewritten embeddings.
        kernels: What `mixed_kernels` gave: float values, not on a grid yet,
            with the width and block size to store them in.

    Raises:
        ExportError: The quantizer refused the file or left a weight as it
            was, or a kernel does not stand in the file.
    """
    model = read_model(content)
    weights = weights_of(model)
    placed = placed_grids(model, weights, kernels)
    asked = {w.place: Storage(num_bits=None) for w in weights}
    for place, found in placed.items():
        asked[place] = Storage(
            num_bits=found.grid.num_bits, block_size=found.grid.block_size
        )
    storages = {w.place: plain_storage(w, asked[w.place]) for w in weights}
    result = quantized(content, weights, storages)
    _check_stored(result, weights, storages)
    wanted = [kernel for kernel in kernels if kernel.num_bits is not None]
    return Dynamic(
        content=result,
        notes=(
            _summary(weights, storages),
            *width_notes(
                weights, storages, {p: s.num_bits for p, s in asked.items()}
            ),
            *notes_on_missing(model, weights, placed, wanted),
        ),
        # What is in no kernel, nobody chose to keep.
        kept_float=frozenset(
            weight.name
            for weight in weights
            if weight.place in placed
            and storages[weight.place].num_bits is None
        ),
    )


def _check_stored(
    content: bytes,
    weights: list[Weight],
    storages: dict[tuple[int, int], Storage],
) -> None:
    """Finds weights that the quantizer left out, which it does silently."""
    model = read_model(content)
    wrong = []
    for weight in weights:
        tensor = tensor_at(model, weight.place)
        blocks = block_scales(model, tensor)
        found = Storage(
            num_bits=INTEGER_BITS.get(dtype_name(tensor)),
            block_size=blocks and blocks[0],
        )
        if found != storages[weight.place]:
            wrong.append(f"{weight.name}: {_words(found)}")
    if wrong:
        raise ExportError(
            "Each weight must be stored as `quantize` says. Received: "
            f"{'; '.join(wrong[:4])}, of {len(wrong)}. Choose another mode "
            "for it."
        )


def _summary(
    weights: list[Weight], storages: dict[tuple[int, int], Storage]
) -> str:
    # Signatures share their weights.
    sizes = {weight.name: weight for weight in weights}
    counts: dict[str, int] = {}
    for weight in sizes.values():
        words = _words(storages[weight.place])
        counts[words] = counts.get(words, 0) + weight.size
    listed = ", ".join(f"{count:,} in {w}" for w, count in counts.items())
    return f"weights of several widths: {listed}"


def _words(storage: Storage) -> str:
    if storage.num_bits is None:
        return "float32"
    blocks = f" in blocks of {storage.block_size}" if storage.block_size else ""
    return f"{storage.num_bits} bits{blocks}"
