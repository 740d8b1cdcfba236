"""Linking a compiled model into a shared library, for this machine or for another architecture."""

from __future__ import annotations

import importlib.util
import logging
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from iseg_tvm.errors import IsegError
from iseg_tvm.targets import TargetSpec
from iseg_tvm.weights_object import write_assembly

_log = logging.getLogger(__name__)

_FLAGS = ("-shared", "-fPIC", "-nostdlib")
"""The code is self-contained: all it calls is TVM's runtime, and ``memcpy`` or ``memset``, which
the process that loads it has. Without start files and libc (``-nostdlib``) the library asks for
no version of glibc, needs no sysroot to link, and zig does not compile a C library first."""


def link_command(target: TargetSpec) -> list[str]:
    """Command that links a shared library for ``target``; ``-o``, the output and objects follow.

    In this order: GCC for the architecture (the system's own compiler where it is the host's),
    clang with lld, and ``ziglang`` from pip, which comes with ``iseg-tvm[host]``: there is always
    one. All give a library that runs on any glibc; the
    board's floor is TVM's own wheel (docs/arm.md).

    Raises
    ------
    IsegError
        None is installed.
    """
    compilers = [f"{target.arch}-linux-gnu-gcc"]
    if platform.machine() == target.arch:
        compilers += ["gcc", "clang", "cc"]
    for name in compilers:
        if shutil.which(name):
            return [name, *_FLAGS]
    triple = f"{target.arch}-linux-gnu"
    if shutil.which("clang") and shutil.which("ld.lld"):
        return ["clang", f"--target={triple}", "-fuse-ld=lld", *_FLAGS]
    if importlib.util.find_spec("ziglang") is not None:
        return [sys.executable, "-m", "ziglang", "cc", "-target", triple, *_FLAGS]
    raise IsegError(
        f"no linker for {target.arch} is installed",
        "install ziglang with pip (it is part of iseg-tvm[host]), or clang and lld, or "
        f"gcc-{target.arch.replace('_', '-')}-linux-gnu",
    )


def export_library(
    executable: Any, target: TargetSpec, path: Path, weights: Sequence[np.ndarray] = ()
) -> None:
    """Write ``executable`` as a shared library.

    Parameters
    ----------
    weights : what ``main`` takes after the image, see :mod:`iseg_tvm.weights_object`

    Raises
    ------
    IsegError
        No linker, or it failed; the message holds its last line.
    """
    command = link_command(target)
    with tempfile.TemporaryDirectory(prefix="iseg-weights-") as folder:
        more = [str(write_assembly(weights, Path(folder)))] if weights else []
        executable.export_library(str(path), fcompile=_linker([*command, *more]))


def _linker(command: Sequence[str]) -> Callable[..., None]:
    """TVM's ``fcompile``: (output, objects, options)."""

    def link(output: str, objects: Sequence[str], **_: Any) -> None:
        _log.debug("linking by %s", " ".join(command))
        process = subprocess.run(
            [*command, "-o", output, *objects], capture_output=True, text=True, check=False
        )
        if process.returncode:
            lines = process.stderr.strip().splitlines() or [f"exit status {process.returncode}"]
            raise IsegError(f"linking with {command[0]} failed: {lines[-1]}")

    link.object_format = "o"  # type: ignore[attr-defined]
    return link
