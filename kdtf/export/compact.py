"""Makes int8 files smaller without changing what they compute.

Each channel of a kernel and of its bias has a zero point, a 64-bit 0 in the
file: of a small network they take more than its activations' scales. Equal
lists of them may be one.
"""

from typing import Any

import numpy as np

from kdtf.flatbuffer import buffer_size
from kdtf.flatbuffer import dtype_name
from kdtf.flatbuffer import read_model
from kdtf.flatbuffer import write_model


def compact(content: bytes, *, drop_names: bool) -> bytes:
    """Returns the file with each list of zero points once.

    Args:
        content: An int8 file.
        drop_names: Whether integer constants lose their names: chains of
            all operations folded into them, which nothing looks up.
    """
    model = read_model(content)
    kind = _sharing_kind()
    for subgraph in model.subgraphs:
        for tensor in subgraph.tensors:
            is_integer = "INT" in dtype_name(tensor)
            if drop_names and is_integer and buffer_size(model, tensor):
                tensor.name = b""
            if _has_only_scales(tensor.quantization):
                shared = kind()
                vars(shared).update(vars(tensor.quantization))
                tensor.quantization = shared
    return write_model(model)


def _has_only_scales(quantization: Any) -> bool:
    if quantization is None or quantization.zeroPoint is None:
        return False
    others = (quantization.min, quantization.max, quantization.details)
    is_plain = all(other is None for other in others)
    return is_plain and len(quantization.zeroPoint) > 1


def _sharing_kind() -> type:
    """Returns a kind of quantization that writes equal lists as one."""
    from ai_edge_litert import schema_py_generated as schema

    written: dict[bytes, int] = {}

    class Sharing(schema.QuantizationParametersT):
        def Pack(self, builder: Any) -> int:
            zero_points = np.asarray(self.zeroPoint, "<i8")
            key = zero_points.tobytes()
            if key not in written:
                written[key] = builder.CreateNumpyVector(zero_points)
            scale = builder.CreateNumpyVector(np.asarray(self.scale, "<f4"))
            schema.QuantizationParametersStart(builder)
            schema.QuantizationParametersAddScale(builder, scale)
            schema.QuantizationParametersAddZeroPoint(builder, written[key])
            schema.QuantizationParametersAddQuantizedDimension(
                builder, self.quantizedDimension
            )
            return int(schema.QuantizationParametersEnd(builder))

    return Sharing
