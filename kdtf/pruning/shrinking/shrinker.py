"""The verb: a smaller model with the weights that matter."""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import keras

from kdtf.backbones import backbone_of
from kdtf.pruning.shrinking.backbone_plan import plan_backbone
from kdtf.pruning.shrinking.families import COSTS
from kdtf.pruning.shrinking.graph_plan import plan_graph
from kdtf.pruning.shrinking.latency import RelativeLatency
from kdtf.pruning.shrinking.plan import ShrinkPlan
from kdtf.pruning.shrinking.shares import Shares
from kdtf.pruning.shrinking.tracing import graph_of
from kdtf.pruning.shrinking.tracing import is_plain
from kdtf.transforms import attach
from kdtf.transforms.selection import check_built

__all__ = ["plan_shrink", "shrink"]

_WHAT = ("width", "heads")
_ALL = (*_WHAT, "depth", "hidden")
_ALLOCATIONS = ("global", "uniform")


def shrink(
    model: keras.Model,
    keep: float | Mapping[str, float] = 0.5,
    by: str | Callable[[keras.Model], float] = "parameters",
    *,
    criterion: Any = "magnitude",
    data: Any = None,
    what: Sequence[str] = _WHAT,
    allocation: str = "global",
    round_to: int = 8,
) -> keras.Model:
    """Removes whole channels, units and heads: a truly smaller model.

    Unlike zeros, what is gone costs neither bytes nor time on any device.
    Channels that depend on each other (added in a residual, normalised,
    flattened, concatenated, convolved depthwise) are found from the graph and
    go together; those that matter least go first. The result is a plain
    Keras model with the same layers and names, narrower, not compiled: teach
    it with `Distiller(model, smaller)`, which regains most of what was lost.

    A `keras_nlp` backbone or task stays one, with its preprocessor: all of
    its blocks get the same sizes, each keeping its own best neurons and
    heads. Of blocks those go first that turn their inputs least, measured on
    `data`; without it those that stay are evenly spaced. Norms over fewer
    channels divide by another mean: with `data` their gains are fitted to it.
    Of several kinds about the same share stays: of the numbers next to it
    those within 2% of the target whose shares are the closest.

    Args:
        model: A built Functional or Sequential model of Keras 3, whose inner
            models are looked into, or one of `keras_nlp`. It is left as it
            is.
        keep: Of the cost, in (0, 1]: what is left costs no more, and would
            with one step more of any width. Or the shares themselves: kinds
            of `what`, or patterns of layer paths, to numbers in (0, 1], such
            as `{"stem*": 1.0, "width": 0.5}`. The first that fits decides,
            what none fits stays, and `by`, `what` and `allocation` change
            nothing; a `keras_nlp` model takes kinds alone.
        by: The cost: "parameters"; "macs", multiply-accumulates of layers
            with kernels, of `keras_nlp` models for one token; "bytes" of all
            weights as the model stores them, 4 for a float32; "latency" of
            one example on LiteRT, of float files on one thread beside the
            given model's, where sizes that the model leaves open are 128; or
            a function from a model to a number. Measurements and functions
            take a smaller model each, some 20 to 100 of them. Defaults to
            "parameters".
        criterion: What matters, as in `kdtf.prune`: a name, a function of
            weights, or a `Criterion`. Of a group's weights the square root of
            the sum of squares is taken: their L2 norm by "magnitude", the
            default.
        data: Typical inputs (with labels for "taylor" and "snip"), as in
            `kdtf.prune`.
        what: Of "width" (units and channels; the feed-forward of a
            `keras_nlp` model), "heads" (of attention) and, of `keras_nlp`
            models, "depth" (blocks) and "hidden" (channels between blocks;
            with them whole heads where the configuration has no `head_dim`).
            Defaults to the first two.
        allocation: Of Functional models: "global" compares all groups, each
            with the mean of those it is counted with; "uniform" keeps the
            same share everywhere.
        round_to: Widths of at least so many channels stay multiples of it,
            which kernels like. Defaults to 8.

    Returns:
        The smaller model. `plan_shrink`, with the same arguments, says first
        what would go, what is held fast and why.

    Raises:
        TypeError: `model` is no Keras 3 model.
        ValueError: It is not built, has no graph, its class has a
            configuration of its own, kdtf's transforms are attached to it, an
            argument is unknown, or the target cannot be met.

    Example:
        >>> layers = [
        ...     keras.Input((4,)), keras.layers.Dense(16), keras.layers.Dense(2)
        ... ]
        >>> model = keras.Sequential(layers)
        >>> smaller = shrink(model, keep=0.6)
        >>> [layer.units for layer in smaller.layers]
        [8, 2]
        >>> model.count_params(), smaller.count_params()
        (114, 58)

    Reference:
        Fang et al. 2023, https://arxiv.org/abs/2301.12900 (DepGraph);
        Muralidharan et al. 2024, https://arxiv.org/abs/2407.14679 (Minitron)
    """
    return plan_shrink(
        model,
        keep,
        by,
        criterion=criterion,
        data=data,
        what=what,
        allocation=allocation,
        round_to=round_to,
    ).build()


