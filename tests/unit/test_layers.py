"""Imports point down only: which part may know which other part, read from the source."""

import ast
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HOST = {"torch", "torchvision", "timm", "xgboost", "safetensors", "yaml"}
COMPILER = {"tvm"}

# What runs on a board: everything it needs when it is imported, followed through our own modules.
BOARD = {"numpy", "PIL", "rich", "tvm_ffi"}
BOARD_MODULES = (
    "iseg_tvm.runtime",
    "iseg_tvm.overlay",
    "iseg_tvm.images",
    "iseg_tvm.palettes",
    "iseg_tvm.describe",
    "iseg_tvm.cli.main",
)

# Package or module -> what no line of it may import, even within a function.
FORBIDDEN = {
    "iseg_tvm.errors": {"iseg_tvm", "relay_ops", "numpy", *HOST, *COMPILER},
    "iseg_tvm.fixed_point": {"relay_ops", *HOST, *COMPILER},
    "iseg_tvm.artifact": {"relay_ops", "torch", "timm", *COMPILER},
    "iseg_tvm.reference_model": {"torch", "timm", *COMPILER},
    "iseg_tvm.bundle": {"relay_ops", "numpy", *HOST, *COMPILER},
    "iseg_tvm.runtime": {"relay_ops", *HOST, *COMPILER},
    "iseg_tvm.models": {"relay_ops", "iseg_tvm.quantization", "iseg_tvm.cli", *COMPILER},
    "iseg_tvm.quantization": {"relay_ops", "iseg_tvm.cli", *COMPILER},
    "iseg_tvm.kernels": {"torch", "timm", "iseg_tvm.models", "iseg_tvm.quantization"},
    "iseg_tvm.passes": {"torch", "timm", "iseg_tvm.models", "iseg_tvm.quantization"},
    "relay_ops": {"timm", "iseg_tvm.models", "iseg_tvm.quantization", "iseg_tvm.cli"},
}


def modules() -> dict[str, Path]:
    """Return all our modules by name."""
    found = {}
    for package in ("iseg_tvm", "relay_ops"):
        for path in (ROOT / package).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


class _Imports(ast.NodeVisitor):
    """Collects imported names: all of them, or those that importing the module itself needs."""

    def __init__(self, *, inside_functions: bool) -> None:
        self.inside_functions = inside_functions
        self.names: set[str] = set()

    def visit_Import(self, node: ast.Import) -> None:
        self.names.update(alias.name for alias in node.names)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        assert node.level == 0, "imports are absolute"
        module = node.module or ""
        self.names.add(module)
        self.names.update(
            name for alias in node.names if (name := f"{module}.{alias.name}") in MODULES
        )

    def visit_If(self, node: ast.If) -> None:
        if ast.unparse(node.test) != "TYPE_CHECKING":
            self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        if self.inside_functions:
            self.generic_visit(node)


@cache
def imports(name: str, *, inside_functions: bool) -> frozenset[str]:
    """Return the names a module imports."""
    visitor = _Imports(inside_functions=inside_functions)
    visitor.visit(ast.parse(MODULES[name].read_text(encoding="utf-8")))
    return frozenset(visitor.names)


def within(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(f"{prefix}.")


@pytest.mark.parametrize("part", FORBIDDEN)
def test_imports_point_down(part: str) -> None:
    members = [name for name in MODULES if within(name, part)]
    assert members, f"there is no {part}"
    wrong = [
        f"{name} imports {imported}"
        for name in members
        for imported in imports(name, inside_functions=True)
        for forbidden in FORBIDDEN[part]
        if within(imported, forbidden)
    ]
    assert wrong == []


@pytest.mark.parametrize("start", BOARD_MODULES)
def test_what_a_board_imports(start: str) -> None:
    seen: set[str] = set()
    waiting = [start]
    foreign = set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        for imported in imports(name, inside_functions=False):
            if imported in MODULES:
                waiting.append(imported)
            else:
                foreign.add(imported.split(".")[0])
    assert foreign - BOARD - set(sys.stdlib_module_names) == set()


def test_only_commands_import_commands() -> None:
    shims = {
        "iseg_tvm.__main__",
        *(f"iseg_tvm.{c}" for c in ["quantize", "compile", "segment", "info"]),
    }
    users = {
        name
        for name in MODULES
        if any(within(i, "iseg_tvm.cli") for i in imports(name, inside_functions=True))
    }
    assert {name for name in users if not within(name, "iseg_tvm.cli")} == shims


def test_the_walk_sees_imports() -> None:
    assert "tvm_ffi" in imports("iseg_tvm.runtime", inside_functions=True)
    assert "tvm_ffi" not in imports("iseg_tvm.runtime", inside_functions=False)
    assert "iseg_tvm.bundle" in imports("iseg_tvm.runtime", inside_functions=False)
