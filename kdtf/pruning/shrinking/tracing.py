"""The dependency graph of a Functional or Sequential model.

The idea of DepGraph (Fang et al. 2023, https://arxiv.org/abs/2301.12900), told
by arrays: each layer's rule says which atoms leave it, which of its weights
are sliced along them, and what must be tied. A layer without a rule holds its
neighbours fast, and the report says so.
"""

import dataclasses
import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kdtf.pruning.shrinking.atoms import FIXED
from kdtf.pruning.shrinking.atoms import Atoms

__all__ = [
    "Call",
    "Setting",
    "Slicing",
    "Trace",
    "graph_of",
    "is_plain",
    "itemsize_of",
    "trace",
]

Path = tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Slicing:
    """A weight and the atoms along its axes.

    Attributes:
        layer: The layer's names, outermost model's part first.
        weight: Its position in `layer.weights`.
        shape: The weight's shape.
        axes: Axis to the atoms along it; other axes stay as they are.
        uses: How often one call multiplies by it: 0 for what is only added.
        itemsize: Bytes of one of its numbers.
    """

    layer: Path
    weight: int
    shape: tuple[int, ...]
    axes: dict[int, np.ndarray]
    uses: int
    itemsize: int = 4


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Setting:
    """A number in a layer's configuration that counts atoms.

    Attributes:
        layer: The layer's names.
        key: The configuration's key.
        index: The position in it, if it is a tuple.
        atoms: What it counts.
        kind: "width" or "heads".
    """

    layer: Path
    key: str
    index: int | None
    atoms: np.ndarray
    kind: str


@dataclasses.dataclass(kw_only=True, eq=False)
class Trace:
    """What tracing a model found.

    Attributes:
        atoms: The atoms and their ties.
        slicings: Weights that follow atoms.
        settings: Configurations that follow atoms.
        held: Layers without a rule: path to why.
        inner: The atoms of the inputs of models in the model.
    """

    atoms: Atoms = dataclasses.field(default_factory=Atoms)
    slicings: list[Slicing] = dataclasses.field(default_factory=list)
    settings: list[Setting] = dataclasses.field(default_factory=list)
    held: dict[str, str] = dataclasses.field(default_factory=dict)
    inner: dict[Path, list[np.ndarray]] = dataclasses.field(
        default_factory=dict
    )


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Call:
    """One call of a layer, as its rule sees it.

    Attributes:
        trace: Where to write what is found.
        path: The layer's names.
        layer: The layer or operation.
        inputs: The atoms of each input, shaped as it is without the batch.
        shapes: The outputs' shapes, without the batch; 1 where not fixed.
        arguments: Positional and named ones, `inspect`-like, of the call.
        is_first: Whether the layer was not called before: its weights and
            settings are written down once.
        before: The atoms that its earlier calls made, by name.
    """

    trace: Trace
    path: Path
    layer: Any
    inputs: list[np.ndarray]
    shapes: list[tuple[int, ...]]
    arguments: tuple[tuple[Any, ...], dict[str, Any]]
    before: dict[str, np.ndarray]

    @property
    def atoms(self) -> Atoms:
        """The atoms of the model."""
        return self.trace.atoms

    def made(self, name: str, number: int) -> np.ndarray:
        """Returns atoms of the layer's own, the same in each of its calls."""
        if name not in self.before:
            self.before[name] = self.atoms.new(number)
        return self.before[name]

    def read(self, name: str, atoms: np.ndarray) -> np.ndarray:
        """Returns the atoms that a weight is sliced along.

        A layer that is called more than once reads all its inputs with the
        same weights: their atoms are tied.
        """
        first = self.before.setdefault(name, atoms)
        self.atoms.tie(first, atoms)
        return first

    def slice(
        self, variable: Any, axes: dict[int, np.ndarray], *, uses: int = 0
    ) -> None:
        """Writes down that a weight follows atoms."""
        position = [id(w) for w in self.layer.weights].index(id(variable))
        key = f"weight {position}"
        if key in self.before:
            self._use_again(position, uses)
            return
        self.before[key] = np.zeros(0)
        shape = tuple(variable.shape)
        axes = {axis % len(shape): atoms for axis, atoms in axes.items()}
        self.trace.slicings.append(
            Slicing(
                layer=self.path,
                weight=position,
                shape=shape,
                axes=axes,
                uses=uses,
                itemsize=itemsize_of(variable),
            )
        )

    def _use_again(self, position: int, uses: int) -> None:
        for index, slicing in enumerate(self.trace.slicings):
            if (slicing.layer, slicing.weight) == (self.path, position):
                self.trace.slicings[index] = dataclasses.replace(
                    slicing, uses=slicing.uses + uses
                )

    def set(
        self,
        key: str,
        atoms: np.ndarray,
        *,
        index: int | None = None,
        kind: str = "width",
    ) -> None:
        """Writes down that a configuration counts atoms."""
        if f"{key} {index}" in self.before:
            return
        self.before[f"{key} {index}"] = np.zeros(0)
        self.trace.settings.append(
            Setting(
                layer=self.path, key=key, index=index, atoms=atoms, kind=kind
            )
        )

    def hold(self, why: str) -> list[np.ndarray]:
        """Leaves the layer and all around it as they are.

        Returns:
            Fixed atoms for its outputs.
        """
        for tensor in self.inputs:
            self.atoms.fix(tensor)
        self.trace.held["/".join(self.path)] = why
        return [np.broadcast_to(FIXED, shape) for shape in self.shapes]

    @property
    def positions(self) -> int:
        """How many vectors of channels the first output holds."""
        return math.prod(self.shapes[0][:-1])


