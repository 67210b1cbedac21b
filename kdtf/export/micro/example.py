"""The `main` that shows how the generated files go together."""

import textwrap

from kdtf.flatbuffer import Signature
from kdtf.flatbuffer import TensorSpec

__all__ = ["example_source"]

_HEAD = """\
// Written by kdtf: how the files of this folder go together.
#include <cmath>
#include <cstdint>
#include <limits>

#include "NAME_data.h"
#include "model_settings.h"
#include "op_resolver.h"
#include "tensorflow/lite/micro/micro_interpreter.h"
#include "tensorflow/lite/micro/micro_log.h"
#include "tensorflow/lite/micro/system_setup.h"
#include "tensorflow/lite/schema/schema_generated.h"

using namespace kdtf_NAME;

namespace {

alignas(16) uint8_t arena[kArenaBytes];

template <typename T>
[[maybe_unused]] T ToInteger(float value, float scale, int zero_point) {
  const float steps = std::round(value / scale) + zero_point;
  const float lowest = std::numeric_limits<T>::min();
  const float highest = std::numeric_limits<T>::max();
  return static_cast<T>(std::fmin(std::fmax(steps, lowest), highest));
}

[[maybe_unused]] float ToReal(int integer, float scale, int zero_point) {
  return scale * static_cast<float>(integer - zero_point);
}

TfLiteStatus Run() {
  static OpResolver resolver;
  TF_LITE_ENSURE_STATUS(RegisterOperators(resolver));
  static tflite::MicroInterpreter interpreter(
      tflite::GetModel(g_NAME_data), resolver, arena, kArenaBytes);
  TF_LITE_ENSURE_STATUS(interpreter.AllocateTensors());
  MicroPrintf("arena: %d of %d bytes",
              static_cast<int>(interpreter.arena_used_bytes()),
              static_cast<int>(kArenaBytes));
"""
_INVOKE = """
  // All inputs must be set again before each call: the arena is shared.
  TF_LITE_ENSURE_STATUS(interpreter.Invoke());
"""
_TAIL = """
  return kTfLiteOk;
}

}  // namespace

int main() {
  tflite::InitializeTarget();
  return Run();
}
"""


def example_source(name: str, entry: Signature) -> str:
    """Gives a `main` that runs the model once, with a place for real inputs."""
    body = [_HEAD.replace("NAME", name)]
    for index, spec in enumerate(entry.inputs):
        body.append(_input_code(index, spec))
    body.append(_INVOKE)
    for index, spec in enumerate(entry.outputs):
        body.append(_output_code(index, spec))
    return "\n".join(body) + _TAIL


def _input_code(index: int, spec: TensorSpec) -> str:
    value = "0"
    if spec.scale is not None:
        value = (
            f"ToInteger<Input{index}Type>(0.0f, kInput{index}Scale, "
            f"kInput{index}ZeroPoint)"
        )
    return textwrap.indent(
        f"// Input {index}: put your own numbers here.\n"
        f"auto* input{index} = "
        f"interpreter.typed_input_tensor<Input{index}Type>({index});\n"
        f"if (input{index} == nullptr) return kTfLiteError;\n"
        f"for (int i = 0; i < kInput{index}Size; ++i) {{\n"
        f"  input{index}[i] = {value};\n"
        "}",
        "  ",
    )


def _output_code(index: int, spec: TensorSpec) -> str:
    result = f"output{index}[i]"
    if spec.scale is not None:
        result = (
            f"ToReal({result}, kOutput{index}Scale, kOutput{index}ZeroPoint)"
        )
    return textwrap.indent(
        f"const auto* output{index} = "
        f"interpreter.typed_output_tensor<Output{index}Type>({index});\n"
        f"if (output{index} == nullptr) return kTfLiteError;\n"
        f"for (int i = 0; i < kOutput{index}Size; ++i) {{\n"
        f"  const double value = {result};\n"
        f'  MicroPrintf("%s[%d] = %f", kOutput{index}Name, i, value);\n'
        "}",
        "  ",
    )
