"""Linking a compiled model into a shared library, for this machine or for another architecture."""

from __future__ import annotations

import importlib.util
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from iseg_tvm.errors import IsegError
from iseg_tvm.targets import TargetSpec

_GLIBC = "2.28"  # oldest that TVM's own wheels run on


def link_command(target: TargetSpec) -> list[str]:
    """Command that links a shared library for ``target``; objects and ``-o`` follow.

    Looks for the host's compiler or a cross compiler, then ``ld.lld``, then ``ziglang``.

    Raises
    ------
    IsegError
        None is installed.
    """
    compilers = [f"{target.arch}-linux-gnu-g++", f"{target.arch}-linux-gnu-gcc"]
    if platform.machine() == target.arch:
        compilers += ["g++", "gcc", "clang++", "clang", "cc"]
    for name in compilers:
        if shutil.which(name):
            return [name, "-shared", "-fPIC"]
    if shutil.which("ld.lld"):
        return ["ld.lld", "-shared"]
    if importlib.util.find_spec("ziglang") is not None:
        triple = f"{target.arch}-linux-gnu.{_GLIBC}"
        return [sys.executable, "-m", "ziglang", "cc", "-target", triple, "-shared", "-fPIC"]
    raise IsegError(
        f"no linker for {target.arch} is installed",
        f"install g++ (Debian: g++-{target.arch.replace('_', '-')}-linux-gnu), lld or, with pip, "
        "ziglang",
    )


def export_library(executable: Any, target: TargetSpec, path: Path) -> None:
    """Write ``executable`` as a shared library.

    Raises
    ------
    IsegError
        No linker, or it failed; the message holds its last line.
    """
    command = link_command(target)
    executable.export_library(str(path), fcompile=_linker(command))


def _linker(command: Sequence[str]) -> Callable[..., None]:
    """TVM's ``fcompile``: (output, objects, options)."""

    def link(output: str, objects: Sequence[str], **_: Any) -> None:
        process = subprocess.run(
            [*command, "-o", output, *objects], capture_output=True, text=True, check=False
        )
        if process.returncode:
            lines = process.stderr.strip().splitlines() or [f"exit status {process.returncode}"]
            raise IsegError(f"linking with {command[0]} failed: {lines[-1]}")

    link.object_format = "o"  # type: ignore[attr-defined]
    return link
