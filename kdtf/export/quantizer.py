"""ai-edge-quantizer, behind one function."""

import dataclasses
import re
from collections.abc import Iterable
from typing import Any

from kdtf.export.errors import ExportError
from kdtf.export.grids import Placed
from kdtf.export.quiet import quiet
from kdtf.export.recovery import keep_grids
from kdtf.export.recovery import notes_on_missing
from kdtf.export.recovery import placed_grids
from kdtf.export.unfolding import unfold_blocks
from kdtf.export.weights import Weight
from kdtf.export.weights import weights_of
from kdtf.flatbuffer import read_model
from kdtf.transforms.deployment import KernelGrid

# What ai-edge-quantizer's policy has and LiteRT runs, for float activations.
# Blocks of 2 bits it writes, and LiteRT refuses to load.
BLOCK_SIZES = (32, 64, 128, 256)
_BLOCK_OPERATORS = {"EMBEDDING_LOOKUP", "FULLY_CONNECTED"}
_WIDTHS = {
    "CONV_2D": (2, 4, 8),
    "EMBEDDING_LOOKUP": (2, 4, 8),
    "FULLY_CONNECTED": (2, 4, 8),
}
_OTHER_WIDTHS = (8,)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Storage:
    """How one weight is stored.

    Args:
        num_bits: Of each integer; None for float32.
        block_size: Weights along a row that share one scale; None for one
            scale for each output.
    """

    num_bits: int | None
    block_size: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dynamic:
    """A file with integer weights and float activations.

    Args:
        content: Its bytes.
        notes: What came out other than asked.
        kept_float: Names of weights that stay float on purpose.
    """

    content: bytes
    notes: tuple[str, ...] = ()
    kept_float: frozenset[str] = frozenset()


def to_dynamic(
    content: bytes,
    *,
    num_bits: int = 8,
    block_size: int | None = None,
    grids: Iterable[KernelGrid] = (),
) -> Dynamic:
    """Returns the file with integer weights.

    Activations stay float in the file; the runtime quantizes them to int8 on
    the fly. A weight on one of `grids` keeps its values exactly, in the
    grid's width. Operators without the width asked for get the next wider
    one, rows that the block size does not divide one scale each.

    Args:
        content: A float32 `.tflite` file with rewritten embeddings.
        num_bits: Of weights on no grid: 8, 4 or 2.
        block_size: Of weights on no grid: how many share a scale. Defaults to
            one scale for each output.
        grids: What the model holds on grids.

    Raises:
        ExportError: The quantizer refused the file, or a grid cannot be
            stored as it is.
    """
    model = read_model(content)
    weights = weights_of(model)
    grids = tuple(grids)
    placed = placed_grids(model, weights, grids)
    unfolded = unfold_blocks(model, weights, placed)
    if unfolded is not None:
        return to_dynamic(
            unfolded, num_bits=num_bits, block_size=block_size, grids=grids
        )
    plain = Storage(num_bits=num_bits, block_size=block_size)
    storages: dict[tuple[int, int], Storage] = {}
    asked: dict[tuple[int, int], int | None] = {}
    for weight in weights:
        found = placed.get(weight.place)
        if found is None:
            storages[weight.place] = plain_storage(weight, plain)
            asked[weight.place] = num_bits
        else:
            storages[weight.place] = _grid_storage(weight, found)
            asked[weight.place] = found.grid.num_bits
    result = quantized(content, weights, storages)
    result = keep_grids(result, model, weights, placed)
    missing = notes_on_missing(model, weights, placed, grids)
    return Dynamic(
        content=result,
        notes=(*width_notes(weights, storages, asked), *missing),
        kept_float=frozenset(
            weight.name
            for weight in weights
            if storages[weight.place].num_bits is None
        ),
    )


def plain_storage(weight: Weight, asked: Storage) -> Storage:
    """Returns what comes nearest to what was asked that LiteRT has.

    The next wider integers; one scale for each output where the block size
    does not divide the inputs.
    """
    if asked.num_bits is None:
        return asked
    bits = _width(weight, asked.num_bits)
    blocks = asked.block_size
    if bits != asked.num_bits or not _takes_blocks(weight, blocks):
        blocks = None
    return Storage(num_bits=bits, block_size=blocks)


