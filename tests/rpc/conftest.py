"""A tracker and a board on this machine, and libraries to run there."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from iseg_tvm.network import Address
from tests.rpc.services import HOST, service, wait_for_board

KEY = "here"
# Functions by TVM's calling convention: (self, arguments, their number, result) -> status.
_BAD_KERNELS = """
#define KERNEL(name) int __tvm_ffi_##name(void* s, const void* a, int n, void* r)
KERNEL(illegal) { __builtin_trap(); return 0; }
KERNEL(segfault) { *(volatile int*)0 = 1; return 0; }
KERNEL(endless) { for (volatile long i = 0;; i++) {} return 0; }
"""


@pytest.fixture(scope="session")
def tracker() -> Iterator[Address]:
    """A running tracker."""
    with service("iseg_tvm.rpc_tracker") as address:
        yield address


@pytest.fixture(scope="session")
def board(tracker: Address, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Address]:
    """Address of the machine itself as a board, registered at the tracker under `KEY`."""
    log = tmp_path_factory.mktemp("board") / "log"
    arguments = ["--tracker", str(tracker), "--key", KEY, "--host", HOST]
    with log.open("w") as stream, service("iseg_tvm.rpc_server", *arguments, log=stream) as address:
        wait_for_board(tracker, KEY)
        yield address


@pytest.fixture(scope="session")
def direct_board() -> Iterator[Address]:
    """Address of the machine itself as a board without a tracker, key ``direct``."""
    with service("iseg_tvm.rpc_server", "--key", "direct") as address:
        yield address


@pytest.fixture(scope="session")
def bad_kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library whose functions crash or never end."""
    folder = tmp_path_factory.mktemp("bad_kernels")
    (folder / "bad.c").write_text(_BAD_KERNELS)
    library = folder / "bad.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, folder / "bad.c"], check=True)
    return library


@pytest.fixture(scope="session")
def add_one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library with ``add_one(int32 (64,), int32 (64,))``."""
    import tvm
    from tvm import te

    source = te.placeholder((64,), "int32", name="source")
    result = te.compute((64,), lambda i: source[i] + 1, name="result")
    function = te.create_prim_func([source, result]).with_attr("global_symbol", "add_one")
    path = tmp_path_factory.mktemp("add_one") / "add_one.so"
    target = tvm.target.Target({"kind": "llvm"})
    tvm.compile(tvm.IRModule({"add_one": function}), target=target).export_library(str(path))
    return path
