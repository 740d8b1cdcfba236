"""Imports point down only: read from the source of every module, without importing any."""

import ast
import subprocess
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("iseg_tvm", "relay_ops")
SHIMS = {"iseg_tvm.__main__"} | {
    f"iseg_tvm.{name}"
    for name in (
        "quantize", "compile", "segment", "evaluate", "bench", "info", "deploy", "rpc_tracker",
        "rpc_server", "tune", "qat", "report", "import_ivit", "doctor",
    )
}


@dataclass
class Imports:
    """Modules that one module names: when it is imported, and inside its functions."""

    eager: set[str] = field(default_factory=set)
    lazy: set[str] = field(default_factory=set)


class _Collector(ast.NodeVisitor):
    def __init__(self, module: str, is_package: bool) -> None:
        self.package = module if is_package else module.rpartition(".")[0]
        self.found, self.depth = Imports(), 0

    def _add(self, name: str) -> None:
        (self.found.lazy if self.depth else self.found.eager).add(name)

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._add(alias.name)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        parents = self.package.split(".")
        base = ".".join(parents[: len(parents) - node.level + 1]) if node.level else ""
        origin = ".".join(part for part in (base, node.module) if part)
        self._add(origin)
        for alias in node.names:
            self._add(f"{origin}.{alias.name}")  # a submodule, or an attribute (dropped later)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self.depth += 1
        self.generic_visit(node)
        self.depth -= 1

    def visit_If(self, node: ast.If) -> None:
        if ast.unparse(node.test) not in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            self.generic_visit(node)
        for other in node.orelse:
            self.visit(other)


def collect(source: str, module: str, is_package: bool = False) -> Imports:
    """Return what a module's source imports."""
    collector = _Collector(module, is_package)
    collector.visit(ast.parse(source))
    return collector.found


@cache
def modules() -> dict[str, Imports]:
    """Every module of our packages, by dotted name."""
    result = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            is_package = parts[-1] == "__init__"
            name = ".".join(parts[:-1] if is_package else parts)
            result[name] = collect(path.read_text(encoding="utf-8"), name, is_package)
    return result


def reached(start: str, *, lazy: bool) -> dict[str, str]:
    """Everything imported from ``start`` on, own and foreign, with the module that imports it."""
    known = modules()
    found: dict[str, str] = {start: ""}
    waiting = [start]
    while waiting:
        module = waiting.pop()
        imports = known[module]
        for name in imports.eager | (imports.lazy if lazy else set()):
            parts = name.split(".")
            # Importing a.b.c runs a and a.b too.
            for parent in (".".join(parts[: i + 1]) for i in range(len(parts))):
                if parent not in found and (parts[0] not in PACKAGES or parent in known):
                    found[parent] = module
                    if parent in known:
                        waiting.append(parent)
    return found


def offences(prefixes: tuple[str, ...], forbidden: tuple[str, ...], *, lazy: bool) -> list[str]:
    """Return ``module reaches name through importer`` for what must not be reached."""
    starts = [m for m in modules() if any(m == p or m.startswith(f"{p}.") for p in prefixes)]
    assert starts, f"no module matches {prefixes}"
    return [
        f"{start} reaches {name} through {importer}"
        for start in starts
        for name, importer in reached(start, lazy=lazy).items()
        if name in forbidden
    ]


@pytest.mark.parametrize(
    ("prefixes", "forbidden", "lazy"),
    [
        (("iseg_tvm.models",), ("tvm", "tvm_ffi", "relay_ops"), True),
        # Quantization runs the integer model, whose operators import TVM inside their lowerings.
        (("iseg_tvm.quantization",), ("tvm", "tvm_ffi"), False),
        (
            ("iseg_tvm.runtime", "iseg_tvm.bundle", "iseg_tvm.board"),
            ("torch", "torchvision", "timm", "xgboost", "safetensors", "relay_ops"),
            True,
        ),
        (("iseg_tvm.board", "iseg_tvm.cli.rpc_server"), ("tvm", "iseg_tvm.remote"), False),
        (("relay_ops", "iseg_tvm.integer_model", "iseg_tvm.reference_model"), ("tvm",), False),
        (
            (
                "iseg_tvm.errors",
                "iseg_tvm.files",
                "iseg_tvm.fixed_point",
                "iseg_tvm.operator_limits",
                "iseg_tvm.activation_tables",
                "iseg_tvm.position_embedding",
                "iseg_tvm.artifact",
                "iseg_tvm.integer_graph",
                "iseg_tvm.palettes",
                "iseg_tvm.overlay",
            ),
            ("torch", "timm", "tvm", "tvm_ffi", "relay_ops"),
            True,
        ),
        # Boards evaluate bundles: torch is imported only when a checkpoint or model is opened.
        (("iseg_tvm.evaluation",), ("torch", "timm", "tvm", "safetensors", "relay_ops"), False),
        (("iseg_tvm.errors",), ("numpy",), True),
    ],
    ids=[
        "models",
        "quantization",
        "runtime",
        "board",
        "operators",
        "leaves",
        "evaluation",
        "errors",
    ],
)
def test_forbidden_imports(
    prefixes: tuple[str, ...], forbidden: tuple[str, ...], lazy: bool
) -> None:
    assert offences(prefixes, forbidden, lazy=lazy) == []


def test_only_shims_import_the_command_line() -> None:
    for module, imports in modules().items():
        if module in SHIMS or module.startswith("iseg_tvm.cli"):
            continue
        names = imports.eager | imports.lazy
        assert not [n for n in names if n.startswith("iseg_tvm.cli")], module


def test_relay_ops_and_iseg_tvm_are_all_that_is_ours() -> None:
    """Tests, demo and benchmarks are never imported by the product."""
    for module, imports in modules().items():
        foreign = {name.split(".")[0] for name in imports.eager | imports.lazy}
        assert not foreign & {"tests", "demo", "benchmarks"}, module


def test_collector_sees_all_forms() -> None:
    source = """
import a.b
from . import c
from ..d import e
if TYPE_CHECKING:
    import never
else:
    import otherwise
try:
    import f
except ImportError:
    pass
class K:
    import g
    def method(self):
        from h import i
"""
    found = collect(source, "top.sub.module")
    assert found.eager == {"a.b", "top.sub", "top.sub.c", "top.d", "top.d.e", "otherwise", "f", "g"}
    assert found.lazy == {"h", "h.i"}


def tracked_texts() -> list[tuple[str, str]]:
    """(path, content) of every text file under version control."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False, text=True
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    result = []
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        data = path.read_bytes() if path.is_file() else b"\0"
        if b"\0" not in data:
            result.append((name, data.decode("utf-8")))
    return result


def test_tracked_files_are_clean() -> None:
    """No path of a developer's machine, no trailing blanks, one newline at the end."""
    machine = [f"/{folder}/" for folder in ("work", "root")] + [f"/{'tmp'}/brief"]
    problems = []
    for name, text in tracked_texts():
        problems += [f"{name}: names {path}" for path in machine if path in text]
        if text and (not text.endswith("\n") or text.endswith("\n\n")):
            problems.append(f"{name}: does not end in exactly one newline")
        problems += [
            f"{name}:{number}: trailing blanks or carriage return"
            for number, line in enumerate(text.split("\n"), 1)
            if line != line.rstrip()
        ]
    assert problems == []
