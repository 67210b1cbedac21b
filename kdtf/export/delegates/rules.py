"""Which operators an accelerator takes, by its delegate's own source.

Names and types only: what depends on an operator's options (strides, fused
activations, which inputs are constant) is for the device to tell.
"""

import dataclasses

__all__ = ["RULES", "Rules"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rules:
    """What one delegate takes.

    Args:
        name: A short name.
        title: What it is, and since or until when.
        source: Where the rules come from, and their date.
        operators: The names it takes.
        dtypes: Types its tensors may have.
        more_dtypes: Further types, for some operators.
        float_only: Operators that take FLOAT32 and no other type.
        checks_all: Whether every tensor that is no constant must have one of
            these types; otherwise only the first of an operator's inputs.
        max_parts: How many parts of a graph it takes if not told otherwise;
            the largest ones.
        max_rank: The most dimensions a tensor may have.
    """

    name: str
    title: str
    source: str
    operators: frozenset[str]
    dtypes: frozenset[str]
    more_dtypes: dict[str, frozenset[str]]
    checks_all: bool
    max_parts: int
    float_only: frozenset[str] = frozenset()
    max_rank: int = 4


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _by_operator(*groups: tuple[str, str]) -> dict[str, frozenset[str]]:
    """Joins groups of operators, each with types they may also have."""
    found: dict[str, frozenset[str]] = {}
    for operators, dtypes in groups:
        for name in operators.split():
            found[name] = found.get(name, frozenset()) | _words(dtypes)
    return found


_COMPARISONS = "EQUAL GREATER GREATER_EQUAL LESS LESS_EQUAL NOT_EQUAL"
_INTEGERS = "INT8 INT16 INT32"
_ANY = "BOOL INT8 INT16 INT32 UINT8 UINT16 UINT32 BFLOAT16"

_GPU = Rules(
    name="gpu",
    title="TensorFlow Lite's GPU delegate (Interpreter with GpuDelegate)",
    source="LiteRT tflite/delegates/gpu/common/model_builder.cc, June 2026",
    operators=_words(
        f"""
        ABS ADD ADD_N AVERAGE_POOL_2D BATCH_MATMUL CAST CONCATENATION CONV_2D
        COS CUMSUM DENSIFY DEPTHWISE_CONV_2D DEPTH_TO_SPACE DEQUANTIZE DIV ELU
        EXP FLOOR FLOOR_DIV FLOOR_MOD FULLY_CONNECTED GATHER GELU HARD_SWISH
        LEAKY_RELU LOG LOGICAL_AND LOGISTIC LSTM MAXIMUM MAX_POOL_2D MEAN
        MINIMUM MIRROR_PAD MUL NEG ONE_HOT PACK PAD PADV2 POW PRELU QUANTIZE
        REDUCE_MAX REDUCE_MIN REDUCE_PROD RELU RELU6 RELU_0_TO_1 RELU_N1_TO_1
        RESHAPE RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR RSQRT SELECT SELECT_V2
        SIGN SIN SLICE SOFTMAX SPACE_TO_DEPTH SPLIT SPLIT_V SQRT SQUARE
        SQUARED_DIFFERENCE STRIDED_SLICE SUB SUM TANH TILE TRANSPOSE
        TRANSPOSE_CONV UNPACK {_COMPARISONS}
        """
    ),
    # Quantized files are computed in float there.
    dtypes=_words("FLOAT32 FLOAT16 INT8 UINT8"),
    more_dtypes=_by_operator(
        (f"LOGICAL_AND SELECT SELECT_V2 {_COMPARISONS}", "BOOL"),
        ("CAST", "BOOL INT32"),
        ("GATHER ONE_HOT", "INT32"),
    ),
    checks_all=True,
    max_parts=1,
)
_ML_DRIFT = Rules(
    name="ml_drift",
    title="LiteRT 2's GPU accelerator (CompiledModel with Accelerator.GPU)",
    source="LiteRT ml_drift_delegate/tflite/model_builder.cc, August 2026",
    operators=_words(
        f"""
        ABS ADD ADD_N ARG_MAX ATAN2 AVERAGE_POOL_2D BATCH_MATMUL BITCAST
        BITWISE_XOR CAST CEIL CONCATENATION CONV_2D COS CUMSUM DEPTHWISE_CONV_2D
        DEPTH_TO_SPACE DEQUANTIZE DIV DYNAMIC_UPDATE_SLICE ELU EMBEDDING_LOOKUP
        EXP FLOOR FLOOR_DIV FLOOR_MOD FULLY_CONNECTED GATHER GELU HARD_SWISH
        LEAKY_RELU LOG LOGICAL_AND LOGICAL_NOT LOGICAL_OR LOGISTIC LSTM MAXIMUM
        MAX_POOL_2D MEAN MINIMUM MIRROR_PAD MUL NEG ONE_HOT PACK PAD PADV2 POW
        PRELU QUANTIZE REDUCE_ALL REDUCE_ANY REDUCE_MAX REDUCE_MIN REDUCE_PROD
        RELU RELU6 RELU_0_TO_1 RELU_N1_TO_1 RESHAPE RESIZE_BILINEAR
        RESIZE_NEAREST_NEIGHBOR REVERSE_V2 RIGHT_SHIFT ROUND RSQRT SELECT
        SELECT_V2 SIGN SIN SLICE SOFTMAX SPACE_TO_DEPTH SPLIT SPLIT_V SQRT
        SQUARE SQUARED_DIFFERENCE STRIDED_SLICE SUB SUM TANH TILE TOPK_V2
        TRANSPOSE TRANSPOSE_CONV UNPACK {_COMPARISONS}
        """
    ),
    dtypes=_words("FLOAT32 FLOAT16 INT8 UINT8"),
    more_dtypes=_by_operator(
        ("ARG_MAX EMBEDDING_LOOKUP ONE_HOT TOPK_V2", "INT32"),
        ("REDUCE_ALL REDUCE_ANY", "BOOL"),
        (_COMPARISONS, f"{_INTEGERS} UINT16 UINT32 BOOL"),
        ("LOGICAL_AND LOGICAL_NOT LOGICAL_OR BITWISE_XOR", f"BOOL {_INTEGERS}"),
        (
            "ABS ADD ATAN2 COS DIV FLOOR_DIV FLOOR_MOD MAXIMUM MINIMUM MUL NEG "
            "REDUCE_MAX REDUCE_MIN REDUCE_PROD RIGHT_SHIFT SIGN SIN SUB SUM "
            "TILE",
            _INTEGERS,
        ),
        (
            "BITCAST CAST CONCATENATION DYNAMIC_UPDATE_SLICE GATHER PACK PAD "
            "PADV2 RESHAPE REVERSE_V2 SELECT SELECT_V2 SLICE STRIDED_SLICE "
            "TRANSPOSE",
            _ANY,
        ),
    ),
    checks_all=True,
    max_parts=1,
)
_NNAPI = Rules(
    name="nnapi",
    title="NNAPI (Android 11 to 14; deprecated since Android 15)",
    source="LiteRT tflite/delegates/nnapi/nnapi_delegate.cc, May 2026",
    operators=_words(
        f"""
        ABS ADD ARG_MAX ARG_MIN AVERAGE_POOL_2D BATCH_MATMUL BATCH_TO_SPACE_ND
        BIDIRECTIONAL_SEQUENCE_LSTM CAST CONCATENATION CONV_2D COS DENSIFY
        DEPTHWISE_CONV_2D DEPTH_TO_SPACE DEQUANTIZE DIV ELU EMBEDDING_LOOKUP EXP
        EXPAND_DIMS FILL FLOOR FULLY_CONNECTED GATHER HARD_SWISH
        HASHTABLE_LOOKUP L2_NORMALIZATION L2_POOL_2D LEAKY_RELU
        LOCAL_RESPONSE_NORMALIZATION LOG LOGICAL_AND LOGICAL_NOT LOGICAL_OR
        LOGISTIC LOG_SOFTMAX LSH_PROJECTION LSTM MAXIMUM MAX_POOL_2D MEAN
        MINIMUM MIRROR_PAD MUL NEG PACK PAD PADV2 POW PRELU QUANTIZE REDUCE_ANY
        REDUCE_MAX REDUCE_MIN REDUCE_PROD RELU RELU6 RELU_N1_TO_1 RESHAPE
        RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR REVERSE_V2 RNN RSQRT SELECT SIN
        SLICE SOFTMAX SPACE_TO_BATCH_ND SPACE_TO_DEPTH SPLIT SPLIT_V SQRT
        SQUARED_DIFFERENCE SQUEEZE STRIDED_SLICE SUB SUM SVDF TANH TILE TOPK_V2
        TRANSPOSE TRANSPOSE_CONV UNIDIRECTIONAL_SEQUENCE_LSTM
        UNIDIRECTIONAL_SEQUENCE_RNN UNPACK {_COMPARISONS}
        """
    ),
    dtypes=_words("FLOAT32 INT8 UINT8"),
    more_dtypes=_by_operator(
        (
            "ADD ARG_MAX ARG_MIN BATCH_MATMUL CAST EMBEDDING_LOOKUP FILL "
            "GATHER EXPAND_DIMS HASHTABLE_LOOKUP MAXIMUM MINIMUM MIRROR_PAD "
            "MUL NEG PACK RESHAPE REVERSE_V2 SLICE SPLIT SPLIT_V SUB TILE "
            f"SQUARED_DIFFERENCE TOPK_V2 {_COMPARISONS}",
            "INT32",
        ),
        (
            "LOGICAL_AND LOGICAL_NOT LOGICAL_OR REDUCE_ANY SELECT "
            f"{_COMPARISONS}",
            "BOOL",
        ),
    ),
    float_only=_words("ABS COS DIV EXP L2_POOL_2D LOG POW SIN SQRT"),
    checks_all=False,
    max_parts=3,
)

RULES = (_GPU, _ML_DRIFT, _NNAPI)