def plan_shrink(
    model: keras.Model,
    keep: float | Mapping[str, float] = 0.5,
    by: str | Callable[[keras.Model], float] = "parameters",
    *,
    criterion: Any = "magnitude",
    data: Any = None,
    what: Sequence[str] = _WHAT,
    allocation: str = "global",
    round_to: int = 8,
) -> ShrinkPlan:
    """Says what `shrink` would remove, with the same arguments.

    Returns:
        A plan: widths before and after, what is held fast and why; its
        `build()` gives the smaller model.

    Example:
        >>> layers = [
        ...     keras.Input((4,)), keras.layers.Dense(16), keras.layers.Dense(2)
        ... ]
        >>> plan = plan_shrink(keras.Sequential(layers), keep=0.6)
        >>> plan.parameters, [(w.before, w.after) for w in plan.widths]
        ((114, 58), [(16, 8)])
    """
    told = Shares(keep, _ALL) if isinstance(keep, Mapping) else keep
    if isinstance(told, Shares):
        by, what = "parameters", _WHAT
    _check_arguments(told, by, what, allocation, round_to)
    _check_model(model)
    if by == "latency":
        by = RelativeLatency(model)
    if backbone_of(model) is not None:
        return plan_backbone(
            model,
            told,
            by,
            criterion=criterion,
            data=data,
            what=what,
            round_to=round_to,
        )
    return plan_graph(
        model,
        told,
        by,
        criterion=criterion,
        data=data,
        what=what,
        allocation=allocation,
        round_to=round_to,
    )


def _check_arguments(
    keep: Any, by: Any, what: Sequence[str], allocation: str, round_to: int
) -> None:
    if not isinstance(keep, Shares) and not 0.0 < keep <= 1.0:
        raise ValueError(
            f"`keep` must be in (0, 1]. Received: keep={keep}. 0.5 leaves "
            "half of the cost."
        )
    if not callable(by) and by not in COSTS:
        raise ValueError(
            f"`by` must be one of {list(COSTS)}, or a function from a model "
            f"to a number. Received: by={by!r}."
        )
    if isinstance(what, str) or not what or set(what) - set(_ALL):
        raise ValueError(
            f"`what` must be some of {list(_ALL)}. Received: what={what!r}."
        )
    if allocation not in _ALLOCATIONS:
        raise ValueError(
            f"`allocation` must be one of {list(_ALLOCATIONS)}. Received: "
            f"allocation={allocation!r}."
        )
    if round_to < 1:
        raise ValueError(
            f"`round_to` must be at least 1. Received: round_to={round_to}."
        )


def _check_model(model: Any) -> None:
    if not isinstance(model, keras.Model):
        raise TypeError(
            "`model` must be a `keras.Model` of Keras 3. Received: "
            f"type={type(model).__module__}.{type(model).__qualname__}."
        )
    check_built(model, "shrink")
    if any(True for _ in attach.attachments(model)):
        raise ValueError(
            "`model` must be plain: kdtf's transforms are attached to it. "
            f"Received: model={model.name!r}. Shrink first and prune or "
            "quantize the smaller model, or bake them in with `kdtf.strip`."
        )
    if backbone_of(model) is not None:
        return
    if graph_of(model) is not None and not is_plain(model):
        raise ValueError(
            "`model` must be a Functional or Sequential one: its class has "
            "a configuration of its own, which knows no single layer's width. "
            f"Received: model={model.name!r} of type "
            f"{type(model).__qualname__}."
        )
