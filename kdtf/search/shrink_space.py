"""Space of smaller copies of a trained model, which inherit its weights."""

import functools
import glob
from collections.abc import Iterable
from typing import Any

import keras

from kdtf.backbones import backbone_of
from kdtf.pruning import plan_shrink
from kdtf.pruning import shrink
from kdtf.search.preset import Preset
from kdtf.search.preset import middle
from kdtf.search.preset import numbers
from kdtf.search.space import Chosen
from kdtf.search.space import Space

__all__ = ["shrinkings"]

_KINDS = ("width", "heads", "hidden", "depth")


def shrinkings(
    model: keras.Model,
    *,
    shares: Iterable[float] = (0.25, 0.5, 0.75, 1.0),
    criterion: Any = "magnitude",
    data: Any = None,
    round_to: int = 8,
) -> Preset:
    """Gives a space of the smaller models that a trained one holds.

    A short training judges them better than models from new weights: each
    build is `kdtf.shrink` of the model to the shares that were chosen, so
    that it begins with what matters most. Train it under a
    `kdtf.Distiller(model, smaller)`.

    Args:
        model: A trained model of Keras 3, as `kdtf.shrink` takes it; it is
            left as it is. It is read at each build, so do not train it during
            the search.
        shares: Options of the part of the channels, heads or blocks that
            stays, in (0, 1].
        criterion: As for `kdtf.shrink`.
        data: Typical inputs, as for `kdtf.shrink`; kept and used at each
            build.
        round_to: As for `kdtf.shrink`.

    Returns:
        One choice for each of the widths that can shrink alone, named after
        the first layer that has it; of a `keras_nlp` model "width",
        "hidden" and "depth", and "heads" where they can go by themselves.

    Raises:
        TypeError: `model` is no Keras 3 model.
        ValueError: A share is out of range, or nothing of it can go.

    Example:
        >>> layers = [
        ...     keras.Input((4,)),
        ...     keras.layers.Dense(16, name="first"),
        ...     keras.layers.Dense(2, name="last"),
        ... ]
        >>> preset = shrinkings(keras.Sequential(layers))
        >>> preset.default
        {'first': 0.5}
        >>> preset.build(preset.default).get_layer("first").units
        8

    Reference:
        He et al. 2018, https://arxiv.org/abs/1802.03494 (AMC: a share for
        each layer); Muralidharan et al. 2024,
        https://arxiv.org/abs/2407.14679 (candidates cut from one teacher)
    """
    options = numbers(
        "shares",
        shares,
        holds=lambda share: 0 < share <= 1,
        rule="parts that stay, in (0, 1], such as [0.5, 1.0]",
    )
    has_blocks = backbone_of(model) is not None
    what = _KINDS if has_blocks else _KINDS[:2]
    # All of it: only to see what could go.
    plan = plan_shrink(model, 1.0, what=what, criterion=criterion, data=data)
    names = [w.kind if has_blocks else w.layers[0] for w in plan.widths]
    space = Space(dict.fromkeys(names, options))
    build = functools.partial(
        _build, model=model, criterion=criterion, data=data, round_to=round_to
    )
    return Preset(space, build, middle(space))


def _build(choices: Chosen, *, model: keras.Model, **settings: Any) -> Any:
    shares = {glob.escape(name): share for name, share in choices.items()}
    return shrink(model, shares, **settings)
