"""What each target device allows, and what each way of quantizing promises."""

import dataclasses

# Operators TensorFlow Lite Micro has kernels for: AddXxx in
# tensorflow/lite/micro/micro_mutable_op_resolver.h (August 2026).
MICRO_OPERATORS = frozenset(
    """
    ABS ADD ADD_N ARG_MAX ARG_MIN ASSIGN_VARIABLE AVERAGE_POOL_2D BATCH_MATMUL
    BATCH_TO_SPACE_ND BROADCAST_ARGS BROADCAST_TO CALL_ONCE CAST CEIL
    CONCATENATION CONV_2D COS CUMSUM DEPTHWISE_CONV_2D DEPTH_TO_SPACE
    DEQUANTIZE DIV DYNAMIC_UPDATE_SLICE ELU EMBEDDING_LOOKUP EQUAL EXP
    EXPAND_DIMS FILL FLOOR FLOOR_DIV FLOOR_MOD FULLY_CONNECTED GATHER
    GATHER_ND GREATER GREATER_EQUAL HARD_SWISH IF L2_NORMALIZATION L2_POOL_2D
    LEAKY_RELU LESS LESS_EQUAL LOG LOGICAL_AND LOGICAL_NOT LOGICAL_OR LOGISTIC
    LOG_SOFTMAX MAXIMUM MAX_POOL_2D MEAN MINIMUM MIRROR_PAD MUL NEG NOT_EQUAL
    PACK PAD PADV2 PRELU QUANTIZE READ_VARIABLE REDUCE_ALL REDUCE_MAX
    REDUCE_MIN RELU RELU6 RESHAPE RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR
    REVERSE_V2 ROUND RSQRT SELECT_V2 SHAPE SIN SLICE SOFTMAX SPACE_TO_BATCH_ND
    SPACE_TO_DEPTH SPLIT SPLIT_V SQRT SQUARE SQUARED_DIFFERENCE SQUEEZE
    STRIDED_SLICE SUB SUM SVDF TANH TRANSPOSE TRANSPOSE_CONV
    UNIDIRECTIONAL_SEQUENCE_LSTM UNPACK VAR_HANDLE WHILE ZEROS_LIKE
    """.split()
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    """A kind of device.

    Args:
        name: As the user writes it.
        modes: The values of `quantize` it takes.
        default_mode: What `quantize=None` means there.
        integer_only: Whether every operator, input and output must be
            integer; otherwise int8 files keep float inputs and outputs.
        dense_per_tensor: One scale per Dense kernel in int8: TensorFlow Lite
            Micro needs 4.5 times the arena for one per channel.
        operators: Names allowed; None for every builtin one.
    """

    name: str
    modes: tuple[str | None, ...]
    default_mode: str | None = None
    integer_only: bool = False
    dense_per_tensor: bool = False
    operators: frozenset[str] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mode:
    """A way of quantizing and what its file must keep.

    Args:
        weight_dtypes: Types its weights may have in the file.
        min_sqnr_db: Signal-to-noise ratio, in decibels, below which the file
            does not compute the model's function any more.
        good_sqnr_db: The ratio below which the result carries a warning.
        simulated_sqnr_db: The same two for a model that was quantized for
            this mode, so that its own outputs are what the file must give.
        num_bits: Of the weights, where activations stay float.
        block_size: Weights that share one scale; None for one scale for each
            output.
    """

    weight_dtypes: frozenset[str]
    min_sqnr_db: float
    good_sqnr_db: float
    simulated_sqnr_db: tuple[float, float]
    num_bits: int | None = None
    block_size: int | None = None


_INTEGERS = frozenset({"INT8", "UINT8", "INT4", "UINT4", "INT2"})
_HALVES = frozenset({"FLOAT16", "BFLOAT16"})
# Measured on a CNN and on small transformers: float32 126 to 138 dB, float16
# 61 to 80, dynamic int8 40 to 55, int8 24 to 37, int4 15 to 35; a route that
# lost the weights or saturated an activation lies at or under 5. The error
# limits leave room for models whose values cancel, the warning limits are what
# is usual. Where the weights were on their grid before, only what the runtime
# does to activations is left.
MODES: dict[str | None, Mode] = {
    None: Mode(
        weight_dtypes=_INTEGERS | _HALVES | {"FLOAT32", "FLOAT64"},
        min_sqnr_db=80.0,
        good_sqnr_db=100.0,
        simulated_sqnr_db=(80.0, 100.0),
    ),
    "float16": Mode(
        weight_dtypes=_INTEGERS | _HALVES,
        min_sqnr_db=40.0,
        good_sqnr_db=55.0,
        simulated_sqnr_db=(40.0, 55.0),
    ),
    "dynamic_int8": Mode(
        weight_dtypes=_INTEGERS,
        min_sqnr_db=15.0,
        good_sqnr_db=30.0,
        simulated_sqnr_db=(20.0, 30.0),
        num_bits=8,
    ),
    "int8": Mode(
        weight_dtypes=_INTEGERS,
        min_sqnr_db=10.0,
        good_sqnr_db=20.0,
        simulated_sqnr_db=(20.0, 30.0),
    ),
    **{
        f"int4_block{size}" if size else "int4": Mode(
            weight_dtypes=_INTEGERS,
            min_sqnr_db=6.0,
            good_sqnr_db=15.0,
            simulated_sqnr_db=(20.0, 30.0),
            num_bits=4,
            block_size=size,
        )
        for size in (None, 32, 64, 128, 256)
    },
}

TARGETS = {
    target.name: target
    for target in (
        Target(name="android", modes=tuple(MODES)),
        Target(
            name="iot",
            modes=("int8",),
            default_mode="int8",
            integer_only=True,
            dense_per_tensor=True,
            operators=MICRO_OPERATORS,
        ),
        Target(name="float", modes=(None, "float16")),
    )
}


def get_target(name: str) -> Target:
    """Returns the target called `name`.

    Raises:
        ValueError: There is none; the message lists the known ones.

    Example:
        >>> get_target("iot").default_mode
        'int8'
    """
    if name not in TARGETS:
        raise ValueError(
            f"`target` must be one of {list(TARGETS)}. Received: "
            f"target={name!r}."
        )
    return TARGETS[name]


def get_mode(quantize: str | None, target: Target) -> str | None:
    """Returns how to quantize for `target`: `quantize`, or its default.

    Raises:
        ValueError: It is unknown, or the target does not take it.

    Example:
        >>> get_mode(None, get_target("iot"))
        'int8'
    """
    mode = target.default_mode if quantize is None else quantize
    if mode not in MODES:
        raise ValueError(
            f"`quantize` must be one of {list(MODES)}. Received: "
            f"quantize={quantize!r}. (Scales for blocks of weights exist for "
            "int4 only.)"
        )
    if mode not in target.modes:
        raise ValueError(
            f"`quantize` must be one of {list(target.modes)} for the target "
            f"{target.name!r}. Received: quantize={quantize!r}. Choose "
            "another target, such as 'android', or leave `quantize` out."
        )
    return mode
