"""Runs on the emulated CPU: calls of one engine between the markers that the QEMU plugin knows.

``python guest.py ENGINE FOLDER``; prints nothing, the plugin writes the counts: a line a window,
first empty windows, then as many with one call each.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

OPEN, CLOSE = 0x7100, 0x7101  # system calls that Linux does not know
WINDOWS = 5
Call = Callable[[], object]


def ours(folder: Path) -> Call:
    """A kernel compiled here."""
    import tvm_ffi

    from iseg_tvm import runtime

    runtime.set_num_threads(1)
    module = tvm_ffi.load_module(str(folder / "kernel.so"))
    with np.load(folder / "arrays.npz") as stored:
        buffers = [_aligned(stored[f"arr_{i}"]) for i in range(len(stored.files))]
    tensors = [tvm_ffi.from_dlpack(buffer) for buffer in buffers]
    kernel = module["kernel"]
    return lambda: kernel(*tensors)


def onnxruntime(folder: Path) -> Call:
    """A model in ONNX Runtime, one thread, outputs bound in advance."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(
        str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
    )
    binding = session.io_binding()
    binding.bind_cpu_input("x", np.load(folder / "x.npy"))
    binding.bind_output("y", "cpu")
    return lambda: session.run_with_iobinding(binding)


def litert(folder: Path) -> Call:
    """A model in LiteRT with XNNPACK, one thread."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(folder / "model.tflite"), num_threads=1)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], np.load(folder / "x.npy"))
    return interpreter.invoke


def _aligned(array: np.ndarray) -> np.ndarray:
    """Copy at a multiple of 64 bytes, as TVM allocates tensors."""
    raw = np.empty(array.nbytes + 64, np.uint8)
    start = -raw.ctypes.data % 64
    copy = raw[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def main(engine: str, folder: str) -> None:
    """Warm up, then mark empty windows and calls."""
    system_call = ctypes.CDLL(None).syscall
    call = {"ours": ours, "onnxruntime": onnxruntime, "litert": litert}[engine](Path(folder))
    for _ in range(3):
        call()
    gc.disable()
    time.sleep(0.5)  # threads that wait for more work stop spinning
    for marked in [lambda: None] * WINDOWS + [call] * WINDOWS:
        system_call(OPEN)
        marked()
        system_call(CLOSE)
    sys.stdout.flush()
    os._exit(0)  # the emulated threads of some runtimes do not end


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