def trace(model: keras.Model) -> Trace:
    """Finds out which channels of a model go together.

    Args:
        model: Built, Functional or Sequential; models in it are looked into.

    Raises:
        ValueError: It has no graph of layers.

    Example:
        >>> layers = [keras.layers.Dense(4), keras.layers.Dense(2)]
        >>> found = trace(keras.Sequential([keras.Input((3,)), *layers]))
        >>> [setting.atoms.tolist() for setting in found.settings]
        [[1, 2, 3, 4], [5, 6]]
        >>> found.atoms.roots().tolist()  # Outputs stay.
        [0, 1, 2, 3, 4, 0, 0]
    """
    found = Trace()
    graph = graph_of(model)
    if graph is None:
        raise ValueError(
            "`model` must be Functional or Sequential: only there kdtf can "
            "see which layers depend on each other. Received: model="
            f"{model.name!r} of type {type(model).__qualname__}. Build it "
            "with `keras.Model(inputs, outputs)`."
        )
    inputs = [np.broadcast_to(FIXED, _shape(t)) for t in graph.inputs]
    for tensor in _walk(found, graph, (), inputs, {}):
        found.atoms.fix(tensor)
    return found


def itemsize_of(variable: Any) -> int:
    """Returns the bytes of one of a variable's numbers, as it is stored."""
    return int(tf.as_dtype(variable.dtype).size)


def graph_of(model: Any) -> Any:
    """Returns the `keras.Model` that holds the graph, None if there is none."""
    if isinstance(model, keras.Sequential):
        model = getattr(model, "_functional", None)
    return model if hasattr(model, "_nodes_by_depth") else None


def _walk(
    found: Trace,
    graph: Any,
    path: Path,
    inputs: list[np.ndarray],
    memory: dict[Path, dict[str, np.ndarray]],
) -> list[np.ndarray]:
    """Follows atoms through a graph, from its inputs to its outputs."""
    tensors = {id(t): a for t, a in zip(graph.inputs, inputs, strict=True)}
    # Keras has no public way to go through the calls of a graph.
    nodes = graph._nodes_by_depth
    for node in (
        n for depth in sorted(nodes, reverse=True) for n in nodes[depth]
    ):
        if node.is_input:
            continue
        layer = node.operation
        call = Call(
            trace=found,
            path=(*path, layer.name),
            layer=layer,
            inputs=[tensors[id(t)] for t in node.input_tensors],
            shapes=[_shape(t) for t in node.outputs],
            arguments=(node.arguments.args, node.arguments.kwargs),
            before=memory.setdefault((*path, layer.name), {}),
        )
        inner = graph_of(layer) if is_plain(layer) else None
        if inner is not None and len(inner.inputs) == len(call.inputs):
            inputs = [
                call.read(f"input {index}", atoms)
                for index, atoms in enumerate(call.inputs)
            ]
            found.inner[call.path] = inputs
            outputs = _walk(found, inner, call.path, inputs, memory)
        else:
            outputs = _outputs(call)
        for tensor, atoms in zip(node.outputs, outputs, strict=True):
            tensors[id(tensor)] = found.atoms.whole(atoms)
    return [tensors[id(t)] for t in graph.outputs]


def is_plain(model: Any) -> bool:
    """Returns whether a model is one of Keras's own classes.

    Others have configurations of their own, which know no single layer.
    """
    return type(model).__module__.split(".")[0] == "keras"


def _outputs(call: Call) -> list[np.ndarray]:
    from kdtf.pruning.shrinking.rules import rule_for

    rule = rule_for(call.layer)
    if rule is None:
        return call.hold("no rule for " + type(call.layer).__name__)
    return rule(call)


def _shape(tensor: Any) -> tuple[int, ...]:
    return tuple(size or 1 for size in tensor.shape[1:])
