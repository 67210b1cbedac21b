"""Space of ways to compress one trained model: pruning, bits, distillation."""

import functools
import glob
import math
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import keras

from kdtf.copies import copied
from kdtf.flavours import flavour_of
from kdtf.pruning import prune
from kdtf.quantization import SCHEMES
from kdtf.quantization import quantize_aware
from kdtf.search.preset import Preset
from kdtf.search.preset import middle
from kdtf.search.preset import numbers
from kdtf.search.space import Chosen
from kdtf.search.space import Space
from kdtf.transforms import attach
from kdtf.transforms.selection import Candidate
from kdtf.transforms.selection import Rules
from kdtf.transforms.selection import check_built
from kdtf.transforms.selection import select_kernels
from kdtf.transforms.substitution import substitutions

__all__ = ["compressions"]

Groups = dict[str, list[Any]]


def compressions(
    model: Any,
    *,
    sparsity: Iterable[float] = (0.0, 0.5, 0.75),
    schemes: Iterable[str | None] = (None, "dynamic_int8", "int4"),
    groups: Mapping[str, Sequence[Any]] | None = None,
    temperature: Iterable[float] = (1.0, 2.0, 4.0),
    alpha: Iterable[float] = (0.1, 0.5, 0.9),
) -> Preset:
    """Gives a space of ways to compress a trained model.

    Each build is a copy of the model, weights included, pruned by magnitude
    and then quantized for training; the model itself is left as it is. The
    copy is not compiled (keras-nlp's models compile themselves): the
    objective fine-tunes it, under a `kdtf.Distiller(model, copy)` with
    `trial.choices["alpha"]` and `trial.choices["temperature"]`, which change
    nothing in the build. The model is read at each build, so do not train it
    during the search.

    Args:
        model: A built model of Keras 3 that can be saved and loaded.
        sparsity: Options of the fraction of zeros in each kernel, in [0, 1).
        schemes: Options of how a group is quantized: names as for
            `kdtf.quantize_aware`, or None for float. "int8" and "int8_iot"
            are of a whole model: valid where all groups have the same.
        groups: Name to the kernels that share a scheme: path patterns,
            classes of layers or predicates, of which the first that matches
            decides, in the order of the groups. Kernels of none stay float.
            Defaults to "embeddings" and "layers", as tables bear other errors
            than what is multiplied; without embeddings to "first", "middle"
            and "last", as errors at the ends hurt most.
        temperature: Options for the Distiller, above 0.
        alpha: Options for the Distiller, weight of the labels, in [0, 1].

    Returns:
        The choices "sparsity", "temperature", "alpha" and one scheme for
        each group, such as "embeddings_scheme".

    Raises:
        TypeError: `model` is no Keras model, or a group of another kind.
        ValueError: A value is out of range or unknown, a group matches
            nothing, or the model is not built, is pruned or quantized
            already, cannot be copied, or has no kernel.

    Example:
        >>> import kdtf
        >>> layers = [keras.Input((4,)), keras.layers.Dense(4, name="head")]
        >>> model = keras.Sequential(layers)
        >>> preset = compressions(model)
        >>> preset.default["sparsity"], preset.default["layers_scheme"]
        (0.5, 'dynamic_int8')
        >>> copy = preset.build(preset.default)
        >>> [k.sparsity for k in kdtf.sparsity_report(copy).kernels]
        [0.5]

    Reference:
        Wang et al. 2020, https://arxiv.org/abs/2006.08509 (pruning and bits
        searched together); Wang et al. 2019,
        https://arxiv.org/abs/1811.08886 (bits for each layer)
    """
    _check_model(model)
    named = _resolve_groups(model, groups)
    fractions = numbers(
        "sparsity",
        sparsity,
        holds=lambda value: 0 <= value < 1,
        rule="fractions of zeros in [0, 1), such as [0.0, 0.5]",
    )
    if max(fractions) > 0 and not select_kernels(model).taken:
        raise ValueError(
            "`sparsity` above 0 needs kernels to prune, which embeddings are "
            f"not. Received: sparsity={fractions!r} for {model.name!r}. Write "
            "sparsity=[0.0]."
        )
    choices: dict[str, Any] = {"sparsity": fractions}
    known = _check_schemes(schemes)
    choices |= {f"{name}_scheme": known for name in named}
    choices["temperature"] = numbers(
        "temperature",
        temperature,
        holds=lambda value: 0 < value < math.inf,
        rule="numbers above 0, such as [1.0, 4.0]",
    )
    choices["alpha"] = numbers(
        "alpha",
        alpha,
        holds=lambda value: 0 <= value <= 1,
        rule="weights of the labels in [0, 1], such as [0.1, 0.5]",
    )
    space = Space(choices, valid=functools.partial(_is_uniform, tuple(named)))
    build = functools.partial(_build, model=model, groups=named)
    return Preset(space, build, middle(space))


