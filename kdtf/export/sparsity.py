"""Stores block-sparse weights of FULLY_CONNECTED in TFLite's sparse form.

The converter has a flag for this, but it also encodes what LiteRT has no
sparse kernel for (it unpacks that at load time, through DENSIFY), and what its
kernels are slow at. Here a weight is encoded only if the kernel reads it as it
is; everything else stays dense.
"""

import collections
import copy
import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from kdtf.export.errors import ExportError
from kdtf.flatbuffer import buffer_size
from kdtf.flatbuffer import dtype_name
from kdtf.flatbuffer import operator_name
from kdtf.flatbuffer import read_model
from kdtf.flatbuffer import write_model
from kdtf.sparse_tensors import BlockSparse
from kdtf.sparse_tensors import encode_blocks
from kdtf.sparse_tensors import to_sparsity

# The blocks LiteRT has kernels for, along the inputs, by the weight's type.
BLOCKS = {"FLOAT32": 4, "INT8": 16}
# What pruning calls them.
_STRUCTURES = {4: "litert", 16: "litert_int8"}
# XNNPACK, LiteRT's default delegate, leaves exactly this version of the
# operator to LiteRT's own kernels; any other it takes, and reads the stored
# blocks as if they were a dense matrix.
_VERSION = 8
# Below it the file shrinks little, and the sparse kernel took 1.7 times as long
# as the dense one in float, 6 times in int8 (1024 to 4096, one row, x86-64).
_MIN_ZERO_SHARE = 0.5
# What the tables of the schema around one sparse tensor take, about.
_TABLE_BYTES = 256
_SPARSE_OPERATOR = "FULLY_CONNECTED"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SparseTensor:
    """A weight that the file stores sparse.

    Attributes:
        name: The tensor's name in the file.
        shape: `(outputs, inputs)`.
        block: Neighbours along the inputs that are stored together.
        zero_share: The fraction of blocks that are zero, in [0, 1].
        dense_bytes: What it took before.
        sparse_bytes: What its values and their index take.
    """

    name: str
    shape: tuple[int, int]
    block: int
    zero_share: float
    dense_bytes: int
    sparse_bytes: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class SparseFile:
    """A file with sparse weights.

    Attributes:
        content: Its bytes.
        tensors: The weights stored sparse.
        left_dense: Why other weights of FULLY_CONNECTED stayed dense, and
            how many for each reason.
    """

    content: bytes
    tensors: tuple[SparseTensor, ...]
    left_dense: dict[str, int]


@dataclasses.dataclass(frozen=True)
class _Use:
    """One place at which an operator reads a tensor."""

    subgraph: Any
    operator: Any
    name: str
    position: int

    @property
    def is_weight(self) -> bool:
        return self.name == _SPARSE_OPERATOR and self.position == 1

    @property
    def num_rows(self) -> int:
        shape = self.subgraph.tensors[self.operator.outputs[0]].shape
        return int(np.prod(shape[:-1]))

    @property
    def tensor(self) -> Any:
        return self.subgraph.tensors[self.operator.inputs[self.position]]

    @property
    def input_dtype(self) -> str:
        return dtype_name(self.subgraph.tensors[self.operator.inputs[0]])


def store_sparse(content: bytes) -> SparseFile:
    """Returns the file with its block-sparse weights stored sparse.

    Args:
        content: A float32 or an int8 `.tflite` file; dynamic int8 ones are
            not for it: LiteRT computes them wrong.

    Raises:
        ExportError: No weight qualifies; the message counts the reasons.
    """
    model = read_model(content)
    tensors = []
    reasons: collections.Counter[str] = collections.Counter()
    for uses in _uses_by_buffer(model).values():
        if not any(use.is_weight for use in uses):
            continue
        reason = _obstacle(model, uses)
        if reason is None:
            matrix = _matrix(model, uses[0].tensor)
            encoded = encode_blocks(matrix, _block(uses[0].tensor))
            reason = _loss(encoded, matrix)
        if reason is None:
            _store(model, uses, encoded)
            tensors.append(_description(uses[0].tensor, encoded, matrix))
        else:
            reasons[reason] += 1
    if not tensors:
        raise _nothing_to_store(reasons)
    return SparseFile(
        content=write_model(model),
        tensors=tuple(tensors),
        left_dense=dict(reasons),
    )


def counted_reasons(reasons: dict[str, int]) -> list[str]:
    """Returns each reason with the number of weights it holds for.

    Example:
        >>> counted_reasons({"many rows: 64": 1, "too small to gain": 2})
        ['many rows: 64 (1 weight)', 'too small to gain (2 weights)']
    """
    return [
        f"{reason} ({count} weight{'s' if count > 1 else ''})"
        for reason, count in reasons.items()
    ]


