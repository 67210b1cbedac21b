"""Space of small MobileNets: inverted residual blocks in stages."""

import functools
from collections.abc import Iterable
from typing import Any

import keras

from kdtf.search.preset import Preset
from kdtf.search.preset import integers
from kdtf.search.space import Choice
from kdtf.search.space import Chosen
from kdtf.search.space import Space
from kdtf.search.strategies import check_positive

__all__ = ["cnns"]

# From here on the stem halves the image: the first stages cost most there.
_LARGE_SIDE = 64
# Below it a depthwise filter sees padding only.
_MIN_SIDE = 2
_MAX_STAGES = 5


def cnns(
    *,
    input_shape: tuple[int, int, int],
    num_classes: int,
    stages: Iterable[int] | None = None,
    width: Iterable[int] = (8, 16, 24, 32, 48, 64),
    depth: Iterable[int] = (1, 2, 3),
    kernel: Iterable[int] = (3, 5),
    expansion: Iterable[int] = (1, 3, 6),
) -> Preset:
    """Gives a space of small MobileNets that classify images.

    A model is a convolution, stages of inverted residual blocks, average
    pooling and a Dense layer that gives logits `(batch, num_classes)`. Each
    stage after the first halves the map, and so does the first convolution
    for images of 64 pixels or more. A block widens its input by the
    expansion (1: not at all), filters each channel and narrows it again; its
    input is added where shapes agree. All of it, ReLU6 included, is in the
    integer kernels of microcontrollers.

    Args:
        input_shape: Height, width and channels of an image.
        num_classes: Logits.
        stages: Options of how many. Defaults to 2 to 5, as far as the image
            can be halved.
        width: Options of a stage's channels.
        depth: Options of a stage's blocks.
        kernel: Options of a stage's filter size, odd.
        expansion: Options of a stage's expansion.

    Returns:
        The choices "stages" and, for each stage that exists,
        "stage1_width", "stage1_depth", "stage1_kernel", "stage1_expansion".

    Raises:
        ValueError: An argument is out of range, or the image is too small to
            be halved as often as the stages ask for.

    Example:
        >>> preset = cnns(input_shape=(8, 8, 1), num_classes=10)
        >>> preset.space.choices["stages"].options
        (2, 3)
        >>> preset.default["stage2_width"]
        32
        >>> preset.build(preset.default).output_shape
        (None, 10)

    Reference:
        Sandler et al. 2018, https://arxiv.org/abs/1801.04381 (the block);
        Tan et al. 2019, https://arxiv.org/abs/1807.11626 (a choice for each
        stage); Lin et al. 2020, https://arxiv.org/abs/2007.10319 (on
        microcontrollers)
    """
    shape = _check_shape(input_shape)
    check_positive("num_classes", num_classes)
    options = {
        "width": integers("width", width),
        "depth": integers("depth", depth),
        "kernel": _check_kernel(kernel),
        "expansion": integers("expansion", expansion),
    }
    counts = _check_stages(stages, shape)
    choices: dict[str, Any] = {"stages": counts}
    for number in range(1, max(counts) + 1):
        exists = functools.partial(_exists, number)
        for name, values in options.items():
            choices[f"stage{number}_{name}"] = Choice(values, when=exists)
    build = functools.partial(
        _build, input_shape=shape, num_classes=num_classes
    )
    return Preset(Space(choices), build, _default(counts, options))


def _exists(number: int, chosen: Chosen) -> bool:
    return bool(number <= chosen["stages"])


def _check_shape(input_shape: Any) -> tuple[int, int, int]:
    is_listed = isinstance(input_shape, tuple | list)
    if is_listed and len(input_shape) == 3:
        if all(isinstance(dim, int) and dim >= 1 for dim in input_shape):
            return tuple(input_shape)
    raise ValueError(
        "`input_shape` must be height, width and channels, integers from 1 "
        f"on and without the batch. Received: input_shape={input_shape!r}."
    )


