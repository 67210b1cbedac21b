"""How an accelerator's operators fall into parts, and what XNNPACK took."""

import os
from collections.abc import Sequence
from typing import Any

__all__ = ["partition", "taken_by_xnnpack"]


def partition(
    inputs: Sequence[Sequence[int]],
    outputs: Sequence[Sequence[int]],
    is_taken: Sequence[bool],
) -> list[list[int]]:
    """Returns the parts of a graph that are handed over whole.

    As the runtime does it: a part takes every operator of its kind whose
    inputs are there, in order, before one of the other kind begins.

    Args:
        inputs: The tensors each operator reads, in the graph's order.
        outputs: The tensors it writes.
        is_taken: Whether the accelerator takes it.

    Returns:
        Indices of the operators in each part.

    Example:
        >>> # A chain of three, with the middle one on the CPU.
        >>> partition([[0], [1], [2]], [[1], [2], [3]], [True, False, True])
        [[0], [2]]
    """
    missing = {tensor for written in outputs for tensor in written}
    left = list(range(len(inputs)))
    parts = []
    while left:
        part: list[int] = []
        for index in left:
            is_ready = missing.isdisjoint(inputs[index])
            if is_ready and (not part or is_taken[index] == is_taken[part[0]]):
                part.append(index)
                missing.difference_update(outputs[index])
        if not part:
            raise ValueError(
                "A graph must be free of circles. Received: operators "
                f"{left[:5]} that wait for each other."
            )
        taken = set(part)
        left = [index for index in left if index not in taken]
        if is_taken[part[0]]:
            parts.append(part)
    return parts


def taken_by_xnnpack(
    path: str | os.PathLike[str], num_operators: int
) -> list[list[int]]:
    """Returns the operators XNNPACK took of a file that was loaded here.

    Args:
        path: A `.tflite` file.
        num_operators: How many its main graph has.

    Returns:
        Indices of the operators in each part.
    """
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=os.fspath(path))
    interpreter.allocate_tensors()
    # Not public. After the graph's own operators come those that stand for
    # what a delegate took.
    nodes = interpreter._get_ops_details()
    own, parts = nodes[:num_operators], nodes[num_operators:]
    writers = {
        int(tensor): index
        for index, node in enumerate(own)
        for tensor in node["outputs"]
    }
    return [_inside(part, own, writers) for part in parts]


def _inside(
    part: Any, own: Sequence[Any], writers: dict[int, int]
) -> list[int]:
    """Walks back from what a part writes to what it reads."""
    borders = set(map(int, part["inputs"]))
    found: set[int] = set()
    open_ends = list(map(int, part["outputs"]))
    while open_ends:
        writer = writers.get(open_ends.pop())
        if writer is not None and writer not in found:
            found.add(writer)
            reads = map(int, own[writer]["inputs"])
            open_ends += [tensor for tensor in reads if tensor not in borders]
    return sorted(found)
