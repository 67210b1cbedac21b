"""What a description leaves out: which operator reads and writes what."""

from collections.abc import Collection

from kdtf.flatbuffer import FileDescription
from kdtf.flatbuffer import TensorDescription
from kdtf.flatbuffer import operator_name
from kdtf.flatbuffer import read_model


def constants_read_by(
    operators: Collection[str], description: FileDescription
) -> tuple[TensorDescription, ...]:
    """Returns the constants that certain operators read, each once.

    Args:
        operators: Names of operators.
        description: A file, which must still be there.
    """
    model = read_model(description.path.read_bytes())
    tensors = iter(description.tensors)
    found = []
    for subgraph in model.subgraphs:
        own = [next(tensors) for _ in subgraph.tensors]
        read = {
            int(index)
            for operator in subgraph.operators or []
            if operator_name(model, operator) in operators
            for index in operator.inputs
            if index >= 0
        }
        found += [own[i] for i in sorted(read) if own[i].is_constant]
    return tuple(found)


def output_steps(content: bytes) -> dict[str, float]:
    """Returns the real value of one integer step of each quantized output.

    A float output counts as quantized if a DEQUANTIZE writes it.
    """
    from ai_edge_litert import schema_py_generated as schema

    model = read_model(content)
    steps = {}
    for entry in model.signatureDefs or []:
        subgraph = model.subgraphs[entry.subgraphIndex]
        sources = {
            operator.outputs[0]: operator.inputs[0]
            for operator in subgraph.operators
            if model.operatorCodes[operator.opcodeIndex].builtinCode
            == schema.BuiltinOperator.DEQUANTIZE
        }
        for item in entry.outputs:
            index = sources.get(item.tensorIndex, item.tensorIndex)
            quantization = subgraph.tensors[index].quantization
            if quantization is not None and quantization.scale:
                steps[item.name.decode()] = float(quantization.scale[0])
    return steps