def _check_kernel(kernel: Any) -> tuple[int, ...]:
    sizes = integers("kernel", kernel)
    if any(size % 2 == 0 for size in sizes):
        raise ValueError(
            "`kernel` must be odd sizes, which have a middle. Received: "
            f"kernel={sizes!r}. Write for example (3, 5)."
        )
    return sizes


def _check_stages(stages: Any, shape: tuple[int, int, int]) -> tuple[int, ...]:
    side, most = min(shape[:2]), 1
    if side >= _LARGE_SIDE:
        side = _halved(side)
    while side > _MIN_SIDE:
        side, most = _halved(side), most + 1
    if stages is None:
        return tuple(range(min(2, most), min(_MAX_STAGES, most) + 1))
    counts = integers("stages", stages)
    if max(counts) > most:
        raise ValueError(
            "`stages` must leave a map of 2x2 or more: each after the first "
            f"halves it. Received: stages={counts!r} for input_shape={shape}, "
            f"which has room for {most}. Leave larger numbers out, or enlarge "
            "the images."
        )
    return counts


def _halved(side: int) -> int:
    return (side + 1) // 2


def _default(
    counts: tuple[int, ...], options: dict[str, tuple[int, ...]]
) -> Chosen:
    """Gives the middle of each list, but widths that rise from stage to stage.

    Halved maps have a quarter of the pixels, so channels are cheaper there.
    """
    stages = counts[(len(counts) - 1) // 2]
    default: Chosen = {"stages": stages}
    widths = sorted(options["width"])
    for number in range(1, stages + 1):
        for name, values in options.items():
            default[f"stage{number}_{name}"] = values[(len(values) - 1) // 2]
        place = round(number * (len(widths) - 1) / (stages + 1))
        default[f"stage{number}_width"] = widths[place]
    return default


def _build(
    choices: Chosen, *, input_shape: tuple[int, int, int], num_classes: int
) -> Any:
    image = keras.Input(input_shape, name="image")
    is_large = min(input_shape[:2]) >= _LARGE_SIDE
    x = keras.layers.Conv2D(
        choices["stage1_width"],
        3,
        strides=2 if is_large else 1,
        padding="same",
        use_bias=False,
        name="stem",
    )(image)
    x = _relu(_norm(x, "stem"), "stem")
    for stage in range(1, choices["stages"] + 1):
        sizes = {
            name: choices[f"stage{stage}_{name}"]
            for name in ("width", "kernel", "expansion")
        }
        for block in range(1, choices[f"stage{stage}_depth"] + 1):
            strides = 2 if stage > 1 and block == 1 else 1
            name = f"stage{stage}_block{block}"
            x = _block(x, name=name, strides=strides, **sizes)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    logits = keras.layers.Dense(num_classes, name="logits")(x)
    return keras.Model(image, logits, name="cnn")


def _block(
    x: Any, *, name: str, strides: int, width: int, kernel: int, expansion: int
) -> Any:
    inputs = x
    channels = x.shape[-1]
    if expansion > 1:
        x = _pointwise(x, channels * expansion, f"{name}_expand")
        x = _relu(x, f"{name}_expand")
    x = keras.layers.DepthwiseConv2D(
        kernel,
        strides=strides,
        padding="same",
        use_bias=False,
        name=f"{name}_depthwise",
    )(x)
    x = _relu(_norm(x, f"{name}_depthwise"), f"{name}_depthwise")
    # No activation: what is narrow loses too much to a ReLU.
    x = _pointwise(x, width, f"{name}_project")
    if strides == 1 and channels == width:
        x = keras.layers.Add(name=f"{name}_add")([inputs, x])
    return x


def _pointwise(x: Any, channels: int, name: str) -> Any:
    x = keras.layers.Conv2D(channels, 1, use_bias=False, name=name)(x)
    return _norm(x, name)


def _norm(x: Any, name: str) -> Any:
    # Keras's momentum of 0.99 remembers the first steps for hundreds of
    # others: a search that trains briefly would measure that.
    return keras.layers.BatchNormalization(momentum=0.9, name=f"{name}_norm")(x)


def _relu(x: Any, name: str) -> Any:
    return keras.layers.ReLU(max_value=6.0, name=f"{name}_relu")(x)
