"""Libraries for ARM, looked at on the host: their instructions, and what they need to load."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from iseg_tvm import linking
from iseg_tvm.errors import IsegError
from iseg_tvm.kernels.isa import get_isa
from iseg_tvm.linking import link_command
from iseg_tvm.targets import load_target
from tests.arm.jobs import KernelLibrary
from tests.kernels.harness import assembly, lower
from tests.kernels.test_gemm import layer

DOT_PRODUCTS = ["sdot", "udot", "usdot", "sudot"]
MATRIX_PRODUCTS = ["smmla", "ummla", "usmmla"]
NEON = ["smull", "smlal2", "sadalp", "sqrdmulh", "sqxtn", "tbl", "tbx"]


def mnemonics(assembly: str) -> set[str]:
    """Instructions that occur in an assembly listing."""
    return set(re.findall(r"^\s+([a-z][a-z0-9.]*)\s", assembly, flags=re.MULTILINE))


@pytest.mark.parametrize(
    ("target", "present", "absent"),
    [
        ("rpi3", NEON, DOT_PRODUCTS + MATRIX_PRODUCTS),
        ("rpi4", NEON, DOT_PRODUCTS + MATRIX_PRODUCTS),
        ("aarch64", NEON, DOT_PRODUCTS + MATRIX_PRODUCTS),
        ("rpi5", ["sdot", "sqrdmulh", "sqxtn", "tbl", "tbx"], MATRIX_PRODUCTS),
        ("aarch64-i8mm", ["smmla", "sqrdmulh", "sqxtn", "tbl", "tbx"], []),
    ],
)
def test_instructions(
    kernel_library: Callable[[str], KernelLibrary],
    target: str,
    present: list[str],
    absent: list[str],
) -> None:
    found = mnemonics(kernel_library(target).assembly)
    assert [name for name in present if name not in found] == []
    assert [name for name in absent if name in found] == []


def test_dot_products_take_a_lane() -> None:
    """A word of a layer's left operand is named in the instruction, not broadcast by another."""
    attributes = {"post_shift": 7, "dtype": "int8"}
    whole = layer(64, 384, 384)
    linear = lower("linear_requantize", get_isa("neon_dotprod"), whole, attributes)
    dots = re.findall(r"^\s+sdot\s.*$", assembly(linear, "neon_dotprod"), flags=re.MULTILINE)
    assert dots
    assert [line for line in dots if not re.search(r"\.4b\[[0-3]\]", line)] == []


@pytest.mark.parametrize("target", ["rpi4", "x86-generic"])
def test_library_asks_for_no_version_of_glibc(
    small_bundle: Callable[[str], Path], target: str
) -> None:
    content = (small_bundle(target) / "model.so").read_bytes()
    assert re.findall(rb"GLIBC_[0-9.]+|lib\w+\.so\.\d", content) == []


def _installed(monkeypatch: pytest.MonkeyPatch, *tools: str, zig: bool) -> None:
    """Pretend that this x86 machine has these tools only."""
    monkeypatch.setattr(linking.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(linking.shutil, "which", lambda name: name if name in tools else None)
    monkeypatch.setattr(linking.importlib.util, "find_spec", lambda name: zig or None)


@pytest.mark.parametrize(
    ("tools", "zig", "command"),
    [
        (["gcc", "ld.lld", "aarch64-linux-gnu-gcc"], True, "aarch64-linux-gnu-gcc"),
        (["gcc", "clang", "ld.lld"], True, "clang --target=aarch64-linux-gnu -fuse-ld=lld"),
        (["gcc"], True, f"{sys.executable} -m ziglang cc -target aarch64-linux-gnu"),
    ],
)
def test_order_of_linkers(
    monkeypatch: pytest.MonkeyPatch, tools: list[str], zig: bool, command: str
) -> None:
    _installed(monkeypatch, *tools, zig=zig)
    assert " ".join(link_command(load_target("rpi4"))).startswith(f"{command} -shared")


def test_no_linker(monkeypatch: pytest.MonkeyPatch) -> None:
    _installed(monkeypatch, "gcc", zig=False)
    with pytest.raises(IsegError, match="no linker for aarch64 is installed") as caught:
        link_command(load_target("rpi4"))
    assert "iseg-tvm[host]" in caught.value.hint


def test_zig_is_there_wherever_iseg_tvm_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host extra brings it, so that no other linker is needed."""
    monkeypatch.setattr(linking.shutil, "which", lambda name: None)
    assert "ziglang" in link_command(load_target("rpi4"))
