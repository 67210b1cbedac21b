"""The names under which TensorFlow Lite Micro's resolver knows operators."""

import pytest

from kdtf.export.micro.operators import resolver_method
from kdtf.export.targets import MICRO_OPERATORS

# Read off micro_mutable_op_resolver.h (tflite-micro 90b983c, August 2026):
# AddBuiltin(BuiltinOperator_<left>, ...) stands in <right>.
HEADER = """
ABS AddAbs
ADD AddAdd
ADD_N AddAddN
ARG_MAX AddArgMax
ARG_MIN AddArgMin
ASSIGN_VARIABLE AddAssignVariable
AVERAGE_POOL_2D AddAveragePool2D
BATCH_MATMUL AddBatchMatMul
BATCH_TO_SPACE_ND AddBatchToSpaceNd
BROADCAST_ARGS AddBroadcastArgs
BROADCAST_TO AddBroadcastTo
CALL_ONCE AddCallOnce
CAST AddCast
CEIL AddCeil
CONCATENATION AddConcatenation
CONV_2D AddConv2D
COS AddCos
CUMSUM AddCumSum
DEPTHWISE_CONV_2D AddDepthwiseConv2D
DEPTH_TO_SPACE AddDepthToSpace
DEQUANTIZE AddDequantize
DIV AddDiv
DYNAMIC_UPDATE_SLICE AddDynamicUpdateSlice
ELU AddElu
EMBEDDING_LOOKUP AddEmbeddingLookup
EQUAL AddEqual
EXP AddExp
EXPAND_DIMS AddExpandDims
FILL AddFill
FLOOR AddFloor
FLOOR_DIV AddFloorDiv
FLOOR_MOD AddFloorMod
FULLY_CONNECTED AddFullyConnected
GATHER AddGather
GATHER_ND AddGatherNd
GREATER AddGreater
GREATER_EQUAL AddGreaterEqual
HARD_SWISH AddHardSwish
IF AddIf
L2_NORMALIZATION AddL2Normalization
L2_POOL_2D AddL2Pool2D
LEAKY_RELU AddLeakyRelu
LESS AddLess
LESS_EQUAL AddLessEqual
LOG AddLog
LOGICAL_AND AddLogicalAnd
LOGICAL_NOT AddLogicalNot
LOGICAL_OR AddLogicalOr
LOGISTIC AddLogistic
LOG_SOFTMAX AddLogSoftmax
MAXIMUM AddMaximum
MAX_POOL_2D AddMaxPool2D
MEAN AddMean
MINIMUM AddMinimum
MIRROR_PAD AddMirrorPad
MUL AddMul
NEG AddNeg
NOT_EQUAL AddNotEqual
PACK AddPack
PAD AddPad
PADV2 AddPadV2
PRELU AddPrelu
QUANTIZE AddQuantize
READ_VARIABLE AddReadVariable
REDUCE_ALL AddReduceAll
REDUCE_MAX AddReduceMax
REDUCE_MIN AddReduceMin
RELU AddRelu
RELU6 AddRelu6
RESHAPE AddReshape
RESIZE_BILINEAR AddResizeBilinear
RESIZE_NEAREST_NEIGHBOR AddResizeNearestNeighbor
REVERSE_V2 AddReverseV2
ROUND AddRound
RSQRT AddRsqrt
SELECT_V2 AddSelectV2
SHAPE AddShape
SIN AddSin
SLICE AddSlice
SOFTMAX AddSoftmax
SPACE_TO_BATCH_ND AddSpaceToBatchNd
SPACE_TO_DEPTH AddSpaceToDepth
SPLIT AddSplit
SPLIT_V AddSplitV
SQRT AddSqrt
SQUARE AddSquare
SQUARED_DIFFERENCE AddSquaredDifference
SQUEEZE AddSqueeze
STRIDED_SLICE AddStridedSlice
SUB AddSub
SUM AddSum
SVDF AddSvdf
TANH AddTanh
TRANSPOSE AddTranspose
TRANSPOSE_CONV AddTransposeConv
UNIDIRECTIONAL_SEQUENCE_LSTM AddUnidirectionalSequenceLSTM
UNPACK AddUnpack
VAR_HANDLE AddVarHandle
WHILE AddWhile
ZEROS_LIKE AddZerosLike
"""
METHODS = dict(line.split() for line in HEADER.split("\n") if line)


def test_every_operator_has_the_headers_name():
    assert {name: resolver_method(name) for name in MICRO_OPERATORS} == METHODS


def test_an_operator_without_a_kernel_is_refused():
    with pytest.raises(ValueError, match="operator='SELECT'"):
        resolver_method("SELECT")
