"""Which variables of a model a technique shall change, and why not the others.

A rule is a matcher, or a pair `(matcher, value)`. A matcher is a layer, a
class of layers, a path pattern (`"encoder/*/query/kernel"`) or a predicate of a
`Candidate`. The first rule that matches a variable decides.
"""

import dataclasses
import fnmatch
import math
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import keras

from kdtf.layers import own_weights
from kdtf.layers import walk_layers
from kdtf.transforms.layout import is_elementwise

__all__ = [
    "Candidate",
    "Rules",
    "Selection",
    "candidates",
    "check_any",
    "check_built",
    "select_kernels",
]

# What keras-nlp and Keras call the matrices that inputs are multiplied with.
_KERNEL_NAMES = ("kernel", "recurrent_kernel", "pointwise_kernel")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidate:
    """A variable of a model, and where it stands.

    Attributes:
        path: The layer's path from the model down and the variable's name.
        layer: The layer that owns it.
        variable: The `keras.Variable`.
    """

    path: str
    layer: Any
    variable: Any

    @property
    def layer_path(self) -> str:
        """The path without the variable's name."""
        return self.path.rpartition("/")[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """The variable's shape."""
        return tuple(int(dim) for dim in self.variable.shape)

    @property
    def is_matrix(self) -> bool:
        """Whether it has two dimensions or more, and is no bias.

        Biases of EinsumDense have two, one for the heads.
        """
        return len(self.shape) > 1 and self.variable.name != "bias"

    @property
    def size(self) -> int:
        """The variable's number of elements."""
        return math.prod(self.shape)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Selection:
    """What was chosen of a model.

    Attributes:
        taken: The variables to change.
        skipped: The others, each with the reason.
    """

    taken: tuple[Candidate, ...]
    skipped: tuple[tuple[Candidate, str], ...]


class Rules:
    """Ordered rules; the first that matches gives its value.

    Args:
        rules: A matcher, a sequence of matchers or `(matcher, value)` pairs,
            or a mapping of matcher to value.
        default: The value of a matcher that has none.
        argument: The name of the user's argument, for messages.

    Raises:
        TypeError: A rule is of another kind.

    Example:
        >>> dense = keras.layers.Dense(2, name="head")
        >>> model = keras.Sequential([keras.Input((3,)), dense])
        >>> kernel = candidates(model)[0]
        >>> Rules({"head/*": 0.5, "*": 0.9}, argument="allocation")(kernel)
        0.5
    """

    def __init__(
        self, rules: Any, *, default: Any = True, argument: str = "select"
    ) -> None:
        if isinstance(rules, Mapping):
            rules = list(rules.items())
        elif not isinstance(rules, Sequence) or isinstance(rules, str):
            rules = [rules]
        self._argument = argument
        self._rules = [self._pair(rule, default) for rule in rules]

    def __call__(self, candidate: Candidate) -> Any:
        """Returns the value of the first rule that matches, or None."""
        for matcher, value in self._rules:
            if _matches(matcher, candidate):
                return value
        return None

    def check_used(self, found: Sequence[Candidate]) -> None:
        """Refuses rules that no variable of the model matches.

        Args:
            found: All candidates of the model.

        Raises:
            ValueError: A matcher matches none of them.
        """
        for matcher, _ in self._rules:
            if not any(_matches(matcher, candidate) for candidate in found):
                known = [c.path for c in found if c.is_matrix]
                raise ValueError(
                    f"Each rule of `{self._argument}` must match a variable "
                    f"with two or more dimensions. Received: {matcher!r}, "
                    f"which matches none of {known[:8]}"
                    f"{' ...' if len(known) > 8 else ''}."
                )

    def _pair(self, rule: Any, default: Any) -> tuple[Any, Any]:
        is_pair = isinstance(rule, tuple) and len(rule) == 2
        matcher, value = rule if is_pair else (rule, default)
        known = str | keras.layers.Layer | Callable
        if not isinstance(matcher, known):
            raise TypeError(
                f"`{self._argument}` must be made of layers, path patterns or "
                "predicates, or of pairs of one of these and a value. "
                f"Received: {rule!r} of type {type(rule).__name__}."
            )
        return matcher, value


def candidates(model: Any) -> list[Candidate]:
    """Gives all weights of a Keras 3 model, those of inner layers included.

    A weight that several layers share is given once.

    Args:
        model: A built model.
    """
    found: dict[int, Candidate] = {}
    for path, layer in [*walk_layers(model), ("", model)]:
        for variable in own_weights(layer):
            full = f"{path}/{variable.name}".lstrip("/")
            candidate = Candidate(path=full, layer=layer, variable=variable)
            found.setdefault(id(variable), candidate)
    return list(found.values())


def select_kernels(
    model: Any,
    select: Any = None,
    *,
    embeddings: bool = False,
    depthwise: bool = False,
    frozen: bool = False,
) -> Selection:
    """Chooses the kernels of a model that pruning or quantizing may change.

    By default these are the matrices and filters that inputs are multiplied
    with, also inside attention and other nested layers; never biases or norms,
    and depthwise filters, embeddings or frozen weights only where asked for.
    With `select` the user chooses among all trainable (or frozen)
    floating-point weights of two or more dimensions.

    Args:
        model: A built Keras 3 model.
        select: None, or rules whose values are truth values (a matcher alone
            means True). What no rule matches is not taken.
        embeddings: Whether tables of embeddings are taken by default.
        depthwise: Whether depthwise filters are taken by default.
        frozen: Whether weights that are not trained may be taken.

    Raises:
        TypeError: A rule is of an unknown kind.
        ValueError: A rule matches nothing.

    Example:
        >>> layers = [keras.Input((3,)), keras.layers.Dense(2, name="head")]
        >>> selection = select_kernels(keras.Sequential(layers))
        >>> [candidate.path for candidate in selection.taken]
        ['head/kernel']
        >>> [(c.path, why) for c, why in selection.skipped]
        [('head/bias', 'no matrix: a bias or a norm')]
    """
    found = candidates(model)
    wanted = {
        "embedding": embeddings,
        "depthwise": depthwise,
        "frozen": frozen,
    }
    rules = None if select is None else Rules(select)
    if rules is not None:
        rules.check_used([c for c in found if c.is_matrix])
    taken, skipped = [], []
    for candidate in found:
        reason = _why_not(candidate, rules, wanted)
        if reason is None:
            taken.append(candidate)
        else:
            skipped.append((candidate, reason))
    return Selection(taken=tuple(taken), skipped=tuple(skipped))


def check_built(model: Any, verb: str) -> None:
    """Refuses a model without weights.

    Args:
        model: A model of Keras 3.
        verb: What shall be done to its weights, for the message.

    Raises:
        ValueError: It is not built.
    """
    if not model.built:
        raise ValueError(
            f"`model` must be built: it has no weights to {verb} yet. "
            f"Received: model={model.name!r}, built=False. Call it on a "
            "batch, or give it a `keras.Input`."
        )


def check_any(
    model: Any,
    verb: str,
    taken: Sequence[Any],
    skipped: Sequence[tuple[Candidate, str]],
) -> None:
    """Refuses a model of which nothing was chosen.

    Args:
        model: The model.
        verb: What shall be done to its kernels, for the message.
        taken: What was chosen.
        skipped: What was not, each with the reason.

    Raises:
        ValueError: `taken` is empty.
    """
    if not taken:
        listed = "; ".join(f"{c.path}: {why}" for c, why in skipped[:6])
        raise ValueError(
            f"`model` must have a kernel to {verb}. Received: "
            f"{model.name!r} with {listed or 'no weights at all'}. Choose "
            "among weights of two or more dimensions with `select`."
        )


def _why_not(
    candidate: Candidate, rules: Rules | None, wanted: Mapping[str, bool]
) -> str | None:
    impossible = _why_impossible(candidate, wanted)
    if impossible is not None:
        return impossible
    if rules is None:
        return _why_not_default(candidate, wanted)
    return None if rules(candidate) else "not selected"


def _why_impossible(
    candidate: Candidate, wanted: Mapping[str, bool]
) -> str | None:
    variable = candidate.variable
    if not candidate.is_matrix:
        return "no matrix: a bias or a norm"
    if not keras.backend.is_float_dtype(variable.dtype):
        return f"holds {variable.dtype}, not floating point"
    if not variable.trainable and not wanted["frozen"]:
        return "frozen (trainable=False)"
    return None


def _why_not_default(
    candidate: Candidate, wanted: Mapping[str, bool]
) -> str | None:
    name = candidate.variable.name
    kind = type(candidate.layer).__name__
    if "depthwise" in name or kind.startswith("Depthwise"):
        why = "depthwise: few weights, each of which matters"
        return None if wanted["depthwise"] else why
    if is_elementwise(candidate.layer):
        return "scales its inputs one by one; see `select`"
    if isinstance(candidate.layer, keras.layers.Embedding):
        why = "an embedding, looked up and not multiplied; see `select`"
        return None if wanted["embedding"] else why
    if name not in _KERNEL_NAMES:
        return "not called a kernel; see `select`"
    return None


def _matches(matcher: Any, candidate: Candidate) -> bool:
    if isinstance(matcher, str):
        paths = (candidate.path, candidate.layer_path)
        return any(fnmatch.fnmatchcase(path, matcher) for path in paths)
    if isinstance(matcher, type):
        return isinstance(candidate.layer, matcher)
    if isinstance(matcher, keras.layers.Layer):
        weights = {id(weight) for weight in matcher.weights}
        return id(candidate.variable) in weights
    return bool(matcher(candidate))
