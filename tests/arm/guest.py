"""Runs on the emulated board: kernels and bundles of a job folder, compared bit for bit.

``job.json`` lists what to run and ``arrays.npz`` holds inputs and expected outputs; the report goes
to standard output as JSON. Imports nothing that a board has not: numpy, tvm_ffi, iseg_tvm.runtime.
"""

from __future__ import annotations

import ctypes
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from iseg_tvm import runtime
from iseg_tvm.errors import IsegError

AT_HWCAP, AT_HWCAP2 = 16, 26
# Bits that the kernel gives a process (Linux, arch/arm64/include/uapi/asm/hwcap.h).
HWCAP = {
    "fp": 0, "asimd": 1, "crc32": 7, "atomics": 8, "fphp": 9, "asimdhp": 10, "asimdrdm": 12,
    "lrcpc": 15, "asimddp": 20,
}  # fmt: skip
HWCAP2 = {"i8mm": 13}


def cpu_features() -> list[str]:
    """Features of the CPU that really runs this process, whatever ``/proc/cpuinfo`` says."""
    libc = ctypes.CDLL(None)
    libc.getauxval.argtypes, libc.getauxval.restype = [ctypes.c_ulong], ctypes.c_ulong
    bits, bits2 = libc.getauxval(AT_HWCAP), libc.getauxval(AT_HWCAP2)
    found = [name for name, bit in HWCAP.items() if bits >> bit & 1]
    return found + [name for name, bit in HWCAP2.items() if bits2 >> bit & 1]


def aligned(array: np.ndarray) -> np.ndarray:
    """Copy of an array at a multiple of 64 bytes, as TVM allocates tensors."""
    raw = np.empty(array.nbytes + 64, np.uint8)
    start = -raw.ctypes.data % 64
    copy = raw[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def difference(got: np.ndarray, expected: np.ndarray) -> str:
    """Empty if all bits are equal."""
    if got.dtype != expected.dtype or got.shape != expected.shape:
        return f"{got.dtype} {got.shape} instead of {expected.dtype} {expected.shape}"
    wrong = int((got != expected).sum())
    return f"{wrong} of {got.size} values differ" if wrong else ""


def run_kernel(module: Any, call: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> str:
    """Call one kernel; return how its result differs."""
    import tvm_ffi

    expected = arrays[call["expected"]]
    # A value that stays where the kernel writes nothing.
    tensors = [*(arrays[key] for key in call["arguments"]), np.full_like(expected, 77)]
    buffers = [aligned(tensor) for tensor in tensors]
    module[call["function"]](*(tvm_ffi.from_dlpack(buffer) for buffer in buffers))
    return difference(buffers[-1], expected)


def run_bundle(entry: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> str:
    """Run a bundle on its images; return the first difference, or why it was refused."""
    try:
        segmenter = runtime.load(entry["path"], num_threads=entry["num_threads"])
    except IsegError as error:
        return f"refused: {error}"
    images = zip(arrays[entry["images"]], arrays[entry["expected"]], strict=True)
    return next(filter(None, (difference(segmenter.run(i), e) for i, e in images)), "")


def main(job: Path) -> dict[str, Any]:
    """Run everything of a job folder."""
    import tvm_ffi

    started = time.perf_counter()
    description = json.loads((job / "job.json").read_text())
    with np.load(job / "arrays.npz") as stored:
        arrays = dict(stored)
    runtime.set_num_threads(1)  # loads TVM's runtime
    kernels: dict[str, str] = {}
    for library, calls in description["kernels"].items():
        module = tvm_ffi.load_module(library)
        for call in calls:
            wrong = run_kernel(module, call, arrays)
            kernels[call["name"]] = kernels.get(call["name"], "") or wrong
    bundles = {entry["name"]: run_bundle(entry, arrays) for entry in description["bundles"]}
    return {
        "features": cpu_features(),
        "kernels": kernels,
        "bundles": bundles,
        "compiler_loaded": "tvm" in sys.modules,
        "seconds": time.perf_counter() - started,
    }


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
