"""The generated C++: its text, and that a compiler takes it."""

import re
import shutil
import subprocess

import pytest

from kdtf.export.micro import sources
from kdtf.export.micro.example import example_source
from kdtf.export.micro.operators import resolver_method
from kdtf.export.micro.readme import readme
from kdtf.export.targets import MICRO_OPERATORS
from kdtf.flatbuffer import Signature
from kdtf.flatbuffer import TensorSpec

IMAGE = TensorSpec(
    name="image", dtype="int8", shape=(1, 2, 3), scale=0.1, zero_point=-128
)
STATE = TensorSpec(name="state", dtype="int16", shape=(1, 4), scale=2.0)
IDS = TensorSpec(name="ids", dtype="int32", shape=(1,))
SCORES = TensorSpec(
    name='say "hi"', dtype="uint8", shape=(1, 2), scale=1e-5, zero_point=3
)
FLAGS = TensorSpec(name="flags", dtype="bool", shape=(1, 2))
LONG = TensorSpec(name="long", dtype="int64", shape=(1,))
ENTRY = Signature(
    key="serving_default",
    inputs=(IMAGE, STATE, IDS),
    outputs=(SCORES, FLAGS, LONG),
)


def settings(entry=ENTRY, **options):
    options = {"arena_bytes": 4800, "margin_bytes": 1024, **options}
    return sources.settings_header("m", entry, **options)


def test_data_is_an_aligned_array_of_twelve_bytes_a_line():
    text = sources.data_source("m", bytes(range(250, 256)) + bytes(8))
    assert text == (
        "// Written by kdtf.\n"
        '#include "m_data.h"\n'
        "\n"
        "alignas(16) const unsigned char g_m_data[] = {\n"
        "    0xfa, 0xfb, 0xfc, 0xfd, 0xfe, 0xff, 0x00, 0x00, 0x00, 0x00, "
        "0x00, 0x00,\n"
        "    0x00, 0x00,\n"
        "};\n"
    )


def test_the_array_holds_the_bytes():
    content = bytes(range(256)) * 3 + b"end"
    found = re.findall(r"0x(..),", sources.data_source("m", content))
    assert bytes.fromhex("".join(found)) == content


def test_data_header_declares_array_and_size():
    assert sources.data_header("m", 53936) == (
        "// Written by kdtf.\n"
        "#ifndef KDTF_M_DATA_H_\n"
        "#define KDTF_M_DATA_H_\n"
        "\n"
        "constexpr unsigned int g_m_data_size = 53936;\n"
        "extern const unsigned char g_m_data[];\n"
        "\n"
        "#endif  // KDTF_M_DATA_H_\n"
    )


@pytest.mark.parametrize(
    "line",
    [
        "#ifndef KDTF_M_MODEL_SETTINGS_H_",
        "namespace kdtf_m {",
        "constexpr size_t kMeasuredArenaBytes = 4800;",
        "constexpr size_t kArenaMarginBytes = 1024;",
        "constexpr size_t kArenaBytes = kMeasuredArenaBytes + "
        "kArenaMarginBytes;",
        "constexpr int kNumInputs = 3;",
        "constexpr int kNumOutputs = 3;",
        'constexpr const char* kInput0Name = "image";',
        "using Input0Type = int8_t;",
        "constexpr int kInput0NumDims = 3;",
        "constexpr int kInput0Shape[kInput0NumDims] = {1, 2, 3};",
        "constexpr int kInput0Size = 6;",
        "constexpr float kInput0Scale = 0.1f;",
        "constexpr int kInput0ZeroPoint = -128;",
        "constexpr float kInput1Scale = 2.0f;",
        "using Input2Type = int32_t;",
        r'constexpr const char* kOutput0Name = "say \"hi\"";',
        "constexpr float kOutput0Scale = 1e-05f;",
        "constexpr int kOutput0ZeroPoint = 3;",
    ],
)
def test_settings_have_the_line(line):
    assert line in settings().split("\n")


def test_what_has_no_scale_gets_none_and_no_labels_are_made_up():
    text = settings()
    assert "kInput2Scale" not in text and "kInput2ZeroPoint" not in text
    assert "Label" not in text


def test_labels_stand_in_order():
    text = settings(labels=["yes", "nö"])
    expected = (
        "constexpr int kNumLabels = 2;\n"
        "constexpr const char* kLabels[kNumLabels] = {\n"
        '    "yes",\n'
        '    "n\\303\\266",\n'
        "};\n"
    )
    assert expected in text


@pytest.mark.parametrize(
    ("text", "literal"),
    [
        ("", '""'),
        ("plain text", '"plain text"'),
        ('a"b', r'"a\"b"'),
        ("a\\b", r'"a\\b"'),
        # A line end or a trigraph must not reach the compiler.
        ("a\n1", r'"a\0121"'),
        ("??=", r'"\077\077="'),
        ("\0" + "7", r'"\0007"'),
    ],
)
def test_any_text_is_a_string_literal(text, literal):
    assert sources.string_literal(text) == literal


def test_resolver_has_exactly_the_operators():
    text = sources.resolver_header("m", {"SOFTMAX": 1, "CONV_2D": 9})
    assert "tflite::MicroMutableOpResolver<2>;" in text
    assert re.findall(r"resolver\.(\w+)\(\)", text) == [
        "AddConv2D",
        "AddSoftmax",
    ]


def test_a_file_without_operators_still_has_a_resolver():
    assert "MicroMutableOpResolver<1>" in sources.resolver_header("m", [])


