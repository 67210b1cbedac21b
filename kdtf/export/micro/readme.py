"""What stands in the folder's README.txt."""

__all__ = ["readme"]

_TEXT = """\
{name}: a neural network for TensorFlow Lite Micro, written by kdtf.

{name}.tflite      the model, {size_bytes:,} bytes
{name}_data.h/.cc  the same bytes as a constant array: g_{name}_data
model_settings.h   arena, inputs, outputs, scales (namespace kdtf_{name})
op_resolver.h      the {num_operators} operators that it uses, and no others
example.cc         a main that runs it once: start from here

Flash: {size_bytes:,} bytes for the model. The interpreter and its kernels come
on top; how much depends on chip and compiler.

RAM: {reserved_bytes:,} bytes for the arena: {arena_bytes:,} measured with the
portable kernels on a 64-bit computer, and {margin_bytes:,} of margin for
kernels made for your chip. When it runs there, print
`interpreter.arena_used_bytes()` and set kArenaBytes by it. (On Arm cores with
Helium CMSIS-NN keeps 4 bytes more for each output of a FULLY_CONNECTED.)

Numbers: a real number is scale * (integer - zero point). If an output is fed
back as an input (the state of a streaming model), turn it into a real number
with the output's scale and back with the input's: they may differ.

Build: add {name}_data.cc and your main to a TensorFlow Lite Micro project
(https://github.com/tensorflow/tflite-micro, C++17), and this folder to the
include path.
"""


def readme(
    name: str,
    *,
    size_bytes: int,
    arena_bytes: int,
    margin_bytes: int,
    num_operators: int,
) -> str:
    """Gives the text of README.txt.

    Args:
        name: The model's.
        size_bytes: Of the file.
        arena_bytes: As measured.
        margin_bytes: What is reserved beside it.
        num_operators: How many kinds there are.
    """
    return _TEXT.format(
        name=name,
        size_bytes=size_bytes,
        arena_bytes=arena_bytes,
        margin_bytes=margin_bytes,
        reserved_bytes=arena_bytes + margin_bytes,
        num_operators=num_operators,
    )
