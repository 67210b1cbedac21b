"""The house rules that a machine can check: who may import whom."""

import ast
import pathlib
import subprocess
import sys

import pytest

import kdtf

ROOT = pathlib.Path(kdtf.__file__).parent
BASE = {
    "_version",
    "_backend",
    "backbones",
    "batches",
    "console",
    "copies",
    "drawing",
    "files",
    "flavours",
    "flatbuffer",
    "layers",
    "litert",
    "schedules",
    "sparse_tensors",
}
TECHNIQUES = {"distillation", "pruning", "quantization"}
# Room -> the rooms it may import, beside itself and the base.
ALLOWED = {
    **dict.fromkeys(BASE, set()),
    "transforms": set(),
    **dict.fromkeys(TECHNIQUES, {"transforms"}),
    "data": set(),
    # A model that was quantized says how it wants to be exported.
    "export": {"transforms"},
    # A Keras row is timed on LiteRT too, which takes an export.
    "evaluation": {"export"},
    "search": {"transforms", "evaluation", "export", "data"} | TECHNIQUES,
}
# These stand on top and may import everything.
TOP = {"__init__", "__main__", "cli", "recipes"}
SOURCES = sorted(ROOT.rglob("*.py"))


def room_of(path):
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported_rooms(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
            if node.module == "kdtf":
                names = [f"kdtf.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == "kdtf" and len(parts) > 1:
                yield parts[1]


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.name))
def test_imports_go_one_way(path):
    room = room_of(path)
    if room in TOP:
        return
    assert room in ALLOWED, f"{room} has no place in ALLOWED"
    allowed = ALLOWED[room] | BASE | {room}
    assert set(imported_rooms(path)) <= allowed


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.name))
def test_only_adapters_import_tfmot(path):
    names = {
        alias.name.split(".")[0]
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import)
        for alias in node.names
    } | {
        (node.module or "").split(".")[0]
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom)
    }
    if path.name != "tfmot_models.py":
        assert "tensorflow_model_optimization" not in names


def test_nothing_unknown_stands_at_the_top():
    project = pathlib.Path(__file__).parent.parent
    if not (project / ".git").exists():
        pytest.skip("not a checkout")
    listed = subprocess.run(
        ["git", "ls-files"], cwd=project, capture_output=True, text=True
    )
    tops = {line.split("/")[0] for line in listed.stdout.splitlines()}
    known = {"setup.cfg", "setup.py", "kdtf", "notebooks", "tests"}
    known |= {"README.md", "LICENSE"}
    assert {top for top in tops if not top.startswith(".")} <= known


@pytest.mark.parametrize("statement", ["import kdtf", "import kdtf.cli"])
def test_import_loads_no_heavy_package(statement):
    heavy = ("tensorflow", "keras", "numpy", "matplotlib", "ai_edge_litert")
    code = (
        f"{statement}, sys; "
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_another_keras_backend_gets_one_clear_error():
    done = subprocess.run(
        [sys.executable, "-c", "import kdtf"],
        env={"KERAS_BACKEND": "jax", "PATH": ""},
        capture_output=True,
        text=True,
    )
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: kdtf works with Keras on the Tensor")
    assert "backend='jax'" in last and "KERAS_BACKEND=tensorflow" in last