def _check_model(model: Any) -> None:
    if flavour_of(model) == "tf_keras":
        raise ValueError(
            "`model` must be one of Keras 3. Received: a tf_keras model, "
            f"{model.name!r}. Build the same one in Keras 3."
        )
    check_built(model, "compress")
    effects = [attach.attachments(model), substitutions(model)]
    if any(True for found in effects for _ in found):
        raise ValueError(
            "`model` must be a plain one. Received: "
            f"model={model.name!r}, which is pruned or quantized already. "
            "Call `kdtf.strip(model)` first."
        )
    # Raises if it cannot be.
    copied(model)


def _check_schemes(schemes: Any) -> tuple[str | None, ...]:
    is_listed = hasattr(schemes, "__iter__") and not isinstance(schemes, str)
    found = tuple(schemes) if is_listed else ()
    known = [None, *SCHEMES]
    if (
        not found
        or any(scheme not in known for scheme in found)
        or len(set(found)) < len(found)
    ):
        raise ValueError(
            "`schemes` must be a list of options, all different, each one of "
            f"{known}. Received: schemes={schemes!r}."
        )
    return found


def _resolve_groups(model: Any, groups: Any) -> Groups:
    kernels = _kernels(model)
    if not kernels:
        raise ValueError(
            "`model` must have a kernel to quantize. Received: "
            f"model={model.name!r} without one."
        )
    if groups is None:
        return _default_groups(kernels)
    is_mapping = isinstance(groups, Mapping) and groups
    if not is_mapping or any(
        not isinstance(name, str)
        or not isinstance(matchers, Sequence)
        or isinstance(matchers, str)
        for name, matchers in groups.items()
    ):
        raise TypeError(
            "`groups` must map names to lists of path patterns. Received: "
            f"groups={groups!r}. Write for example "
            "{'ends': ['stem*', 'logits'], 'rest': ['*']}."
        )
    _check_groups(groups, kernels)
    return {name: list(matchers) for name, matchers in groups.items()}


def _check_groups(
    groups: Mapping[str, Sequence[Any]], kernels: list[Candidate]
) -> None:
    """Refuses what would match nothing, or what no copy has."""
    matchers = [one for some in groups.values() for one in some]
    rules = Rules(
        [(one, name) for name, some in groups.items() for one in some],
        argument="groups",
    )
    of_model = [m for m in matchers if isinstance(m, keras.layers.Layer)]
    if of_model or len(set(matchers)) < len(matchers):
        raise ValueError(
            "`groups` must name each path pattern once, and no layers: the "
            f"search builds copies, with layers of their own. Received: "
            f"groups={dict(groups)!r}. Write a layer's path."
        )
    rules.check_used(kernels)
    empty = set(groups) - {rules(kernel) for kernel in kernels}
    if empty:
        raise ValueError(
            "Each of `groups` must have a kernel that no earlier one has. "
            f"Received: groups={dict(groups)!r}; nothing is left for "
            f"{sorted(empty)}. Put general patterns such as '*' last."
        )


def _default_groups(kernels: list[Candidate]) -> Groups:
    is_table = [isinstance(k.layer, keras.layers.Embedding) for k in kernels]
    if all(is_table):
        return {"embeddings": ["*"]}
    if any(is_table):
        return {"embeddings": [keras.layers.Embedding], "layers": ["*"]}
    paths = [glob.escape(kernel.path) for kernel in kernels]
    if len(paths) < 3:
        return {"layers": ["*"]}
    return {"first": paths[:1], "middle": paths[1:-1], "last": paths[-1:]}


def _kernels(model: Any) -> list[Candidate]:
    """Returns what `quantize_aware` takes by default."""
    selection = select_kernels(
        model, embeddings=True, depthwise=True, frozen=True
    )
    return list(selection.taken)


def _has_activations(scheme: str | None) -> bool:
    return scheme is not None and SCHEMES[scheme].activations is not None


def _is_uniform(names: tuple[str, ...], chosen: Chosen) -> bool | str:
    found = {chosen[f"{name}_scheme"] for name in names}
    whole = [scheme for scheme in found if _has_activations(scheme)]
    if whole and len(found) > 1:
        return f"{whole[0]!r} is of a whole model: all groups or none"
    return True


def _build(choices: Chosen, *, model: Any, groups: Groups) -> Any:
    copy = copied(model)
    if choices["sparsity"]:
        prune(copy, sparsity=choices["sparsity"])
    schemes = {name: choices[f"{name}_scheme"] for name in groups}
    if any(_has_activations(scheme) for scheme in schemes.values()):
        # Rules are for float activations; here all groups have one scheme.
        matchers = [one for some in groups.values() for one in some]
        rules = Rules(matchers)
        chosen = {k.path for k in _kernels(copy) if rules(k)}
        return quantize_aware(
            copy,
            next(iter(schemes.values())),
            select=lambda kernel: kernel.path in chosen,
        )
    if any(schemes.values()):
        quantize_aware(
            copy,
            {one: schemes[name] for name in groups for one in groups[name]},
        )
    return copy