def test_readme_says_what_takes_how_much():
    text = readme(
        "m",
        size_bytes=98_496,
        arena_bytes=55_984,
        margin_bytes=7008,
        num_operators=6,
    )
    assert "Flash: 98,496 bytes" in text
    assert "RAM: 62,992 bytes for the arena: 55,984 measured" in text
    assert "the 6 operators" in text


# Just enough of TensorFlow Lite Micro for a compiler to check the calls.
METHODS = "\n".join(
    f"  TfLiteStatus {resolver_method(name)}() {{ return kTfLiteOk; }}"
    for name in sorted(MICRO_OPERATORS)
)
STUBS = {
    "micro_mutable_op_resolver.h": f"""
#include "common.h"
namespace tflite {{
struct MicroOpResolver {{}};
template <unsigned int tOpCount>
struct MicroMutableOpResolver : MicroOpResolver {{
  static_assert(tOpCount > 0, "");
{METHODS}
}};
}}  // namespace tflite
""",
    "common.h": """
#pragma once
enum TfLiteStatus { kTfLiteOk, kTfLiteError };
#define TF_LITE_ENSURE_STATUS(a)    \\
  do {                              \\
    const TfLiteStatus s = (a);     \\
    if (s != kTfLiteOk) return s;   \\
  } while (0)
""",
    "micro_interpreter.h": """
#include <cstddef>
#include <cstdint>
#include "common.h"
#include "micro_mutable_op_resolver.h"
namespace tflite {
struct Model;
struct MicroInterpreter {
  MicroInterpreter(const Model*, const MicroOpResolver&, uint8_t*, size_t);
  TfLiteStatus AllocateTensors();
  TfLiteStatus Invoke();
  size_t arena_used_bytes() const;
  template <class T> T* typed_input_tensor(int);
  template <class T> T* typed_output_tensor(int);
};
}  // namespace tflite
""",
    "micro_log.h": """
void MicroPrintf(const char* format, ...)
    __attribute__((format(printf, 1, 2)));
""",
    "system_setup.h": "namespace tflite { void InitializeTarget(); }\n",
}
SCHEMA = """
namespace tflite {
struct Model;
const Model* GetModel(const void*);
}  // namespace tflite
"""


@pytest.fixture(scope="module")
def stubs(tmp_path_factory):
    root = tmp_path_factory.mktemp("stubs")
    micro = root / "tensorflow" / "lite" / "micro"
    schema = root / "tensorflow" / "lite" / "schema"
    micro.mkdir(parents=True)
    schema.mkdir()
    for name, text in STUBS.items():
        (micro / name).write_text(f"#pragma once\n{text}")
    (schema / "schema_generated.h").write_text(f"#pragma once\n{SCHEMA}")
    return root


@pytest.fixture
def compiled(stubs, tmp_path):
    """Compiles source files strictly; gives the compiler's words."""
    if shutil.which("g++") is None:
        pytest.skip("no g++")

    def run(files, *options):
        for name, text in files.items():
            (tmp_path / name).write_text(text)
        names = [name for name in files if name.endswith(".cc")]
        command = ["g++", "-std=c++17", "-Wall", "-Wextra", "-Werror"]
        command += [f"-I{stubs}", "-I.", *(options or ["-fsyntax-only"])]
        done = subprocess.run(
            [*command, *names], cwd=tmp_path, capture_output=True, text=True
        )
        return done.stderr

    return run


def test_all_files_compile(compiled):
    files = {
        "m_data.h": sources.data_header("m", 4),
        "m_data.cc": sources.data_source("m", b"TFL3"),
        "model_settings.h": settings(labels=["a??/", 'b"']),
        "op_resolver.h": sources.resolver_header("m", MICRO_OPERATORS),
        "example.cc": example_source("m", ENTRY),
    }
    assert compiled(files) == ""


def test_the_compiler_reads_the_numbers_meant(compiled, tmp_path):
    check = """
#include <cstdio>
#include <cstring>
#include "m_data.h"
#include "model_settings.h"
// Two models go into one program.
#include "other.h"
using namespace kdtf_m;
static_assert(kArenaBytes == 5824 && kNumInputs == 3, "");
static_assert(kInput0Scale == 0.1f && kInput0ZeroPoint == -128, "");
static_assert(kInput0Shape[2] == 3 && sizeof(Input2Type) == 4, "");
static_assert(kdtf_n::kArenaBytes == 1040 && g_m_data_size == 4, "");
int main() {
  if (std::memcmp(g_m_data, "TFL3", g_m_data_size)) return 1;
  if (reinterpret_cast<unsigned long>(g_m_data) % 16) return 2;
  std::puts(kLabels[1]);
  return 0;
}
"""
    other = sources.settings_header(
        "n", ENTRY, arena_bytes=16, margin_bytes=1024
    )
    files = {
        "m_data.h": sources.data_header("m", 4),
        "m_data.cc": sources.data_source("m", b"TFL3"),
        "model_settings.h": settings(labels=["a", 'é "?\\']),
        "other.h": other,
        "check.cc": check,
    }
    assert compiled(files, "-o", "check") == ""
    done = subprocess.run(tmp_path / "check", capture_output=True)
    assert (done.returncode, done.stdout) == (0, 'é "?\\\n'.encode())


def test_the_stub_finds_a_wrong_method(compiled):
    text = sources.resolver_header("m", ["CONV_2D"])
    files = {"bad.cc": text.replace("AddConv2D", "AddConv2d")}
    assert "AddConv2d" in compiled(files)
