"""One RPC session on a board: the functions a client may call besides TVM's own.

Functions of ours take and return JSON text or bytes. An `IsegError` travels as a value, so that the
client shows its message and hint instead of a traceback.
"""

import ctypes
import importlib.util
import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from iseg_tvm.board.identity import read_identity
from iseg_tvm.board.runner import LocalRunner
from iseg_tvm.board.sensors import read_sensors
from iseg_tvm.bundle import read_bundle
from iseg_tvm.errors import IsegError
from iseg_tvm.runtime import tvm_runtime

PREFIX = "iseg_tvm.board."
WORK_PATH = "tvm.rpc.server.workpath"
LOAD_MODULE = "tvm.rpc.server.load_module"
BUNDLE_FOLDER = "bundle"


def load_runtime() -> None:
    """Load TVM's runtime, and the library with MetaSchedule's ``random_fill`` where it exists."""
    tvm_runtime()
    package = importlib.util.find_spec("tvm")
    if package is not None and package.submodule_search_locations:
        extra = Path(package.submodule_search_locations[0]) / "lib/libtvm_runtime_extra.so"
        with suppress(OSError):
            ctypes.CDLL(str(extra), ctypes.RTLD_GLOBAL)


def serve_session(descriptor: int, folder: Path) -> None:
    """Serve one client until it leaves.

    Parameters
    ----------
    descriptor : int
        File descriptor of the client's connection.
    folder : Path
        Where uploaded files go.
    """
    os.chdir(folder)
    register(folder)
    tvm_runtime().get_global_func("rpc.ServerLoop")(descriptor)


def register(folder: Path) -> None:
    """Register what a session offers."""
    ffi = tvm_runtime()

    def work_path(name: str) -> str:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return str(path)

    def load_module(name: str) -> Any:
        return ffi.load_module(work_path(name))

    ffi.register_global_func(WORK_PATH, work_path, override=True)
    ffi.register_global_func(LOAD_MODULE, load_module, override=True)
    _offer("identity", lambda: read_identity().to_dict())
    _offer("sensors", lambda: read_sensors().to_dict())
    _offer_bundle(folder / BUNDLE_FOLDER)


def _offer_bundle(folder: Path) -> None:
    """Register what is done with an uploaded bundle: open it first."""
    opened: list[LocalRunner] = []

    def open_bundle(num_threads: int) -> int:
        opened[:] = [LocalRunner(read_bundle(folder), num_threads or None)]
        return opened[0].threads

    def run(image: bytes) -> bytes:
        shape = opened[0].manifest.input.shape
        return opened[0].run(np.frombuffer(image, np.uint8).reshape(shape)).tobytes()

    _offer("open_bundle", open_bundle)
    tvm_runtime().register_global_func(PREFIX + "run", run, override=True)
    _offer("times", lambda repeats: opened[0].times(repeats))
    _offer("trace", lambda: opened[0].trace())
    _offer("profile", lambda repeats: [asdict(row) for row in opened[0].profile(repeats)])


def _offer(name: str, function: Callable[..., Any]) -> None:
    """Register a function that answers in JSON: ``{"value": ...}`` or ``{"error", "hint"}``."""

    def answer(*arguments: Any) -> str:
        try:
            return json.dumps({"value": function(*arguments)})
        except IsegError as error:
            return json.dumps({"error": error.message, "hint": error.hint})

    tvm_runtime().register_global_func(PREFIX + name, answer, override=True)