def _grid_storage(weight: Weight, placed: Placed) -> Storage:
    grid = placed.grid
    if grid.num_bits is None:
        return Storage(num_bits=None)
    if grid.block_size is None:
        return Storage(num_bits=_width(weight, grid.num_bits))
    if grid.num_bits != 4 or grid.block_size not in BLOCK_SIZES:
        raise ExportError(
            "LiteRT has one scale per block for 4 bits and blocks of "
            f"{list(BLOCK_SIZES)} only. Received: {grid.path!r} with "
            f"{grid.num_bits} bits in blocks of {grid.block_size}. Quantize "
            "it so, or with one scale for each output."
        )
    if not _takes_blocks(weight, grid.block_size):
        operators = sorted({name for name, _ in weight.readers})
        raise ExportError(
            "Blocks of scales need dense layers or embeddings whose inputs "
            f"the block size divides. Received: {grid.path!r} in blocks of "
            f"{grid.block_size}, stored as {weight.shape} and read by "
            f"{operators}. Give it one scale for each output."
        )
    return Storage(num_bits=4, block_size=grid.block_size)


def _width(weight: Weight, num_bits: int) -> int:
    """Gives the least width, from `num_bits` up, that all readers have."""
    widths = [
        {
            width
            for width in _WIDTHS.get(name, _OTHER_WIDTHS)
            # LiteRT looks for each row of a table at the start of a byte.
            if name != "EMBEDDING_LOOKUP" or weight.shape[1] * width % 8 == 0
        }
        for name, _ in weight.readers
    ]
    return min(w for w in set.intersection(*widths) if w >= num_bits)


def _takes_blocks(weight: Weight, block_size: int | None) -> bool:
    names = {name for name, _ in weight.readers}
    return (
        block_size is not None
        and names <= _BLOCK_OPERATORS
        and weight.shape[1] % block_size == 0
    )


def quantized(
    content: bytes,
    weights: list[Weight],
    storages: dict[tuple[int, int], Storage],
) -> bytes:
    """Lets ai-edge-quantizer store each weight, by minimum and maximum.

    Args:
        content: A float32 file.
        weights: Its weights.
        storages: How to store each, by place.

    Raises:
        ExportError: The quantizer refused the file.
    """
    from ai_edge_quantizer import Quantizer

    recipe = _recipe(weights, storages)
    if not recipe:
        return content
    with quiet():
        quantizer = Quantizer(bytearray(content))
        quantizer.load_quantization_recipe(recipe)
        try:
            result = quantizer.quantize(
                enable_progress_bar=False, enable_progress_report=False
            )
        # Its algorithms raise whatever NumPy raises.
        except Exception as error:
            raise ExportError(
                "ai-edge-quantizer must be able to quantize the file. "
                f"Received: {type(error).__name__}: {error}. Try "
                "`quantize='float16'`."
            ) from error
    return bytes(result.quantized_model)


def _recipe(
    weights: list[Weight], storages: dict[tuple[int, int], Storage]
) -> Any:
    """Names every operator: what a pattern does not reach stays float.

    The quantizer leaves settings outside its policy out without a word when
    they are for all operators, and refuses them when they are for one.
    """
    from ai_edge_quantizer import qtyping
    from ai_edge_quantizer import recipe_manager

    manager = recipe_manager.RecipeManager()
    names = {"TRANSPOSE_CONV": "CONV_2D_TRANSPOSE"}
    for weight in weights:
        storage = storages[weight.place]
        if storage.num_bits is None:
            continue
        granularity = (
            f"BLOCKWISE_{storage.block_size}"
            if storage.block_size
            else "CHANNELWISE"
        )
        for name, scope in weight.readers:
            manager.add_dynamic_config(
                f"^{re.escape(scope)}$",
                qtyping.TFLOperationName[names.get(name, name)],
                storage.num_bits,
                granularity=qtyping.QuantGranularity[granularity],
            )
    return manager.get_quantization_recipe()


def width_notes(
    weights: list[Weight],
    storages: dict[tuple[int, int], Storage],
    asked: dict[tuple[int, int], int | None],
) -> list[str]:
    """Returns which weights are stored in more bits than was asked for.

    Args:
        weights: Of the file.
        storages: How each is stored, by place.
        asked: The bits asked for, by place; None for float32.
    """
    counts: dict[tuple[str, int, int], int] = {}
    for weight in weights:
        bits = asked[weight.place]
        stored = storages[weight.place].num_bits
        if bits is None or stored is None or stored == bits:
            continue
        key = ("/".join(sorted({n for n, _ in weight.readers})), bits, stored)
        counts[key] = counts.get(key, 0) + weight.size
    return [
        f"{count} weights of {name} are stored in {stored} bits, not {bits}: "
        "LiteRT has no such form of it"
        for (name, bits, stored), count in sorted(counts.items())
    ]