def _uses_by_buffer(model: Any) -> dict[int, list[_Use]]:
    """Gives who reads each constant; tensors may share a buffer."""
    found: dict[int, list[_Use]] = {}
    for use in _all_uses(model):
        if buffer_size(model, use.tensor):
            found.setdefault(use.tensor.buffer, []).append(use)
    return found


def _all_uses(model: Any) -> Iterator[_Use]:
    for subgraph in model.subgraphs:
        for operator in subgraph.operators or []:
            name = operator_name(model, operator)
            inputs = [] if operator.inputs is None else operator.inputs
            for position, index in enumerate(inputs):
                if index >= 0:
                    yield _Use(subgraph, operator, name, position)


def _obstacle(model: Any, uses: list[_Use]) -> str | None:
    """Gives why no kernel could read this weight sparse, None if one can."""
    others = {use.name for use in uses if not use.is_weight}
    if uses[0].tensor.buffer in _buffers_given_back(model):
        others.add("the caller")
    if others:
        return f"also read by {', '.join(sorted(others))}"
    num_rows = max(use.num_rows for use in uses)
    if num_rows > 1:
        return f"many rows: {num_rows}"
    tensor = uses[0].tensor
    dtype = dtype_name(tensor)
    if dtype not in BLOCKS or any(use.input_dtype != dtype for use in uses):
        return f"no sparse kernel for {dtype} on {uses[0].input_dtype}"
    zero_points = getattr(tensor.quantization, "zeroPoint", None)
    if zero_points is not None and np.any(zero_points):
        return "zero points other than 0"
    if any(not _is_plain(model, use.operator) for use in uses):
        return "an operator version newer than the sparse one"
    if any(list(use.tensor.shape) != list(tensor.shape) for use in uses):
        return "also read in another shape"
    if tensor.shape[1] % BLOCKS[dtype]:
        return f"{tensor.shape[1]} inputs are no multiple of {BLOCKS[dtype]}"
    return None


def _buffers_given_back(model: Any) -> set[int]:
    return {
        subgraph.tensors[index].buffer
        for subgraph in model.subgraphs
        for index in subgraph.outputs
    } - {0}


def _is_plain(model: Any, operator: Any) -> bool:
    version = model.operatorCodes[operator.opcodeIndex].version
    return version <= _VERSION and operator.builtinOptions.weightsFormat == 0


def _loss(encoded: BlockSparse, matrix: np.ndarray) -> str | None:
    """Gives why the encoding would not pay, None if it does."""
    if encoded.zero_share < _MIN_ZERO_SHARE:
        return (
            f"under half of its 1x{encoded.block} blocks are zero: prune with "
            f"structure={_STRUCTURES[encoded.block]!r}"
        )
    if encoded.num_bytes + _TABLE_BYTES >= matrix.nbytes:
        return "too small to gain"
    return None


def _store(model: Any, uses: list[_Use], encoded: BlockSparse) -> None:
    buffer = model.buffers[uses[0].tensor.buffer]
    buffer.data = np.frombuffer(encoded.values.tobytes(), np.uint8)
    for use in uses:
        use.tensor.sparsity = to_sparsity(encoded)
        use.operator.opcodeIndex = _sparse_opcode(model, use.operator)


def _sparse_opcode(model: Any, operator: Any) -> int:
    own = model.operatorCodes[operator.opcodeIndex]
    for index, code in enumerate(model.operatorCodes):
        if code.builtinCode == own.builtinCode and code.version == _VERSION:
            return index
    code = copy.copy(own)
    code.version = _VERSION
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def _block(tensor: Any) -> int:
    return BLOCKS[dtype_name(tensor)]


def _matrix(model: Any, tensor: Any) -> np.ndarray:
    data = bytes(model.buffers[tensor.buffer].data)
    values = np.frombuffer(data, dtype_name(tensor).lower())
    return values.reshape(tensor.shape)


def _description(
    tensor: Any, encoded: BlockSparse, matrix: np.ndarray
) -> SparseTensor:
    return SparseTensor(
        name=tensor.name.decode(),
        shape=encoded.shape,
        block=encoded.block,
        zero_share=encoded.zero_share,
        dense_bytes=matrix.nbytes,
        sparse_bytes=encoded.num_bytes,
    )


def _nothing_to_store(reasons: dict[str, int]) -> ExportError:
    listed = "; ".join(counted_reasons(reasons))
    return ExportError(
        "`sparse=True` needs a FULLY_CONNECTED (Dense, EinsumDense) that "
        "computes one row and whose weight is zero in blocks: 1x4 along the "
        "inputs for float32, 1x16 for int8. Received: "
        f"{listed or 'no FULLY_CONNECTED with a constant weight'}. Prune in "
        "such blocks, or leave `sparse` out: zeros shrink the compressed "
        "file in any case."
    )
