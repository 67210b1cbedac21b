"""How TensorFlow Lite Micro's resolver calls each operator."""

from kdtf.export.targets import MICRO_OPERATORS

__all__ = ["resolver_method"]

# Where micro_mutable_op_resolver.h does not follow its own rule, which is one
# capital a word and no underscores.
_IRREGULAR = {
    "AVERAGE_POOL_2D": "AddAveragePool2D",
    "BATCH_MATMUL": "AddBatchMatMul",
    "CONV_2D": "AddConv2D",
    "CUMSUM": "AddCumSum",
    "DEPTHWISE_CONV_2D": "AddDepthwiseConv2D",
    "L2_POOL_2D": "AddL2Pool2D",
    "MAX_POOL_2D": "AddMaxPool2D",
    "PADV2": "AddPadV2",
    "UNIDIRECTIONAL_SEQUENCE_LSTM": "AddUnidirectionalSequenceLSTM",
}


def resolver_method(operator: str) -> str:
    """Returns the method of `MicroMutableOpResolver` that adds an operator.

    Args:
        operator: The schema's name, one of `MICRO_OPERATORS`.

    Raises:
        ValueError: TensorFlow Lite Micro has no kernel for it.

    Example:
        >>> resolver_method("FULLY_CONNECTED"), resolver_method("CONV_2D")
        ('AddFullyConnected', 'AddConv2D')
    """
    if operator not in MICRO_OPERATORS:
        raise ValueError(
            "`operator` must be one that TensorFlow Lite Micro has a kernel "
            f"for. Received: operator={operator!r}. Replace the layer that "
            "uses it."
        )
    words = operator.split("_")
    regular = "Add" + "".join(word.capitalize() for word in words)
    return _IRREGULAR.get(operator, regular)
