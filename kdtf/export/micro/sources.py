"""The C++ files around a model: pure functions from facts to text.

They follow TensorFlow Lite Micro's own examples: C++17, the model as an
aligned constant array that the linker puts into flash, one arena in RAM.
"""

from collections.abc import Iterable
from collections.abc import Sequence

import numpy as np

from kdtf.export.micro.operators import resolver_method
from kdtf.flatbuffer import Signature
from kdtf.flatbuffer import TensorSpec

__all__ = [
    "CTYPES",
    "data_header",
    "data_source",
    "resolver_header",
    "settings_header",
    "string_literal",
]

_BYTES_PER_LINE = 12
CTYPES = {
    "int8": "int8_t",
    "uint8": "uint8_t",
    "int16": "int16_t",
    "int32": "int32_t",
    "int64": "int64_t",
    "bool": "bool",
}


def data_header(name: str, size_bytes: int) -> str:
    """Gives the declaration of the model's bytes."""
    return _header(
        f"{name}_data.h",
        f"constexpr unsigned int g_{name}_data_size = {size_bytes};",
        f"extern const unsigned char g_{name}_data[];",
    )


def data_source(name: str, content: bytes) -> str:
    """Gives the model's bytes as a C array, aligned for the interpreter.

    Example:
        >>> print(data_source("m", bytes([0, 255])))
        // Written by kdtf.
        #include "m_data.h"
        <BLANKLINE>
        alignas(16) const unsigned char g_m_data[] = {
            0x00, 0xff,
        };
        <BLANKLINE>
    """
    lines = [
        ", ".join(f"0x{byte:02x}" for byte in content[i : i + _BYTES_PER_LINE])
        for i in range(0, len(content), _BYTES_PER_LINE)
    ]
    body = "".join(f"    {line},\n" for line in lines)
    return (
        f'// Written by kdtf.\n#include "{name}_data.h"\n\n'
        f"alignas(16) const unsigned char g_{name}_data[] = {{\n{body}}};\n"
    )


def settings_header(
    name: str,
    entry: Signature,
    *,
    arena_bytes: int,
    margin_bytes: int,
    labels: Sequence[str] = (),
) -> str:
    """Gives the numbers a program needs, in the namespace `kdtf_<name>`.

    Args:
        name: The model's.
        entry: Its inputs and outputs, in the interpreter's order.
        arena_bytes: As measured on this computer.
        margin_bytes: What to reserve beside it.
        labels: Names of the classes; none are written if it is empty.
    """
    lines = [
        "// Measured with the portable kernels on a 64-bit computer. Kernels",
        "// made for a chip (CMSIS-NN, ESP-NN) may take more: the margin is",
        "// for them. On the device `arena_used_bytes()` has the last word.",
        f"constexpr size_t kMeasuredArenaBytes = {arena_bytes};",
        f"constexpr size_t kArenaMarginBytes = {margin_bytes};",
        "constexpr size_t kArenaBytes = kMeasuredArenaBytes + "
        "kArenaMarginBytes;",
        "",
        "// A real number is scale * (integer - zero point).",
        f"constexpr int kNumInputs = {len(entry.inputs)};",
        f"constexpr int kNumOutputs = {len(entry.outputs)};",
    ]
    for kind, specs in (("Input", entry.inputs), ("Output", entry.outputs)):
        for index, spec in enumerate(specs):
            lines += ["", *_tensor_lines(f"k{kind}{index}", spec)]
    if labels:
        lines += ["", f"constexpr int kNumLabels = {len(labels)};"]
        lines += ["constexpr const char* kLabels[kNumLabels] = {"]
        lines += [f"    {string_literal(label)}," for label in labels]
        lines += ["};"]
    return _header(
        "model_settings.h",
        *_in_namespace(name, lines),
        guard_prefix=name,
        includes=("<cstddef>", "<cstdint>"),
    )


def resolver_header(name: str, operators: Iterable[str]) -> str:
    """Gives a resolver with exactly the operators the file uses."""
    ordered = sorted(operators)
    # C++ has no arrays of size 0.
    size = max(1, len(ordered))
    lines = [
        f"using OpResolver = tflite::MicroMutableOpResolver<{size}>;",
        "",
        "inline TfLiteStatus RegisterOperators(OpResolver& resolver) {",
        *(
            f"  TF_LITE_ENSURE_STATUS(resolver.{resolver_method(operator)}());"
            for operator in ordered
        ),
        "  return kTfLiteOk;",
        "}",
    ]
    return _header(
        "op_resolver.h",
        *_in_namespace(name, lines),
        guard_prefix=name,
        includes=('"tensorflow/lite/micro/micro_mutable_op_resolver.h"',),
    )


def string_literal(text: str) -> str:
    r"""Gives `text` as a C string literal in UTF-8.

    Example:
        >>> print(string_literal('say "hi"'), string_literal("é?"))
        "say \"hi\"" "\303\251\077"
    """
    plain = set(range(32, 127)) - set(b'"\\?')
    escapes = {ord('"'): '\\"', ord("\\"): "\\\\"}
    # Three octal digits end by themselves; "?" would start a trigraph.
    parts = [
        chr(byte) if byte in plain else escapes.get(byte, f"\\{byte:03o}")
        for byte in text.encode()
    ]
    return f'"{"".join(parts)}"'


def _tensor_lines(prefix: str, spec: TensorSpec) -> list[str]:
    shape = ", ".join(str(size) for size in spec.shape)
    count = int(np.prod([size or 1 for size in spec.shape]))
    lines = [
        f"constexpr const char* {prefix}Name = {string_literal(spec.name)};",
        f"using {prefix[1:]}Type = {CTYPES[spec.dtype]};",
        f"constexpr int {prefix}NumDims = {len(spec.shape)};",
        f"constexpr int {prefix}Shape[{prefix}NumDims] = {{{shape}}};",
        f"constexpr int {prefix}Size = {count};",
    ]
    if spec.scale is not None:
        lines += [
            f"constexpr float {prefix}Scale = {_float_literal(spec.scale)};",
            f"constexpr int {prefix}ZeroPoint = {spec.zero_point};",
        ]
    return lines


def _float_literal(value: float) -> str:
    # The fewest digits that give the same float32.
    return f"{np.float32(value)!s}f"


def _in_namespace(name: str, lines: list[str]) -> list[str]:
    space = f"kdtf_{name}"
    return [
        f"namespace {space} {{",
        "",
        *lines,
        "",
        f"}}  // namespace {space}",
    ]


def _header(
    filename: str,
    *lines: str,
    guard_prefix: str = "",
    includes: Sequence[str] = (),
) -> str:
    words = ["kdtf", guard_prefix, filename.replace(".", "_")]
    guard = "_".join(word for word in words if word).upper() + "_"
    included = [f"#include {header}" for header in includes]
    parts = [
        "// Written by kdtf.",
        f"#ifndef {guard}",
        f"#define {guard}",
        "",
        *included,
        *([""] if included else []),
        *lines,
        "",
        f"#endif  // {guard}",
        "",
    ]
    return "\n".join(parts)
